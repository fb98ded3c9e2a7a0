//! Leases in the coordination store: one key for each fenced instance, one for all members of a redundant service, so
//! that no two nodes run one at the same time.
//!
//! The Supervisor asks for each renewal, and only after the shim has acknowledged the last deadline. A renewal counts
//! from the moment it was sent. Beside the key of a redundant service stands who held it and did not give it back
//! (`/standby/SERVICE/owed`): both change in one transaction.

mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::{Error, Guard, KeyValue, LeaseId, Op, Response, Store, Txn, epoch};
use holdfast_host::clock;
use holdfast_policy::lease::{FencingToken, Timings};
use holdfast_policy::time::millis;
use holdfast_policy::{InstanceId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::supervisor::Event;

pub(crate) const LEASES: &str = "/fenced/";
pub(crate) const STANDBY: &str = "/standby/";
const VERSION: u32 = 1;
/// A lease that cannot be given back runs out by itself; then whoever comes next must fence.
const RELEASE_TRIES: u32 = 5;
const RELEASE_AGAIN: Duration = Duration::from_millis(200);
/// For so long a wish for another active member holds unless it is fulfilled.
pub(crate) const WISH_TIME: Duration = Duration::from_secs(60);

/// Value of a lease's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    #[serde(default)]
    version: u32,
    pub(crate) node: String,
    /// Missing where an earlier release wrote it: then it is the instance of the key.
    #[serde(default)]
    pub(crate) member: Option<String>,
}

/// Members that were, or may be, active and did not give the lease back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Owed {
    #[serde(default)]
    version: u32,
    /// `db-1@NODE`
    members: Vec<String>,
    /// Who held it last, given back or not: its data is the newest there is.
    #[serde(default)]
    last: Option<String>,
}

/// Another member is wanted: `/standby/SERVICE/wish`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    #[serde(default)]
    version: u32,
    pub(crate) to: Option<String>,
    pub(crate) over: Option<String>,
    #[serde(default)]
    pub(crate) force: bool,
    pub(crate) until_wall_ms: u64,
}

pub(crate) enum Ask {
    Hold { instance: InstanceId, shared: bool, timings: Timings, asked: Timestamp },
    Release { instance: InstanceId, shared: bool },
    Fenced(InstanceId),
    Want { service: Arc<str>, to: InstanceId, over: FencingToken },
}

#[derive(Clone)]
pub(crate) struct Leases {
    queue: mpsc::UnboundedSender<Ask>,
}

impl Leases {
    /// The caller holds the lock of the data directory, so a lease of this node is that of its dead predecessor.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        node: String,
        epoch: Arc<epoch::Current>,
        results: mpsc::Sender<Event>,
    ) -> Leases {
        // Bounded by the Supervisor, which asks once for each instance and renewal period.
        let (queue, asks) = mpsc::unbounded_channel();
        tokio::spawn(watch::run(store.clone(), epoch.clone(), results.clone()));
        tokio::spawn(Keeper { store, node, epoch, held: BTreeMap::new() }.run(asks, results));
        Leases { queue }
    }

    pub(crate) fn ask(&self, ask: Ask) {
        let _ = self.queue.send(ask);
    }
}

/// Asks for another active member.
pub(crate) async fn want(
    store: &dyn Store,
    service: &str,
    to: Option<&InstanceId>,
    over: Option<FencingToken>,
    force: bool,
) -> Result<(), Error> {
    let key = format!("{STANDBY}{service}/wish");
    let wish = Wanted {
        version: VERSION,
        to: to.map(ToString::to_string),
        over: over.map(|token| token.to_string()),
        force,
        until_wall_ms: clock::wall_ms().saturating_add(millis(WISH_TIME)),
    };
    store.txn(Txn::always([Op::put(&key, encode(&key, &wish)?)])).await.map(drop)
}

#[derive(Clone, Copy)]
struct Held {
    lease: LeaseId,
    revision: u64,
}

struct Keeper {
    store: Arc<dyn Store>,
    node: String,
    epoch: Arc<epoch::Current>,
    held: BTreeMap<InstanceId, Held>,
}

fn unknown_epoch() -> Error {
    Error::Unavailable { reason: "the epoch of the store is not known yet".into() }
}

enum Answer<T> {
    Holds(T),
    /// Somebody else.
    Taken(String),
}

impl Owed {
    /// Member that held it last.
    pub(crate) fn last(value: &[u8]) -> Option<InstanceId> {
        serde_json::from_slice::<Owed>(value).ok()?.last?.parse().ok()
    }
}

