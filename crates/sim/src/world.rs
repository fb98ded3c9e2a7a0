//! Simulated time, and all that is due in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{Check, Command, Condition, Failback, Kind, Port, Probe, Service, Standby, Stop, Warm};
use holdfast_policy::health::Thresholds;
use holdfast_policy::rng::Rng;
use holdfast_policy::standby::Tier;
use holdfast_policy::{Incarnation, InstanceId, Timestamp, restart};
use holdfast_services::Supervisor;
use holdfast_services::supervisor::{self, Definition, Event, Launch, Record, Request};

use crate::Rules;
use crate::host::Host;
use crate::judge::{Judge, Limits};
use crate::leases::Lease;
use crate::traffic::{Outside, SERVICE, Traffic};

/// Lines kept for the report of a violation.
const TAIL: usize = 80;
/// Longest that convergence may take once faults have stopped: a crash loop's back-off, twice, and a trial restart.
const CONVERGENCE: Duration = Duration::from_secs(900);
/// Events of one moment; more is a loop without end.
const EVENTS_AT_ONCE: u64 = 20_000;

#[derive(Debug)]
pub(crate) enum Happening {
    /// Reaches the agent, if it is still the same one.
    Event(u64, Event),
    /// A probe was answered.
    Answer(u64, Event),
    Command(InstanceId, Incarnation, Request),
    Written(u64, Record, bool),
    Begin(u64, u64, Launch),
    Prove(u64, InstanceId, u64),
    KillOrphans(u64, InstanceId, u64),
    AgentStarts,
    Crash(InstanceId, Incarnation),
    JobEnds(InstanceId, Incarnation, i32),
    LeaseEnds,
    /// A command on an edge of a redundant service.
    CommandEnds(u64, supervisor::Job, bool),
}

pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) rng: Rng,
    pub(crate) rules: supervisor::Rules,
    due: BTreeMap<(Timestamp, u64), Happening>,
    count: u64,
    pub(crate) host: Host,
    pub(crate) supervisor: Option<Supervisor>,
    /// Agents so far; what was meant for an earlier one is lost.
    pub(crate) life: u64,
    pub(crate) boot: u64,
    pub(crate) handled: u64,
    /// What is on the disk.
    pub(crate) records: BTreeMap<InstanceId, Record>,
    /// Ends of leases, as the store sees them.
    pub(crate) leases: BTreeMap<InstanceId, Timestamp>,
    /// Leases of redundant services.
    pub(crate) shared: BTreeMap<Arc<str>, Lease>,
    pub(crate) store_revision: u64,
    pub(crate) redundant: bool,
    pub(crate) connected: BTreeSet<InstanceId>,
    /// When the last message of each shim arrives.
    pub(crate) channel: BTreeMap<InstanceId, Timestamp>,
    pub(crate) launching: BTreeMap<InstanceId, u64>,
    pub(crate) desired: BTreeMap<Arc<str>, Arc<Definition>>,
    pub(crate) scale: BTreeMap<Arc<str>, u32>,
    pub(crate) revision: u64,
    pub(crate) next_port: u16,
    pub(crate) stalls: BTreeMap<Arc<str>, (Timestamp, Timestamp)>,
    pub(crate) disk_full_until: Timestamp,
    pub(crate) store_down_until: Timestamp,
    pub(crate) prober_late_until: Timestamp,
    pub(crate) faults_over: bool,
    pub(crate) judge: Judge,
    pub(crate) traffic: Traffic,
    pub(crate) tail: VecDeque<String>,
}

impl World {
    pub(crate) fn new(seed: u64, rules: Rules) -> World {
        let mut world = World::empty(seed, rules);
        world.desired = services(&mut world.rng);
        world.start_agent();
        world
    }

    /// One redundant service of some tier.
    pub(crate) fn redundant(seed: u64, rules: Rules) -> World {
        let mut world = World::empty(seed, rules);
        world.desired = redundant(&mut world.rng);
        world.redundant = true;
        world.start_agent();
        world
    }

