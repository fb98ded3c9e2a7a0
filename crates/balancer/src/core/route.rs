//! A balancer compiled for one core: what a request needs, without a lookup by name.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::balance::{
    Algorithm, Candidate, Choice, PeakEwma, Phase, Picker, State, Tier, budget::Budget, eject, replay, slow_start,
};
use holdfast_policy::{Incarnation, Timestamp};

use super::pool::Pool;
use super::stats::Stats;
use super::{Common, Core};
use crate::access_log::LogId;
use crate::shared::Table;
use crate::shared::endpoint_tag;
use crate::snapshot::{BalancerSnapshot, EndpointSnapshot, Fallback};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) first_byte: Duration,
    pub(crate) idle: Duration,
    pub(crate) total: Option<Duration>,
    pub(crate) request_head: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) pool_idle: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// This process's share.
    pub(crate) connections: u32,
    pub(crate) header_bytes: usize,
    pub(crate) headers: usize,
    pub(crate) body_bytes: u64,
    pub(crate) in_flight: u32,
}

#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: String,
    /// Counters in the shared table.
    pub(crate) slot: u16,
    pub(crate) algorithm: Algorithm,
    pub(crate) replay: replay::Rules,
    pub(crate) retry_statuses: Vec<u16>,
    pub(crate) budget: Budget,
    pub(crate) eject: eject::Rules,
    pub(crate) slow_start: Duration,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) trusted: Vec<IpAddr>,
    pub(crate) log: Option<LogId>,
    pub(crate) redundant: bool,
    pub(crate) fallback: Option<Fallback>,
    /// Since when no endpoint is ready.
    unready_since: Option<Timestamp>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) common: Arc<Common>,
    picker: RefCell<Picker>,
}

/// One endpoint as the present snapshot sees it.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) instance: String,
    pub(crate) slot: u16,
    /// Of this incarnation in the shared table.
    pub(crate) tag: u64,
    pub(crate) addr: SocketAddr,
    pub(crate) state: State,
    pub(crate) ready_since: Timestamp,
    pub(crate) retry_after_s: u32,
    pub(crate) memory: Rc<Memory>,
}

/// What outlives a snapshot, as long as the incarnation is the same.
#[derive(Debug)]
pub(crate) struct Memory {
    incarnation: Incarnation,
    addr: SocketAddr,
    pub(crate) pool: RefCell<Pool>,
    pub(crate) ewma: Cell<PeakEwma>,
    pub(crate) stats: RefCell<Stats>,
}

impl Route {
    pub(crate) fn new(
        b: &BalancerSnapshot,
        processes: u16,
        common: Arc<Common>,
        before: Option<&Route>,
        core: &Core,
    ) -> Route {
        let ms = Duration::from_millis;
        let t = &b.timeouts;
        let lanes: Vec<Lane> = b.endpoints.iter().map(|e| Lane::new(e, before)).collect();
        let unready = lanes.iter().all(|l| l.state != State::Ready);
        Route {
            name: b.name.clone(),
            slot: b.slot,
            algorithm: b.algorithm,
            replay: b.retry.rules(),
            retry_statuses: b.retry.statuses.clone(),
            budget: b.retry.budget(),
            eject: b.eject.rules(),
            slow_start: ms(b.slow_start_ms),
            timeouts: Timeouts {
                connect: ms(t.connect_ms),
                first_byte: ms(t.first_byte_ms),
                idle: ms(t.idle_ms),
                total: (t.total_ms > 0).then(|| ms(t.total_ms)),
                request_head: ms(t.request_head_ms),
                keep_alive: ms(t.keep_alive_ms),
                pool_idle: ms(t.pool_idle_ms),
            },
            limits: Limits {
                connections: (b.limits.connections / u32::from(processes.max(1))).max(1),
                header_bytes: b.limits.header_bytes as usize,
                headers: b.limits.headers as usize,
                body_bytes: b.limits.body_bytes.unwrap_or(u64::MAX),
                in_flight: b.limits.in_flight.unwrap_or(u32::MAX).max(1),
            },
            trusted: b.trusted_proxies.iter().map(IpAddr::to_canonical).collect(),
            log: b.access_log.as_ref().map(|log| core.process.logs.id(log)),
            redundant: b.redundant,
            fallback: b.fallback.clone(),
            unready_since: unready.then(|| before.and_then(|r| r.unready_since).unwrap_or_else(clock::now)),
            lanes,
            common,
            picker: RefCell::new(before.map(|r| r.picker.borrow().clone()).unwrap_or_default()),
        }
    }

