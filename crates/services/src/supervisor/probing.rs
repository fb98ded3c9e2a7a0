//! When an instance is asked whether it is well, and what its answers mean for balancers.
//!
//! At its start an instance is asked often, so that it is used as soon as it can be; later at its own period with
//! jitter. One probe of a kind is in flight at a time, and a probe that its prober ran late says nothing.

use std::time::Duration;

use holdfast_config::Check;
use holdfast_policy::health::{Readiness, Sign};
use holdfast_policy::{Incarnation, InstanceId, Timestamp, Transition};

use super::Supervisor;
use super::action::{Action, EndpointState, Phase, Probe, ProbeKind, Request};
use super::definition::Definition;
use super::event::{Outcome, ShimPhase};
use super::history::{Mark, because};
use super::instance::{Instance, Prober, Shim};

/// First period at a start; a ready instance is seen within it.
const START_EVERY: Duration = Duration::from_millis(20);
/// A command probe costs a process each.
const START_EVERY_COMMAND: Duration = Duration::from_millis(100);
/// The start period grows to this share of the time since the start: late starters are seen 1 % late.
/// The same holds from the moment that a ready instance fell silent: that it answers again is seen as soon.
const START_SHARE: u32 = 100;
/// Fast probes of all instances together keep this distance: 1,000 a second.
const FAST_DISTANCE: Duration = Duration::from_millis(1);
/// Spread of the ordinary period, so that probes of many instances do not march in step.
const JITTER: f64 = 0.1;
/// Ordinary probes of long periods begin at multiples of this: those of many instances share a wake-up of the agent.
const TOGETHER: Duration = Duration::from_millis(100);
/// A period is long when moving a probe by `TOGETHER` is within the spread anyway.
const LONG: Duration = Duration::from_secs(1);
/// A prober that has not answered this long after the timeout never will.
const PROBER_LOST: Duration = Duration::from_secs(5);
/// Liveness of an instance that never was ready begins after this time.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// The answer to one probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Result {
    pub(crate) incarnation: Incarnation,
    pub(crate) kind: ProbeKind,
    pub(crate) sent: Timestamp,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

impl Supervisor {
    /// Sets up the probes that this instance should have now, and keeps those that it has.
    pub(crate) fn arm_probes(&mut self, now: Timestamp, i: &mut Instance) {
        let kinds = match (&i.running, i.shim.state().map(|s| s.phase)) {
            // A program that is paused on purpose answers nothing.
            (Some(_), Some(ShimPhase::Running)) if i.is_paused() => Vec::new(),
            (Some(definition), Some(ShimPhase::Running)) if !i.life.exit_told => {
                self.kinds(now, i, &definition.clone())
            }
            _ => Vec::new(),
        };
        i.life.probers.retain(|p| kinds.contains(&p.kind));
        for kind in kinds {
            if i.life.probers.iter().all(|p| p.kind != kind) {
                let every = i.running.as_ref().and_then(|d| d.probe(kind)).map_or(Duration::ZERO, |p| p.every);
                let next = if kind == ProbeKind::Live { now + self.rng.jitter(every, JITTER) } else { now };
                i.life.probers.push(Prober { kind, next, in_flight: None, reserved: false });
                self.timers.insert((next, i.id.clone(), kind));
            }
        }
    }

    fn kinds(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition) -> Vec<ProbeKind> {
        let external = |kind| definition.probe(kind).is_some_and(|p| p.check != Check::Notify);
        if definition.service.startup.is_some() && !i.life.started_up {
            return if external(ProbeKind::Startup) { vec![ProbeKind::Startup] } else { Vec::new() };
        }
        let mut kinds = Vec::new();
        if external(ProbeKind::Ready) {
            kinds.push(ProbeKind::Ready);
        }
        if definition.service.live.is_some() {
            let since = i.shim.state().map_or(now, |s| s.since);
            let begins = match (i.life.first_ready, definition.service.ready.is_some(), i.life.started_up) {
                (Some(_), ..) | (None, false, _) | (None, _, true) => now,
                (None, true, false) => since + START_PATIENCE,
            };
            if now >= begins {
                kinds.push(ProbeKind::Live);
            } else {
                self.wake_at(begins);
            }
        }
        kinds
    }

