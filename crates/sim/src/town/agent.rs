//! One machine's agent: does what its Supervisor says on the simulated host, with delays.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use holdfast_cluster::LeaseId;
use holdfast_policy::lease::{FencingToken, Timings};
use holdfast_policy::{Incarnation, InstanceId, Timestamp};
use holdfast_services::Supervisor;
use holdfast_services::supervisor::{
    Action, Edge, EndpointState, Event, Job, Launch, Outcome, Probe, Record, Request, Role, kept_share,
};

use super::address::Address;
use super::calls::{Call, Reply};
use super::member::Member;
use super::world::{Deed, Happening, Note, Town};

const RELEASE_TRIES: u32 = 5;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// For the one task that keeps leases: in turn, each after the answer to the last.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Hold { instance: InstanceId, shared: bool, timings: Timings, asked: Timestamp },
    Release { instance: InstanceId, shared: bool, tries: u32 },
    Fenced(InstanceId),
}

pub(super) struct Agent {
    pub(super) supervisor: Supervisor,
    pub(super) published: BTreeMap<InstanceId, (Incarnation, EndpointState)>,
    pub(super) member: Member,
    pub(super) address: Address,
    asks: VecDeque<Ask>,
    /// The request under way and when it was sent.
    asking: Option<(u64, Ask, Timestamp)>,
    held: BTreeMap<InstanceId, (LeaseId, u64)>,
}

impl Agent {
    pub(super) fn next_deadline(&self, local: Timestamp) -> Timestamp {
        let supervisor = self.supervisor.next_deadline().unwrap_or(Timestamp::NEVER);
        supervisor.min(self.member.next_deadline(local)).min(self.address.next_deadline(local))
    }
}

impl Town {
    pub(super) fn start_agent(&mut self, m: usize) {
        self.lives += 1;
        let life = self.lives;
        let (seed, now) = (self.rng.next_u64(), self.now);
        let machine = &mut self.machines[m];
        let local = machine.local(now);
        machine.life = life;
        machine.agent_paused_until = Timestamp::ZERO;
        machine.connected.clear();
        machine.channel.clear();
        let records: Vec<Record> = machine.records.values().cloned().collect();
        let found = machine.host.places.iter().filter(|(_, p)| p.spec > 0).map(|(id, _)| id.clone()).collect();
        let kept = machine.kept.clone();
        let carried = machine.address.is_some();
        machine.agent = Some(Agent {
            supervisor: Supervisor::new(self.rules.supervisor, seed),
            published: BTreeMap::new(),
            member: Member::new(local, &machine.name, machine.token, machine.set_back),
            address: Address::new(local, self.rules.vip, carried),
            asks: VecDeque::new(),
            asking: None,
            held: BTreeMap::new(),
        });
        let name = self.machines[m].name.clone();
        self.note(format!("{name}: an agent starts"));
        self.feed(m, Event::Adopt { records, found });
        let placement = kept_share(self.services.keys().map(|name| &**name), &kept);
        self.feed(m, Event::Placement(Some(placement)));
        let services = self.services.clone();
        self.feed(m, Event::Desired { services, scale: BTreeMap::new(), revision: 1 });
    }

    pub(super) fn kill_agent(&mut self, m: usize) {
        let machine = &mut self.machines[m];
        machine.agent = None;
        machine.life = 0;
        machine.agent_paused_until = Timestamp::ZERO;
    }

    pub(super) fn feed(&mut self, m: usize, event: Event) {
        let local = self.machines[m].local(self.now);
        let Some(agent) = &mut self.machines[m].agent else { return };
        agent.supervisor.handle(local, event);
        self.handled += 1;
        let mut actions = Vec::new();
        while let Some(action) = agent.supervisor.poll_action() {
            actions.push(action);
        }
        for action in actions {
            self.perform(m, action);
        }
    }

    fn tell(&mut self, m: usize, event: Event) {
        let mut wait = ms(self.rng.below(5));
        if !self.calm && self.rng.below(30) == 0 {
            wait += ms(self.rng.below(1_000));
        }
        let life = self.machines[m].life;
        self.later(wait, Happening::Agent(m, life, Note::Event(Box::new(event))));
    }

