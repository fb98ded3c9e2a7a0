//! Everything that the store says of the cluster, as one value that is kept up by a watch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::record::{Admin, Assignment, Links, NodeState, Registration, Under, read};
use super::{ADMIN, ALIVE, ASSIGNED, LEADER, LINKS, NODE, RESTART, STATE};
use crate::authority::{AUTHORITY, RENEWAL};
use crate::election::Holder;
use crate::keys::{KEY, Record as Key};
use crate::records::{DESIRED, Desired, PAUSE, Pause, SCALE, codec};
use crate::{Change, Event, KeyValue, Listing, Result, epoch};

/// As of `revision`; cheap to copy. A record that cannot be read is left as it was, and told in the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    pub revision: u64,
    /// With the revision that it was applied at.
    pub desired: Option<(Desired, u64)>,
    pub scales: BTreeMap<String, u32>,
    /// By key.
    pub pauses: BTreeMap<String, Pause>,
    pub nodes: BTreeMap<String, Arc<Registration>>,
    pub admin: BTreeMap<String, Arc<Admin>>,
    /// Machines whose lease lives, with the revision at which it was taken.
    pub alive: BTreeMap<String, u64>,
    /// Of fencing tokens; 0 before the first.
    pub epoch: u64,
    pub leader: Option<Holder>,
    pub assigned: BTreeMap<String, Arc<Assignment>>,
    pub states: BTreeMap<String, Arc<NodeState>>,
    pub links: BTreeMap<String, Arc<Links>>,
    /// By target.
    pub restarts: BTreeMap<String, String>,
    /// Fingerprint of the cluster's authority.
    pub authority: Option<String>,
    /// Machines that may renew their certificate at once.
    pub renewals: BTreeSet<String>,
    /// Of API clients.
    pub keys: BTreeMap<String, Key>,
}

impl View {
    pub fn of(listing: &Listing) -> View {
        let mut view = View { revision: listing.revision, ..View::default() };
        listing.items.iter().for_each(|kv| view.put(kv));
        view
    }

    /// What a machine says now stands under this; `None` while it has no lease.
    pub fn under(&self, node: &str) -> Option<Under> {
        Some(Under { epoch: self.epoch, alive: *self.alive.get(node)? })
    }

    /// What a machine said tells how things are; otherwise how they were before it, or the store, was lost. A machine that
    /// has lost its lease, and no more, may well be as it said.
    pub fn is_current(&self, node: &str, said: Option<Under>) -> bool {
        let lives_on = |under: Under| self.alive.get(node).is_none_or(|alive| *alive == under.alive);
        said.is_none_or(|under| under.epoch == self.epoch && lives_on(under))
    }

    /// False when the watch is over and the view must be made anew.
    pub fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::Changes { revision, changes } => {
                self.revision = *revision;
                for change in changes {
                    match change {
                        Change::Put(kv) => self.put(kv),
                        Change::Delete { key } => self.delete(key),
                    }
                }
                true
            }
            Event::Progress { revision } => {
                self.revision = self.revision.max(*revision);
                true
            }
            Event::Compacted { .. } | Event::Lost => false,
        }
    }

    fn put(&mut self, kv: &KeyValue) {
        let (key, value) = (kv.key.as_str(), kv.value.as_slice());
        if key == DESIRED {
            take(key, value, |d| self.desired = Some((d, kv.mod_revision)));
        } else if key == LEADER {
            take(key, value, |holder| self.leader = Some(holder));
        } else if key == epoch::KEY {
            take_as(key, epoch::Record::read(value), |record| self.epoch = record.epoch);
        } else if let Some(name) = key.strip_prefix(SCALE) {
            take(key, value, |n: codec::Number| {
                self.scales.insert(name.to_owned(), u32::try_from(n.value).unwrap_or(u32::MAX));
            });
        } else if key.starts_with(PAUSE) {
            take(key, value, |pause| drop(self.pauses.insert(key.to_owned(), pause)));
        } else if let Some(name) = key.strip_prefix(NODE) {
            take(key, value, |node| drop(self.nodes.insert(name.to_owned(), Arc::new(node))));
        } else if let Some(name) = key.strip_prefix(ADMIN) {
            take(key, value, |admin| drop(self.admin.insert(name.to_owned(), Arc::new(admin))));
        } else if let Some(name) = key.strip_prefix(ALIVE) {
            self.alive.insert(name.to_owned(), kv.create_revision);
        } else if let Some(name) = key.strip_prefix(ASSIGNED) {
            take(key, value, |assigned| drop(self.assigned.insert(name.to_owned(), Arc::new(assigned))));
        } else if let Some(name) = key.strip_prefix(STATE) {
            take(key, value, |state| drop(self.states.insert(name.to_owned(), Arc::new(state))));
        } else if let Some(target) = key.strip_prefix(RESTART) {
            self.restarts.insert(target.to_owned(), String::from_utf8_lossy(value).into_owned());
        } else if key == AUTHORITY {
            self.authority = Some(String::from_utf8_lossy(value).into_owned());
        } else if let Some(name) = key.strip_prefix(RENEWAL) {
            self.renewals.insert(name.to_owned());
        } else if let Some(name) = key.strip_prefix(KEY) {
            take(key, value, |record| drop(self.keys.insert(name.to_owned(), record)));
        } else if let Some(name) = key.strip_prefix(LINKS) {
            take(key, value, |links| drop(self.links.insert(name.to_owned(), Arc::new(links))));
        }
    }

    fn delete(&mut self, key: &str) {
        let name = |kind: &str| key.strip_prefix(kind);
        if key == DESIRED {
            self.desired = None;
        } else if key == LEADER {
            self.leader = None;
        } else if let Some(name) = name(SCALE) {
            self.scales.remove(name);
        } else if key.starts_with(PAUSE) {
            self.pauses.remove(key);
        } else if let Some(name) = name(NODE) {
            self.nodes.remove(name);
        } else if let Some(name) = name(ADMIN) {
            self.admin.remove(name);
        } else if let Some(name) = name(ALIVE) {
            self.alive.remove(name);
        } else if let Some(name) = name(ASSIGNED) {
            self.assigned.remove(name);
        } else if let Some(name) = name(STATE) {
            self.states.remove(name);
        } else if let Some(target) = name(RESTART) {
            self.restarts.remove(target);
        } else if key == AUTHORITY {
            self.authority = None;
        } else if let Some(name) = name(RENEWAL) {
            self.renewals.remove(name);
        } else if let Some(name) = name(KEY) {
            self.keys.remove(name);
        } else if let Some(name) = name(LINKS) {
            self.links.remove(name);
        }
    }
}

