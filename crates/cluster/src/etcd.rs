//! The engine of several machines: an etcd cluster, over the JSON gateway that every member serves.
//!
//! Reads are linearizable and are tried at other members; a write is sent again only when it is certain that nothing
//! was done, and otherwise answers [`Error::Unavailable`].

mod client;
mod connection;
mod endpoint;
mod failure;
pub mod fixture;
mod maintenance;
mod options;
mod snapshot;
mod tls;
mod versions;
mod watcher;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use maintenance::{Alarm, EndpointStatus, Member, MemberStatus};
pub use options::{CONNECT_TIMEOUT, ENDPOINTS_MAX, Login, Options, REQUEST_TIMEOUT, Secret, Tls, WATCH_SILENCE_MAX};
use serde_json::json;
pub use versions::{TESTED_VERSIONS, VersionWarning, version_warnings};

use self::client::{Client, Repeat, read_streamed};
use self::wire::{Done, Header, LeaseAnswer, Namespace, RangeAnswer, TxnAnswer};
use crate::{Answer, Error, KeyValue, LeaseId, LeaseInfo, Listing, Op, Outcome, Result, Store, Txn, Watch};

/// A handle; clones share connections and log-in.
#[derive(Clone)]
pub struct Etcd {
    inner: Arc<Inner>,
}

struct Inner {
    client: Arc<Client>,
    namespace: Namespace,
    options: Options,
    /// Id of the cluster whose answers count; 0 before one was chosen.
    followed: AtomicU64,
}

impl Etcd {
    /// Reads the files; sends nothing. For an agent that must start while etcd is away.
    pub fn new(options: Options) -> Result<Etcd> {
        let client = Arc::new(Client::new(&options)?);
        let namespace = Namespace(options.key_prefix.clone());
        Ok(Etcd { inner: Arc::new(Inner { client, namespace, options, followed: AtomicU64::new(0) }) })
    }

    /// As `new`, and some member must answer: who cannot be reached, or does not accept us, is told at once.
    pub async fn open(options: Options) -> Result<Etcd> {
        let etcd = Etcd::new(options)?;
        match etcd.revision().await {
            Ok(_) => Ok(etcd),
            Err(Error::Unavailable { reason }) => Err(Error::Unreachable { reason }),
            Err(error) => Err(error),
        }
    }

    /// Of the whole cluster, read through its quorum.
    pub async fn revision(&self) -> Result<u64> {
        Ok(self.header().await?.revision)
    }

    async fn header(&self) -> Result<Header> {
        let (key, range_end) = self.inner.namespace.range("");
        let request = json!({"key": key, "range_end": range_end, "count_only": true});
        let answer: RangeAnswer = self.inner.client.call("/v3/kv/range", &request, Repeat::Yes).await?;
        Ok(answer.header)
    }

    /// Id of the cluster that answers now. One that was restored from a copy has another, unless it was given the names
    /// and the `--initial-cluster-token` that it had.
    pub async fn cluster_id(&self) -> Result<u64> {
        Ok(self.header().await?.cluster_id)
    }

    /// From now on an answer of any other cluster counts as none, so that whoever goes by what one said never acts on what
    /// another says. Before the first call all answers count.
    pub fn follow(&self, cluster_id: u64) {
        self.inner.followed.store(cluster_id, Ordering::Release);
    }

    /// The cluster that is followed.
    pub fn followed(&self) -> Option<u64> {
        Some(self.inner.followed.load(Ordering::Acquire)).filter(|id| *id != 0)
    }

    /// Whatever was asked may have been done there.
    fn check(&self, header: &Header) -> Result<()> {
        match self.followed() {
            Some(followed) if followed != header.cluster_id => Err(another_cluster()),
            _ => Ok(()),
        }
    }

    async fn range(&self, key: String, range_end: Option<String>) -> Result<Listing> {
        let request = json!({"key": key, "range_end": range_end.unwrap_or_default()});
        let answer: RangeAnswer = self.inner.client.call("/v3/kv/range", &request, Repeat::Yes).await?;
        self.check(&answer.header)?;
        Ok(Listing { revision: answer.header.revision, items: self.inner.namespace.key_values(answer.kvs) })
    }

    async fn transact(&self, txn: &Txn) -> Result<Outcome> {
        txn.validate()?;
        let reads = |op: &Op| matches!(op, Op::Get { .. } | Op::List { .. });
        let repeat = match txn.then.iter().chain(&txn.otherwise).all(reads) {
            true => Repeat::Yes,
            false => Repeat::No,
        };
        let request = self.inner.namespace.txn(txn);
        let answer: TxnAnswer = match self.inner.client.call("/v3/kv/txn", &request, repeat).await {
            Ok(answer) => answer,
            Err(failed) if failed.failure.is_lease_not_found() => {
                return Err(Error::LeaseNotFound(lease_of(txn).unwrap_or(LeaseId(0))));
            }
            Err(failed) => return Err(failed.into()),
        };
        self.check(&answer.header)?;
        let misfit = || Error::Unavailable { reason: "an answer that does not fit its transaction".into() };
        self.inner.namespace.outcome(txn, answer).ok_or_else(misfit)
    }