    /// Chooses an endpoint that is not among `tried`.
    pub(crate) fn pick(&self, core: &Core, tried: &[usize], now: Timestamp) -> Choice {
        let table = &core.process.table;
        // What failed may have failed with its whole machine.
        let burnt = |index: usize| tried.iter().any(|t| self.lanes[*t].addr.ip() == self.lanes[index].addr.ip());
        if !tried.is_empty() && (0..self.lanes.len()).any(|index| !burnt(index)) {
            let look = |index: usize| {
                let candidate = self.look(index, tried, now, table);
                Candidate { tried: candidate.tried || burnt(index), ..candidate }
            };
            let picked =
                self.picker.borrow_mut().pick(self.algorithm, self.lanes.len(), look, &mut core.rng.borrow_mut());
            if matches!(picked, Choice::Use { tier: Tier::Ready, .. }) {
                return picked;
            }
        }
        let look = |index: usize| self.look(index, tried, now, table);
        self.picker.borrow_mut().pick(self.algorithm, self.lanes.len(), look, &mut core.rng.borrow_mut())
    }

    fn look(&self, index: usize, tried: &[usize], now: Timestamp, table: &Table) -> Candidate {
        let lane = &self.lanes[index];
        let (in_flight, waiting_since) = table.load(lane.slot);
        let silence = waiting_since.map_or(Duration::ZERO, |since| table.silence(lane.slot, since, now));
        let mut candidate = Candidate {
            state: lane.state,
            verdict: table.verdict(lane.slot, now),
            phase: Phase::In,
            until: Timestamp::ZERO,
            admits: true,
            in_flight,
            in_flight_max: self.limits.in_flight,
            cost: lane.memory.ewma.get().cost(now, in_flight, silence),
            share: slow_start::share(now, lane.ready_since, self.slow_start),
            tried: tried.contains(&index),
        };
        if !table.is_calm(lane.slot) {
            let ejection = table.ejection(lane.slot);
            candidate.phase = ejection.phase(now);
            candidate.until = ejection.until;
            candidate.admits = ejection.admits(now, in_flight);
            if ejection.count > 0 {
                candidate.share = candidate.share.min(slow_start::share(now, ejection.returned, self.slow_start));
            }
        }
        candidate
    }

    /// Usable endpoints besides `lane`: the last one is never ejected.
    pub(crate) fn others_usable(&self, lane: &Lane, now: Timestamp, table: &Table) -> u32 {
        let usable = |l: &&Lane| {
            l.slot != lane.slot
                && matches!(l.state, State::Ready | State::Suspect)
                && table.ejection(l.slot).phase(now) != Phase::Out
                && table.verdict(l.slot, now).usable()
        };
        self.lanes.iter().filter(usable).count() as u32
    }

    /// Takes a place in the retry budget, or nothing.
    pub(crate) fn retry_place(&self) -> Option<RetryPlace> {
        let retrying = self.common.retrying.fetch_add(1, Relaxed);
        let place = RetryPlace { common: self.common.clone() };
        self.budget.allows(self.common.in_flight.load(Relaxed), retrying).then_some(place)
    }

    /// For how long no endpoint has been ready.
    pub(crate) fn idle_for(&self, now: Timestamp) -> Duration {
        self.unready_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    pub(crate) fn retry_after_s(&self) -> u32 {
        self.lanes.iter().filter(|l| l.state == State::NotReady).map(|l| l.retry_after_s).min().unwrap_or(1)
    }
}

impl Lane {
    fn new(e: &EndpointSnapshot, before: Option<&Route>) -> Lane {
        let same =
            |l: &&Lane| l.instance == e.instance && l.memory.incarnation == e.incarnation && l.memory.addr == e.addr;
        let kept = before.and_then(|r| r.lanes.iter().find(same)).map(|l| l.memory.clone());
        let fresh = || {
            Rc::new(Memory {
                incarnation: e.incarnation,
                addr: e.addr,
                pool: RefCell::default(),
                ewma: Cell::default(),
                stats: RefCell::default(),
            })
        };
        Lane {
            instance: e.instance.clone(),
            slot: e.slot,
            tag: endpoint_tag(&e.instance, e.incarnation),
            addr: e.addr,
            state: e.state,
            ready_since: Timestamp::from_nanos(e.ready_since_boot_ns),
            retry_after_s: e.retry_after_s,
            memory: kept.unwrap_or_else(fresh),
        }
    }
}

/// A retry that waits or runs.
#[derive(Debug)]
pub(crate) struct RetryPlace {
    common: Arc<Common>,
}

impl Drop for RetryPlace {
    fn drop(&mut self) {
        self.common.retrying.fetch_sub(1, Relaxed);
    }
}

/// A try at an endpoint, counted in the shared table until dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    core: Rc<Core>,
    slot: u16,
}

impl InFlight {
    pub(crate) fn enter(core: &Rc<Core>, slot: u16) -> InFlight {
        core.process.table.enter(slot, core.process.slot);
        InFlight { core: core.clone(), slot }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.core.process.table.leave(self.slot, self.core.process.slot);
    }
}