    /// What one shim's connection carries arrives in order.
    fn tell_in_order(&mut self, m: usize, id: &InstanceId, event: Event) {
        let mut wait = ms(self.rng.below(3));
        if !self.calm && self.rng.below(30) == 0 {
            wait += ms(self.rng.below(1_000));
        }
        let now = self.now;
        let machine = &mut self.machines[m];
        let at = machine.channel.get(id).copied().unwrap_or_default().max(now + wait);
        machine.channel.insert(id.clone(), at);
        let life = machine.life;
        self.at(at, Happening::Agent(m, life, Note::Event(Box::new(event))));
    }

    /// States of shims to the agent that listens.
    pub(super) fn carry(&mut self, m: usize) {
        let told = std::mem::take(&mut self.machines[m].host.told);
        self.machines[m].host.notes.clear();
        for (id, state) in told {
            self.judge.host_moved = true;
            if self.machines[m].connected.contains(&id) && self.machines[m].agent.is_some() {
                self.tell_in_order(m, &id.clone(), Event::Shim { instance: id, state });
            }
        }
    }

    fn deed(&mut self, m: usize, wait: Duration, deed: Deed) {
        let boot = self.machines[m].boot;
        self.later(wait, Happening::Deed(m, boot, deed));
    }

    fn perform(&mut self, m: usize, action: Action) {
        match action {
            Action::Persist(record) => {
                let (wait, life) = (ms(1 + self.rng.below(20)), self.machines[m].life);
                self.deed(m, wait, Deed::Written(life, record));
            }
            Action::AssignPort { instance } => {
                self.machines[m].next_port += 1;
                let port = self.machines[m].next_port;
                self.tell(m, Event::PortAssigned { instance, port });
            }
            Action::Lease { instance, shared, timings, asked } => {
                self.queue(m, Ask::Hold { instance, shared, timings, asked });
            }
            Action::ReleaseLease { instance, shared } => {
                self.queue(m, Ask::Release { instance, shared, tries: RELEASE_TRIES });
            }
            Action::Fenced { instance } => self.queue(m, Ask::Fenced(instance)),
            Action::Want { .. } | Action::StopProbes { .. } | Action::Forget { .. } => {}
            Action::Job(job) => {
                let (wait, life) = (ms(5 + self.rng.below(200)), self.machines[m].life);
                let success = self.calm || self.rng.below(5) > 0;
                self.deed(m, wait, Deed::JobEnds(life, job, success));
            }
            Action::Launch(launch) => self.launch(m, launch),
            Action::Command { instance, incarnation, request } => self.command(m, instance, incarnation, request),
            Action::ProveAbsence { instance, generation } => {
                let (wait, life) = (ms(1 + self.rng.below(10)), self.machines[m].life);
                self.deed(m, wait, Deed::Prove(life, instance, generation));
            }
            Action::KillOrphans { instance, generation } => {
                let (wait, life) = (ms(self.rng.below(50)), self.machines[m].life);
                self.deed(m, wait, Deed::KillOrphans(life, instance, generation));
            }
            Action::Probe(probe) => self.probe(m, probe),
            Action::Publish { instance, incarnation, state, .. } => self.publish(m, instance, incarnation, state),
            Action::Journal(entry) => {
                let (t, name) = (&entry.transition, &self.machines[m].name);
                let text = format!("    {name} {} {} -> {}: {}", entry.subject, t.from, t.to, t.reason);
                self.note(text);
                self.changed_here(m);
            }
        }
    }

    fn publish(&mut self, m: usize, instance: InstanceId, incarnation: Incarnation, state: EndpointState) {
        if state == EndpointState::Draining {
            self.judge_taken(m, &instance);
        }
        let Some(agent) = &mut self.machines[m].agent else { return };
        match state {
            EndpointState::Gone => drop(agent.published.remove(&instance)),
            _ => drop(agent.published.insert(instance, (incarnation, state))),
        }
        self.changed_here(m);
    }

    fn changed_here(&mut self, m: usize) {
        if let Some(agent) = &mut self.machines[m].agent {
            agent.member.changed_here();
        }
    }

    fn command(&mut self, m: usize, instance: InstanceId, incarnation: Incarnation, request: Request) {
        if let Request::Activate(token) = request {
            self.note_token(&instance, token);
        }
        let mut wait = ms(self.rng.below(3));
        if !self.calm && self.rng.below(30) == 0 {
            wait += ms(self.rng.below(1_500));
        }
        self.deed(m, wait, Deed::Command(instance, incarnation, request));
    }

