//! A host that does at once, and without faults, what it is asked (the simulator is the one with faults).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use holdfast_config::{Check, Command, Port, Probe as ProbeConfig, Service};
use holdfast_policy::health::Thresholds;
use holdfast_policy::hung::Verdict;
use holdfast_policy::lease::{FencingToken, Timings};
use holdfast_policy::{Incarnation, InstanceId, Timestamp};

use super::super::*;

pub(super) fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

pub(super) fn http() -> ProbeConfig {
    ProbeConfig {
        check: Check::Http { path: "/".into(), status: 200..=399 },
        every: Duration::from_millis(500),
        timeout: Duration::from_millis(300),
        thresholds: Thresholds::default(),
        within: Duration::from_secs(60),
    }
}

pub(super) fn service(name: &str, replicas: u32) -> Service {
    Service {
        replicas,
        port: Port::Fixed(if name == "web" { 8001 } else { 9001 }),
        ready: Some(http()),
        min_available: 1,
        ..Service::new(name, Command::Argv(vec![name.into()]))
    }
}

#[derive(Clone, Default)]
struct FakeShim {
    state: ShimState,
    dead: bool,
    orphans: bool,
}

pub(super) struct Rig {
    pub(super) sup: Supervisor,
    pub(super) now: Timestamp,
    shims: BTreeMap<InstanceId, FakeShim>,
    records: BTreeMap<InstanceId, Record>,
    due: BTreeMap<(Timestamp, u64), Event>,
    count: u64,
    revision: u64,
    text: String,
    ready: BTreeMap<String, Outcome>,
    live: BTreeMap<String, Outcome>,
    refused: BTreeSet<u64>,
    launch_error: Option<String>,
    published: BTreeMap<String, EndpointState>,
    launches: BTreeMap<String, Vec<Timestamp>>,
    stops: BTreeMap<String, Timestamp>,
    kills: usize,
    services: Vec<Service>,
    balanced: bool,
    pub(super) holder: Option<Holder>,
    pub(super) last: Option<InstanceId>,
    pub(super) owed: Vec<String>,
    pub(super) wish: Option<Wish>,
    pub(super) revision_of_lease: u64,
    silent: BTreeSet<InstanceId>,
    deaf: bool,
    /// After a change of the lease.
    pub(super) news: Duration,
    tokens: BTreeMap<InstanceId, FencingToken>,
    pub(super) jobs: Vec<String>,
    pub(super) failing: BTreeSet<&'static str>,
}

const START: Duration = Duration::from_millis(5);
const ANSWER: Duration = Duration::from_millis(1);

impl Rig {
    pub(super) fn new<const N: usize>(services: [Service; N]) -> Rig {
        let mut rig = Rig::empty();
        rig.tell(Event::Adopt { records: Vec::new(), found: Vec::new() });
        rig.apply(services);
        rig
    }

    fn empty() -> Rig {
        Rig {
            sup: Supervisor::new(Rules::ALL, 7),
            now: Timestamp::ZERO,
            shims: BTreeMap::new(),
            records: BTreeMap::new(),
            due: BTreeMap::new(),
            count: 0,
            revision: 0,
            text: String::new(),
            ready: BTreeMap::new(),
            live: BTreeMap::new(),
            refused: BTreeSet::new(),
            launch_error: None,
            published: BTreeMap::new(),
            launches: BTreeMap::new(),
            stops: BTreeMap::new(),
            kills: 0,
            services: Vec::new(),
            balanced: false,
            holder: None,
            last: None,
            owed: Vec::new(),
            wish: None,
            revision_of_lease: 0,
            silent: BTreeSet::new(),
            deaf: false,
            news: ANSWER,
            tokens: BTreeMap::new(),
            jobs: Vec::new(),
            failing: BTreeSet::new(),
        }
    }

    /// The next agent on the same machine.
    pub(super) fn successor(&mut self) -> Rig {
        let mut rig = self.untold_successor();
        rig.set(self.services.clone());
        rig
    }