fn take<T: DeserializeOwned>(key: &str, value: &[u8], then: impl FnOnce(T)) {
    take_as(key, read(key, value), then);
}

fn take_as<T>(key: &str, record: Result<T>, then: impl FnOnce(T)) {
    match record {
        Ok(record) => then(record),
        Err(error) => tracing::warn!(key, %error, "a record of the cluster cannot be read; it counts as it was"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::put;
    use crate::{Op, Watch};

    fn kv(op: Op, revision: u64) -> KeyValue {
        let Op::Put { key, value, .. } = op else { panic!("not a put: {op:?}") };
        KeyValue { key, value, create_revision: revision, mod_revision: revision, version: 1, lease: None }
    }

    #[test]
    fn a_view_follows_what_is_written_and_deleted() {
        let admin = Admin { cordoned: true, ..Admin::default() };
        let first = kv(put(ADMIN, "n1", &admin).unwrap(), 3);
        let mut view = View::of(&Listing { items: vec![first], revision: 7 });
        assert!(view.admin["n1"].cordoned && view.revision == 7);
        let alive = kv(Op::put("/alive/n2", "{}"), 8);
        assert!(view.apply(&Event::Changes { revision: 8, changes: vec![Change::Put(alive)] }));
        let gone = Change::Delete { key: "/admin/n1".into() };
        assert!(view.apply(&Event::Changes { revision: 9, changes: vec![gone] }));
        assert!(view.admin.is_empty() && view.alive.contains_key("n2") && view.revision == 9);
        assert!(!view.apply(&Event::Compacted { compacted: 4 }) && !view.apply(&Event::Lost));
    }

    #[test]
    fn what_was_said_before_a_lease_or_an_epoch_began_is_how_things_were() {
        let epoch = |epoch| kv(Op::put(epoch::KEY, format!(r#"{{"version":1,"epoch":{epoch}}}"#)), 2);
        let alive = |revision| kv(Op::put("/alive/n1", "{}"), revision);
        let mut view = View::of(&Listing { items: vec![epoch(1), alive(3)], revision: 7 });
        let said = view.under("n1");
        assert_eq!(said, Some(Under { epoch: 1, alive: 3 }));
        assert!(view.is_current("n1", said) && view.is_current("n1", None));
        let mut then = |change| {
            view.apply(&Event::Changes { revision: 9, changes: vec![change] });
            view.is_current("n1", said)
        };
        assert!(then(Change::Delete { key: "/alive/n1".into() }), "it lost its lease, and no more");
        assert!(!then(Change::Put(alive(9))), "it was away");
        assert!(!then(Change::Put(epoch(2))) && view.under("n2").is_none());
    }

    #[test]
    fn what_cannot_be_read_leaves_what_was_known() {
        let good = kv(put(ADMIN, "n1", &Admin { cordoned: true, ..Admin::default() }).unwrap(), 3);
        let mut view = View::of(&Listing { items: vec![good], revision: 3 });
        for bad in ["not json", r#"{"version": 99, "cordoned": false}"#] {
            let changes = vec![Change::Put(kv(Op::put("/admin/n1", bad), 4))];
            assert!(view.apply(&Event::Changes { revision: 4, changes }));
            assert!(view.admin["n1"].cordoned, "{bad}");
        }
    }

    #[test]
    fn a_watch_that_ended_ends_the_view() {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        drop(sender);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let event = runtime.block_on(async { Watch::new(receiver).next().await });
        assert!(!View::default().apply(&event));
    }
}
