//! The epoch of the coordination state: the first half of every fencing token.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_policy::Timestamp;
use holdfast_policy::lease::FencingToken;
use serde::{Deserialize, Serialize};

use crate::{Error, Guard, Op, Result, Store, Txn};

pub const KEY: &str = "/epoch";

/// Attempts against others who raise it at the same time.
const TRIES: u32 = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub epoch: u64,
    /// Which store kept it: what another one has of it is a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

impl Record {
    pub fn read(value: &[u8]) -> Result<Record> {
        let record: Record =
            serde_json::from_slice(value).map_err(|e| Error::Record { key: KEY.into(), reason: e.to_string() })?;
        match record.version {
            1 => Ok(record),
            found => Err(Error::NewerRecord { key: KEY.into(), found, known: 1 }),
        }
    }

    pub fn bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::Record { key: KEY.into(), reason: e.to_string() })
    }

    /// What has to be written instead; `None` when `stored`, read at `revision` from the store `of`, is to be acted under.
    pub fn after(stored: Option<&Record>, revision: u64, of: Option<&str>, highest: FencingToken) -> Option<Record> {
        let epoch = stored.map_or(0, |record| record.epoch);
        let is_ours = stored.is_some_and(|record| record.of.as_deref() == of);
        let next = epoch.max(highest.epoch) + 1;
        let is_newest = highest <= FencingToken { epoch, create_revision: revision };
        (!is_ours || !is_newest).then(|| Record { version: 1, epoch: next, of: of.map(str::to_owned) })
    }
}

/// The epoch to act under, shared by who learns it and who acts.
#[derive(Debug, Default)]
pub struct Current {
    /// 0 while it is not known.
    epoch: AtomicU64,
    /// When it was learnt that the store was set back, in nanoseconds since boot; 0 when it never was.
    set_back_ns: AtomicU64,
}

impl Current {
    pub fn of(epoch: u64) -> Current {
        Current { epoch: AtomicU64::new(epoch), ..Current::default() }
    }

    /// `set_back`: when it was learnt by an agent before this one.
    pub fn resumed(set_back: Option<Timestamp>) -> Current {
        let ns = set_back.map_or(0, |at| at.as_nanos().max(1));
        Current { set_back_ns: AtomicU64::new(ns), ..Current::default() }
    }

    pub fn known(&self) -> Option<u64> {
        Some(self.epoch.load(Ordering::Acquire)).filter(|epoch| *epoch != 0)
    }

    /// Another store answers: nothing is claimed before its epoch is known.
    pub fn forget(&self) {
        self.epoch.store(0, Ordering::Release);
    }

    /// `set_back`: it is the epoch of an older copy, as was learnt then.
    pub fn learn(&self, epoch: u64, set_back: Option<Timestamp>) {
        if let Some(now) = set_back {
            self.set_back_ns.store(now.as_nanos().max(1), Ordering::Release);
        }
        self.epoch.store(epoch, Ordering::Release);
    }

    /// A copy does not know who took a lease after it was made: whoever did may act for as long as that lease lives.
    pub fn may_claim(&self, now: Timestamp, ttl: Duration) -> bool {
        match self.set_back_ns.load(Ordering::Acquire) {
            0 => true,
            at => now >= Timestamp::from_nanos(at) + ttl,
        }
    }
}

/// An etcd cluster as records name it; the way `etcdctl` does.
pub fn name_of(cluster_id: u64) -> String {
    format!("{cluster_id:x}")
}

/// Whether the store was set back to an older copy since `known` was the epoch here. Who never knew one and meets a later one than
/// the first cannot say when that was.
pub fn is_copy(known: u64, epoch: u64) -> bool {
    epoch > known.max(1)
}

/// The epoch to act under. `found` are the tokens lying about (run directories, token files, plane snapshots): when one
/// is higher than anything this state can have handed out, the state was recreated or is an old copy, and a new
/// epoch above all of them starts. So it does when the state was kept by another store than `of`, which names this one
/// where stores have names: then it is a copy, whether or not anybody has seen a higher token.
pub async fn settle(store: &dyn Store, of: Option<&str>, found: impl IntoIterator<Item = FencingToken>) -> Result<u64> {
    let highest = found.into_iter().max().unwrap_or_default();
    for _ in 0..TRIES {
        let listing = store.list(KEY.into()).await?;
        let stored = listing.items.into_iter().find(|kv| kv.key == KEY);
        let record = stored.as_ref().map(|kv| Record::read(&kv.value)).transpose()?;
        let Some(next) = Record::after(record.as_ref(), listing.revision, of, highest) else {
            return Ok(record.map_or(0, |record| record.epoch));
        };
        let mod_revision = stored.map_or(0, |kv| kv.mod_revision);
        let txn = Txn::when([Guard::unchanged(KEY, mod_revision)]).then([Op::put(KEY, next.bytes()?)]);
        if store.txn(txn).await?.succeeded {
            return Ok(next.epoch);
        }
    }
    Err(Error::Contended { key: KEY.into(), tries: TRIES })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_begins_anew_claims_nothing_sooner() {
        let at = Timestamp::from_nanos(5_000_000_000);
        let ttl = Duration::from_secs(10);
        let current = Current::resumed(Some(at));
        current.learn(3, None);
        assert!(!current.may_claim(at + ttl / 2, ttl) && current.may_claim(at + ttl, ttl));
        assert!(Current::resumed(None).may_claim(at, ttl));
    }

    #[test]
    fn who_never_knew_an_epoch_counts_a_later_one_as_a_copy() {
        assert!(!is_copy(0, 1) && !is_copy(1, 1) && !is_copy(3, 3));
        assert!(is_copy(1, 2) && is_copy(0, 2));
    }
}
