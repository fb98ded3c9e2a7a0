//! Who waits at a queue, and what wakes them: a message that came, or a time at which one becomes visible.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::queue::Bucket;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::clock::Millis;

/// Nobody waits at more names than there may be queues; names of queues that are no more are dropped then.
const BELLS_MAX: usize = 2 * crate::queue::QUEUES_MAX;

#[derive(Default)]
pub(super) struct Bells {
    all: Mutex<BTreeMap<String, Arc<Bell>>>,
}

impl Bells {
    pub(super) fn get(&self, queue: &str) -> Arc<Bell> {
        let mut all = lock(&self.all);
        if let Some(bell) = all.get(queue) {
            return bell.clone();
        }
        if all.len() >= BELLS_MAX {
            all.retain(|_, bell| Arc::strong_count(bell) > 1);
        }
        all.entry(queue.to_owned()).or_default().clone()
    }

    /// Queues at which somebody waits.
    pub(super) fn waited_for(&self) -> Vec<String> {
        let all = lock(&self.all);
        let waited = all.iter().filter(|(_, bell)| bell.waiting.load(Ordering::SeqCst) > 0);
        waited.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn all(&self) -> BTreeMap<String, Arc<Bell>> {
        lock(&self.all).clone()
    }
}

/// Since the plane began.
#[derive(Debug, Default)]
pub struct Counters {
    pub sent: AtomicU64,
    pub received: AtomicU64,
    pub deleted: AtomicU64,
    /// Acknowledgements that came too late and deleted nothing.
    pub stale: AtomicU64,
    /// Reports of workers that did not finish.
    pub failed: AtomicU64,
    /// To the dead letters.
    pub buried: AtomicU64,
}

/// Of one queue.
pub struct Bell {
    came: Notify,
    /// `due` became earlier.
    sooner: Notify,
    /// When something becomes visible, as far as is known.
    due: AtomicI64,
    waiting: AtomicUsize,
    bucket: Mutex<Option<Bucket>>,
    pub counters: Counters,
}

impl Default for Bell {
    fn default() -> Self {
        Bell {
            came: Notify::new(),
            sooner: Notify::new(),
            due: AtomicI64::new(Millis::MAX),
            waiting: AtomicUsize::new(0),
            bucket: Mutex::new(None),
            counters: Counters::default(),
        }
    }
}

/// Why a wait ended.
pub(super) enum Woken {
    Came,
    /// This time has come.
    Due(Millis),
}

impl Bell {
    /// So many messages came; as many of those who wait look again.
    pub(super) fn ring(&self, many: usize) {
        for _ in 0..many.min(self.waiting.load(Ordering::SeqCst)) {
            self.came.notify_one();
        }
    }

    pub(super) fn note_due(&self, due: Millis) {
        if due < self.due.fetch_min(due, Ordering::SeqCst) {
            self.sooner.notify_waiters();
        }
    }

    /// Whoever woke at `due` looks now; later times are noted anew by what they find.
    pub(super) fn passed(&self, due: Millis) {
        let _ = self.due.compare_exchange(due, Millis::MAX, Ordering::SeqCst, Ordering::SeqCst);
    }

    pub(super) fn listen(&self) -> Listener<'_> {
        let mut came = Box::pin(self.came.notified());
        came.as_mut().enable();
        Listener { bell: self, came }
    }

    /// Counts the caller among those who wait, until it is dropped.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(self)
    }

    pub(super) fn count(&self, which: impl Fn(&Counters) -> &AtomicU64, many: usize) {
        which(&self.counters).fetch_add(many as u64, Ordering::Relaxed);
    }

    /// How many of `many` the rate allows now.
    pub(super) fn allow(&self, rate: Option<u32>, many: u32) -> Allowed<'_> {
        let Some(rate) = rate else { return Allowed { bell: None, many, wait: None } };
        let now = clock::now();
        let mut bucket = lock(&self.bucket);
        let bucket = match &mut *bucket {
            Some(bucket) if bucket.rate() == rate => bucket,
            other => other.insert(Bucket::new(rate, now)),
        };
        let many = bucket.take(many, now);
        Allowed { bell: Some(self), many, wait: (many == 0).then(|| bucket.wait()) }
    }
}

pub(super) struct Allowed<'a> {
    bell: Option<&'a Bell>,
    pub(super) many: u32,
    /// Nothing now; something after this time.
    pub(super) wait: Option<Duration>,
}

impl Allowed<'_> {
    pub(super) fn give_back(&self, many: u32) {
        if let Some(bucket) = self.bell.map(|bell| lock(&bell.bucket)).as_deref_mut().and_then(Option::as_mut) {
            bucket.give_back(many);
        }
    }
}

pub(super) struct Waiting<'a>(&'a Bell);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) struct Listener<'a> {
    bell: &'a Bell,
    came: std::pin::Pin<Box<Notified<'a>>>,
}

impl Listener<'_> {
    pub(super) async fn wait(mut self, left: impl Fn(Millis) -> Duration) -> Woken {
        loop {
            let sooner = self.bell.sooner.notified();
            let due = self.bell.due.load(Ordering::SeqCst);
            tokio::select! {
                () = self.came.as_mut() => return Woken::Came,
                () = sooner => {}
                () = tokio::time::sleep(left(due)), if due < Millis::MAX => return Woken::Due(due),
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
