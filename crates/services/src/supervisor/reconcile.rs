//! The next step of every instance towards what is wanted.

use std::sync::Arc;
use std::time::Duration;

use holdfast_config::Port;
use holdfast_policy::{InstanceId, Timestamp, Transition};

use super::Supervisor;
use super::action::{Action, EndpointState, Launch, Phase, Request};
use super::definition::Definition;
use super::event::{Finished, Role, ShimPhase, Target};
use super::history::{Mark, because};
use super::instance::{Instance, Leave, Shim, Step, Then, Why};

/// A command, a proof or a record of which nothing is seen is asked for again after this time.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// A launched shim has reported by then, or its absence is proved.
const LAUNCH_MAX: Duration = Duration::from_secs(10);
/// Every shim is asked for its state this often, so that a lost report cannot matter for longer.
const AUDIT_EVERY: Duration = Duration::from_secs(60);
/// Ready for this long forgets failed launches and lost shims.
const LAUNCH_FORGET: Duration = Duration::from_secs(60);

impl Supervisor {
    pub(crate) fn reconcile(&mut self, now: Timestamp) {
        // A step may enable another (a finished job, a port set free); each pass only moves forward.
        for _ in 0..8 {
            self.dirty = false;
            self.wake = Timestamp::NEVER;
            self.end_pauses(now);
            if self.adopted {
                self.create_wanted();
            }
            let ids: Vec<InstanceId> = self.instances.keys().cloned().collect();
            for id in &ids {
                self.with(id, |s, i| s.step(now, i));
            }
            let names: Vec<Arc<str>> = self.services.keys().cloned().collect();
            for name in names {
                self.act_on_service(now, &name);
            }
            self.leave_unwanted(now);
            self.forget_gone();
            if !self.dirty {
                break;
            }
        }
    }

    fn end_pauses(&mut self, now: Timestamp) {
        let over: Vec<Target> =
            self.pauses.iter().filter(|(_, p)| p.until.is_some_and(|t| t <= now)).map(|(t, _)| t.clone()).collect();
        for target in over {
            self.pauses.remove(&target);
            self.journal(
                now,
                &target.to_string(),
                None,
                Transition::new("paused", "running", "the pause is over"),
                None,
            );
        }
        let ends: Vec<Timestamp> = self.pauses.values().filter_map(|p| p.until).collect();
        ends.into_iter().for_each(|t| self.wake_at(t));
    }

    fn create_wanted(&mut self) {
        if self.stopping {
            return;
        }
        let wanted: Vec<InstanceId> = self
            .services
            .iter()
            .flat_map(|(name, d)| self.wanted_ordinals(d).into_iter().map(|n| InstanceId::new(name.clone(), n)))
            .collect();
        for id in wanted {
            self.instance_or_new(&id, Shim::Absent);
        }
    }

