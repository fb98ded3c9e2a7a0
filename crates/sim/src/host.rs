//! The simulated machine: shims with the real restart machine, their children, and the run directories.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_policy::lease::FencingToken;
use holdfast_policy::restart::{Ended, Machine, Next};
use holdfast_policy::rng::Rng;
use holdfast_policy::{Incarnation, InstanceId, Timestamp};
use holdfast_services::supervisor::{Exit, Launch, Request, Role, ShimPhase, ShimState};

/// A process of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) incarnation: Incarnation,
    /// Answers from then on.
    pub(crate) ready_at: Timestamp,
    /// Does not answer until then.
    pub(crate) hung_until: Timestamp,
    /// A single probe of it was lost last at this time.
    pub(crate) missed_at: Option<Timestamp>,
    /// Says that it is not ready until then.
    pub(crate) refuses_until: Timestamp,
    pub(crate) fenced: bool,
    pub(crate) job: bool,
    /// This version of the program ends soon after its start.
    pub(crate) crashes: bool,
    /// It answered a readiness probe of its own incarnation.
    pub(crate) passed: bool,
    /// It ever said no.
    pub(crate) refused: bool,
    /// Of a redundant service, and whether it acts as the active one.
    pub(crate) member: bool,
    pub(crate) active: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    Run,
    Rest,
}

#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) state: ShimState,
    machine: Machine,
    intent: Intent,
    pub(crate) launch: Launch,
    /// When the next child is due, and whether that is a restart, which needs the grant.
    next_start: Option<(Timestamp, bool)>,
    /// The child has its signal: when it ends, and whether another follows.
    stopping: Option<(Timestamp, bool)>,
}

/// `run/INSTANCE`.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// Generation in `spec.json`.
    pub(crate) spec: u64,
    /// Up to here nothing may begin any more.
    pub(crate) dead: u64,
    /// It holds the lock.
    pub(crate) shim: Option<Shim>,
    pub(crate) children: Vec<Child>,
    /// Its shim is stopped (SIGSTOP) from then until then, and its child with it.
    pub(crate) stopped: Option<(Timestamp, Timestamp)>,
    /// Newest token of the token file.
    pub(crate) token: Option<FencingToken>,
    /// Last state of a shim that died.
    pub(crate) left: Option<ShimState>,
    pub(crate) launches: Vec<Timestamp>,
}

/// What the judge wants to know.
#[derive(Debug)]
pub(crate) enum Note {
    Stale(InstanceId, Incarnation, Incarnation),
}

pub(crate) struct Host {
    pub(crate) places: BTreeMap<InstanceId, Place>,
    pub(crate) rng: Rng,
    /// States that shims want to tell.
    pub(crate) told: Vec<(InstanceId, ShimState)>,
    pub(crate) notes: Vec<Note>,
    /// Commands for another incarnation are refused.
    pub(crate) checks_incarnation: bool,
    /// The program's version that crashes, if any.
    pub(crate) bad_definition: Option<u64>,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Host {
    pub(crate) fn new(rng: Rng, checks_incarnation: bool) -> Host {
        Host {
            places: BTreeMap::new(),
            rng,
            told: Vec::new(),
            notes: Vec::new(),
            checks_incarnation,
            bad_definition: None,
        }
    }

    pub(crate) fn place(&mut self, id: &InstanceId) -> &mut Place {
        self.places.entry(id.clone()).or_default()
    }

    /// The shim process begins: it takes the lock or leaves.
    pub(crate) fn begin(&mut self, now: Timestamp, launch: Launch) -> bool {
        let id = launch.instance.clone();
        let seed = self.rng.next_u64();
        let place = self.place(&id);
        if place.shim.is_some() || launch.generation <= place.dead || launch.generation != place.spec {
            return false;
        }
        let service = &launch.definition.service;
        let oneshot = service.kind == holdfast_config::Kind::Job;
        let state = ShimState {
            incarnation: Incarnation { generation: launch.generation, run: 0 },
            granted: true,
            definition: Some(launch.definition.hash),
            port: launch.port,
            deadline: launch.deadline,
            role: launch.role,
            token: launch.token.max(place.token),
            ..ShimState::default()
        };
        place.token = state.token;
        place.stopped = None;
        place.shim = Some(Shim {
            state,
            machine: Machine::new(service.restart.clone(), oneshot, Rng::from_seed(seed)),
            intent: Intent::Run,
            launch,
            next_start: Some((now, false)),
            stopping: None,
        });
        self.tick(now);
        true
    }

    pub(crate) fn next_deadline(&self, now: Timestamp) -> Timestamp {
        let of = |place: &Place| {
            let Some(shim) = &place.shim else { return Timestamp::NEVER };
            if let Some((_, until)) = place.stopped {
                return until;
            }
            let start = shim.next_start.filter(|_| shim.may_start(now)).map_or(Timestamp::NEVER, |(at, _)| at);
            let stop = shim.stopping.map_or(Timestamp::NEVER, |(at, _)| at);
            let fence = match (shim.launch.definition.service.fenced, place.own_child()) {
                (true, true) if shim.stands_by() => shim.state.deadline.unwrap_or(Timestamp::NEVER),
                (true, true) => shim.state.deadline.unwrap_or(Timestamp::ZERO),
                _ => Timestamp::NEVER,
            };
            start.min(stop).min(fence)
        };
        self.places.values().map(of).min().unwrap_or(Timestamp::NEVER)
    }

    /// Everything that time brings about.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        let ids: Vec<InstanceId> = self.places.keys().cloned().collect();
        for id in ids {
            let Some(place) = self.places.get_mut(&id) else { continue };
            if place.is_stopped(now) {
                continue;
            }
            place.stopped = None;
            let own_child = place.own_child();
            let Some(shim) = &mut place.shim else { continue };
            let generation = shim.state.incarnation.generation;
            shim.machine.handle_time(now);
            let fenced = shim.launch.definition.service.fenced;
            let over = fenced && !shim.in_time(now);
            if over && own_child {
                place.children.retain(|c| c.incarnation.generation != generation);
                shim.stopping = None;
                shim.end(now, true, Some(9));
                shim.state.phase = ShimPhase::Starting;
                shim.next_start = (shim.intent == Intent::Run).then_some((now, false));
                self.changed(&id);
            } else if shim.stopping.is_some_and(|(at, _)| at <= now) {
                let again = shim.stopping.take().is_some_and(|(_, again)| again);
                place.children.retain(|c| c.incarnation.generation != generation);
                shim.end(now, true, Some(15));
                shim.machine.forget();
                shim.next_start = again.then_some((now, false));
                shim.state.phase = if again { ShimPhase::Backoff { until: now } } else { ShimPhase::Stopped };
                self.changed(&id);
            }
            self.start_due(now, &id);
        }
    }

