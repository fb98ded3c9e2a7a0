//! One core: a single-threaded runtime, its connections, pools and statistics. Nothing here is shared with another
//! core except [`Process`], and that only through atomics.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::Timestamp;
use holdfast_policy::balance::Signal;
use holdfast_policy::rng::Rng;
use tokio::sync::Notify;

use crate::access_log;
use crate::core::route::{Lane, Memory, Route};
use crate::core::sweep::{Sweep, TICK_IDLE_MS, TICK_MS, Waiting};
use crate::fault::Fault;
use crate::shared::{ENDPOINTS_MAX, Table};
use crate::snapshot::Snapshot;
use crate::wire::buffer::Spares;
use crate::wire::queue;

pub(crate) mod pool;
pub(crate) mod route;
pub(crate) mod stats;
pub(crate) mod sweep;

/// Idle upstream connections are looked through this often.
const PURGE_EVERY: Duration = Duration::from_millis(500);

/// What the cores of a process share.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) table: Table,
    /// Place in the table.
    pub(crate) slot: usize,
    pub(crate) logs: access_log::Sink,
    pub(crate) events: std::sync::mpsc::SyncSender<Happened>,
    pub(crate) draining: AtomicBool,
    /// Client connections of all cores, whatever the balancer.
    pub(crate) connections: AtomicU32,
    /// Requests being answered.
    pub(crate) active: AtomicU32,
    /// For requests on their way into a queue.
    pub(crate) keeping: queue::Places,
    /// Oldest wait by core and endpoint slot.
    waiting: Vec<Vec<AtomicU64>>,
}

/// A change worth a line in the journal.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub(crate) subject: String,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) reason: String,
    pub(crate) inputs: Vec<(&'static str, String)>,
}

/// What the cores of a process share about one balancer; kept by name across snapshots.
#[derive(Debug, Default)]
pub(crate) struct Common {
    pub(crate) in_flight: AtomicU32,
    pub(crate) retrying: AtomicU32,
    pub(crate) connections: AtomicU32,
    /// The last request for the queue was not taken.
    pub(crate) unkept: AtomicBool,
}

impl Process {
    pub(crate) fn new(
        table: Table,
        slot: usize,
        cores: usize,
        logs: access_log::Sink,
        events: std::sync::mpsc::SyncSender<Happened>,
    ) -> Process {
        let per_core = || (0..ENDPOINTS_MAX).map(|_| AtomicU64::new(0)).collect();
        Process {
            table,
            slot,
            logs,
            events,
            draining: AtomicBool::new(false),
            connections: AtomicU32::new(0),
            active: AtomicU32::new(0),
            keeping: queue::Places::default(),
            waiting: (0..cores).map(|_| per_core()).collect(),
        }
    }

    fn publish_waiting(&self, core: usize, slot: u16, since: u64) {
        let at = usize::from(slot).min(ENDPOINTS_MAX - 1);
        self.waiting[core][at].store(since, Relaxed);
        let oldest = self.waiting.iter().map(|c| c[at].load(Relaxed)).filter(|t| *t > 0).min();
        self.table.set_waiting(slot, self.slot, oldest.unwrap_or(0));
    }
}

/// A balancer as its connections hold it; what it does changes with each snapshot.
#[derive(Debug)]
pub(crate) struct Balancer {
    pub(crate) name: String,
    route: RefCell<Option<Rc<Route>>>,
}

impl Balancer {
    pub(crate) fn route(&self) -> Option<Rc<Route>> {
        self.route.borrow().clone()
    }
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) index: usize,
    pub(crate) process: Arc<Process>,
    pub(crate) sweep: Rc<Sweep>,
    pub(crate) spares: RefCell<Spares>,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) log: RefCell<access_log::Buffer>,
    balancers: RefCell<HashMap<String, Rc<Balancer>>>,
    faults: RefCell<Vec<Fault>>,
    /// Time of the last tick: good enough for limits.
    coarse: Cell<Timestamp>,
    busy: Cell<u32>,
    napping: Cell<bool>,
    rouse: Notify,
}

impl Core {
    pub(crate) fn new(index: usize, process: Arc<Process>) -> Rc<Core> {
        let now = clock::now();
        let log = access_log::Buffer::new(process.logs.clone());
        Rc::new(Core {
            index,
            process,
            sweep: Rc::default(),
            spares: RefCell::default(),
            rng: RefCell::new(Rng::from_seed(now.as_nanos() ^ (index as u64) << 48)),
            log: RefCell::new(log),
            balancers: RefCell::default(),
            faults: RefCell::default(),
            coarse: Cell::new(now),
            busy: Cell::new(0),
            napping: Cell::new(false),
            rouse: Notify::new(),
        })
    }

    pub(crate) fn coarse_now(&self) -> Timestamp {
        self.coarse.get()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.process.draining.load(Relaxed)
    }

    /// Makes `snapshot` the truth for the next request of every connection; none is touched.
    pub(crate) fn apply(&self, snapshot: &Snapshot, commons: &HashMap<String, Arc<Common>>) {
        let mut balancers = self.balancers.borrow_mut();
        for b in &snapshot.balancers {
            let Some(common) = commons.get(&b.name) else { continue };
            let balancer = balancers
                .entry(b.name.clone())
                .or_insert_with(|| Rc::new(Balancer { name: b.name.clone(), route: RefCell::new(None) }));
            let before = balancer.route();
            let route = Route::new(b, snapshot.processes, common.clone(), before.as_deref(), self);
            *balancer.route.borrow_mut() = Some(Rc::new(route));
        }
        balancers.retain(|name, balancer| {
            let stays = snapshot.balancers.iter().any(|b| b.name == *name);
            if !stays {
                balancer.route.borrow_mut().take();
            }
            stays
        });
    }