    /// Asks for the probes that are due.
    pub(crate) fn run_probes(&mut self, now: Timestamp) {
        while let Some((at, id, kind)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.with(&id, |s, i| s.due(now, i, at, kind));
        }
    }

    fn due(&mut self, now: Timestamp, i: &mut Instance, at: Timestamp, kind: ProbeKind) {
        let Some(prober) = i.life.probers.iter().find(|p| p.kind == kind && p.next == at).copied() else { return };
        let Some(definition) = i.running.clone() else { return };
        let Some(probe) = definition.probe(kind) else { return };
        if prober.in_flight.is_some() {
            return self.again(now, i, kind);
        }
        if probe.check == Check::Notify {
            return self.watchdog(now, i, probe.every);
        }
        if self.is_fast(i, kind) && !prober.reserved {
            let slot = self.fast_slot.max(now);
            self.fast_slot = slot + FAST_DISTANCE;
            if slot > now {
                self.schedule(i, kind, slot);
                if let Some(prober) = i.life.probers.iter_mut().find(|p| p.kind == kind) {
                    prober.reserved = true;
                }
                return;
            }
        }
        let request = Probe {
            instance: i.id.clone(),
            incarnation: i.life.incarnation,
            kind,
            check: probe.check.clone(),
            addr: i.addr(),
            timeout: probe.timeout,
            at: now,
            pid: i.shim.state().and_then(|s| s.pid),
            definition: definition.clone(),
            port: i.record.port,
        };
        self.act(Action::Probe(request));
        let lost = now + probe.timeout + PROBER_LOST;
        self.schedule(i, kind, lost);
        if let Some(prober) = i.life.probers.iter_mut().find(|p| p.kind == kind) {
            prober.in_flight = Some(now);
        }
    }

    fn is_fast(&self, i: &Instance, kind: ProbeKind) -> bool {
        let silent = kind == ProbeKind::Ready && i.life.silent_since.is_some();
        kind != ProbeKind::Live && (silent || i.life.first_ready.is_none())
    }

    fn schedule(&mut self, i: &mut Instance, kind: ProbeKind, at: Timestamp) {
        if let Some(prober) = i.life.probers.iter_mut().find(|p| p.kind == kind) {
            prober.next = at;
            (prober.in_flight, prober.reserved) = (None, false);
            self.timers.insert((at, i.id.clone(), kind));
        }
    }

    /// The next probe of this kind, counted from now.
    fn again(&mut self, now: Timestamp, i: &mut Instance, kind: ProbeKind) {
        let Some(probe) = i.running.as_ref().and_then(|d| d.probe(kind)) else { return };
        let (every, command) = (probe.every, matches!(probe.check, Check::Command(_)));
        let next = if self.is_fast(i, kind) {
            let first = if command { START_EVERY_COMMAND } else { START_EVERY };
            let started = i.shim.state().map_or(now, |s| s.since);
            let since = i.life.silent_since.unwrap_or(started);
            now + (now.since(since) / START_SHARE).max(first).min(every.max(first))
        } else {
            let next = now + self.rng.jitter(every, JITTER);
            // A process each is better spread.
            if every >= LONG && !command { next.nearest(TOGETHER) } else { next }
        };
        self.schedule(i, kind, next);
    }

    /// Liveness by WATCHDOG=1: nothing is sent, only the time of the last one is looked at.
    fn watchdog(&mut self, now: Timestamp, i: &mut Instance, every: Duration) {
        let heard = i.shim.state().map_or(now, |s| s.watchdog_at.unwrap_or(s.since));
        let outcome = if now.since(heard) <= every { Outcome::Pass } else { Outcome::Timeout { busy: false } };
        self.again(now, i, ProbeKind::Live);
        self.on_live(now, now, i, outcome);
    }