    fn empty(seed: u64, rules: Rules) -> World {
        let mut rng = Rng::from_seed(seed.wrapping_mul(0x9E37_79B9) + 1);
        let traffic = Traffic::new(seed, rules.retry_budget);
        let rules = rules.supervisor;
        let host = Host::new(Rng::from_seed(rng.next_u64()), rules.incarnation_check);
        World {
            now: Timestamp::from_millis(1000),
            rules,
            due: BTreeMap::new(),
            count: 0,
            host,
            supervisor: None,
            life: 0,
            boot: 1,
            handled: 0,
            records: BTreeMap::new(),
            leases: BTreeMap::new(),
            shared: BTreeMap::new(),
            store_revision: 0,
            redundant: false,
            connected: BTreeSet::new(),
            channel: BTreeMap::new(),
            launching: BTreeMap::new(),
            desired: BTreeMap::new(),
            scale: BTreeMap::new(),
            revision: 0,
            next_port: 20_000,
            stalls: BTreeMap::new(),
            disk_full_until: Timestamp::ZERO,
            store_down_until: Timestamp::ZERO,
            prober_late_until: Timestamp::ZERO,
            faults_over: false,
            judge: Judge::default(),
            traffic,
            tail: VecDeque::new(),
            rng,
        }
    }

    pub(crate) fn play(&mut self, steps: u64) {
        self.advance(Duration::from_secs(5));
        for _ in 0..steps {
            if self.judge.violation.is_some() {
                return;
            }
            // Clients ask before, during and after it.
            let before = self.traffic.burst(self.now);
            self.advance(before);
            self.fault();
            let wait = match self.rng.below(4) {
                0 => self.rng.below(20),
                1 => self.rng.below(500),
                2 => self.rng.below(3_000),
                _ => self.rng.below(15_000),
            };
            self.advance(Duration::from_millis(wait));
        }
        self.end_faults();
        let deadline = self.now + CONVERGENCE;
        while self.now < deadline && self.judge.violation.is_none() {
            self.advance(Duration::from_secs(10));
            if self.unfinished().is_none() {
                // Done, and it must stay so.
                self.advance(Duration::from_secs(30));
                // A failback is an act of its own, and may have begun meanwhile.
                if !self.redundant || self.unfinished().is_none() {
                    break;
                }
            }
        }
        if self.judge.violation.is_none()
            && let Some(what) = self.unfinished()
        {
            self.judge
                .violate(self.now, format!("not as wanted {} s after the last fault: {what}", CONVERGENCE.as_secs()));
        }
    }

    pub(crate) fn calm(&self) -> bool {
        self.faults_over
    }