    /// Instances that are neither wanted nor there leave their record behind.
    fn forget_gone(&mut self) {
        let ids: Vec<InstanceId> = self
            .instances
            .iter()
            .filter(|(id, i)| i.shim == Shim::Absent && self.wanted(id).is_none() && !i.has_volume())
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            if let Some(i) = self.instances.remove(&id) {
                if i.lease_asked.is_some() {
                    let shared = self.is_member(&i);
                    self.act(Action::ReleaseLease { instance: id.clone(), shared });
                }
                self.act(Action::Forget { instance: id.clone() });
                self.records.insert(id, i.record);
                self.dirty = true;
            }
        }
    }

    fn step(&mut self, now: Timestamp, i: &mut Instance) {
        if self.wanted(&i.id).is_some() {
            i.unwanted_since = None;
        }
        match i.shim.clone() {
            Shim::Unknown => self.after(now, i.audited + RETRY, |s| {
                s.prove(now, i);
                s.wake_at(now + RETRY);
            }),
            Shim::Absent => self.step_absent(now, i),
            Shim::Persisting { since } => self.after(now, since + LAUNCH_MAX, |s| {
                i.shim = Shim::Persisting { since: now };
                s.act(Action::Persist(i.record.clone()));
            }),
            Shim::Launching { since } => self.after(now, since + LAUNCH_MAX, |s| {
                i.shim = Shim::Launching { since: now };
                s.prove(now, i);
            }),
            Shim::Missing { asked, last } => self.after(now, asked + RETRY, |s| {
                i.shim = Shim::Missing { asked: now, last };
                s.prove(now, i);
            }),
            Shim::Orphaned { .. } => self.step_leave(now, i),
            Shim::Alive(_) => self.step_alive(now, i),
        }
    }

    /// Runs `then` when `at` has come, else wakes for it.
    fn after(&mut self, now: Timestamp, at: Timestamp, then: impl FnOnce(&mut Self)) {
        if now >= at {
            then(self);
        } else {
            self.wake_at(at);
        }
    }

    fn prove(&mut self, now: Timestamp, i: &mut Instance) {
        i.audited = now;
        self.act(Action::ProveAbsence { instance: i.id.clone(), generation: i.record.generation });
    }

    fn step_absent(&mut self, now: Timestamp, i: &mut Instance) {
        let Some(definition) = self.wanted(&i.id) else {
            // It may have been about to become active.
            if i.has_volume() {
                self.release(now, i);
            }
            return;
        };
        if i.record.finished.is_some_and(|f| f.definition == definition.hash) {
            i.restart_asked = false;
            return;
        }
        let waits = self.obstacle(now, i, &definition);
        if waits != i.waits {
            i.waits = waits.clone();
            if let Some(text) = &waits {
                i.shown = "new";
                self.settle(now, i, because(text.clone()), Mark::NONE);
            }
        }
        if waits.is_some() {
            return;
        }
        i.restart_asked = false;
        i.record.generation += 1;
        i.record.definition = definition.hash;
        i.record.finished = None;
        i.running = Some(definition);
        i.shim = Shim::Persisting { since: now };
        self.act(Action::Persist(i.record.clone()));
        self.settle(
            now,
            i,
            because("it is wanted and nothing of it runs").with("generation", i.record.generation),
            Mark::NONE,
        );
    }

    /// What keeps an absent instance from being launched.
    fn obstacle(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition) -> Option<String> {
        if let Some(pause) = self.paused(&i.id) {
            return Some(format!("paused ({}): it would be started", pause.reason));
        }
        if let Some(dependency) = self.blocked_by(definition) {
            return Some(format!("waits: {dependency}"));
        }
        if now < i.launch_after {
            self.wake_at(i.launch_after);
            return Some(match &i.launch_error {
                Some(error) => format!("{error}; waits before the next try"),
                None => "waits before the next try".into(),
            });
        }
        match definition.service.port {
            Port::None => i.record.port = None,
            Port::Fixed(_) => i.record.port = definition.fixed_port(&i.id),
            Port::Assigned if i.record.port.is_none() => return Some(self.ask_port(now, i)),
            Port::Assigned => {}
        }
        if let Some(port) = i.record.port
            && let Some(holder) = self.port_holder(&i.id, definition, port)
        {
            return Some(format!("waits: {holder} still has port {port}"));
        }
        match definition.standby() {
            Some(_) => self.member_obstacle(now, i, definition),
            None if definition.service.fenced => self.ask_lease(now, i, definition),
            None => None,
        }
    }

    fn ask_port(&mut self, now: Timestamp, i: &mut Instance) -> String {
        let again = i.port_asked.map_or(now, |t| t + LAUNCH_MAX);
        if now >= again {
            i.port_asked = Some(now);
            self.act(Action::AssignPort { instance: i.id.clone() });
        }
        self.wake_at(i.port_asked.unwrap_or(now) + LAUNCH_MAX);
        "waits for a port".into()
    }

    /// `None` when the lease covers the time that a launch may take.
    fn ask_lease(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition) -> Option<String> {
        let timings = definition.timings();
        if i.lease_until.is_some_and(|t| t > now + timings.renew) {
            return None;
        }
        let again = i.lease_asked.map_or(now, |t| t + timings.renew);
        if now >= again {
            i.lease_asked = Some(now);
            self.act(Action::Lease { instance: i.id.clone(), shared: false, timings, asked: now });
        }
        self.wake_at(i.lease_asked.unwrap_or(now) + timings.renew);
        Some("waits for its lease".into())
    }

    pub(crate) fn launch(&mut self, now: Timestamp, i: &mut Instance) {
        let Some(definition) = i.running.clone() else { return };
        i.shim = Shim::Launching { since: now };
        i.last_seq = 0;
        i.told_deadline = None;
        let role = self.role_at_launch(i, &definition);
        let armed = definition.service.fenced && !matches!(role, Role::Standby | Role::Dry);
        let deadline = armed.then(|| self.deadline_of(i)).flatten();
        let token = i.token.filter(|_| armed);
        let (generation, port) = (i.record.generation, i.record.port);
        let launch = Launch { instance: i.id.clone(), generation, definition, port, deadline, role, token };
        self.act(Action::Launch(launch));
    }

    fn deadline_of(&self, i: &Instance) -> Option<Timestamp> {
        let forever = Timestamp::NEVER - Duration::from_secs(1);
        if self.rules.restart_grant { i.lease_until } else { Some(forever) }
    }

    fn step_alive(&mut self, now: Timestamp, i: &mut Instance) {
        self.step_member(now, i);
        self.keep_fenced(now, i);
        self.keep_grant(now, i);
        if i.launch_failures > 0 && i.usable() && i.life.first_ready.is_some_and(|t| now.since(t) >= LAUNCH_FORGET) {
            i.launch_failures = 0;
        }
        self.arm_probes(now, i);
        let audit = i.audited + AUDIT_EVERY;
        self.after(now, audit, |s| s.prove(now, i));
        if i.leave.is_some() {
            return self.step_leave(now, i);
        }
        let Shim::Alive(state) = &i.shim else { return };
        let (phase, since) = (state.phase, state.since);
        match phase {
            ShimPhase::Finished { success } if !i.life.ended_ungranted => self.record_result(now, i, success),
            ShimPhase::Finished { .. } | ShimPhase::Stopped
                if self.wanted(&i.id).is_some() && self.paused(&i.id).is_none() =>
            {
                self.begin_leave(now, i, Why::Stale, Then::End);
            }
            ShimPhase::Running => self.startup_deadline(now, i, since),
            _ => {}
        }
    }

    fn startup_deadline(&mut self, now: Timestamp, i: &mut Instance, since: Timestamp) {
        let Some(within) = i.running.as_ref().and_then(|d| d.service.startup.as_ref()).map(|p| p.within) else {
            return;
        };
        if i.life.started_up {
            return;
        }
        // The time before this agent saw it may have been spent well or not: nobody knows.
        self.after(now, since.max(i.life.seen) + within, |s| {
            if s.may_act(now, i, "restart it: startup probe not passed in time") {
                s.begin_leave(now, i, Why::StartupTimeout, Then::SameShim);
            }
        });
    }

    fn record_result(&mut self, now: Timestamp, i: &mut Instance, success: bool) {
        let exit = i.shim.state().and_then(|s| s.last_exit);
        i.record.finished = Some(Finished {
            definition: i.record.definition,
            success,
            code: exit.and_then(|e| e.code),
            signal: exit.and_then(|e| e.signal),
        });
        let cause = i.last_entry.unwrap_or(0);
        let step = Step::Recording { sent: now };
        i.leave = Some(Leave { why: Why::Stale, then: Then::End, step, incarnation: i.life.incarnation, cause });
        self.act(Action::Persist(i.record.clone()));
        self.wake_at(now + RETRY);
    }

    /// Each new lease time becomes the shim's deadline, and only an acknowledged one lets the lease be renewed.
    fn keep_fenced(&mut self, now: Timestamp, i: &mut Instance) {
        let Shim::Alive(state) = &i.shim else { return };
        let acknowledged = state.deadline;
        let dead = matches!(state.phase, ShimPhase::Starting | ShimPhase::Backoff { .. });
        let Some(definition) = i.running.clone().filter(|d| d.service.fenced) else { return };
        let (shared, timings) = (definition.standby().is_some(), definition.timings());
        if shared && i.lease_until.is_none() {
            return;
        }
        // Its lease was lost and won again: the shim would start the program under the token of before, which receivers refuse.
        // That the program of before is dead may not have been heard yet.
        let outdated = state.token.is_some() && i.token > state.token;
        if outdated && !shared {
            if i.leave.is_none() {
                self.begin_leave(now, i, Why::Unleased, Then::End);
            }
            return;
        }
        let target = self.deadline_of(i);
        if let Some(until) = target.filter(|t| acknowledged.is_none_or(|a| a < *t))
            && i.told_deadline.is_none_or(|t| now >= t + RETRY || acknowledged.is_some_and(|a| a >= t))
        {
            i.told_deadline = Some(now);
            let (instance, incarnation) = (i.id.clone(), i.life.incarnation);
            self.act(Action::Command { instance, incarnation, request: Request::Deadline(until) });
        }
        if i.told_deadline.is_some() {
            self.wake_at(i.told_deadline.unwrap_or(now).max(now) + RETRY);
        }
        // It passed while the shim was deaf, and no shim acknowledges one that has passed; but this one has told since that
        // its program is dead.
        let over = dead && target.is_some_and(|until| until <= now);
        let confirmed = over
            || target.is_none()
            || acknowledged >= target
            || !self.rules.restart_grant
            || !self.rules.acknowledged_renewal;
        let due = i.lease_asked.map_or(now, |t| t + timings.renew);
        if confirmed && now >= due && !self.stopping {
            i.lease_asked = Some(now);
            self.act(Action::Lease { instance: i.id.clone(), shared, timings, asked: now });
        }
        self.wake_at(i.lease_asked.map_or(now, |t| t + timings.renew).max(now + RETRY));
    }

    /// A paused instance is not restarted by its shim either.
    fn keep_grant(&mut self, now: Timestamp, i: &mut Instance) {
        let Shim::Alive(state) = &i.shim else { return };
        let (granted, wanted) = (state.granted, self.paused(&i.id).is_none());
        if granted == wanted {
            i.told_grant = None;
            return;
        }
        let again = i.told_grant.filter(|(w, _)| *w == wanted).map_or(now, |(_, t)| t + RETRY);
        self.after(now, again, |s| {
            i.told_grant = Some((wanted, now));
            let (instance, incarnation) = (i.id.clone(), i.life.incarnation);
            s.act(Action::Command { instance, incarnation, request: Request::Grant { restart: wanted } });
            s.wake_at(now + RETRY);
        });
    }

    pub(crate) fn begin_leave(&mut self, now: Timestamp, i: &mut Instance, why: Why, then: Then) {
        let urgent = matches!(why, Why::Liveness | Why::StartupTimeout | Why::Stale | Why::HandOver | Why::Unleased);
        let definition = i.running.clone();
        let drain = definition.filter(|d| d.balanced).map_or(Duration::ZERO, |d| d.service.stop.drain);
        let serves =
            matches!(i.life.published, Some(EndpointState::Ready | EndpointState::Suspect | EndpointState::NotReady));
        let until = if serves && !urgent && i.child_runs() { now + drain } else { now };
        let transition = Transition::new(i.shown, i.shown, why.reason()).with("drain_ms", now.until(until).as_millis());
        let phase = if matches!(why, Why::Liveness | Why::StartupTimeout | Why::ShimLost) {
            Some(Phase::Decided)
        } else {
            None
        };
        let cause = self.tell(now, i, transition, Mark { at: None, phase });
        self.publish(i, EndpointState::Draining);
        if why != Why::Unwanted {
            i.acting = Some(now);
        }
        i.restart_asked = false;
        i.leave = Some(Leave { why, then, step: Step::Draining { until }, incarnation: i.life.incarnation, cause });
        self.dirty = true;
        self.step_leave(now, i);
    }

    fn step_leave(&mut self, now: Timestamp, i: &mut Instance) {
        let Some(leave) = i.leave else { return };
        match leave.step {
            Step::Draining { until } => {
                if now >= until || !i.child_runs() {
                    if self.demoting(now, i, leave.why) {
                        return;
                    }
                    self.end_child(now, i, leave);
                } else {
                    self.wake_at(until);
                }
            }
            Step::Stopping { sent } => self.step_stopping(now, i, leave, sent),
            Step::Recording { sent } => self.after(now, sent + RETRY, |s| {
                i.leave = Some(Leave { step: Step::Recording { sent: now }, ..leave });
                s.act(Action::Persist(i.record.clone()));
                s.wake_at(now + RETRY);
            }),
            Step::Quitting { sent } => self.after(now, sent + RETRY, |s| {
                s.quit(now, i);
                s.prove(now, i);
            }),
            Step::KillingOrphans { sent } => self.after(now, sent + RETRY, |s| s.kill_orphans(now, i, leave)),
        }
        let state = because(leave.why.reason());
        self.settle(now, i, state, Mark::NONE);
    }

    fn end_child(&mut self, now: Timestamp, i: &mut Instance, leave: Leave) {
        if matches!(i.shim, Shim::Orphaned { .. }) {
            return self.kill_orphans(now, i, leave);
        }
        let idle = matches!(
            i.shim.state().map(|s| s.phase),
            Some(ShimPhase::Stopped | ShimPhase::Finished { .. } | ShimPhase::Starting)
        );
        if leave.then == Then::End && idle {
            return self.quit(now, i);
        }
        self.send_stop(now, i, leave);
    }

    fn send_stop(&mut self, now: Timestamp, i: &mut Instance, leave: Leave) {
        let request = match (leave.then, leave.why) {
            (Then::End, _) => Request::Stop,
            (Then::SameShim, Why::Liveness | Why::StartupTimeout) => Request::Kill,
            (Then::SameShim, _) => Request::Restart,
        };
        i.leave = Some(Leave { step: Step::Stopping { sent: now }, ..leave });
        self.act(Action::Command { instance: i.id.clone(), incarnation: leave.incarnation, request });
        self.wake_at(now + RETRY);
    }

    fn step_stopping(&mut self, now: Timestamp, i: &mut Instance, leave: Leave, sent: Timestamp) {
        let Shim::Alive(state) = &i.shim else { return };
        match state.phase {
            ShimPhase::Stopped | ShimPhase::Finished { .. } if leave.then == Then::End => self.quit(now, i),
            // It died and was started again before the command reached it: the command means the present life now.
            _ if state.incarnation > leave.incarnation => {
                let incarnation = state.incarnation;
                self.send_stop(now, i, Leave { incarnation, ..leave });
            }
            ShimPhase::Stopping => {}
            _ => self.after(now, sent + RETRY, |s| s.send_stop(now, i, leave)),
        }
    }

    pub(crate) fn quit(&mut self, now: Timestamp, i: &mut Instance) {
        if let Some(leave) = i.leave.as_mut() {
            leave.step = Step::Quitting { sent: now };
        }
        let (instance, incarnation) = (i.id.clone(), i.life.incarnation);
        self.act(Action::Command { instance, incarnation, request: Request::Quit });
        self.wake_at(now + RETRY);
    }

    fn kill_orphans(&mut self, now: Timestamp, i: &mut Instance, leave: Leave) {
        i.leave = Some(Leave { step: Step::KillingOrphans { sent: now }, ..leave });
        self.act(Action::KillOrphans { instance: i.id.clone(), generation: i.record.generation });
        self.wake_at(now + RETRY);
    }
}