    /// One that does not know yet what is wanted.
    pub(super) fn untold_successor(&mut self) -> Rig {
        let mut rig = Rig::empty();
        rig.now = self.now;
        rig.records = self.records.clone();
        rig.shims = self.shims.clone();
        let records = self.records.values().cloned().collect();
        rig.tell(Event::Adopt { records, found: self.shims.keys().cloned().collect() });
        rig.revision = self.revision;
        for (instance, shim) in rig.shims.clone() {
            rig.later(ANSWER, Event::Shim { instance, state: shim.state });
        }
        rig
    }

    pub(super) fn apply<const N: usize>(&mut self, services: [Service; N]) {
        self.set(services.into());
    }

    fn set(&mut self, list: Vec<Service>) {
        self.services = list.clone();
        self.revision += 1;
        let balanced = self.balanced;
        let named = |s: Service| (s.name.as_str().into(), Arc::new(Definition { balanced, ..Definition::new(s) }));
        let services = list.into_iter().map(named).collect();
        self.tell(Event::Desired { services, scale: BTreeMap::new(), revision: self.revision });
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.sup.handle(self.now, event);
        while let Some(action) = self.sup.poll_action() {
            self.perform(action);
        }
    }

    fn later(&mut self, wait: Duration, event: Event) {
        self.count += 1;
        self.due.insert((self.now + wait, self.count), event);
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            let event = self.due.first_key_value().map_or(Timestamp::NEVER, |((at, _), _)| *at);
            let timer = self.sup.next_deadline().unwrap_or(Timestamp::NEVER);
            let next = event.min(timer);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            match self.due.pop_first() {
                Some((_, e)) if event <= timer => self.tell(e),
                Some((key, e)) => {
                    self.due.insert(key, e);
                    self.tell(Event::Tick);
                }
                None => self.tell(Event::Tick),
            }
        }
        self.now = end;
    }

    fn perform(&mut self, action: Action) {
        let ms = self.now.as_millis();
        let line = match &action {
            Action::Persist(r) => format!("persist {} generation {}", r.instance, r.generation),
            Action::Launch(l) => {
                format!("launch {} generation {} port {}", l.instance, l.generation, l.port.unwrap_or(0))
            }
            Action::Command { instance, incarnation, request } => {
                format!("command {instance} {incarnation} {request:?}")
            }
            Action::ProveAbsence { instance, generation } => format!("prove {instance} generation {generation}"),
            Action::KillOrphans { instance, generation } => format!("kill orphans {instance} generation {generation}"),
            Action::Probe(p) => format!("probe {} {} {}", p.kind.name(), p.instance, p.incarnation),
            Action::Publish { instance, incarnation, state, .. } => {
                format!("publish {instance} {incarnation} {}", state.name())
            }
            Action::Journal(e) => {
                format!("journal {} {} -> {}: {}", e.subject, e.transition.from, e.transition.to, e.transition.reason)
            }
            Action::Lease { instance, .. } => format!("lease {instance}"),
            Action::Job(job) => format!("job {}", job.name),
            Action::ReleaseLease { instance, .. } => format!("release {instance}"),
            other => format!("{other:?}"),
        };
        if !matches!(&action, Action::Journal(e) if &*e.subject == "web") {
            let _ = writeln!(self.text, "{ms} {line}");
        }
        self.do_it(action);
    }

    fn do_it(&mut self, action: Action) {
        match action {
            Action::Persist(record) => {
                let (instance, generation) = (record.instance.clone(), record.generation);
                self.records.insert(instance.clone(), record);
                self.later(Duration::ZERO, Event::Persisted { instance, generation });
            }
            Action::Launch(launch) => self.start_shim(launch),
            Action::Command { instance, incarnation, request } => self.command(&instance, incarnation, request),
            Action::ProveAbsence { instance, generation } => {
                let shim = self.shims.get(&instance).cloned().unwrap_or_default();
                let event = if shim.dead {
                    let last = Some(shim.state);
                    Event::ShimAbsent { instance, generation, last, orphans: shim.orphans }
                } else {
                    Event::Shim { instance, state: shim.state }
                };
                self.later(ANSWER, event);
            }
            Action::KillOrphans { instance, generation } => {
                self.later(START, Event::OrphansGone { instance, generation })
            }
            Action::Probe(probe) => self.answer_probe(probe),
            Action::Publish { instance, state, .. } => {
                self.published.insert(instance.to_string(), state);
            }
            Action::AssignPort { instance } => self.later(ANSWER, Event::PortAssigned { instance, port: 20_000 }),
            Action::Lease { instance, shared, timings, .. } => self.lease(instance, shared, timings),
            Action::ReleaseLease { instance, shared } => self.release(&instance, shared),
            Action::Job(job) => self.run_job(job),
            Action::Want { service, to, over } => self.want(&service, Some(to), Some(over), false),
            Action::Fenced { .. } => self.owed.clear(),
            Action::StopProbes { .. } | Action::Forget { .. } | Action::Journal(_) => {}
        }
    }

    fn start_shim(&mut self, launch: Launch) {
        let Launch { instance, generation, definition, port, deadline, role, token } = launch;
        self.launches.entry(instance.to_string()).or_default().push(self.now);
        if let Some(reason) = self.launch_error.clone() {
            return self.later(ANSWER, Event::LaunchFailed { instance, generation, reason });
        }
        let state = ShimState {
            incarnation: Incarnation { generation, run: 0 },
            granted: true,
            definition: Some(definition.hash),
            port,
            deadline,
            role,
            token: token.or(self.tokens.get(&instance).copied()),
            ..ShimState::default()
        };
        self.shims.insert(instance.clone(), FakeShim { state, ..FakeShim::default() });
        self.spawn(&instance, START);
    }

    fn spawn(&mut self, instance: &InstanceId, wait: Duration) {
        let at = self.now + wait;
        self.change(instance, wait, |state| {
            state.incarnation.run += 1;
            state.phase = ShimPhase::Running;
            state.since = at;
            state.pid = Some(1000 + state.incarnation.run);
        });
    }

    fn change(&mut self, instance: &InstanceId, wait: Duration, f: impl FnOnce(&mut ShimState)) {
        let Some(shim) = self.shims.get_mut(instance) else { return };
        f(&mut shim.state);
        shim.state.seq += 1;
        let state = shim.state.clone();
        self.later(wait, Event::Shim { instance: instance.clone(), state });
    }

    fn command(&mut self, instance: &InstanceId, incarnation: Incarnation, request: Request) {
        let known = self.shims.get(instance).map(|s| s.state.incarnation);
        if known != Some(incarnation) || self.silent.contains(instance) {
            return;
        }
        match request {
            Request::Stop => {
                self.stops.insert(instance.to_string(), self.now);
                self.change(instance, START, |s| s.phase = ShimPhase::Stopped);
            }
            Request::Kill | Request::Restart => {
                self.kills += usize::from(request == Request::Kill);
                self.live.remove(&instance.to_string());
                self.spawn(instance, START);
            }
            Request::Quit => {
                self.shims.remove(instance);
                let (instance, generation) = (instance.clone(), incarnation.generation);
                self.later(ANSWER, Event::ShimAbsent { instance, generation, last: None, orphans: false });
            }
            Request::Grant { restart } => self.change(instance, ANSWER, |s| s.granted = restart),
            // One that has passed is refused.
            Request::Deadline(until) if self.deaf || until <= self.now => {}
            Request::Deadline(until) => self.change(instance, ANSWER, |s| s.deadline = Some(until)),
            Request::Hold(time) => self.change(instance, ANSWER, |s| s.hold = time),
            Request::Activate(token) => {
                self.tokens.insert(instance.clone(), token);
                self.change(instance, ANSWER, |s| (s.role, s.token) = (Role::Active, Some(token)));
            }
            Request::Freeze(frozen) => {
                let now = self.now;
                self.change(instance, ANSWER, |s| s.stopped_at = frozen.then_some(now));
            }
            Request::Ready => {}
        }
    }

    /// The store of one service with standbys; a plainly fenced instance always gets its lease.
    fn lease(&mut self, instance: InstanceId, shared: bool, timings: Timings) {
        let (until, asked) = (self.now + timings.give_up, self.now);
        if !shared {
            let token = FencingToken { epoch: 1, create_revision: 1 };
            return self.later(ANSWER, Event::LeaseHeld { instance, until, asked, token, owed: Vec::new() });
        }
        let other = self.holder.as_ref().filter(|h| h.member != instance);
        if let Some(reason) = other.map(|h| format!("{} holds its lease", h.member)) {
            return self.later(ANSWER, Event::LeaseLost { instance, reason });
        }
        let claimed = self.holder.is_none();
        self.last = Some(instance.clone());
        self.revision_of_lease += u64::from(claimed);
        let create_revision = self.revision_of_lease;
        let token = self.holder.as_ref().map_or(FencingToken { epoch: 1, create_revision }, |h| h.token);
        self.holder = Some(Holder { member: instance.clone(), node: "n1".into(), token });
        let owed = self.owed.clone();
        self.later(ANSWER, Event::LeaseHeld { instance, until, asked, token, owed });
        if claimed {
            self.tell_holders();
        }
    }

    fn release(&mut self, instance: &InstanceId, shared: bool) {
        if shared && self.holder.as_ref().is_some_and(|h| h.member == *instance) {
            self.holder = None;
            self.tell_holders();
        }
    }

    /// The lease runs out; its holder has not given it back.
    pub(super) fn lease_runs_out(&mut self) {
        let holder = self.holder.take().expect("somebody holds it");
        self.owed.push(format!("{}@n1", holder.member));
        self.tell_holders();
    }

    /// Its shim and its program do nothing any more.
    pub(super) fn silence(&mut self, name: &str) {
        self.silent.insert(id(name));
    }

    pub(super) fn ignore_deadlines(&mut self, deaf: bool) {
        self.deaf = deaf;
    }

    /// The shim ends its program, and starts it again under a later deadline only.
    pub(super) fn deadline_passes(&mut self, name: &str) {
        let (at, signal) = (self.now, Some(9));
        self.change(&id(name), Duration::ZERO, |s| {
            s.last_exit = Some(Exit { at, signal, ..Exit::default() });
            (s.phase, s.pid) = (ShimPhase::Starting, None);
        });
    }

    /// What its token file says.
    pub(super) fn has_token(&mut self, name: &str, token: FencingToken) {
        self.change(&id(name), Duration::ZERO, |s| s.token = Some(token));
    }

    pub(super) fn active(&self) -> String {
        self.holder.as_ref().map_or_else(String::new, |h| h.member.to_string())
    }

    /// Its program dies, and its shim leaves it dead for as long as it was told to.
    pub(super) fn child_dies_held(&mut self, name: &str) {
        let (instance, now) = (id(name), self.now);
        let exit = Exit { at: now, signal: Some(9), ..Exit::default() };
        let hold = self.shims[&instance].state.hold;
        assert!(hold > Duration::ZERO, "{name} is not held");
        self.change(&instance, Duration::ZERO, |s| {
            s.last_exit = Some(exit);
            s.phase = ShimPhase::Backoff { until: now + hold };
        });
    }

    pub(super) fn tell_holders(&mut self) {
        let holders = self.holder.iter().map(|h| (h.member.service.clone(), h.clone())).collect();
        let wishes = self.wish.iter().map(|w| ("db".into(), w.clone())).collect();
        let last = self.last.iter().map(|id| (id.service.clone(), id.clone())).collect();
        self.later(self.news, Event::Holders { holders, last, wishes });
    }

    pub(super) fn want(&mut self, _: &str, to: Option<InstanceId>, over: Option<FencingToken>, force: bool) {
        self.wish = Some(Wish { to, over, force, until: self.now + Duration::from_secs(60) });
        self.tell_holders();
    }

    fn run_job(&mut self, job: Job) {
        self.jobs.push(job.name.clone());
        let success = !self.failing.contains(job.edge.name());
        let detail = if success { "exit code 0" } else { "exit code 1" };
        self.later(START, Event::JobEnded { instance: job.instance, name: job.name, success, detail: detail.into() });
    }

    fn answer_probe(&mut self, probe: Probe) {
        let name = probe.instance.to_string();
        let told = if probe.kind == ProbeKind::Live { &self.live } else { &self.ready };
        let refused = self.refused.contains(&probe.incarnation.generation);
        let outcome = if refused { Outcome::Refused(500) } else { told.get(&name).copied().unwrap_or(Outcome::Pass) };
        let took = if matches!(outcome, Outcome::Timeout { .. }) { probe.timeout } else { ANSWER };
        let Probe { instance, incarnation, kind, at: sent, .. } = probe;
        self.later(took, Event::Probe { instance, incarnation, kind, sent, outcome, took });
    }

    pub(super) fn child_ends(&mut self, name: &str, code: Option<i32>) {
        let (instance, now) = (id(name), self.now);
        let signal = if code.is_none() { Some(9) } else { None };
        let exit = Exit { at: now, code, signal, ..Exit::default() };
        let done = code == Some(0);
        self.change(&instance, Duration::ZERO, |s| {
            s.last_exit = Some(exit);
            s.phase = if done { ShimPhase::Finished { success: true } } else { ShimPhase::Backoff { until: now } };
        });
        if !done {
            self.spawn(&instance, START);
        }
    }

    /// Its shim tells at once; a look at all of its processes follows.
    pub(super) fn child_stops(&mut self, name: &str, look: Duration) {
        let (instance, now) = (id(name), self.now);
        self.change(&instance, Duration::ZERO, |s| s.stopped_at = Some(now));
        let incarnation = self.incarnation(name);
        self.later(look, Event::Verdict { instance, incarnation, verdict: Verdict::Stopped });
        self.answer(name, Outcome::Timeout { busy: false });
    }

    pub(super) fn child_goes_on(&mut self, name: &str) {
        self.change(&id(name), Duration::ZERO, |s| s.stopped_at = None);
        self.answer(name, Outcome::Pass);
    }

    pub(super) fn shim_dies(&mut self, name: &str, orphans: bool) {
        let shim = self.shims.get_mut(&id(name)).unwrap();
        (shim.dead, shim.orphans) = (true, orphans);
        let generation = shim.state.incarnation.generation;
        self.tell(Event::ShimLost { instance: id(name), generation });
    }

    pub(super) fn answer(&mut self, name: &str, outcome: Outcome) {
        self.ready.insert(name.into(), outcome);
    }

    pub(super) fn answer_live(&mut self, name: &str, outcome: Outcome) {
        self.live.insert(name.into(), outcome);
    }

    pub(super) fn refuse_generation(&mut self, generation: u64) {
        self.refused.insert(generation);
    }

    pub(super) fn accept_all(&mut self) {
        self.refused.clear();
    }

    pub(super) fn fail_launches(&mut self, reason: &str) {
        self.launch_error = Some(reason.into());
    }

    pub(super) fn transcript(&self) -> String {
        self.text.clone()
    }

    pub(super) fn without(&self, word: &str) -> String {
        let lines = self.text.lines().filter(|line| !line.contains(word));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// Balancers are in front of everything from the next `apply` on.
    pub(super) fn balance(&mut self) {
        self.balanced = true;
        self.set(self.services.clone());
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
    }

    pub(super) fn states(&self) -> String {
        let status = self.sup.status(self.now);
        let instances = status.services.values().flat_map(|s| &s.instances);
        instances.map(|i| format!("{} {}", i.id, i.state)).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn ready(&self) -> usize {
        self.published.values().filter(|s| **s == EndpointState::Ready).count()
    }

    pub(super) fn published(&self, name: &str) -> EndpointState {
        self.published[name]
    }

    pub(super) fn incarnation(&self, name: &str) -> Incarnation {
        self.shims[&id(name)].state.incarnation
    }

    pub(super) fn launches(&self, name: &str) -> usize {
        self.launches.get(name).map_or(0, Vec::len)
    }

    pub(super) fn launched(&self, name: &str) -> Timestamp {
        self.launches[name][0]
    }

    pub(super) fn stopped(&self, name: &str) -> Timestamp {
        self.stops[name]
    }

    pub(super) fn kills(&self) -> usize {
        self.kills
    }

    pub(super) fn why(&self, name: &str) -> String {
        let lines = self.sup.explain(name).into_iter().map(|e| e.transition.reason.into_owned());
        lines.collect::<Vec<_>>().join("\n")
    }
}