    pub(crate) fn on_probe(&mut self, now: Timestamp, i: &mut Instance, result: Result) {
        let Result { incarnation, kind, sent, outcome, took } = result;
        let Some(prober) = i.life.probers.iter().find(|p| p.kind == kind) else { return };
        // What answers another probe than the one in flight came too late, or twice.
        let current = incarnation == i.life.incarnation && prober.in_flight == Some(sent);
        if self.rules.incarnation_check && !current {
            return;
        }
        match (kind, outcome) {
            (_, Outcome::Late) => {}
            (ProbeKind::Startup, Outcome::Pass) => self.on_started_up(now, i),
            (ProbeKind::Startup, _) => {}
            (ProbeKind::Ready, outcome) => self.on_ready_probe(now, i, outcome, took),
            (ProbeKind::Live, outcome) => self.on_live(now, sent, i, outcome),
        }
        self.again(now, i, kind);
    }

    fn on_started_up(&mut self, now: Timestamp, i: &mut Instance) {
        i.life.started_up = true;
        self.tell(now, i, Transition::new(i.shown, i.shown, "startup probe passed"), Mark::NONE);
        self.arm_probes(now, i);
        self.judge(now, i);
    }

    fn on_ready_probe(&mut self, now: Timestamp, i: &mut Instance, outcome: Outcome, took: Duration) {
        let Some(thresholds) = i.running.as_ref().and_then(|d| d.service.ready.as_ref()).map(|p| p.thresholds) else {
            return;
        };
        let sign = match outcome {
            Outcome::Pass => Sign::Pass,
            Outcome::Refused(_) => Sign::Refused,
            _ => Sign::Miss,
        };
        if i.life.ready.record(thresholds, sign).is_some() {
            let inputs = |t: Transition| t.with("outcome", words(outcome)).with("took_ms", took.as_millis());
            self.publish_readiness(now, None, i, inputs);
        }
    }

    fn on_live(&mut self, now: Timestamp, sent: Timestamp, i: &mut Instance, outcome: Outcome) {
        let Some(probe) = i.running.as_ref().and_then(|d| d.service.live.as_ref()) else { return };
        let (every, fall) = (probe.every, probe.thresholds.fall);
        if outcome == Outcome::Pass {
            i.life.live.pass(sent);
            if i.life.live_failed.take().is_some() {
                i.life.held = None;
                self.tell(
                    now,
                    i,
                    Transition::new("live_failed", "live", "liveness probe passes again"),
                    Mark::phase(Phase::Ready),
                );
                self.dirty = true;
            }
            return;
        }
        i.life.live.miss(now, sent, matches!(outcome, Outcome::Timeout { busy: true }));
        if i.life.live_failed.is_none() && i.life.live.failed(now, every, fall) {
            let transition = Transition::new("live", "live_failed", "liveness probe missed too often")
                .with("misses", i.life.live.misses())
                .with("fall", fall)
                .with("busy", i.life.live.busy())
                .with("outcome", words(outcome));
            i.life.live_failed = Some(self.tell(now, i, transition, Mark::phase(Phase::Detected)));
            self.dirty = true;
        } else if i.life.live_failed.is_some() {
            self.dirty = true;
        }
    }

    /// Every process of it is stopped: certain, unlike silence without progress, which may be a slow dependency that it waits for.
    pub(crate) fn on_stopped(&mut self, now: Timestamp, i: &mut Instance) {
        if !i.is_paused() && i.life.ready.suspect() {
            // Its shim saw when; this is told after a look at all of its processes.
            let at = i.shim.state().and_then(|s| s.stopped_at);
            self.publish_readiness(now, at, i, |t| t.with("seen", "stopped"));
        }
    }

    /// Readiness that needs no probe result: none configured, or told by sd_notify.
    pub(crate) fn judge(&mut self, now: Timestamp, i: &mut Instance) {
        let Some(definition) = i.running.clone() else { return };
        let Some(state) = i.shim.state().filter(|s| s.phase == ShimPhase::Running) else { return };
        let notified = state.notified_ready;
        let by_notify = |kind| definition.probe(kind).is_some_and(|p| p.check == Check::Notify);
        if by_notify(ProbeKind::Startup) && notified && !i.life.started_up {
            i.life.started_up = true;
            self.arm_probes(now, i);
        }
        let starting = definition.service.startup.is_some() && !i.life.started_up;
        let passes = match &definition.service.ready {
            _ if starting => false,
            None => !definition.is_job(),
            Some(probe) => probe.check == Check::Notify && notified,
        };
        if passes && i.life.ready.state() != Readiness::Ready {
            i.life.ready.record(holdfast_policy::health::Thresholds { rise: 1, fall: 1 }, Sign::Pass);
        }
        self.publish_readiness(now, None, i, |t| t);
    }