    fn start_due(&mut self, now: Timestamp, id: &InstanceId) {
        let ready_at = now + ms(5 + self.rng.below(2) * self.rng.below(1500));
        let Some(place) = self.places.get_mut(id) else { return };
        let own_child = place.own_child();
        let Some(shim) = &mut place.shim else { return };
        let due = shim.next_start.is_some_and(|(at, _)| at <= now) && shim.may_start(now) && !own_child;
        if !due {
            return;
        }
        shim.next_start = None;
        shim.state.incarnation.run += 1;
        shim.state.restarts = u64::from(shim.state.incarnation.run - 1);
        shim.state.phase = ShimPhase::Running;
        shim.state.since = now;
        shim.state.ready_at = None;
        shim.state.stopped_at = None;
        shim.state.pid = Some(1000 + shim.state.incarnation.run);
        shim.machine.handle_started(now);
        let definition = &shim.launch.definition;
        let child = Child {
            incarnation: shim.state.incarnation,
            ready_at,
            hung_until: Timestamp::ZERO,
            missed_at: None,
            refuses_until: Timestamp::ZERO,
            fenced: definition.service.fenced,
            job: definition.service.kind == holdfast_config::Kind::Job,
            crashes: self.bad_definition == Some(definition.hash),
            passed: false,
            refused: false,
            member: definition.service.standby.is_some(),
            active: definition.service.standby.is_some() && shim.state.role == Role::Active,
        };
        place.children.push(child);
        self.changed(id);
    }

    pub(crate) fn changed(&mut self, id: &InstanceId) {
        let Some(shim) = self.places.get_mut(id).and_then(|p| p.shim.as_mut()) else { return };
        shim.state.seq += 1;
        self.told.push((id.clone(), shim.state.clone()));
    }

    /// A child ends on its own, or by a signal from outside.
    pub(crate) fn child_ends(&mut self, now: Timestamp, id: &InstanceId, code: Option<i32>) {
        let Some(place) = self.places.get_mut(id) else { return };
        let own_child = place.own_child();
        let Some(shim) = place.shim.as_mut().filter(|_| own_child) else { return place.children.clear() };
        let generation = shim.state.incarnation.generation;
        place.children.retain(|c| c.incarnation.generation != generation);
        let signal = if code.is_none() { Some(9) } else { None };
        shim.end(now, shim.stopping.is_some(), signal);
        if let Some(exit) = &mut shim.state.last_exit {
            exit.code = code;
        }
        if let Some((_, again)) = shim.stopping.take() {
            shim.next_start = again.then_some((now, false));
            shim.state.phase = if again { ShimPhase::Backoff { until: now } } else { ShimPhase::Stopped };
        } else {
            let decision = shim.machine.handle_exit(now, code.map_or(Ended::Signal(9), Ended::Code));
            shim.state.failures = shim.machine.failures();
            match decision.next {
                Next::Start { at } => {
                    let at = at.max(now + shim.state.hold);
                    shim.next_start = Some((at, true));
                    shim.state.phase = ShimPhase::Backoff { until: at };
                }
                Next::Completed => shim.state.phase = ShimPhase::Finished { success: true },
                Next::Failed => shim.state.phase = ShimPhase::Finished { success: false },
            }
        }
        self.changed(id);
    }