    pub(crate) fn balancer(&self, name: &str) -> Option<Rc<Balancer>> {
        self.balancers.borrow().get(name).cloned()
    }

    pub(crate) fn set_faults(&self, faults: Vec<Fault>) {
        *self.faults.borrow_mut() = faults;
    }

    /// The fault that hits this try, if any.
    pub(crate) fn fault(&self, balancer: &str, lane: &Lane) -> Option<crate::fault::Kind> {
        let faults = self.faults.borrow();
        if faults.is_empty() {
            return None;
        }
        let now = clock::now();
        let hit = |f: &&Fault| f.hits(balancer, &lane.instance, now) && self.rng.borrow_mut().unit() < f.share;
        faults.iter().find(hit).map(|f| f.kind)
    }

    /// A request begins: the tick runs at its fine pace until it ends.
    pub(crate) fn begin(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        self.process.active.fetch_add(1, Relaxed);
        if self.napping.get() {
            self.coarse.set(clock::now());
            self.rouse.notify_one();
        }
        Busy { core: self.clone() }
    }

    /// Feeds what a try showed into the one opinion about its endpoint.
    pub(crate) fn report(&self, route: &Route, lane: &Lane, signal: Signal, now: Timestamp) {
        let table = &self.process.table;
        if signal == Signal::Success && table.is_calm(lane.slot) {
            return;
        }
        if !table.is_of(lane.slot, lane.tag) {
            return;
        }
        let before = table.ejection(lane.slot);
        let mut after = before;
        let others = route.others_usable(lane, now, table);
        let ejected = after.observe(now, signal, &route.eject, others, &mut self.rng.borrow_mut());
        table.store_ejection(lane.slot, &before, &after);
        if ejected {
            self.tell_ejected(route, lane, signal, now, &before, after.until);
        } else if before.phase(now) != after.phase(now) {
            self.tell(lane, "probing", "in", "probes passed".into(), vec![("balancer", route.name.clone())]);
        }
    }

    fn tell_ejected(
        &self,
        route: &Route,
        lane: &Lane,
        signal: Signal,
        now: Timestamp,
        before: &holdfast_policy::balance::Ejection,
        until: Timestamp,
    ) {
        let reason = match signal {
            Signal::Refused => "connection refused".to_owned(),
            Signal::Gateway => format!("{} gateway errors in a row", before.gateway_errors + 1),
            _ => format!("{} transport failures in a row", before.failures + 1),
        };
        let inputs = vec![
            ("balancer", route.name.clone()),
            ("for_ms", now.until(until).as_millis().to_string()),
            ("ejections", (before.count + 1).to_string()),
        ];
        self.tell(lane, "in", "ejected", reason, inputs);
    }

    fn tell(
        &self,
        lane: &Lane,
        from: &'static str,
        to: &'static str,
        reason: String,
        inputs: Vec<(&'static str, String)>,
    ) {
        tracing::info!(instance = %lane.instance, from, to, reason, "endpoint");
        let subject = format!("instance/{}", lane.instance);
        // A full queue means that events come faster than a disk takes them; the transition is in the log above.
        let _ = self.process.events.try_send(Happened { subject, from, to, reason, inputs });
    }

    /// Runs as a task of its own for as long as the core lives.
    pub(crate) async fn run_ticks(self: Rc<Self>) {
        let mut waiting = Waiting::new();
        let mut shown: Vec<u16> = Vec::new();
        let mut purge_at = clock::now();
        loop {
            self.nap().await;
            let now = clock::now();
            self.coarse.set(now);
            waiting.clear();
            let table = &self.process.table;
            self.sweep.tick(now, |slot| table.verdict(slot, now), &mut waiting);
            for slot in shown.drain(..).filter(|s| waiting.iter().all(|(w, _)| w != s)) {
                self.process.publish_waiting(self.index, slot, 0);
            }
            for (slot, since) in &waiting {
                self.process.publish_waiting(self.index, *slot, *since);
                shown.push(*slot);
            }
            if now >= purge_at {
                purge_at = now + PURGE_EVERY;
                self.purge(now);
            }
            self.log.borrow_mut().flush_old(now);
        }
    }

    async fn nap(&self) {
        if self.busy.get() > 0 {
            tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            return;
        }
        self.napping.set(true);
        let _ = tokio::time::timeout(Duration::from_millis(TICK_IDLE_MS), self.rouse.notified()).await;
        self.napping.set(false);
    }

    fn purge(&self, now: Timestamp) {
        for memory in self.memories() {
            memory.1.pool.borrow_mut().purge(now);
        }
    }

    /// What this core remembers of each endpoint: balancer, lane.
    pub(crate) fn memories(&self) -> Vec<(Rc<Route>, Rc<Memory>, usize)> {
        let mut all = Vec::new();
        for route in self.balancers.borrow().values().filter_map(|b| b.route()) {
            for (index, lane) in route.lanes.iter().enumerate() {
                all.push((route.clone(), lane.memory.clone(), index));
            }
        }
        all
    }
}

/// A request is being answered.
#[derive(Debug)]
pub(crate) struct Busy {
    core: Rc<Core>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.core.busy.set(self.core.busy.get() - 1);
        self.core.process.active.fetch_sub(1, Relaxed);
    }
}
