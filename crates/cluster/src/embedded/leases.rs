//! Deadlines of leases, in memory, and the task that ends them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use holdfast_policy::Timestamp;
use tokio::sync::Notify;

use super::Inner;
use crate::LeaseId;

/// Shorter ones would expire between two renewals of a busy machine.
pub(super) const TTL_MIN: Duration = Duration::from_millis(100);

/// Timers run on another clock than leases (it stops while the machine sleeps), so the deadline is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After a failed attempt to delete the keys of an expired lease.
const RETRY: Duration = Duration::from_millis(500);

pub(super) struct Leases {
    table: Mutex<HashMap<LeaseId, Lease>>,
    changed: Arc<Notify>,
}

struct Lease {
    ttl: Duration,
    deadline: Timestamp,
    /// Its keys are being deleted: renewals are refused from here on.
    ending: bool,
}

impl Leases {
    /// Every stored lease gets its full time from `now`.
    pub(super) fn new(stored: Vec<(LeaseId, Duration)>, now: Timestamp) -> Self {
        let table = stored.into_iter().map(|(id, ttl)| (id, Lease { ttl, deadline: now + ttl, ending: false }));
        Leases { table: Mutex::new(table.collect()), changed: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Lease>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, id: LeaseId, ttl: Duration, started: Timestamp) {
        self.lock().insert(id, Lease { ttl, deadline: started + ttl, ending: false });
        self.changed.notify_one();
    }

    pub(super) fn renew(&self, id: LeaseId, now: Timestamp) -> Option<Duration> {
        let mut table = self.lock();
        let lease = table.get_mut(&id).filter(|l| !l.ending && now < l.deadline)?;
        lease.deadline = now + lease.ttl;
        Some(lease.ttl)
    }

    /// False when it does not exist or is ending already.
    pub(super) fn end(&self, id: LeaseId) -> bool {
        self.lock().get_mut(&id).is_some_and(|l| !std::mem::replace(&mut l.ending, true))
    }

    pub(super) fn ended(&self, id: LeaseId, done: bool, now: Timestamp) {
        let mut table = self.lock();
        if done {
            table.remove(&id);
        } else if let Some(lease) = table.get_mut(&id) {
            // Ended for its holder, but its keys are still there: the expiry task tries again.
            lease.ending = false;
            lease.deadline = now;
            drop(table);
            self.changed.notify_one();
        }
    }

    fn take_expired(&self, now: Timestamp) -> Vec<LeaseId> {
        let mut table = self.lock();
        let expired = table.iter_mut().filter(|(_, l)| !l.ending && now >= l.deadline);
        expired
            .map(|(id, lease)| {
                lease.ending = true;
                *id
            })
            .collect()
    }

    fn next(&self) -> Option<Timestamp> {
        self.lock().values().filter(|l| !l.ending).map(|l| l.deadline).min()
    }
}

/// Ends with the engine.
pub(super) async fn expire(engine: Weak<Inner>) {
    loop {
        let Some(inner) = engine.upgrade() else { return };
        for lease in inner.leases.take_expired(inner.now()) {
            let result = inner.write(move |engine| engine.revoke(lease)).await;
            if matches!(result, Err(crate::Error::Local(holdfast_store::Error::Closed))) {
                return;
            }
            if let Err(error) = &result {
                tracing::warn!(%lease, %error, "the keys of an expired lease are still there; trying again");
            }
            let gone = matches!(result, Ok(()) | Err(crate::Error::LeaseNotFound(_)));
            inner.leases.ended(lease, gone, inner.now() + RETRY);
        }
        let wait = inner.leases.next().map_or(LOOK_EVERY, |next| inner.now().until(next).min(LOOK_EVERY));
        let changed = inner.leases.changed.clone();
        // The engine must be able to go away while nothing happens.
        drop(inner);
        tokio::select! {
            () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
            () = changed.notified() => {}
        }
    }
}