    /// `at` is when it happened, where that is known better than by now.
    pub(crate) fn publish_readiness(
        &mut self,
        now: Timestamp,
        at: Option<Timestamp>,
        i: &mut Instance,
        inputs: impl FnOnce(Transition) -> Transition,
    ) {
        if i.leave.is_some() || i.life.exit_told {
            return;
        }
        let state = match i.life.ready.state() {
            Readiness::Ready if !i.serves() => EndpointState::Standby,
            _ if !i.serves() => EndpointState::NotReady,
            Readiness::Ready => EndpointState::Ready,
            Readiness::Suspect if self.rules.last_instance_rule => EndpointState::Suspect,
            Readiness::Suspect | Readiness::Unknown | Readiness::Refused => EndpointState::NotReady,
        };
        if i.life.published == Some(state) {
            return;
        }
        self.publish(i, state);
        self.dirty = true;
        let (reason, phase) = match i.life.ready.state() {
            Readiness::Ready if state == EndpointState::Standby => ("it stands by", Phase::Ready),
            Readiness::Ready => ("it is ready", Phase::Ready),
            Readiness::Suspect => ("it does not answer", Phase::Detected),
            Readiness::Refused => ("it says that it is not ready", Phase::Detected),
            Readiness::Unknown => return,
        };
        match i.life.ready.state() {
            Readiness::Ready => self.became_ready(now, i),
            Readiness::Suspect => self.fell_silent(now, i),
            Readiness::Refused | Readiness::Unknown => i.life.silent_since = None,
        }
        let mark = Mark { at: at.map(|at| at.min(now)), phase: Some(phase) };
        self.settle(now, i, inputs(because(reason)), mark);
    }

    /// From now on it is asked as often as at its start.
    fn fell_silent(&mut self, now: Timestamp, i: &mut Instance) {
        i.life.silent_since = Some(now);
        let idle = i.life.probers.iter().any(|p| p.kind == ProbeKind::Ready && p.in_flight.is_none());
        if idle {
            self.again(now, i, ProbeKind::Ready);
        }
    }

    fn became_ready(&mut self, now: Timestamp, i: &mut Instance) {
        i.life.first_ready.get_or_insert(now);
        i.life.silent_since = None;
        i.acting = None;
        self.arm_probes(now, i);
        if !i.life.told_ready && matches!(i.shim, Shim::Alive(_)) {
            i.life.told_ready = true;
            let (instance, incarnation) = (i.id.clone(), i.life.incarnation);
            self.act(Action::Command { instance, incarnation, request: Request::Ready });
        }
    }

    /// Tells balancers, once per change. What was never announced needs no farewell.
    pub(crate) fn publish(&mut self, i: &mut Instance, state: EndpointState) {
        let never = i.life.published.is_none() && matches!(state, EndpointState::Gone | EndpointState::Draining);
        if never || i.life.published == Some(state) || i.life.published == Some(EndpointState::Gone) {
            return;
        }
        i.life.published = Some(state);
        let (instance, incarnation, addr): (InstanceId, _, _) = (i.id.clone(), i.life.incarnation, i.addr());
        self.act(Action::Publish { instance, incarnation, addr, state });
    }
}

fn words(outcome: Outcome) -> String {
    match outcome {
        Outcome::Pass => "pass".into(),
        Outcome::Refused(code) => format!("refused with {code}"),
        Outcome::Timeout { busy: true } => "timeout while busy".into(),
        Outcome::Timeout { busy: false } => "timeout".into(),
        Outcome::ConnectError => "connect error".into(),
        Outcome::Late => "the prober was late".into(),
    }
}