    /// SIGKILL to the shim: a fenced child dies with it, another is orphaned.
    pub(crate) fn kill_shim(&mut self, id: &InstanceId) {
        let Some(place) = self.places.get_mut(id) else { return };
        if let Some(shim) = place.shim.take() {
            place.left = Some(shim.state);
            place.children.retain(|c| !c.fenced);
        }
    }

    pub(crate) fn command(&mut self, now: Timestamp, id: &InstanceId, meant: Incarnation, request: Request) {
        let delay = ms(self.rng.below(800));
        let Some(place) = self.places.get_mut(id) else { return };
        if place.is_stopped(now) {
            return;
        }
        let alive = place.own_child();
        let Some(shim) = &mut place.shim else { return };
        let own = shim.state.incarnation;
        let names_one = matches!(request, Request::Stop | Request::Restart | Request::Kill | Request::Ready)
            || matches!(request, Request::Activate(_) | Request::Freeze(_));
        if names_one && meant != own || request == Request::Quit && meant.generation != own.generation {
            if self.checks_incarnation {
                return;
            }
            self.notes.push(Note::Stale(id.clone(), meant, own));
        }
        match request {
            Request::Stop => {
                shim.intent = Intent::Rest;
                shim.next_start = None;
                if alive {
                    shim.stopping = Some((now + delay, false));
                    shim.state.phase = ShimPhase::Stopping;
                } else {
                    shim.state.phase = ShimPhase::Stopped;
                }
            }
            Request::Restart => {
                shim.intent = Intent::Run;
                if alive {
                    shim.stopping = Some((now + delay, true));
                    shim.state.phase = ShimPhase::Stopping;
                } else {
                    shim.machine.forget();
                    shim.next_start = Some((now, false));
                }
            }
            Request::Kill if alive => return self.child_ends(now, id, None),
            Request::Kill => return,
            Request::Quit => {
                place.children.retain(|c| c.incarnation.generation != own.generation);
                place.dead = place.dead.max(own.generation);
                place.left = place.shim.take().map(|s| s.state);
                return;
            }
            Request::Deadline(at) => {
                let bound = alive || shim.launch.definition.service.standby.is_some();
                let lapsed = bound && shim.state.deadline.is_some_and(|d| d <= now);
                if at <= now || lapsed {
                    return;
                }
                shim.state.deadline = Some(shim.state.deadline.map_or(at, |d| d.max(at)));
            }
            Request::Grant { restart } => shim.state.granted = restart,
            Request::Hold(time) => shim.state.hold = time,
            Request::Activate(token) => {
                if shim.state.token.is_some_and(|known| token < known) {
                    return;
                }
                (shim.state.role, shim.state.token, place.token) = (Role::Active, Some(token), Some(token));
                place.children.iter_mut().for_each(|c| c.active = c.member);
            }
            Request::Freeze(frozen) => shim.state.stopped_at = (frozen && alive).then_some(now),
            Request::Ready => {
                shim.machine.handle_ready(now);
                shim.state.ready_at.get_or_insert(now);
            }
        }
        self.changed(id);
        self.tick(now);
    }

    /// Everything dies, and the disk keeps what was synced.
    pub(crate) fn reboot(&mut self) {
        for place in self.places.values_mut() {
            place.shim = None;
            place.stopped = None;
            place.children.clear();
            place.left = None;
        }
    }
}

impl Place {
    pub(crate) fn is_stopped(&self, now: Timestamp) -> bool {
        self.deaf_since(now).is_some()
    }

    pub(crate) fn deaf_since(&self, now: Timestamp) -> Option<Timestamp> {
        self.stopped.filter(|(_, until)| now < *until && self.shim.is_some()).map(|(from, _)| from)
    }

    /// The living shim's own child; an orphan of an earlier one is nothing that it knows of.
    fn own_child(&self) -> bool {
        let generation = self.shim.as_ref().map(|s| s.state.incarnation.generation);
        self.children.iter().any(|c| Some(c.incarnation.generation) == generation)
    }
}

impl Shim {
    fn may_start(&self, now: Timestamp) -> bool {
        let granted = self.state.granted || self.next_start.is_some_and(|(_, restart)| !restart);
        let fenced = !self.launch.definition.service.fenced || self.in_time(now);
        self.intent == Intent::Run && granted && fenced
    }

    /// Launched without a lease.
    fn stands_by(&self) -> bool {
        matches!(self.launch.role, Role::Standby | Role::Dry)
    }

    fn in_time(&self, now: Timestamp) -> bool {
        self.state.deadline.map_or(self.stands_by(), |at| at > now)
    }

    fn end(&mut self, now: Timestamp, wanted: bool, signal: Option<i32>) {
        self.state.pid = None;
        self.state.last_exit = Some(Exit { at: now, code: None, signal, out_of_memory: false, wanted });
    }
}