    fn launch(&mut self, m: usize, launch: Launch) {
        let name = &self.machines[m].name;
        let text = format!("{name} {}: launch of generation {}", launch.instance, launch.generation);
        self.note(text);
        if let Some(token) = launch.token.filter(|_| matches!(launch.role, Role::None | Role::Active)) {
            self.note_token(&launch.instance, token);
        }
        let mut wait = ms(2 + self.rng.below(20));
        if !self.calm && self.rng.below(40) == 0 {
            wait += ms(self.rng.below(12_000));
        }
        let machine = &mut self.machines[m];
        // The spec is written first; the shim begins some time later, whatever becomes of the agent.
        machine.host.place(&launch.instance).spec = launch.generation;
        machine.launching.insert(launch.instance.clone(), launch.generation);
        let life = machine.life;
        self.deed(m, wait, Deed::Begin(life, launch));
    }

    fn probe(&mut self, m: usize, probe: Probe) {
        let local = self.machines[m].local(self.now);
        let place = self.machines[m].host.place(&probe.instance);
        let child = place.children.iter_mut().find(|c| c.incarnation == probe.incarnation);
        let (outcome, took) = match child {
            None => (Outcome::ConnectError, ms(1)),
            Some(c) if local < c.hung_until => (Outcome::Timeout { busy: false }, probe.timeout),
            Some(c) if local < c.ready_at => (Outcome::ConnectError, ms(1)),
            Some(_) => (Outcome::Pass, ms(2)),
        };
        let (instance, incarnation, kind, sent) = (probe.instance, probe.incarnation, probe.kind, probe.at);
        let event = Event::Probe { instance, incarnation, kind, sent, outcome, took };
        let life = self.machines[m].life;
        self.later(took, Happening::Agent(m, life, Note::Event(Box::new(event))));
    }

    pub(super) fn perform_deed(&mut self, m: usize, deed: Deed) {
        let local = self.machines[m].local(self.now);
        match deed {
            Deed::Command(id, incarnation, request) => {
                self.machines[m].host.command(local, &id, incarnation, request);
            }
            Deed::Written(life, record) => {
                let (instance, generation) = (record.instance.clone(), record.generation);
                self.machines[m].records.insert(instance.clone(), record);
                if self.machines[m].life == life {
                    self.tell(m, Event::Persisted { instance, generation });
                }
            }
            Deed::Begin(life, launch) => self.begin(m, life, launch),
            Deed::Prove(life, id, asked) if life == self.machines[m].life => self.proved(m, id, asked),
            Deed::KillOrphans(life, id, generation) if life == self.machines[m].life => {
                let place = self.machines[m].host.place(&id);
                if place.shim.is_none() {
                    place.children.clear();
                    self.tell_in_order(m, &id.clone(), Event::OrphansGone { instance: id, generation });
                }
            }
            Deed::JobEnds(life, job, success) => self.job_ends(m, life, job, success),
            Deed::Prove(..) | Deed::KillOrphans(..) => {}
        }
    }

    fn begin(&mut self, m: usize, life: u64, launch: Launch) {
        let local = self.machines[m].local(self.now);
        let (instance, generation) = (launch.instance.clone(), launch.generation);
        let machine = &mut self.machines[m];
        if machine.launching.get(&instance) == Some(&generation) {
            machine.launching.remove(&instance);
        }
        let begun = machine.host.begin(local, launch);
        if life != machine.life {
            return;
        }
        if begun {
            machine.connected.insert(instance.clone());
            let state = machine.host.place(&instance).shim.as_ref().map(|s| s.state.clone()).unwrap_or_default();
            self.tell_in_order(m, &instance.clone(), Event::Shim { instance, state });
        } else {
            let reason = "the lock is held, or the generation is over".into();
            self.tell_in_order(m, &instance.clone(), Event::LaunchFailed { instance, generation, reason });
        }
    }

    fn proved(&mut self, m: usize, id: InstanceId, asked: u64) {
        let local = self.machines[m].local(self.now);
        let machine = &mut self.machines[m];
        if machine.launching.contains_key(&id) {
            let life = machine.life;
            return self.deed(m, ms(5), Deed::Prove(life, id, asked));
        }
        let place = machine.host.place(&id);
        if place.is_stopped(local) {
            return;
        }
        if let Some(shim) = &mut place.shim {
            shim.state.seq += 1;
            let state = shim.state.clone();
            machine.connected.insert(id.clone());
            return self.tell_in_order(m, &id.clone(), Event::Shim { instance: id, state });
        }
        place.dead = place.dead.max(place.spec);
        let generation = if place.spec == 0 { asked } else { place.spec };
        let orphans = !place.children.is_empty();
        let last = place.left.clone().map(|mut state| {
            state.seq = u64::MAX;
            state
        });
        machine.connected.remove(&id);
        self.tell_in_order(m, &id.clone(), Event::ShimAbsent { instance: id, generation, last, orphans });
    }

