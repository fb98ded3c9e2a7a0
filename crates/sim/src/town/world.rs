//! True time, and all that is due in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::members::{ALIVE, Assignment};
use holdfast_policy::lease::FencingToken;
use holdfast_policy::rng::Rng;
use holdfast_policy::{Incarnation, InstanceId, Timestamp};
use holdfast_services::supervisor::{Definition, Event, Job, Launch, Record, Request};

use super::TownRules;
use super::agent::Agent;
use super::calls::{Call, Reply};
use super::clock::{Clock, DRIFT_PPM};
use super::judge::Judge;
use super::net::Net;
use super::store::Store;
use super::wanted;
use crate::host::Host;

/// Lines kept for the report of a violation.
const TAIL: usize = 20_000;
/// An answer of the store is waited for so long.
const ANSWER: Duration = Duration::from_secs(2);
/// Events of one moment; more is a loop without end.
const EVENTS_AT_ONCE: u64 = 50_000;

/// Reaches an agent.
#[derive(Debug)]
pub(super) enum Note {
    Event(Box<Event>),
    Answer(u64, Reply),
    /// The watch has something up to this revision.
    Pushed,
    Probed(bool),
    Peers(Timestamp, holdfast_policy::vip::Peers),
}

/// Happens on a machine whether or not its agent lives.
#[derive(Debug)]
pub(super) enum Deed {
    Command(InstanceId, Incarnation, Request),
    Written(u64, Record),
    Begin(u64, Launch),
    Prove(u64, InstanceId, u64),
    KillOrphans(u64, InstanceId, u64),
    JobEnds(u64, Job, bool),
}

#[derive(Debug)]
pub(super) enum Happening {
    Wake(usize),
    /// Machine, life of its agent.
    Agent(usize, u64, Note),
    /// Machine, its boot.
    Deed(usize, u64, Deed),
    Call(usize, u64, u64, Call),
    LeaseEnds,
    Compact,
    AskPeers(usize, u64, Timestamp),
    Fault,
    Resume(usize),
    AgentStarts(usize, u64),
    Boots(usize),
}

pub(super) struct Machine {
    pub(super) name: String,
    pub(super) alive_key: String,
    pub(super) clock: Clock,
    /// Wall clock against true time.
    pub(super) wall_off: Duration,
    pub(super) boot: u64,
    pub(super) up: bool,
    /// The whole machine stands still until then.
    pub(super) paused_until: Timestamp,
    pub(super) frozen: bool,
    pub(super) host: Host,
    /// On its disk.
    pub(super) records: BTreeMap<InstanceId, Record>,
    pub(super) kept: Assignment,
    pub(super) token: FencingToken,
    /// When its agent learnt that the store was set back.
    pub(super) set_back: Option<Timestamp>,
    pub(super) launching: BTreeMap<InstanceId, u64>,
    pub(super) connected: BTreeSet<InstanceId>,
    pub(super) channel: BTreeMap<InstanceId, Timestamp>,
    pub(super) next_port: u16,
    pub(super) life: u64,
    pub(super) agent: Option<Agent>,
    pub(super) agent_paused_until: Timestamp,
    /// True time at which its kernel lets the virtual address go.
    pub(super) address: Option<Timestamp>,
    wake: Timestamp,
}

impl Machine {
    pub(super) fn local(&self, now: Timestamp) -> Timestamp {
        self.clock.local(now)
    }

    pub(super) fn wall_ms(&self, now: Timestamp) -> u64 {
        (now + self.wall_off).as_millis()
    }

    /// Its agent lives and gets time to run.
    pub(super) fn agent_runs(&self, now: Timestamp) -> bool {
        self.up && !self.frozen && self.agent.is_some() && now >= self.agent_paused_until
    }
}

pub(super) struct Town {
    pub(super) now: Timestamp,
    pub(super) rng: Rng,
    pub(super) rules: TownRules,
    due: BTreeMap<(Timestamp, u64), Box<Happening>>,
    count: u64,
    pub(super) store: Store,
    pub(super) net: Net,
    pub(super) machines: Vec<Machine>,
    pub(super) services: BTreeMap<Arc<str>, Arc<Definition>>,
    pub(super) calm: bool,
    pub(super) judge: Judge,
    pub(super) handled: u64,
    pub(super) lives: u64,
    pub(super) requests: u64,
    pub(super) tail: VecDeque<String>,
}