impl Keeper {
    async fn run(mut self, mut asks: mpsc::UnboundedReceiver<Ask>, results: mpsc::Sender<Event>) {
        while let Some(ask) = asks.recv().await {
            match ask {
                // It waited behind asks that nobody answered: what it was asked for may not be so any more, and the Supervisor asks
                // again for what is.
                Ask::Hold { timings, asked, .. } if clock::now().since(asked) > timings.give_up => {}
                Ask::Hold { instance, shared, timings, asked } => {
                    let sent = clock::now();
                    let event = match self.hold(&instance, shared, timings).await {
                        Ok(Answer::Holds(token)) => {
                            let owed = if shared { self.owed_by_others(&instance).await } else { Ok(Vec::new()) };
                            match owed {
                                Ok(owed) => {
                                    let until = sent + timings.give_up;
                                    Event::LeaseHeld { instance, until, asked, token, owed }
                                }
                                Err(error) => {
                                    tracing::warn!(%instance, %error, "it is not known whom the lease was taken from");
                                    continue;
                                }
                            }
                        }
                        Ok(Answer::Taken(holder)) => {
                            Event::LeaseLost { instance, reason: format!("{holder} holds its lease") }
                        }
                        // Unknown is not lost: the deadline that the shim has goes on to count.
                        Err(Error::Unavailable { reason }) => {
                            tracing::warn!(%instance, %reason, "no answer to a lease renewal");
                            continue;
                        }
                        Err(e) => Event::LeaseLost { instance, reason: e.to_string() },
                    };
                    let _ = results.send(event).await;
                }
                Ask::Release { instance, shared } => self.release(&instance, shared).await,
                Ask::Fenced(instance) => self.settle_owed(&instance).await,
                Ask::Want { service, to, over } => {
                    if let Err(error) = want(&*self.store, &service, Some(&to), Some(over), false).await {
                        tracing::warn!(%service, %error, "a failback could not be asked for");
                    }
                }
            }
        }
    }

    /// A token says under which epoch its revision was handed out: an answer during which that changed counts as none.
    async fn hold(
        &mut self,
        instance: &InstanceId,
        shared: bool,
        timings: Timings,
    ) -> Result<Answer<FencingToken>, Error> {
        let epoch = self.epoch.known().ok_or_else(unknown_epoch)?;
        let answer = self.take(instance, shared, timings).await?;
        if self.epoch.known() != Some(epoch) {
            return Err(Error::Unavailable { reason: "another store, or an older copy, answers than before".into() });
        }
        Ok(match answer {
            Answer::Holds(held) => Answer::Holds(FencingToken { epoch, create_revision: held.revision }),
            Answer::Taken(holder) => Answer::Taken(holder),
        })
    }