    /// The connection to a shim that is gone ends.
    pub(super) fn disconnected(&mut self, m: usize, id: &InstanceId) {
        let machine = &mut self.machines[m];
        let generation = machine.host.place(id).left.as_ref().map_or(0, |s| s.incarnation.generation);
        if machine.connected.remove(id) && machine.agent.is_some() {
            self.tell_in_order(m, id, Event::ShimLost { instance: id.clone(), generation });
        }
    }

    fn job_ends(&mut self, m: usize, life: u64, job: Job, success: bool) {
        if job.edge == Edge::Fence && success {
            for (id, node) in job.fence.split(',').filter_map(|member| member.split_once('@')) {
                let target = self.machines.iter().position(|machine| machine.name == node);
                let Some((target, id)) = target.zip(id.parse::<InstanceId>().ok()) else { continue };
                self.note(format!("{id} on {node} is fenced"));
                let place = self.machines[target].host.place(&id);
                place.children.clear();
                self.machines[target].host.kill_shim(&id);
                self.disconnected(target, &id);
            }
        }
        if life == self.machines[m].life {
            let detail = if success { "exit code 0" } else { "exit code 1" };
            self.tell(m, Event::JobEnded { instance: job.instance, name: job.name, success, detail: detail.into() });
        }
    }

    fn queue(&mut self, m: usize, ask: Ask) {
        if let Some(agent) = &mut self.machines[m].agent {
            agent.asks.push_back(ask);
        }
        self.next_ask(m);
    }

    fn next_ask(&mut self, m: usize) {
        let local = self.machines[m].local(self.now);
        loop {
            let Some(agent) = &mut self.machines[m].agent else { return };
            if agent.asking.is_some() {
                return;
            }
            let Some(ask) = agent.asks.pop_front() else { return };
            let call = match &ask {
                // Nothing can be held before the epoch is known.
                Ask::Hold { .. } if agent.member.epoch() == 0 => continue,
                Ask::Hold { timings, asked, .. } if local.since(*asked) > timings.give_up => continue,
                Ask::Hold { instance, shared, timings, .. } => {
                    let held = agent.held.get(instance).copied();
                    let claims = agent.member.current.may_claim(local, timings.ttl);
                    Call::Hold { instance: instance.clone(), shared: *shared, ttl: timings.ttl, held, claims }
                }
                Ask::Release { instance, shared, .. } => Call::Release { instance: instance.clone(), shared: *shared },
                Ask::Fenced(instance) => Call::Fenced(instance.clone()),
            };
            let id = self.ask(m, call);
            if let Some(agent) = &mut self.machines[m].agent {
                agent.asking = Some((id, ask, local));
            }
        }
    }

    /// False when it is no answer to the lease keeper.
    pub(super) fn lease_answered(&mut self, m: usize, id: u64, reply: &Reply) -> bool {
        let Some(agent) = &mut self.machines[m].agent else { return true };
        let Some((_, ask, sent)) = agent.asking.take_if(|(asked, ..)| *asked == id) else { return false };
        match (ask, reply) {
            (Ask::Hold { instance, timings, asked, .. }, Reply::Held { lease, revision, owed }) => {
                agent.held.insert(instance.clone(), (*lease, *revision));
                let token = FencingToken { epoch: agent.member.epoch(), create_revision: *revision };
                let until = sent + timings.give_up;
                let event = Event::LeaseHeld { instance, until, asked, token, owed: owed.clone() };
                self.tell(m, event);
            }
            (Ask::Hold { instance, .. }, Reply::Taken) => {
                agent.held.remove(&instance);
                self.tell(m, Event::LeaseLost { instance, reason: "another holds its lease".into() });
            }
            (Ask::Release { instance, shared, tries }, Reply::Unavailable) if tries > 1 => {
                agent.asks.push_front(Ask::Release { instance, shared, tries: tries - 1 });
            }
            (Ask::Release { instance, .. }, _) => drop(agent.held.remove(&instance)),
            _ => {}
        }
        self.next_ask(m);
        true
    }
}
