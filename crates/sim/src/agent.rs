//! The agent of the simulation: performs the Supervisor's actions on the simulated host, with delays, and dies.

use std::time::Duration;

use holdfast_policy::hung::Verdict;
use holdfast_policy::lease::FencingToken;
use holdfast_policy::{InstanceId, Timestamp};
use holdfast_services::Supervisor;
use holdfast_services::supervisor::{Action, EndpointState, Event, Launch, Outcome, Probe, ProbeKind, Record, Request};

use crate::host::Child;
use crate::world::{Happening, World};

/// Lease of a fenced instance, as `policy::lease` has it by default.
const LEASE_TTL: Duration = Duration::from_secs(10);
const LEASE_GIVE_UP: Duration = Duration::from_secs(7);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl World {
    pub(crate) fn start_agent(&mut self) {
        self.life += 1;
        let supervisor = Supervisor::new(self.rules, self.rng.next_u64());
        let records: Vec<Record> = self.records.values().cloned().collect();
        let found: Vec<InstanceId> =
            self.host.places.iter().filter(|(_, p)| p.spec > 0).map(|(id, _)| id.clone()).collect();
        self.supervisor = Some(supervisor);
        self.connected.clear();
        self.channel.clear();
        self.feed(Event::Adopt { records, found });
        self.apply();
        self.tell_holders();
        self.note("an agent starts");
    }

    pub(crate) fn kill_agent(&mut self) {
        self.supervisor = None;
        self.judge.forget_published();
        self.note("the agent dies");
    }

    pub(crate) fn apply(&mut self) {
        self.revision += 1;
        let event =
            Event::Desired { services: self.desired.clone(), scale: self.scale.clone(), revision: self.revision };
        self.feed(event);
    }

    /// The Supervisor handles it now, and its actions begin.
    pub(crate) fn feed(&mut self, event: Event) {
        let now = self.now;
        let Some(supervisor) = &mut self.supervisor else { return };
        supervisor.handle(now, event);
        self.handled += 1;
        let mut actions = Vec::new();
        while let Some(action) = supervisor.poll_action() {
            actions.push(action);
        }
        for action in actions {
            self.perform(action);
        }
    }

    /// To the agent, after some time; now and then late, now and then twice.
    pub(crate) fn tell(&mut self, event: Event) {
        let mut wait = ms(self.rng.below(5));
        if self.calm() {
            return self.later(wait, Happening::Event(self.life, event));
        }
        if self.rng.below(20) == 0 {
            wait += ms(self.rng.below(1500));
        }
        if self.rng.below(30) == 0 {
            let again = wait + ms(self.rng.below(3000));
            self.later(again, Happening::Event(self.life, event.clone()));
        }
        self.later(wait, Happening::Event(self.life, event));
    }

    /// What one shim's connection carries arrives in order.
    pub(crate) fn tell_in_order(&mut self, id: &InstanceId, event: Event) {
        let mut wait = ms(self.rng.below(3));
        if !self.calm() && self.rng.below(20) == 0 {
            wait += ms(self.rng.below(1000));
        }
        let at = self.channel.get(id).copied().unwrap_or_default().max(self.now + wait);
        self.channel.insert(id.clone(), at);
        if !self.calm() && self.rng.below(30) == 0 && matches!(event, Event::Shim { .. }) {
            let again = at.since(self.now) + ms(self.rng.below(2000));
            self.later(again, Happening::Event(self.life, event.clone()));
        }
        self.later(at.since(self.now), Happening::Event(self.life, event));
    }

    /// States of shims to the agent that listens.
    pub(crate) fn carry(&mut self) {
        for (id, state) in std::mem::take(&mut self.host.told) {
            if self.connected.contains(&id) && self.supervisor.is_some() {
                self.tell_in_order(&id.clone(), Event::Shim { instance: id, state });
            }
        }
        for note in std::mem::take(&mut self.host.notes) {
            self.judge.stale_command(self.now, &note);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Persist(record) => self.persist(record),
            Action::AssignPort { instance } => {
                self.next_port += 1;
                let port = self.next_port;
                self.tell(Event::PortAssigned { instance, port });
            }
            Action::Lease { instance, shared: true, timings, .. } => self.hold(instance, timings),
            Action::Lease { instance, .. } => self.lease(instance),
            Action::ReleaseLease { instance, shared: true } => self.give_back(&instance),
            Action::ReleaseLease { instance, .. } => drop(self.leases.remove(&instance)),
            Action::Fenced { instance } => self.fenced(&instance),
            Action::Want { service, to, over } => self.want(service, to, over),
            Action::Job(job) => self.start_job(job),
            Action::Launch(launch) => self.launch(launch),
            Action::Command { instance, incarnation, request } => {
                if request == Request::Kill {
                    self.judge_kill(&instance);
                }
                if matches!(request, Request::Kill | Request::Restart | Request::Stop) {
                    let text = format!("{instance}: {request:?} for {incarnation}");
                    self.note(&text);
                }
                let mut wait = ms(self.rng.below(3));
                if !self.calm() && self.rng.below(15) == 0 {
                    wait += ms(self.rng.below(1500));
                }
                self.later(wait, Happening::Command(instance, incarnation, request));
            }
            Action::ProveAbsence { instance, generation } => self.prove(&instance, generation),
            Action::KillOrphans { instance, generation } => {
                let wait = ms(self.rng.below(50));
                self.later(wait, Happening::KillOrphans(self.life, instance, generation));
            }
            Action::Probe(probe) => self.probe(probe),
            Action::Publish { instance, incarnation, state, .. } => {
                let text = format!("{instance} {incarnation} is {}", state.name());
                self.note(&text);
                self.published(&instance, incarnation, state);
            }
            Action::Journal(entry) => {
                let t = &entry.transition;
                let text = format!("    {} {} -> {}: {}", entry.subject, t.from, t.to, t.reason);
                self.note(&text);
            }
            Action::StopProbes { .. } | Action::Forget { .. } => {}
        }
    }

    fn persist(&mut self, record: Record) {
        let wait = ms(1 + self.rng.below(20));
        let fails = !self.calm() && (self.now < self.disk_full_until || self.rng.below(50) == 0);
        self.later(wait, Happening::Written(self.life, record, !fails));
    }

    fn launch(&mut self, launch: Launch) {
        let id = launch.instance.clone();
        let text = format!("{id}: launch of generation {}", launch.generation);
        self.note(&text);
        self.judge.launched(self.now, &id);
        self.host.place(&id).launches.push(self.now);
        if !self.calm() && self.rng.below(25) == 0 {
            let (instance, generation) = (id, launch.generation);
            let reason = "no room to fork".into();
            return self.tell(Event::LaunchFailed { instance, generation, reason });
        }
        // The spec is written first; the shim begins some time later, whatever becomes of the agent.
        self.host.place(&id).spec = launch.generation;
        let mut wait = ms(2 + self.rng.below(20));
        if !self.calm() && self.rng.below(40) == 0 {
            wait += ms(self.rng.below(15_000));
        }
        self.later(wait, Happening::Begin(self.life, self.boot, launch));
    }

    /// Answers with the state when the lock is held, else with absence. Orders of one instance are done in turn, so a
    /// launch that is under way comes first.
    pub(crate) fn prove(&mut self, id: &InstanceId, asked: u64) {
        let wait = ms(1 + self.rng.below(10));
        self.later(wait, Happening::Prove(self.life, id.clone(), asked));
    }

    pub(crate) fn proved(&mut self, id: InstanceId, asked: u64) {
        if self.launching.contains_key(&id) {
            return self.prove(&id, asked);
        }
        let place = self.host.place(&id);
        // It holds the lock and does not answer.
        if place.is_stopped(self.now) {
            return;
        }
        if let Some(shim) = &mut place.shim {
            shim.state.seq += 1;
            let state = shim.state.clone();
            self.connected.insert(id.clone());
            return self.tell_in_order(&id.clone(), Event::Shim { instance: id, state });
        }
        place.dead = place.dead.max(place.spec);
        let generation = if place.spec == 0 { asked } else { place.spec };
        let orphans = !place.children.is_empty();
        let last = place.left.clone().map(|mut state| {
            state.seq = u64::MAX;
            state
        });
        self.connected.remove(&id);
        self.tell_in_order(&id.clone(), Event::ShimAbsent { instance: id, generation, last, orphans });
    }

    fn lease(&mut self, instance: InstanceId) {
        if self.now < self.store_down_until {
            // No answer: nobody knows.
            return;
        }
        let until = self.now + LEASE_TTL;
        self.leases.insert(instance.clone(), until);
        let until = self.now + LEASE_GIVE_UP;
        let token = FencingToken { epoch: 1, create_revision: 1 };
        let asked = self.now;
        self.tell(Event::LeaseHeld { instance, until, asked, token, owed: Vec::new() });
    }

    fn probe(&mut self, probe: Probe) {
        let now = self.now;
        let stalled = self.stalled(&probe.instance, now);
        let late = !self.calm() && now < self.prober_late_until;
        let place = self.host.place(&probe.instance);
        let child = place.children.iter_mut().find(|c| c.incarnation == probe.incarnation);
        let (mut outcome, mut took) = match child {
            _ if late => (Outcome::Late, probe.timeout),
            None => (Outcome::ConnectError, ms(1)),
            Some(c) if now < c.hung_until || stalled => (Outcome::Timeout { busy: false }, probe.timeout),
            Some(c) if now < c.ready_at => (Outcome::ConnectError, ms(1)),
            Some(c) if now < c.refuses_until && probe.kind == ProbeKind::Ready => {
                c.refused = true;
                (Outcome::Refused(503), ms(2))
            }
            Some(c) => {
                c.passed |= probe.kind == ProbeKind::Ready;
                (Outcome::Pass, ms(2))
            }
        };
        if !self.calm() && self.rng.below(200) == 0 && !late {
            (outcome, took) = (Outcome::Timeout { busy: false }, probe.timeout);
            self.host.place(&probe.instance).children.iter_mut().for_each(|c| c.missed_at = Some(now));
        }
        let (instance, incarnation, kind, sent) = (probe.instance.clone(), probe.incarnation, probe.kind, probe.at);
        if outcome == (Outcome::Timeout { busy: false }) && self.rng.below(4) == 0 {
            let verdict = Verdict::Quiet;
            self.tell(Event::Verdict { instance: instance.clone(), incarnation, verdict });
        }
        let event = Event::Probe { instance, incarnation, kind, sent, outcome, took };
        self.later(took, Happening::Answer(self.life, event));
    }

    fn published(&mut self, id: &InstanceId, incarnation: holdfast_policy::Incarnation, state: EndpointState) {
        let limits = self.limits(id);
        let child = self.host.place(id).children.iter().find(|c| c.incarnation == incarnation).cloned();
        self.judge.published(self.now, id, incarnation, state, child.as_ref(), limits);
        self.traffic.published(self.now, id, incarnation, state);
    }

    fn judge_kill(&mut self, id: &InstanceId) {
        let now = self.now;
        // A start that takes too long is ended whatever the others do.
        let lately = |at: Timestamp| now < at || now.since(at) < ms(6000);
        let own = |c: &Child| !c.passed || lately(c.hung_until) || c.missed_at.is_some_and(lately);
        let own = self.host.place(id).children.first().is_some_and(own);
        // A start that took too long is ended without regard to others, and is no liveness restart.
        let judged = self.host.place(id).children.first().is_some_and(|c| c.passed);
        let Some(limits) = self.limits(id).filter(|_| judged) else { return };
        let shared = self.stall_of(&id.service).is_some_and(|(from, until)| now >= from && now.since(until) < ms(3000));
        self.judge.killed(now, id, own, shared, limits);
    }

    pub(crate) fn wake(&self) -> Timestamp {
        self.supervisor.as_ref().and_then(|s| s.next_deadline()).unwrap_or(Timestamp::NEVER)
    }
}
