//! Time limits without a timer per request: one tick per core looks at all that wait.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use holdfast_policy::Timestamp;
use holdfast_policy::balance::Verdict;

/// Limits and verdicts are seen this much late at most.
pub(crate) const TICK_MS: u64 = 10;

/// Without a request in flight only long limits run.
pub(crate) const TICK_IDLE_MS: u64 = 200;

const NONE: u64 = u64::MAX;

/// What one task waits for: a limit, and the endpoint whose first byte it wants.
#[derive(Debug)]
pub(crate) struct Watch {
    deadline: Cell<u64>,
    /// Limit over all phases of a request.
    total: Cell<u64>,
    fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// Shared slot of the endpoint and since when.
    waiting: Cell<Option<(u16, u64)>>,
    hung: Cell<Option<Verdict>>,
    /// Between requests: may be closed by a drain.
    idle: Cell<bool>,
}

impl Watch {
    fn new() -> Watch {
        Watch {
            deadline: Cell::new(NONE),
            total: Cell::new(NONE),
            fired: Cell::new(false),
            waker: RefCell::new(None),
            waiting: Cell::new(None),
            hung: Cell::new(None),
            idle: Cell::new(false),
        }
    }

    pub(crate) fn arm(&self, at: Timestamp) {
        self.deadline.set(at.as_nanos());
        self.fired.set(false);
    }

    pub(crate) fn disarm(&self) {
        self.deadline.set(NONE);
        self.total.set(NONE);
        self.fired.set(false);
    }

    pub(crate) fn arm_total(&self, at: Timestamp) {
        self.total.set(at.as_nanos());
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.fired.get()
    }

    /// Called before returning `Pending`, so that the sweep can wake the task.
    pub(crate) fn park(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match waker.as_ref() {
            Some(w) if w.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
    }

    pub(crate) fn wait_for(&self, slot: u16, since: Timestamp) {
        self.hung.set(None);
        self.waiting.set(Some((slot, since.as_nanos())));
    }

    pub(crate) fn waiting_since(&self) -> Option<Timestamp> {
        self.waiting.get().map(|(_, since)| Timestamp::from_nanos(since))
    }

    pub(crate) fn answered(&self) {
        self.waiting.set(None);
        self.hung.set(None);
    }

    /// The verdict against the endpoint that is waited for, once.
    pub(crate) fn take_hung(&self) -> Option<Verdict> {
        self.hung.take()
    }

    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.set(idle);
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn check(&self, now: u64) {
        if self.fired.get() || now < self.deadline.get().min(self.total.get()) {
            return;
        }
        self.fired.set(true);
        self.wake();
    }
}

/// All watches of a core. A slab: a watch keeps its place until its handle is dropped.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    watches: RefCell<Vec<Option<Rc<Watch>>>>,
    free: RefCell<Vec<usize>>,
}

/// Owns a place in the slab.
#[derive(Debug)]
pub(crate) struct Watched {
    watch: Rc<Watch>,
    index: usize,
    sweep: Rc<Sweep>,
}

impl std::ops::Deref for Watched {
    type Target = Watch;
    fn deref(&self) -> &Watch {
        &self.watch
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.sweep.watches.borrow_mut()[self.index] = None;
        self.sweep.free.borrow_mut().push(self.index);
    }
}

/// The endpoint slots waited for at a tick, each with its oldest time.
pub(crate) type Waiting = Vec<(u16, u64)>;

impl Sweep {
    pub(crate) fn watch(self: &Rc<Self>) -> Watched {
        let watch = Rc::new(Watch::new());
        let mut watches = self.watches.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            watches.push(None);
            watches.len() - 1
        });
        watches[index] = Some(watch.clone());
        drop(watches);
        Watched { watch, index, sweep: self.clone() }
    }

    /// Fires limits, tells those who wait for a hung endpoint, and collects who is waited for.
    pub(crate) fn tick(&self, now: Timestamp, verdict: impl Fn(u16) -> Verdict, waiting: &mut Waiting) {
        for watch in self.watches.borrow().iter().flatten() {
            watch.check(now.as_nanos());
            let Some((slot, since)) = watch.waiting.get() else { continue };
            match waiting.iter_mut().find(|(s, _)| *s == slot) {
                Some((_, oldest)) => *oldest = since.min(*oldest),
                None => waiting.push((slot, since)),
            }
            let verdict = verdict(slot);
            if !verdict.usable() {
                watch.hung.set(Some(verdict));
                watch.wake();
            }
        }
    }

    /// Drain: connections between requests get until `at`.
    pub(crate) fn hurry_idle(&self, at: Timestamp) {
        for watch in self.watches.borrow().iter().flatten().filter(|w| w.idle.get()) {
            watch.deadline.set(watch.deadline.get().min(at.as_nanos()));
        }
    }
}