    pub(crate) fn note(&mut self, text: &str) {
        if self.judge.violation.is_some() {
            return;
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(format!("{:?} {text}", self.now));
    }

    pub(crate) fn later(&mut self, wait: Duration, what: Happening) {
        if let Happening::Begin(_, _, launch) = &what {
            self.launching.insert(launch.instance.clone(), launch.generation);
        }
        self.count += 1;
        self.due.insert((self.now + wait, self.count), what);
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        let mut at_once = 0;
        while self.judge.violation.is_none() {
            let next_due = self.due.first_key_value().map_or(Timestamp::NEVER, |((at, _), _)| *at);
            let next = next_due.min(self.wake()).min(self.host.next_deadline(self.now));
            if next > end {
                break;
            }
            at_once = if next > self.now { 0 } else { at_once + 1 };
            if at_once > EVENTS_AT_ONCE {
                return self.judge.violate(self.now, "time does not pass: something is due again and again".into());
            }
            self.now = self.now.max(next);
            self.catch_up();
            self.host.tick(self.now);
            if next_due <= self.now
                && let Some((_, what)) = self.due.pop_first()
            {
                self.happen(what);
            } else {
                self.feed(Event::Tick);
            }
            self.carry();
            self.plan_endings();
            self.end_leases();
            self.judge.look(self.now, &self.host, &self.leases);
            self.judge.look_at_actives(self.now, &self.host, &self.shared);
        }
        self.now = end;
        self.catch_up();
    }

    /// What clients met meanwhile.
    fn catch_up(&mut self) {
        self.traffic.catch_up(self.now, Outside { host: &self.host, stalls: &self.stalls });
        if let Some(what) = self.traffic.ledger.take_violation() {
            self.judge.violate(self.now, what);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Event(life, event) if life == self.life => self.feed(event),
            Happening::Answer(life, event) if life == self.life => self.tell(event),
            Happening::Command(id, incarnation, request) => self.host.command(self.now, &id, incarnation, request),
            Happening::Written(life, record, done) => {
                let (instance, generation) = (record.instance.clone(), record.generation);
                if done && self.boot_of(life) {
                    self.records.insert(instance.clone(), record);
                }
                let reason = "no space left on device".into();
                let event = if done {
                    Event::Persisted { instance, generation }
                } else {
                    Event::PersistFailed { instance, generation, reason }
                };
                if life == self.life {
                    self.tell(event);
                }
            }
            Happening::Begin(life, boot, launch) => self.begin(life, boot, launch),
            Happening::Prove(life, id, asked) if life == self.life => self.proved(id, asked),
            Happening::KillOrphans(life, id, generation) if life == self.life => {
                let place = self.host.place(&id);
                if place.shim.is_none() {
                    place.children.clear();
                    self.tell_in_order(&id.clone(), Event::OrphansGone { instance: id, generation });
                }
            }
            Happening::AgentStarts if self.supervisor.is_none() => self.start_agent(),
            Happening::Crash(id, incarnation) => self.end_child(&id, incarnation, Some(1)),
            Happening::CommandEnds(life, job, success) => self.command_ends(life, job, success),
            Happening::JobEnds(id, incarnation, code) => self.end_child(&id, incarnation, Some(code)),
            _ => {}
        }
    }

    /// A write of a life that ended with the machine is lost.
    fn boot_of(&self, life: u64) -> bool {
        life >= self.judge.first_life_of_boot
    }

    fn begin(&mut self, life: u64, boot: u64, launch: Launch) {
        let (instance, generation) = (launch.instance.clone(), launch.generation);
        if self.launching.get(&instance) == Some(&generation) {
            self.launching.remove(&instance);
        }
        if boot != self.boot {
            return;
        }
        let begun = self.host.begin(self.now, launch);
        if life != self.life {
            return;
        }
        if begun {
            self.connected.insert(instance.clone());
            let state = self.host.place(&instance).shim.as_ref().map(|s| s.state.clone()).unwrap_or_default();
            self.tell_in_order(&instance.clone(), Event::Shim { instance, state });
        } else {
            let reason = "the lock is held, or the generation is over".into();
            self.tell_in_order(&instance.clone(), Event::LaunchFailed { instance, generation, reason });
        }
    }

    fn end_child(&mut self, id: &InstanceId, incarnation: Incarnation, code: Option<i32>) {
        if self.host.place(id).children.iter().any(|c| c.incarnation == incarnation) {
            self.host.child_ends(self.now, id, code);
        }
    }

    /// Jobs end by themselves, and a bad version crashes.
    fn plan_endings(&mut self) {
        let mut endings = Vec::new();
        for (id, place) in &mut self.host.places {
            for child in &mut place.children {
                if child.job {
                    child.job = false;
                    endings.push((id.clone(), child.incarnation, true));
                } else if child.crashes {
                    child.crashes = false;
                    endings.push((id.clone(), child.incarnation, false));
                }
            }
        }
        for (id, incarnation, job) in endings {
            let wait = Duration::from_millis(10 + self.rng.below(400));
            let code = i32::from(!self.calm() && self.rng.below(3) == 0);
            let what = if job { Happening::JobEnds(id, incarnation, code) } else { Happening::Crash(id, incarnation) };
            self.later(wait, what);
        }
    }

    pub(crate) fn stall_of(&self, service: &Arc<str>) -> Option<(Timestamp, Timestamp)> {
        self.stalls.get(service).copied()
    }

    pub(crate) fn stalled(&self, id: &InstanceId, now: Timestamp) -> bool {
        self.stall_of(&id.service).is_some_and(|(from, until)| now >= from && now < until)
    }

    pub(crate) fn replicas(&self, name: &Arc<str>) -> u32 {
        let of_file = self.desired.get(name).map_or(0, |d| d.service.replicas);
        self.scale.get(name).copied().unwrap_or(of_file)
    }

    /// What the service may lose by holdfast's own acts; `None` when the instance is not wanted.
    pub(crate) fn limits(&self, id: &InstanceId) -> Option<Limits> {
        let definition = self.desired.get(&id.service)?;
        let replicas = self.replicas(&id.service);
        let service = &definition.service;
        let others = replicas.saturating_sub(1);
        Some(Limits {
            others,
            min_available: service.min_available.min(replicas.saturating_sub(1)),
            max_unavailable: service.max_unavailable,
        })
    }

    /// What is not yet as it should be.
    fn unfinished(&self) -> Option<String> {
        let supervisor = self.supervisor.as_ref()?;
        let status = supervisor.status(self.now);
        if self.redundant {
            let settled = status.services.values().all(|s| s.settled);
            let states =
                || status.services.values().flat_map(|s| &s.instances).map(|i| format!("{} {}", i.id, i.state));
            return (!settled).then(|| states().collect::<Vec<_>>().join(", "));
        }
        for (name, definition) in &self.desired {
            for ordinal in 1..=self.replicas(name) {
                let id = InstanceId::new(name.clone(), ordinal);
                let job = definition.service.kind == Kind::Job;
                let found = status.services.get(name).and_then(|s| s.instances.iter().find(|i| i.id == id));
                let state = found.map_or("missing", |i| i.state);
                let lives = self.host.places.get(&id).is_some_and(|p| p.shim.is_some() && p.children.len() == 1);
                if job && !matches!(state, "completed" | "failed") || !job && (state != "ready" || !lives) {
                    return Some(format!("{id} is {state}: {}", found.map_or("", |i| &i.reason)));
                }
                if found.is_some_and(|i| i.outdated) {
                    return Some(format!("{id} runs an old definition"));
                }
            }
        }
        for (id, place) in &self.host.places {
            let wanted = self.desired.contains_key(&id.service) && id.ordinal <= self.replicas(&id.service);
            if !wanted && (place.shim.is_some() || !place.children.is_empty()) {
                return Some(format!("{id} is still there"));
            }
        }
        None
    }
}

fn probe(every: u64, timeout: u64) -> Probe {
    Probe {
        check: Check::Tcp,
        every: Duration::from_millis(every),
        timeout: Duration::from_millis(timeout),
        thresholds: Thresholds::default(),
        within: Duration::from_secs(30),
    }
}

fn service(name: &str, replicas: u32) -> Service {
    Service {
        replicas,
        port: Port::Assigned,
        ready: Some(probe(500, 300)),
        live: Some(probe(1000, 500)),
        stop: Stop { command: None, signal: 15, grace: Duration::from_secs(2), drain: Duration::from_secs(1) },
        min_available: replicas.saturating_sub(1),
        ..Service::new(name, Command::Argv(vec![name.into()]))
    }
}

/// A database with a standby or two, and a command that fences what cannot be ended otherwise.
fn redundant(rng: &mut Rng) -> BTreeMap<Arc<str>, Arc<Definition>> {
    let (_, tier) = Tier::ALL[rng.below(3) as usize];
    let mut standby = Standby::new(tier, 1 + rng.below(2) as u32);
    let argv = |yes: bool| yes.then(|| vec!["it".to_owned()]);
    standby.fence = argv(true);
    standby.promote = argv(rng.below(2) == 0);
    standby.demote = argv(rng.below(2) == 0);
    standby.restore = argv(tier == Tier::Cold && rng.below(2) == 0);
    standby.warm = if tier == Tier::Warm && rng.below(2) == 0 { Warm::Stopped } else { Warm::Paused };
    standby.failback = if rng.below(3) == 0 { Failback::Preferred } else { Failback::Sticky };
    standby.stable_for = Duration::from_secs(20);
    let mut db = service("db", standby.count + 1);
    // A stall of all has no witness where the others do not run.
    db.live = db.live.filter(|_| tier == Tier::Hot);
    (db.fenced, db.min_available, db.standby) = (true, 0, Some(standby));
    BTreeMap::from([(Arc::from("db"), Arc::new(Definition::new(db)))])
}

/// A job, a database that must never run twice, and two tiers in front of it.
fn services(rng: &mut Rng) -> BTreeMap<Arc<str>, Arc<Definition>> {
    let mut job = service("job", 1);
    (job.kind, job.ready, job.live, job.port) = (Kind::Job, None, None, Port::None);
    job.restart.when = restart::When::OnFailure;
    let mut store = service("store", 1);
    (store.fenced, store.port) = (true, Port::Fixed(9000));
    store.after.insert("job".into(), Condition::Completed);
    let mut api = service("api", 2 + rng.below(2) as u32);
    api.after.insert("store".into(), Condition::Started);
    let mut web = service(SERVICE, 1 + rng.below(4) as u32);
    web.after.insert("api".into(), Condition::Ready);
    web.startup = (rng.below(2) == 0).then(|| probe(200, 100));
    if rng.below(3) == 0 {
        web.max_unavailable = 2;
        web.min_available = web.min_available.saturating_sub(1);
    }
    let define = |s: Service| {
        let mut definition = Definition::new(s.clone());
        definition.balanced = s.name == SERVICE;
        (Arc::from(s.name.as_str()), Arc::new(definition))
    };
    [job, store, api, web].into_iter().map(define).collect()
}
