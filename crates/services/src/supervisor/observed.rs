//! Events become knowledge here; what follows from it is decided in `reconcile` and `acts`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::backoff::Backoff;
use holdfast_policy::hung::Verdict;
use holdfast_policy::{Incarnation, InstanceId, Timestamp, Transition};

use super::action::{Action, EndpointState, Phase};
use super::definition::Definition;
use super::event::{Event, Record, ShimPhase, ShimState, Target};
use super::history::{Mark, because};
use super::instance::{Instance, Life, Shim, Step, Then};
use super::probing::Result;
use super::{Pause, Supervisor};

/// Between launches that fail, and between shims that die: at once, then 1 s doubling to 60 s.
const LAUNCH_BACKOFF: Backoff =
    Backoff { base: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(60), jitter: 0.2 };

impl Supervisor {
    pub(crate) fn observe(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Adopt { records, found } => self.on_adopt(records, found),
            Event::Desired { services, scale, revision } => self.on_desired(now, services, scale, revision),
            Event::Placement(placement) => self.on_placement(placement),
            Event::Scale { service, replicas } => self.on_scale(now, service, replicas),
            Event::Shim { instance, state } => {
                self.instance_or_new(&instance, Shim::Unknown);
                self.with(&instance, |s, i| s.on_shim(now, i, state));
            }
            Event::Watchdog { instance, incarnation, at } => self.on_watchdog(now, &instance, incarnation, at),
            Event::ShimLost { instance, generation } => {
                self.with(&instance, |s, i| s.on_shim_lost(now, i, generation));
            }
            Event::ShimAbsent { instance, generation, last, orphans } => {
                self.with(&instance, |s, i| s.on_absent(now, i, generation, last, orphans));
            }
            Event::Persisted { instance, generation } => {
                self.with(&instance, |s, i| s.on_persisted(now, i, generation));
            }
            Event::PersistFailed { instance, generation, reason } => {
                self.with(&instance, |s, i| s.on_persist_failed(now, i, generation, reason));
            }
            Event::Launched { .. } => self.dirty = true,
            Event::LaunchFailed { instance, generation, reason } => {
                self.with(&instance, |s, i| s.on_launch_failed(now, i, generation, reason));
            }
            Event::PortAssigned { instance, port } => {
                self.with(&instance, |s, i| {
                    i.record.port = Some(port);
                    i.launch_error = None;
                    s.dirty = true;
                });
            }
            Event::PortFailed { instance, reason } => {
                self.with(&instance, |s, i| s.launch_failed(now, i, reason));
            }
            Event::Probe { instance, incarnation, kind, sent, outcome, took } => {
                self.with(&instance, |s, i| s.on_probe(now, i, Result { incarnation, kind, sent, outcome, took }));
            }
            Event::Verdict { instance, incarnation, verdict } => {
                self.with(&instance, |s, i| s.on_verdict(now, i, incarnation, verdict));
            }
            Event::Drained { instance, incarnation } => {
                self.with(&instance, |s, i| {
                    if let Some(leave) = i.leave.as_mut().filter(|l| l.incarnation == incarnation)
                        && let Step::Draining { until } = &mut leave.step
                    {
                        *until = now;
                        s.dirty = true;
                    }
                });
            }
            Event::OrphansGone { instance, generation } => {
                self.with(&instance, |s, i| s.on_orphans_gone(now, i, generation));
            }
            Event::Pause { target, until, reason } => {
                self.journal(
                    now,
                    &target.to_string(),
                    None,
                    Transition::new("running", "paused", reason.clone()),
                    None,
                );
                self.pauses.insert(target, Pause { until, since: now, reason });
                self.dirty = true;
            }
            Event::Resume { target } => self.on_resume(now, &target),
            Event::Restart { target } => self.on_restart(now, &target),
            Event::StopAll => {
                self.stopping = true;
                self.dirty = true;
            }
            Event::LeaseHeld { instance, until, asked, token, owed } => {
                self.with(&instance, |s, i| {
                    // Asked for before it was given back: it is not held any more.
                    if i.member.released.is_none_or(|at| asked > at) {
                        s.on_lease_held(now, i, until, token, owed);
                    }
                });
            }
            Event::LeaseLost { instance, reason } => {
                self.with(&instance, |s, i| {
                    if s.is_member(i) {
                        return s.on_member_lease_lost(now, i, reason);
                    }
                    i.lease_until = None;
                    let transition = Transition::new("leased", "unleased", reason);
                    s.tell(now, i, transition, Mark::phase(Phase::Detected));
                    s.dirty = true;
                });
            }
            Event::Holders { holders, last, wishes } => self.on_holders(now, holders, last, wishes),
            Event::JobEnded { instance, name, success, detail } => {
                self.with(&instance, |s, i| s.on_job_ended(now, i, &name, success, detail));
            }
            Event::Tick => {}
        }
    }

    fn on_orphans_gone(&mut self, now: Timestamp, i: &mut Instance, generation: u64) {
        if matches!(i.shim, Shim::Orphaned { .. }) && generation == i.record.generation {
            self.gone(now, i, "what its lost shim left behind is gone");
        }
    }

    fn on_verdict(&mut self, now: Timestamp, i: &mut Instance, incarnation: Incarnation, verdict: Verdict) {
        let same = i.life.incarnation == incarnation || !self.rules.incarnation_check;
        if same && verdict == Verdict::Stopped {
            self.on_stopped(now, i);
        }
    }

    fn on_adopt(&mut self, records: Vec<Record>, found: Vec<InstanceId>) {
        for record in records {
            self.records.insert(record.instance.clone(), record);
        }
        for id in found {
            self.instance_or_new(&id, Shim::Unknown);
        }
        self.adopted = true;
        self.dirty = true;
    }

    fn on_desired(
        &mut self,
        now: Timestamp,
        services: BTreeMap<Arc<str>, Arc<Definition>>,
        scale: BTreeMap<Arc<str>, u32>,
        revision: u64,
    ) {
        if revision < self.revision {
            return;
        }
        for (name, definition) in &services {
            let before = self.services.get(name);
            if before.is_none_or(|d| d.hash != definition.hash) {
                let from = if before.is_some() { "defined" } else { "absent" };
                let what = if before.is_some() { "its definition changed" } else { "it is in the file" };
                let transition = Transition::new(from, "defined", what).with("revision", revision);
                self.journal(now, name, None, transition, None);
            }
        }
        let removed: Vec<Arc<str>> = self.services.keys().filter(|n| !services.contains_key(*n)).cloned().collect();
        for name in removed {
            let transition = Transition::new("defined", "removed", "it is not in the file any more");
            self.journal(now, &name, None, transition, None);
        }
        self.services = services;
        self.scale = scale;
        self.revision = revision;
        self.told = true;
        let ids: Vec<InstanceId> = self.instances.keys().cloned().collect();
        for id in ids {
            self.with(&id, |s, i| s.take_definition(now, i));
        }
        self.dirty = true;
    }

    /// Probes and limits of an unchanged definition apply to what runs already; a changed one waits for its turn.
    fn take_definition(&mut self, now: Timestamp, i: &mut Instance) {
        let Some(definition) = self.services.get(&i.id.service) else { return };
        if i.running.is_none() || i.record.definition == definition.hash {
            i.running = Some(as_it_runs(definition, i.shim.state().and_then(|s| s.host)));
            self.arm_probes(now, i);
            self.judge(now, i);
        }
    }

    fn on_scale(&mut self, now: Timestamp, service: Arc<str>, replicas: Option<u32>) {
        let text = replicas.map_or_else(|| "as in the file".to_owned(), |n| n.to_string());
        self.journal(
            now,
            &service,
            None,
            Transition::new("defined", "scaled", "asked for").with("replicas", text),
            None,
        );
        match replicas {
            Some(n) => self.scale.insert(service, n),
            None => self.scale.remove(&service),
        };
        self.dirty = true;
    }

    fn on_resume(&mut self, now: Timestamp, target: &Target) {
        if self.pauses.remove(target).is_some() {
            self.journal(now, &target.to_string(), None, Transition::new("paused", "running", "resumed"), None);
            for i in self.instances.values_mut() {
                i.life.held = None;
            }
            self.dirty = true;
        }
    }

    fn on_restart(&mut self, now: Timestamp, target: &Target) {
        let hit = |id: &InstanceId| match target {
            Target::All => true,
            Target::Service(name) => id.service == *name,
            Target::Instance(instance) => id == instance,
        };
        let ids: Vec<InstanceId> = self.instances.keys().filter(|id| hit(id)).cloned().collect();
        for id in ids {
            self.with(&id, |s, i| {
                i.restart_asked = true;
                i.record.finished = None;
                i.launch_after = now;
                s.tell(now, i, Transition::new(i.shown, i.shown, "restart asked for"), Mark::NONE);
            });
        }
        self.dirty = true;
    }

    /// Whether a report about `state` can be about the shim that is believed to be there.
    fn is_current(&self, i: &Instance, state: &ShimState) -> bool {
        if !self.rules.incarnation_check {
            return true;
        }
        let generation = state.incarnation.generation;
        match &i.shim {
            Shim::Unknown => true,
            Shim::Absent | Shim::Persisting { .. } | Shim::Orphaned { .. } => false,
            Shim::Launching { .. } => generation == i.record.generation,
            Shim::Alive(known) | Shim::Missing { last: known, .. } => {
                generation == i.record.generation && state.seq > i.last_seq && state.incarnation >= known.incarnation
            }
        }
    }

    fn on_shim(&mut self, now: Timestamp, i: &mut Instance, state: ShimState) {
        i.audited = now;
        if !self.is_current(i, &state) {
            return;
        }
        self.dirty = true;
        i.last_seq = state.seq;
        if i.shim == Shim::Unknown {
            self.adopt_shim(i, &state);
        }
        i.record.generation = i.record.generation.max(state.incarnation.generation);
        let ended = self.take_exit(now, i, &state);
        let adopted = i.life.incarnation.generation == 0;
        if state.incarnation != i.life.incarnation {
            self.begin_life(now, i, &state);
        }
        if let Some(at) = state.ready_at.filter(|_| adopted) {
            i.life.adopt_ready(at);
        }
        if matches!(state.phase, ShimPhase::Finished { .. }) && !state.granted {
            i.life.ended_ungranted = true;
        }
        if i.launch_failures > 0
            && state.failures == 0
            && i.life.first_ready.is_some_and(|t| now.since(t) >= LAUNCH_BACKOFF.max)
        {
            i.launch_failures = 0;
        }
        i.launch_error = state.spawn_error.clone();
        let runs = matches!(state.phase, ShimPhase::Running);
        i.shim = Shim::Alive(state);
        self.progress_of_leave(i);
        self.arm_probes(now, i);
        if runs {
            self.judge(now, i);
        }
        self.settle_shim(now, i, ended);
    }

    /// The first report after an agent restart: its labels beat what the store remembers.
    fn adopt_shim(&mut self, i: &mut Instance, state: &ShimState) {
        if state.incarnation.generation >= i.record.generation {
            i.record.definition = state.definition.unwrap_or(i.record.definition);
            i.record.port = state.port.or(i.record.port);
        }
        let known = i.running.as_ref().or_else(|| self.services.get(&i.id.service));
        i.running = known.map(|definition| as_it_runs(definition, state.host));
        i.restarts = i.restarts.max(state.restarts);
        i.member.adopt(state);
    }

    /// Journals how the last child ended, once. True when it ended on its own.
    fn take_exit(&mut self, now: Timestamp, i: &mut Instance, state: &ShimState) -> bool {
        let over =
            state.incarnation > i.life.incarnation || !matches!(state.phase, ShimPhase::Running | ShimPhase::Stopping);
        let known = i.life.incarnation.generation > 0 && i.life.incarnation.run > 0;
        if !known || !over || i.life.exit_told {
            return false;
        }
        i.life.exit_told = true;
        self.publish(i, EndpointState::Gone);
        self.act(Action::StopProbes { instance: i.id.clone() });
        let Some(exit) = state.last_exit else { return false };
        let own = !exit.wanted && i.leave.is_none();
        self.note_fault(i, exit.at.min(now), own);
        let mut transition = because("its process ended")
            .with("code", exit.code.map_or_else(|| "-".into(), |c| c.to_string()))
            .with("signal", exit.signal.map_or_else(|| "-".into(), |s| s.to_string()))
            .with("out_of_memory", exit.out_of_memory)
            .with("failures", state.failures);
        transition.from = i.shown;
        transition.to = "exited";
        i.shown = "exited";
        let at = exit.at.min(now);
        // A job that ends with success has done what it is for.
        let done = matches!(state.phase, ShimPhase::Finished { success: true });
        let mark = if own && !done { Mark::phase(Phase::Detected) } else { Mark::NONE };
        self.tell(now, i, transition, mark.at(at));
        own
    }

    fn begin_life(&mut self, now: Timestamp, i: &mut Instance, state: &ShimState) {
        self.publish(i, EndpointState::Gone);
        let followed = i.life.incarnation.run > 0 && state.incarnation.run > 0;
        i.restarts += u64::from(followed && state.incarnation > i.life.incarnation);
        i.life = Life { incarnation: state.incarnation, seen: now, ..Life::default() };
    }

    fn settle_shim(&mut self, now: Timestamp, i: &mut Instance, ended: bool) {
        let Shim::Alive(state) = &i.shim else { return };
        let (phase, since, failures) = (state.phase, state.since, state.failures);
        let error = state.spawn_error.clone();
        let (why, mark) = match phase {
            ShimPhase::Running => {
                let spawned = because("its process was started");
                let mark = Mark::phase(Phase::Acted).at(since.min(now));
                (
                    spawned.with("pid", state.pid.unwrap_or(0)),
                    if i.life.first_ready.is_none() { mark } else { Mark::NONE },
                )
            }
            ShimPhase::Backoff { until } => {
                let wait = now.until(until).as_millis();
                let text = error.unwrap_or_else(|| "the restart policy waits before the next start".into());
                let mark = if ended { Phase::Decided } else { Phase::Detected };
                (because(text).with("failures", failures).with("wait_ms", wait), Mark::phase(mark))
            }
            ShimPhase::Finished { success: true } => (because("it ended with success"), Mark::phase(Phase::Ready)),
            ShimPhase::Finished { success: false } => (
                because(error.unwrap_or_else(|| "policy does not start it again".into())),
                Mark::phase(Phase::Detected),
            ),
            ShimPhase::Starting => (because("its shim is about to start it"), Mark::NONE),
            ShimPhase::Stopping => (because("it has its signal"), Mark::NONE),
            ShimPhase::Stopped => (because("it was stopped"), Mark::NONE),
        };
        self.settle(now, i, why, mark);
    }

    /// What a new state says about the step under way.
    fn progress_of_leave(&mut self, i: &mut Instance) {
        let (Some(leave), Shim::Alive(state)) = (i.leave, &i.shim) else { return };
        let over = state.incarnation > leave.incarnation
            || matches!(state.phase, ShimPhase::Backoff { .. } | ShimPhase::Finished { .. });
        if leave.then == Then::SameShim && over {
            i.leave = None;
        }
    }

    fn on_watchdog(&mut self, now: Timestamp, id: &InstanceId, incarnation: Incarnation, at: Timestamp) {
        let Some(i) = self.instances.get_mut(id) else { return };
        if let Shim::Alive(state) = &mut i.shim
            && state.incarnation == incarnation
        {
            state.watchdog_at = Some(at);
            i.audited = now;
        }
    }

    fn on_shim_lost(&mut self, now: Timestamp, i: &mut Instance, generation: u64) {
        if self.rules.incarnation_check && generation != i.record.generation {
            return;
        }
        let Shim::Alive(last) = &i.shim else { return };
        let last = last.clone();
        self.dirty = true;
        if !self.rules.absence_proof {
            self.gone(now, i, "the connection to its shim ended");
            return;
        }
        i.shim = Shim::Missing { asked: now, last };
        let generation = i.record.generation;
        self.act(Action::ProveAbsence { instance: i.id.clone(), generation });
    }

    fn on_absent(&mut self, now: Timestamp, i: &mut Instance, generation: u64, last: Option<ShimState>, orphans: bool) {
        i.audited = now;
        // An unknown shim may be of an earlier generation than the record: the agent died between record and launch.
        if self.rules.incarnation_check && generation < i.record.generation && i.shim != Shim::Unknown {
            return;
        }
        if matches!(i.shim, Shim::Absent | Shim::Persisting { .. }) {
            return;
        }
        self.dirty = true;
        if i.shim == Shim::Unknown
            && let Some(state) = &last
        {
            self.adopt_shim(i, state);
            i.record.generation = i.record.generation.max(generation);
        }
        let last = last.or_else(|| i.shim.state().cloned());
        match last {
            Some(last) if orphans => self.orphaned(now, i, last),
            _ => {
                let expected = i.leave.is_some() || i.shim == Shim::Unknown;
                if !expected {
                    self.back_off_launch(now, i);
                    let why = Transition::new(i.shown, "exited", "its shim is gone, and its process with it");
                    self.tell(now, i, why, Mark::phase(Phase::Detected));
                    i.shown = "exited";
                }
                self.gone(now, i, "its shim has ended");
            }
        }
    }

    fn orphaned(&mut self, now: Timestamp, i: &mut Instance, last: ShimState) {
        let adopted = i.life.incarnation.generation == 0;
        if i.life.incarnation != last.incarnation {
            self.begin_life(now, i, &last);
        }
        if let Some(at) = last.ready_at.filter(|_| adopted) {
            i.life.adopt_ready(at);
        }
        i.shim = Shim::Orphaned { last };
        if i.leave.is_some_and(|l| !matches!(l.step, Step::Draining { .. })) {
            i.leave = None;
        }
        self.arm_probes(now, i);
        self.judge(now, i);
        let why = because("its shim is dead and its process lives on: it is replaced in turn");
        self.settle(now, i, why, Mark::phase(Phase::Detected));
    }

    /// No shim and no child of any generation so far is left.
    pub(crate) fn gone(&mut self, now: Timestamp, i: &mut Instance, reason: &'static str) {
        self.publish(i, EndpointState::Gone);
        if !i.life.probers.is_empty() {
            self.act(Action::StopProbes { instance: i.id.clone() });
        }
        i.life.probers.clear();
        self.member_gone(now, i);
        i.shim = Shim::Absent;
        i.leave = None;
        i.told_deadline = None;
        i.told_grant = None;
        i.last_seq = 0;
        self.dirty = true;
        // One that is started again goes on with its incident; one that is not wanted any more ends it.
        let wanted = self.services.get(&i.id.service).is_some_and(|d| i.id.ordinal <= self.replicas(d));
        let goes_on = wanted && !self.stopping && i.incident.is_some();
        self.settle(now, i, because(reason), if goes_on { Mark::phase(Phase::Acted) } else { Mark::NONE });
    }

    fn on_persisted(&mut self, now: Timestamp, i: &mut Instance, generation: u64) {
        if generation != i.record.generation {
            return;
        }
        self.dirty = true;
        if let Some(leave) = i.leave.as_mut()
            && matches!(leave.step, Step::Recording { .. })
        {
            self.quit(now, i);
        } else if matches!(i.shim, Shim::Persisting { .. }) {
            self.launch(now, i);
        }
    }

    fn on_persist_failed(&mut self, now: Timestamp, i: &mut Instance, generation: u64, reason: String) {
        if generation == i.record.generation && matches!(i.shim, Shim::Persisting { .. }) {
            i.shim = Shim::Absent;
            self.launch_failed(now, i, reason);
        }
    }

    fn on_launch_failed(&mut self, now: Timestamp, i: &mut Instance, generation: u64, reason: String) {
        if generation == i.record.generation && matches!(i.shim, Shim::Launching { .. }) {
            i.shim = Shim::Absent;
            self.launch_failed(now, i, reason);
        }
    }

    pub(crate) fn launch_failed(&mut self, now: Timestamp, i: &mut Instance, reason: String) {
        self.back_off_launch(now, i);
        i.launch_error = Some(reason.clone());
        self.dirty = true;
        let why =
            because(reason).with("failures", i.launch_failures).with("wait_ms", now.until(i.launch_after).as_millis());
        self.settle(now, i, why, Mark::phase(Phase::Detected));
    }

    fn back_off_launch(&mut self, now: Timestamp, i: &mut Instance) {
        i.launch_after = match i.launch_failures {
            0 => now,
            n => now + LAUNCH_BACKOFF.delay(n - 1, &mut self.rng),
        };
        i.launch_failures = i.launch_failures.saturating_add(1);
    }
}

/// What is wanted, at the address where the running process listens: a changed file does not move it.
fn as_it_runs(wanted: &Arc<Definition>, host: Option<IpAddr>) -> Arc<Definition> {
    match host {
        Some(host) if host != wanted.service.host => {
            let mut running = Definition::clone(wanted);
            running.service.host = host;
            Arc::new(running)
        }
        _ => wanted.clone(),
    }
}
