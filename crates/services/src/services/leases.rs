//! The leases of fenced instances: one key each, so that no two nodes run one at the same time.
//!
//! The Supervisor asks for each renewal, and only after the shim has acknowledged the last deadline. A renewal counts
//! from the moment it was sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_cluster::{Error, Guard, KeyValue, LeaseId, Op, Response, Store, Txn};
use holdfast_host::clock;
use holdfast_policy::InstanceId;
use holdfast_policy::lease::Timings;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::supervisor::Event;

const PREFIX: &str = "/fenced/";

#[derive(Serialize, Deserialize)]
struct Holder {
    #[serde(default)]
    version: u32,
    node: String,
}

pub(crate) enum Wish {
    Hold(InstanceId),
    Release(InstanceId),
}

#[derive(Clone)]
pub(crate) struct Leases {
    queue: mpsc::UnboundedSender<Wish>,
}

impl Leases {
    /// The caller holds the lock of the data directory, so a lease of this node is that of its dead predecessor.
    pub(crate) fn start(store: Arc<dyn Store>, node: String, results: mpsc::Sender<Event>) -> Leases {
        // Bounded by the Supervisor, which asks once for each instance and renewal period.
        let (queue, wishes) = mpsc::unbounded_channel();
        tokio::spawn(Keeper { store, node, held: BTreeMap::new(), timings: Timings::DEFAULT }.run(wishes, results));
        Leases { queue }
    }

    pub(crate) fn wish(&self, wish: Wish) {
        let _ = self.queue.send(wish);
    }
}

struct Keeper {
    store: Arc<dyn Store>,
    node: String,
    held: BTreeMap<InstanceId, LeaseId>,
    timings: Timings,
}

impl Keeper {
    async fn run(mut self, mut wishes: mpsc::UnboundedReceiver<Wish>, results: mpsc::Sender<Event>) {
        while let Some(wish) = wishes.recv().await {
            match wish {
                Wish::Hold(instance) => {
                    let sent = clock::now();
                    let event = match self.hold(&instance).await {
                        Ok(None) => Event::LeaseHeld { instance, until: sent + self.timings.give_up },
                        Ok(Some(holder)) => Event::LeaseLost { instance, reason: format!("{holder} holds its lease") },
                        // Unknown is not lost: the deadline that the shim has goes on to count.
                        Err(Error::Unavailable { reason }) => {
                            tracing::warn!(%instance, %reason, "no answer to a lease renewal");
                            continue;
                        }
                        Err(e) => Event::LeaseLost { instance, reason: e.to_string() },
                    };
                    let _ = results.send(event).await;
                }
                Wish::Release(instance) => {
                    if let Some(lease) = self.held.remove(&instance)
                        && let Err(error) = self.store.revoke(lease).await
                    {
                        tracing::debug!(%instance, %error, "a lease that is not needed runs out by itself");
                    }
                }
            }
        }
    }

    /// `Some` names the other node that holds it.
    async fn hold(&mut self, instance: &InstanceId) -> Result<Option<String>, Error> {
        if let Some(lease) = self.held.get(instance).copied() {
            match self.store.keep_alive(lease).await {
                Ok(_) => return Ok(None),
                Err(Error::LeaseNotFound(_)) => drop(self.held.remove(instance)),
                Err(e) => return Err(e),
            }
        }
        let key = format!("{PREFIX}{instance}");
        for _ in 0..2 {
            let lease = self.store.grant(self.timings.ttl).await?.id;
            let Some(found) = self.claim(&key, lease).await? else {
                self.held.insert(instance.clone(), lease);
                return Ok(None);
            };
            let _ = self.store.revoke(lease).await;
            let holder =
                serde_json::from_slice::<Holder>(&found.value).map_or_else(|_| "another node".into(), |h| h.node);
            match found.lease {
                Some(old) if holder == self.node => drop(self.store.revoke(old).await),
                _ => return Ok(Some(holder)),
            }
        }
        Err(Error::Unavailable { reason: "its old lease could not be ended".into() })
    }

    async fn claim(&self, key: &str, lease: LeaseId) -> Result<Option<KeyValue>, Error> {
        let holder = Holder { version: 1, node: self.node.clone() };
        let value =
            serde_json::to_vec(&holder).map_err(|e| Error::Record { key: key.into(), reason: e.to_string() })?;
        let txn = Txn::when([Guard::absent(key)])
            .then([Op::Put { key: key.into(), value, lease: Some(lease) }])
            .otherwise([Op::get(key)]);
        let outcome = self.store.txn(txn).await?;
        let found = outcome.responses.into_iter().find_map(|r| match r {
            Response::Get(found) => found,
            _ => None,
        });
        Ok(if outcome.succeeded { None } else { found })
    }
}
