//! The coordination store of the town, with etcd's semantics: revisions, leases by its own clock, history that is
//! compacted, and a state that may be set back to an older copy.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use holdfast_cluster::{Change, Event, KeyValue, LeaseId, Listing, Op, Outcome, Response, Txn};
use holdfast_policy::Timestamp;

/// A restore stops all members first. It is shorter than a lease: holders of leases that the copy knows nothing of still act.
const RESTORE: Duration = Duration::from_secs(1);
/// Revisions kept unless they are compacted.
const HISTORY: usize = 20_000;

#[derive(Clone, Default)]
struct Kept {
    revision: u64,
    map: BTreeMap<String, KeyValue>,
    leases: BTreeMap<LeaseId, Lease>,
}

#[derive(Clone, Copy)]
struct Lease {
    ttl: Duration,
    end: Timestamp,
}

#[derive(Default)]
pub(super) struct Store {
    state: Kept,
    history: VecDeque<(u64, Vec<Change>)>,
    compacted: u64,
    /// A restored store is another one: revisions mean other things there.
    pub(super) cluster: u64,
    pub(super) away_until: Timestamp,
    copy: Option<Kept>,
    /// Its clock against true time, in millionths.
    ppm: i64,
}

impl Store {
    pub(super) fn new(ppm: i64) -> Store {
        Store { ppm, ..Store::default() }
    }

    pub(super) fn revision(&self) -> u64 {
        self.state.revision
    }

    pub(super) fn get(&self, key: &str) -> Option<&KeyValue> {
        self.state.map.get(key)
    }

    pub(super) fn list(&self, prefix: &str) -> Listing {
        let under = self.state.map.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Listing { items: under.map(|(_, kv)| kv.clone()).collect(), revision: self.state.revision }
    }

    pub(super) fn txn(&mut self, txn: &Txn) -> Outcome {
        let succeeded = txn.guards.iter().all(|g| g.holds(self.state.map.get(g.key())));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let mut changes = Vec::new();
        let responses = ops.iter().map(|op| self.apply(op, &mut changes)).collect();
        self.commit(changes);
        Outcome { succeeded, revision: self.state.revision, responses }
    }

    fn apply(&mut self, op: &Op, changes: &mut Vec<Change>) -> Response {
        match op {
            Op::Get { key } => Response::Get(self.state.map.get(key).cloned()),
            Op::List { prefix } => Response::List(self.list(prefix).items),
            Op::Put { key, value, lease } => {
                let now = self.state.revision + 1;
                let old = self.state.map.get(key);
                let kv = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: old.map_or(now, |kv| kv.create_revision),
                    mod_revision: now,
                    version: old.map_or(1, |kv| kv.version + 1),
                    lease: *lease,
                };
                self.state.map.insert(key.clone(), kv.clone());
                changes.push(Change::Put(kv));
                Response::Put
            }
            Op::Delete { key } => Response::Deleted(self.delete(vec![key.clone()], changes)),
            Op::DeletePrefix { prefix } => {
                let keys = self.list(prefix).items.into_iter().map(|kv| kv.key).collect();
                Response::Deleted(self.delete(keys, changes))
            }
        }
    }

    fn delete(&mut self, keys: Vec<String>, changes: &mut Vec<Change>) -> u64 {
        let before = changes.len();
        for key in keys {
            if self.state.map.remove(&key).is_some() {
                changes.push(Change::Delete { key });
            }
        }
        (changes.len() - before) as u64
    }

    fn commit(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.state.revision += 1;
        self.history.push_back((self.state.revision, changes));
        if self.history.len() > HISTORY
            && let Some((revision, _)) = self.history.pop_front()
        {
            self.compacted = revision;
        }
    }

    pub(super) fn grant(&mut self, now: Timestamp, id: LeaseId, ttl: Duration) {
        let end = now + self.by_own_clock(ttl);
        self.state.leases.insert(id, Lease { ttl, end });
    }

    /// False when there is none.
    pub(super) fn keep_alive(&mut self, now: Timestamp, id: LeaseId) -> bool {
        let Some(ttl) = self.state.leases.get(&id).map(|l| l.ttl) else { return false };
        self.grant(now, id, ttl);
        true
    }

    pub(super) fn revoke(&mut self, id: LeaseId) {
        self.state.leases.remove(&id);
        let keys = self.state.map.values().filter(|kv| kv.lease == Some(id)).map(|kv| kv.key.clone()).collect();
        let mut changes = Vec::new();
        self.delete(keys, &mut changes);
        self.commit(changes);
    }

    /// Ends what has run out; a store that is away counts nothing.
    pub(super) fn expire(&mut self, now: Timestamp) {
        if now < self.away_until {
            return;
        }
        let over: Vec<LeaseId> = self.state.leases.iter().filter(|(_, l)| l.end <= now).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.revoke(id));
    }

    pub(super) fn next_expiry(&self) -> Timestamp {
        let first = self.state.leases.values().map(|l| l.end).min().unwrap_or(Timestamp::NEVER);
        first.max(self.away_until)
    }

    /// Gone until then. Who leads it afterwards gives every lease its whole time again.
    pub(super) fn away(&mut self, until: Timestamp) {
        self.away_until = self.away_until.max(until);
        let until = self.away_until;
        let ppm = self.ppm;
        for lease in self.state.leases.values_mut() {
            lease.end = until + stretched(lease.ttl, ppm);
        }
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.state.revision;
        self.history.clear();
    }

    pub(super) fn snapshot(&mut self) {
        self.copy = Some(self.state.clone());
    }

    /// Set back to the last copy. False when there is none.
    pub(super) fn restore(&mut self, now: Timestamp) -> bool {
        let Some(copy) = self.copy.clone() else { return false };
        self.state = copy;
        self.history.clear();
        self.compacted = self.state.revision;
        self.cluster += 1;
        self.away(now + RESTORE);
        true
    }

    /// What happened from `next` on: changes, or that they are gone.
    pub(super) fn since(&self, next: u64) -> Vec<Event> {
        if next <= self.compacted {
            return vec![Event::Compacted { compacted: self.compacted }];
        }
        let skip = self.history.partition_point(|(revision, _)| *revision < next);
        let told = self.history.iter().skip(skip);
        told.map(|(revision, changes)| Event::Changes { revision: *revision, changes: changes.clone() }).collect()
    }

    fn by_own_clock(&self, ttl: Duration) -> Duration {
        stretched(ttl, self.ppm)
    }
}

fn stretched(time: Duration, ppm: i64) -> Duration {
    time.mul_f64(1.0 - ppm as f64 / 1e6)
}