impl Town {
    pub(super) fn new(seed: u64, rules: TownRules) -> Town {
        let mut rng = Rng::from_seed(seed.wrapping_mul(0x9E37_79B9).wrapping_add(77));
        let count = 3 + rng.below(3) as usize;
        Town::of(rng, count, |rng| wanted::services(rng, count as u32), rules)
    }

    pub(super) fn of(
        mut rng: Rng,
        count: usize,
        services: impl FnOnce(&mut Rng) -> BTreeMap<Arc<str>, Arc<Definition>>,
        rules: TownRules,
    ) -> Town {
        let services = services(&mut rng);
        let machines = (0..count).map(|m| machine(m, &mut rng)).collect();
        let store = Store::new(drift(&mut rng));
        Town {
            now: Timestamp::from_millis(10_000),
            rules,
            due: BTreeMap::new(),
            count: 0,
            store,
            net: Net::new(count),
            machines,
            services,
            calm: false,
            judge: Judge::default(),
            handled: 0,
            lives: 0,
            requests: 0,
            tail: VecDeque::new(),
            rng,
        }
    }

    pub(super) fn note(&mut self, text: impl AsRef<str>) {
        if self.judge.violation.is_some() {
            return;
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(format!("{:?} {}", self.now, text.as_ref()));
    }

    pub(super) fn later(&mut self, wait: Duration, what: Happening) {
        self.at(self.now + wait, what);
    }

    pub(super) fn at(&mut self, at: Timestamp, what: Happening) {
        self.count += 1;
        self.due.insert((at.max(self.now), self.count), Box::new(what));
    }

    pub(super) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        let mut at_once = 0;
        while self.judge.violation.is_none() {
            let Some(entry) = self.due.first_entry().filter(|e| e.key().0 <= end) else { break };
            let ((at, _), what) = entry.remove_entry();
            at_once = if at > self.now { 0 } else { at_once + 1 };
            if at_once > EVENTS_AT_ONCE {
                return self.violate("time does not pass: something is due again and again");
            }
            self.now = at;
            self.happen(*what);
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, what: Happening) {
        let now = self.now;
        match what {
            Happening::Wake(m) => {
                if self.machines[m].wake > now {
                    return;
                }
                self.machines[m].wake = Timestamp::NEVER;
                self.settle(m);
            }
            Happening::Agent(m, life, note) => {
                let machine = &self.machines[m];
                if machine.life != life || machine.agent.is_none() {
                    return;
                }
                if !machine.agent_runs(now) {
                    let until = machine.paused_until.max(machine.agent_paused_until);
                    return self.at(until, Happening::Agent(m, life, note));
                }
                self.notice(m, note);
                self.settle(m);
            }
            Happening::Deed(m, boot, deed) => {
                let machine = &self.machines[m];
                if machine.boot != boot || !machine.up {
                    return;
                }
                if machine.frozen {
                    let until = machine.paused_until;
                    return self.at(until, Happening::Deed(m, boot, deed));
                }
                self.judge.host_moved = true;
                self.perform_deed(m, deed);
                self.settle(m);
            }
            Happening::Call(m, life, request, call) => self.arrives(m, life, request, call),
            Happening::LeaseEnds => {
                self.store.expire(now);
                self.after_store();
            }
            Happening::Compact => self.store.compact(),
            Happening::AskPeers(m, life, asked) => self.ask_peers(m, life, asked),
            Happening::Fault => self.fault(),
            Happening::Resume(m) => self.resume(m),
            Happening::AgentStarts(m, boot) => {
                if self.machines[m].boot == boot && self.machines[m].up && self.machines[m].agent.is_none() {
                    self.start_agent(m);
                    self.settle(m);
                }
            }
            Happening::Boots(m) => self.boot(m),
        }
        if std::mem::take(&mut self.judge.host_moved) {
            self.look();
        }
    }

    /// Everything that is due on a machine now, and when it is to be looked at again.
    pub(super) fn settle(&mut self, m: usize) {
        let now = self.now;
        let machine = &mut self.machines[m];
        if !machine.up || machine.frozen {
            return;
        }
        let local = machine.local(now);
        if machine.address.is_some_and(|end| end <= now) {
            machine.address = None;
        }
        if machine.host.next_deadline(local) <= local {
            machine.host.tick(local);
            self.judge.host_moved = true;
        }
        self.carry(m);
        if self.machines[m].agent_runs(now) {
            self.run_agent(m);
        }
        let machine = &self.machines[m];
        let local = machine.local(now);
        let mut next = machine.host.next_deadline(local);
        if machine.agent_runs(now) {
            next = next.min(machine.agent.as_ref().map_or(Timestamp::NEVER, |agent| agent.next_deadline(local)));
        }
        let mut at = machine.clock.when(next).max(now + Duration::from_micros(1));
        at = at.min(machine.address.unwrap_or(Timestamp::NEVER));
        if machine.agent.is_some() && now < machine.agent_paused_until {
            at = at.min(machine.agent_paused_until);
        }
        if at < machine.wake {
            self.machines[m].wake = at;
            self.at(at, Happening::Wake(m));
        }
    }

    /// A request goes to the store; its answer, or that there is none, comes back.
    pub(super) fn ask(&mut self, m: usize, call: Call) -> u64 {
        self.requests += 1;
        let (request, life) = (self.requests, self.machines[m].life);
        let to = self.net.store();
        if let Some(wait) = self.net.send(self.now, &mut self.rng, m, to) {
            self.later(wait, Happening::Call(m, life, request, call));
        }
        self.later(ANSWER, Happening::Agent(m, life, Note::Answer(request, Reply::Unavailable)));
        request
    }

    fn arrives(&mut self, m: usize, life: u64, request: u64, call: Call) {
        if self.now < self.store.away_until {
            return;
        }
        let reply = self.serve(m, call);
        self.after_store();
        if let Some(wait) = self.net.send(self.now, &mut self.rng, self.net.store(), m) {
            self.later(wait, Happening::Agent(m, life, Note::Answer(request, reply)));
        }
    }

    /// Tells watches, and looks when the next lease ends.
    pub(super) fn after_store(&mut self) {
        let next = self.store.next_expiry();
        if next < self.judge.next_expiry || self.judge.next_expiry <= self.now {
            self.judge.next_expiry = next;
            if next != Timestamp::NEVER {
                self.at(next, Happening::LeaseEnds);
            }
        }
        if self.store.revision() == self.judge.told_revision {
            return;
        }
        self.judge.told_revision = self.store.revision();
        self.note_leases();
        for m in 0..self.machines.len() {
            if self.machines[m].agent.is_some()
                && let Some(wait) = self.net.send(self.now, &mut self.rng, self.net.store(), m)
            {
                let life = self.machines[m].life;
                self.later(wait, Happening::Agent(m, life, Note::Pushed));
            }
        }
    }

    pub(super) fn violate(&mut self, what: impl Into<String>) {
        let now = self.now;
        let what = what.into();
        self.note(format!("VIOLATION: {what}"));
        self.judge.violation.get_or_insert(format!("at {now:?}: {what}"));
    }
}

fn drift(rng: &mut Rng) -> i64 {
    i64::try_from(rng.below(2 * DRIFT_PPM)).unwrap_or(0) - DRIFT_PPM as i64
}

fn machine(m: usize, rng: &mut Rng) -> Machine {
    let clock = Clock::new(Timestamp::ZERO, Duration::from_millis(rng.below(5_000_000)), drift(rng));
    Machine {
        name: format!("n{}", m + 1),
        alive_key: format!("{ALIVE}n{}", m + 1),
        clock,
        wall_off: Duration::from_millis(1_000_000 + rng.below(2_000)),
        boot: 1,
        up: true,
        paused_until: Timestamp::ZERO,
        frozen: false,
        host: Host::new(Rng::from_seed(rng.next_u64()), true),
        records: BTreeMap::new(),
        kept: Assignment::default(),
        token: FencingToken::default(),
        set_back: None,
        launching: BTreeMap::new(),
        connected: BTreeSet::new(),
        channel: BTreeMap::new(),
        next_port: 20_000,
        life: 0,
        agent: None,
        agent_paused_until: Timestamp::ZERO,
        address: None,
        wake: Timestamp::NEVER,
    }
}
