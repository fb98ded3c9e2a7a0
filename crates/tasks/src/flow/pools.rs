//! Pools: something scarce, counted in slots over all runs. By priority, then first come, first served.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_policy::flow::Key;

/// What is granted: the run of the key is told.
pub(super) type Granted = Vec<Key>;

#[derive(Default)]
pub(super) struct Pools {
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    /// Nothing is granted before every run of the process before this one has said what it holds.
    open: bool,
    /// As the file says; of a pool that is in it no more nobody waits.
    slots: BTreeMap<String, u32>,
    pools: BTreeMap<String, Pool>,
    came: u64,
}

#[derive(Default)]
struct Pool {
    held: BTreeSet<Key>,
    /// Higher priorities first, which is lower numbers.
    waiting: BTreeMap<(i32, u64), Key>,
}

impl Pools {
    pub(super) fn open(&self) -> Granted {
        let mut all = self.lock();
        all.open = true;
        all.grant_everywhere()
    }

    pub(super) fn set_slots(&self, slots: BTreeMap<String, u32>) -> Granted {
        let mut all = self.lock();
        all.slots = slots;
        all.grant_everywhere()
    }

    pub(super) fn acquire(&self, key: Key, pool: &str, priority: i32) -> Granted {
        let mut all = self.lock();
        all.came += 1;
        let place = (-priority, all.came);
        all.pools.entry(pool.to_owned()).or_default().waiting.insert(place, key);
        all.grant(pool)
    }

    /// Whatever else is held: it was granted before.
    pub(super) fn hold(&self, key: Key, pool: &str) {
        self.lock().pools.entry(pool.to_owned()).or_default().held.insert(key);
    }

    pub(super) fn release(&self, key: &Key, pool: &str) -> Granted {
        let mut all = self.lock();
        if let Some(pool) = all.pools.get_mut(pool) {
            pool.held.remove(key);
            pool.waiting.retain(|_, waiting| waiting != key);
        }
        all.grant(pool)
    }

    /// Everything of a run that is over, or that nobody leads any more.
    pub(super) fn forget(&self, run: &str) -> Granted {
        let mut all = self.lock();
        for pool in all.pools.values_mut() {
            pool.held.retain(|key| key.run != run);
            pool.waiting.retain(|_, key| key.run != run);
        }
        all.grant_everywhere()
    }

    /// Slots, held and waiting of each.
    pub(super) fn counts(&self) -> BTreeMap<String, (u32, usize, usize)> {
        let all = self.lock();
        let count = |name: &String, slots: &u32| {
            let pool = all.pools.get(name);
            (*slots, pool.map_or(0, |p| p.held.len()), pool.map_or(0, |p| p.waiting.len()))
        };
        all.slots.iter().map(|(name, slots)| (name.clone(), count(name, slots))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn grant_everywhere(&mut self) -> Granted {
        let names: Vec<String> = self.pools.keys().cloned().collect();
        names.iter().flat_map(|name| self.grant(name)).collect()
    }

    fn grant(&mut self, name: &str) -> Granted {
        let mut granted = Granted::new();
        let slots = self.slots.get(name).map_or(usize::MAX, |slots| *slots as usize);
        let Some(pool) = self.pools.get_mut(name).filter(|_| self.open) else { return granted };
        while pool.held.len() < slots
            && let Some((_, key)) = pool.waiting.pop_first()
        {
            pool.held.insert(key.clone());
            granted.push(key);
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(run: &str) -> Key {
        format!("{run}/1/s/0/do/1").parse().expect("a key")
    }

    fn runs(granted: &Granted) -> Vec<&str> {
        granted.iter().map(|key| key.run.as_str()).collect()
    }

    fn pools(slots: u32) -> Pools {
        let pools = Pools::default();
        pools.set_slots([("db".to_owned(), slots)].into());
        pools
    }

    #[test]
    fn slots_go_by_priority_and_come_back() {
        let pools = pools(1);
        assert!(pools.open().is_empty());
        assert_eq!(runs(&pools.acquire(key("a"), "db", 0)), ["a"]);
        assert!(pools.acquire(key("b"), "db", 0).is_empty());
        assert!(pools.acquire(key("c"), "db", 5).is_empty());
        assert_eq!(pools.counts()["db"], (1, 1, 2));
        assert_eq!(runs(&pools.release(&key("a"), "db")), ["c"]);
        assert!(pools.release(&key("a"), "db").is_empty(), "a second release frees nothing");
        assert_eq!(runs(&pools.forget("c")), ["b"], "a run that is gone holds nothing");
        assert_eq!(pools.counts()["db"], (1, 1, 0));
    }

    #[test]
    fn nothing_is_granted_before_all_that_is_held_is_known() {
        let pools = pools(1);
        assert!(pools.acquire(key("late"), "db", 100).is_empty());
        pools.hold(key("early"), "db");
        assert!(pools.open().is_empty());
        assert_eq!(runs(&pools.release(&key("early"), "db")), ["late"]);
    }

    #[test]
    fn a_pool_that_grows_or_goes_frees_who_waits() {
        let pools = pools(1);
        pools.open();
        for run in ["a", "b", "c", "d"] {
            pools.acquire(key(run), "db", 0);
        }
        assert_eq!(runs(&pools.set_slots([("db".to_owned(), 2)].into())), ["b"]);
        assert_eq!(runs(&pools.set_slots(BTreeMap::new())), ["c", "d"]);
    }
}