    async fn forget_history(&self, revision: u64) -> Result<()> {
        let request = json!({"revision": revision.to_string()});
        match self.inner.client.call::<Done>("/v3/kv/compaction", &request, Repeat::No).await {
            Ok(_) => Ok(()),
            // etcd does not say how far; at least this far.
            Err(failed) if failed.failure.is_compacted() => {
                Err(Error::Compacted { asked: revision, compacted: revision })
            }
            Err(failed) if failed.failure.is_future() => {
                Err(Error::FutureRevision { asked: revision, now: self.revision().await? })
            }
            Err(failed) => Err(failed.into()),
        }
    }
}

fn another_cluster() -> Error {
    Error::Unavailable { reason: "another etcd cluster answers than before".into() }
}

/// etcd does not say which one is missing.
fn lease_of(txn: &Txn) -> Option<LeaseId> {
    txn.then.iter().chain(&txn.otherwise).find_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        _ => None,
    })
}

/// etcd counts whole seconds.
fn seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1)
}

fn positive(ttl: i64) -> Option<Duration> {
    u64::try_from(ttl).ok().filter(|s| *s > 0).map(Duration::from_secs)
}

impl Store for Etcd {
    fn get(&self, key: String) -> Answer<'_, Option<KeyValue>> {
        Box::pin(async move {
            if key.is_empty() {
                return Err(Error::EmptyKey);
            }
            let listing = self.range(self.inner.namespace.key(&key), None).await?;
            Ok(listing.items.into_iter().find(|kv| kv.key == key))
        })
    }

    fn list(&self, prefix: String) -> Answer<'_, Listing> {
        Box::pin(async move {
            let (key, range_end) = self.inner.namespace.range(&prefix);
            self.range(key, Some(range_end)).await
        })
    }

    fn txn(&self, txn: Txn) -> Answer<'_, Outcome> {
        Box::pin(async move { self.transact(&txn).await })
    }

    /// A lease whose answer was lost runs out by itself.
    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseInfo> {
        Box::pin(async move {
            let request = json!({"TTL": seconds(ttl).to_string()});
            let answer: LeaseAnswer = self.inner.client.call("/v3/lease/grant", &request, Repeat::No).await?;
            self.check(&answer.header)?;
            match positive(answer.ttl) {
                Some(ttl) if answer.id != 0 => Ok(LeaseInfo { id: LeaseId(answer.id), ttl }),
                _ => Err(Error::Unavailable { reason: "a lease without id or time to live was granted".into() }),
            }
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, Duration> {
        Box::pin(async move {
            let request = json!({"ID": lease.0.to_string()});
            let path = "/v3/lease/keepalive";
            let answer = self.inner.client.call_both::<LeaseAnswer>(path, &request, read_streamed).await;
            if let Ok(answer) = &answer {
                self.check(&answer.header)?;
            }
            match answer {
                Ok(answer) if answer.id != lease.0 => {
                    Err(Error::Unavailable { reason: "the answer is about another lease".into() })
                }
                Ok(answer) => positive(answer.ttl).ok_or(Error::LeaseNotFound(lease)),
                Err(failed) if failed.failure.is_lease_not_found() => Err(Error::LeaseNotFound(lease)),
                Err(failed) => Err(failed.into()),
            }
        })
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        Box::pin(async move {
            let request = json!({"ID": lease.0.to_string()});
            match self.inner.client.call::<Done>("/v3/lease/revoke", &request, Repeat::No).await {
                Ok(_) => Ok(()),
                Err(failed) if failed.failure.is_lease_not_found() => Err(Error::LeaseNotFound(lease)),
                Err(failed) => Err(failed.into()),
            }
        })
    }

    fn watch(&self, prefix: String, from: u64) -> Answer<'_, Watch> {
        Box::pin(async move {
            let options = &self.inner.options;
            let limits = watcher::Limits {
                followed: self.followed(),
                silence_max: options.watch_silence_max,
                stall_max: options.watch_stall_max,
                queue_max: options.watch_queue_max,
            };
            watcher::start(&self.inner.client, &self.inner.namespace, &prefix, from, limits).await
        })
    }

    fn compact(&self, revision: u64) -> Answer<'_, ()> {
        Box::pin(async move { self.forget_history(revision).await })
    }
}