    async fn take(&mut self, instance: &InstanceId, shared: bool, timings: Timings) -> Result<Answer<Held>, Error> {
        if let Some(held) = self.held.get(instance).copied() {
            match self.store.keep_alive(held.lease).await {
                Ok(_) => return Ok(Answer::Holds(held)),
                Err(Error::LeaseNotFound(_)) => drop(self.held.remove(instance)),
                Err(e) => return Err(e),
            }
        }
        let key = key(instance, shared);
        // Whatever the copy says of this lease, others may have had it after it was made.
        let may_claim = self.epoch.may_claim(clock::now(), timings.ttl);
        let set_back = || {
            let reason = "the store was set back: who holds the lease by what it has forgotten may still act";
            Error::Unavailable { reason: reason.into() }
        };
        for _ in 0..2 {
            // Most claims find the key taken; a lease is granted for those that do not.
            let (lease, found) = match self.store.get(key.clone()).await? {
                Some(found) => (None, Some(found)),
                None if !may_claim => return Err(set_back()),
                None => {
                    let lease = self.store.grant(timings.ttl).await?.id;
                    match self.claim(&key, instance, shared, lease).await? {
                        Ok(revision) => {
                            let held = Held { lease, revision };
                            self.held.insert(instance.clone(), held);
                            return Ok(Answer::Holds(held));
                        }
                        Err(found) => (Some(lease), found),
                    }
                }
            };
            if let Some(lease) = lease {
                let _ = self.store.revoke(lease).await;
            }
            let Some(found) = found else { continue };
            if !self.is_own(&found, instance) {
                return Ok(Answer::Taken(holder_name(&found)));
            }
            if !may_claim {
                return Err(set_back());
            }
            // Of this node's last agent, or of a claim whose answer was lost: the lease and its token go on.
            let Some(lease) = found.lease else { return Ok(Answer::Taken("a key without a lease".into())) };
            match self.store.keep_alive(lease).await {
                Ok(_) => {
                    let held = Held { lease, revision: found.create_revision };
                    self.held.insert(instance.clone(), held);
                    return Ok(Answer::Holds(held));
                }
                Err(Error::LeaseNotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::Unavailable { reason: "its lease changed hands meanwhile".into() })
    }

    /// The revision at which the key was created, or who has it.
    async fn claim(
        &self,
        key: &str,
        instance: &InstanceId,
        shared: bool,
        lease: LeaseId,
    ) -> Result<Result<u64, Option<KeyValue>>, Error> {
        let holder = Holder { version: VERSION, node: self.node.clone(), member: Some(instance.to_string()) };
        let value = encode(key, &holder)?;
        let mut guards = vec![Guard::absent(key)];
        let mut ops = vec![Op::Put { key: key.into(), value, lease: Some(lease) }];
        if shared {
            let (mut owed, revision) = self.owed(instance).await?;
            let own = self.own_name(instance);
            owed.members.retain(|m| *m != own);
            owed.members.push(own);
            owed.last = Some(instance.to_string());
            let owed_key = owed_key(instance);
            guards.push(Guard::unchanged(&owed_key, revision));
            ops.push(Op::put(&owed_key, encode(&owed_key, &owed)?));
        }
        let outcome = self.store.txn(Txn::when(guards).then(ops).otherwise([Op::get(key)])).await?;
        if outcome.succeeded {
            return Ok(Ok(outcome.revision));
        }
        let found = outcome.responses.into_iter().find_map(|r| match r {
            Response::Get(found) => found,
            _ => None,
        });
        Ok(Err(found))
    }

    fn is_own(&self, found: &KeyValue, instance: &InstanceId) -> bool {
        serde_json::from_slice::<Holder>(&found.value).is_ok_and(|holder| {
            holder.node == self.node && holder.member.is_none_or(|member| member == instance.to_string())
        })
    }

    fn own_name(&self, instance: &InstanceId) -> String {
        format!("{instance}@{}", self.node)
    }

    async fn owed(&self, instance: &InstanceId) -> Result<(Owed, u64), Error> {
        let key = owed_key(instance);
        let Some(found) = self.store.get(key.clone()).await? else { return Ok((Owed::default(), 0)) };
        let owed = serde_json::from_slice(&found.value).map_err(|e| Error::Record { key, reason: e.to_string() })?;
        Ok((owed, found.mod_revision))
    }

    async fn owed_by_others(&self, instance: &InstanceId) -> Result<Vec<String>, Error> {
        let own = self.own_name(instance);
        Ok(self.owed(instance).await?.0.members.into_iter().filter(|m| *m != own).collect())
    }

    /// Key and debt go in one transaction, so that whoever comes next knows that there is nobody to fence.
    async fn release(&mut self, instance: &InstanceId, shared: bool) {
        for _ in 0..RELEASE_TRIES {
            match self.try_release(instance, shared).await {
                Ok(()) => {
                    self.held.remove(instance);
                    return;
                }
                Err(error) => {
                    tracing::debug!(%instance, %error, "a lease is not given back yet");
                    tokio::time::sleep(RELEASE_AGAIN).await;
                }
            }
        }
        self.held.remove(instance);
        tracing::warn!(%instance, "a lease could not be given back: it runs out by itself");
    }

    async fn try_release(&self, instance: &InstanceId, shared: bool) -> Result<(), Error> {
        let key = key(instance, shared);
        let found = self.store.get(key.clone()).await?.filter(|found| self.is_own(found, instance));
        let Some(found) = found else { return Ok(()) };
        if shared {
            let (mut owed, revision) = self.owed(instance).await?;
            let own = self.own_name(instance);
            owed.members.retain(|m| *m != own);
            let owed_key = owed_key(instance);
            let guards = [Guard::created_at(&key, found.create_revision), Guard::unchanged(&owed_key, revision)];
            let ops = [Op::delete(&key), Op::put(&owed_key, encode(&owed_key, &owed)?)];
            if !self.store.txn(Txn::when(guards).then(ops)).await?.succeeded {
                return Err(Error::Contended { key, tries: 1 });
            }
        }
        match found.lease {
            Some(lease) => match self.store.revoke(lease).await {
                Err(Error::LeaseNotFound(_)) | Ok(()) => Ok(()),
                Err(e) => Err(e),
            },
            None => Ok(()),
        }
    }

    async fn settle_owed(&self, instance: &InstanceId) {
        let settled = async {
            let (mut owed, revision) = self.owed(instance).await?;
            let own = self.own_name(instance);
            owed.members.retain(|m| *m == own);
            let owed_key = owed_key(instance);
            let held = self.held.get(instance).map_or(0, |held| held.revision);
            let guards = [Guard::created_at(key(instance, true), held), Guard::unchanged(&owed_key, revision)];
            self.store.txn(Txn::when(guards).then([Op::put(&owed_key, encode(&owed_key, &owed)?)])).await
        };
        // Fencing once more does no harm.
        if let Err(error) = settled.await {
            tracing::warn!(%instance, %error, "it is not recorded that others were fenced");
        }
    }
}

fn key(instance: &InstanceId, shared: bool) -> String {
    if shared { format!("{LEASES}{}", instance.service) } else { format!("{LEASES}{instance}") }
}

fn owed_key(instance: &InstanceId) -> String {
    format!("{STANDBY}{}/owed", instance.service)
}

fn holder_name(found: &KeyValue) -> String {
    match serde_json::from_slice::<Holder>(&found.value) {
        Ok(Holder { node, member: Some(member), .. }) => format!("{member} on {node}"),
        Ok(holder) => holder.node,
        Err(_) => "another node".into(),
    }
}

fn encode(key: &str, value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|e| Error::Record { key: key.into(), reason: e.to_string() })
}
