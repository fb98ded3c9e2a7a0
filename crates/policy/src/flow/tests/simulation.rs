//! Sagas against participants with a barrier, over a network that loses, repeats, delays and reorders, with an engine that dies
//! at every point of its turn. Money is never made and never lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

/// Events of one case; a case that needs more does not come to an end.
const TURNS_MAX: usize = 5_000;
/// While something is on its way, time does not run on for longer than this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Slots of the pool that the fan-out needs.
const SLOTS: usize = 2;

/// How a participant behaves on its first attempts at one operation of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Business,
    /// It says that it failed, and did nothing.
    Refuses,
    /// It did it, and nobody hears of it.
    AnswerLost,
    /// It neither did it nor answered.
    CallLost,
}

/// Where the engine dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    Never,
    BeforeStoring,
    AfterStoring,
    HalfWayThroughActions,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    step: usize,
    operation: Operation,
    fault: Fault,
    crash: Crash,
}

const STEPS: [&str; 5] = ["reserve", "charge", "parts", "ship", "mail"];

fn definition(case: &Case) -> Definition {
    let limits = Limits { run: Some(Duration::from_secs(10)), ..Limits::default() };
    let parts = Step { each: each(&["a", "b", "c"], 2, 0), pool: Some("db".into()), ..undoable("parts", &["reserve"]) };
    let ship = of_kind(Kind::Pivot, "ship", &["charge", "parts"]);
    let steps = vec![undoable("reserve", &[]), undoable("charge", &["reserve"]), parts, ship, step("mail", &["ship"])];
    let steps = steps.into_iter().map(|step| Step { limits, ..step }).collect();
    let timeout = (case.seed % 6 == 4).then_some(Duration::from_secs(40));
    let round_delay = Duration::from_secs(5);
    Definition { rounds: (case.seed % 2) as u32, round_delay, timeout, ..workflow(steps) }
}

/// All participants together: one table of barrier rows, and what each action has moved.
#[derive(Default)]
struct World {
    rows: BTreeSet<String>,
    moved: BTreeMap<(u32, String, u32), i64>,
    account: i64,
    others: i64,
}

impl World {
    /// One transaction. An undo first takes the row of its action, so that one that comes later finds it taken.
    fn execute(&mut self, key: &Key) {
        let fresh = self.rows.insert(Key { operation: Operation::Do, ..key.clone() }.barrier());
        let by = match key.operation {
            Operation::Do => i64::from(fresh),
            Operation::Undo => {
                let first = self.rows.insert(key.barrier());
                if first && !fresh { -1 } else { 0 }
            }
        };
        *self.moved.entry((key.round, key.step.clone(), key.item)).or_default() += by;
        self.account -= by * 10;
        self.others += by * 10;
    }

    fn check(&self, case: &Case) {
        assert_eq!(self.account + self.others, 0, "{case:?}");
        assert!(self.moved.values().all(|n| (0..=1).contains(n)), "{case:?}: {:?}", self.moved);
    }

    fn is_clean(&self, round: u32) -> bool {
        self.moved.iter().all(|((of, ..), n)| *of != round || *n == 0)
    }
}

/// Engine, network and participants of one case.
struct Sim {
    case: Case,
    run: Run,
    stored: State,
    now: Timestamp,
    rng: Rng,
    world: World,
    calls: Vec<Key>,
    events: Vec<Event>,
    held: BTreeSet<String>,
    asking: VecDeque<Key>,
    crashes_left: u32,
    ends: u32,
    cancelled: bool,
}

impl Sim {
    fn new(case: Case) -> Sim {
        let submission = Submission { run: "r".into(), ..Submission::default() };
        let run = Run::new(Arc::new(definition(&case)), submission, Timestamp::ZERO).unwrap();
        Sim {
            case,
            stored: run.state().clone(),
            run,
            now: Timestamp::ZERO,
            rng: Rng::from_seed(case.seed * 7_919 + case.step as u64 * 31 + case.fault as u64),
            world: World::default(),
            calls: Vec::new(),
            events: Vec::new(),
            held: BTreeSet::new(),
            asking: VecDeque::new(),
            crashes_left: if case.crash == Crash::Never { 0 } else { 6 },
            ends: 0,
            cancelled: false,
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.rng.below(100) < percent
    }

    fn play(mut self) -> (RunPhase, u32) {
        self.deliver(Event::Begin);
        for _ in 0..TURNS_MAX {
            self.turn();
            self.world.check(&self.case);
            if self.run.state().phase.is_over() && self.events.is_empty() && self.ends > 0 {
                return self.finish();
            }
        }
        panic!("{:?} does not end: {:?}", self.case, self.run.state());
    }

    /// One thing happens: a call arrives, an answer arrives, a slot is free, or time passes.
    fn turn(&mut self) {
        if self.held.len() < SLOTS
            && let Some(key) = self.asking.pop_front()
        {
            self.held.insert(key.to_string());
            return self.deliver(Event::SlotGranted { key });
        }
        let (calls, events) = (self.calls.len() as u64, self.events.len() as u64);
        let pick = self.rng.below(calls + events + 1);
        if pick < calls {
            self.arrive(pick as usize);
        } else if pick < calls + events {
            let event = self.events.swap_remove((pick - calls) as usize);
            if self.chance(20) {
                self.events.push(event.clone());
            }
            self.deliver(event);
        } else if let Some(deadline) = self.run.next_deadline()
            && (deadline < self.now + PATIENCE || calls + events == 0)
        {
            self.now = self.now.max(deadline);
            self.deliver(Event::Time);
        }
        if self.case.seed.is_multiple_of(5) && !self.cancelled && self.chance(5) {
            self.cancelled = true;
            self.events.push(Event::Cancel { by: by("ann") });
        }
    }

    /// A call reaches its participant: once, twice, or it stays on the way.
    fn arrive(&mut self, n: usize) {
        let key = if self.chance(15) { self.calls[n].clone() } else { self.calls.swap_remove(n) };
        let odd = key.step == STEPS[self.case.step] && key.operation == self.case.operation && key.attempt <= 3;
        // Without another round a business failure is final; with one it is that of the first round.
        let fault = Some(self.case.fault).filter(|_| odd && key.round == 1);
        let outcome = match fault {
            Some(Fault::Business) => business(),
            Some(Fault::Refuses) => fails(),
            Some(Fault::CallLost) => return,
            Some(Fault::AnswerLost) => return self.world.execute(&key),
            None => {
                self.world.execute(&key);
                done()
            }
        };
        // Some answers are lost, and some calls that did their work still say that they run.
        match self.rng.below(10) {
            0 => {}
            1 if outcome == done() => self.events.push(Event::ended(&key, Outcome::StillRunning)),
            _ => self.events.push(Event::ended(&key, outcome)),
        }
    }

    /// The owner's turn: handle, store, act; it may die in between.
    fn deliver(&mut self, event: Event) {
        let dies = self.crashes_left > 0 && self.chance(8);
        self.run.handle(self.now, event.clone(), &mut self.rng);
        assert!(self.run.next_deadline().is_none_or(|at| at > self.now), "{:?}: it spins", self.case);
        if dies && self.case.crash == Crash::BeforeStoring {
            // The event is not lost where it is told until it is taken.
            self.events.push(event);
            return self.die();
        }
        self.stored = self.run.state().clone();
        if dies && self.case.crash == Crash::AfterStoring {
            return self.die();
        }
        let mut actions: Vec<Action> = std::iter::from_fn(|| self.run.poll_action()).collect();
        if dies {
            actions.truncate(actions.len() / 2);
        }
        actions.into_iter().for_each(|action| self.act(action));
        if dies {
            self.die();
        }
    }

    fn die(&mut self) {
        self.crashes_left -= 1;
        (self.held, self.asking) = (BTreeSet::new(), VecDeque::new());
        self.run = Run::from_state(Arc::new(definition(&self.case)), self.stored.clone()).unwrap();
        self.run.recover(self.now);
        self.stored = self.run.state().clone();
        let actions: Vec<Action> = std::iter::from_fn(|| self.run.poll_action()).collect();
        actions.into_iter().for_each(|action| self.act(action));
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(start) => {
                let before = start.key.round - 1;
                let clean = start.key.operation == Operation::Undo || before == 0 || self.world.is_clean(before);
                assert!(clean, "{:?}: rounds overlap", self.case);
                self.calls.push(start.key);
            }
            // The call may be on its way for ever; the engine's side of it is cut off.
            Action::Stop { key, .. } => self.events.push(Event::ended(&key, unknown())),
            Action::AcquireSlot { key, .. } => self.asking.push_back(key),
            Action::HoldSlot { key, .. } => drop(self.held.insert(key.to_string())),
            Action::ReleaseSlot { key, .. } => {
                self.held.remove(&key.to_string());
                self.asking.retain(|asking| *asking != key);
            }
            Action::Page { .. } => {}
            Action::Ended { .. } => self.ends += 1,
        }
    }

    /// What is still on its way arrives after the end, and must change nothing.
    fn finish(mut self) -> (RunPhase, u32) {
        let state = self.run.state().clone();
        assert!(self.held.is_empty() && self.asking.is_empty(), "{:?}: slots leak: {:?}", self.case, self.held);
        self.judge(&state);
        for key in std::mem::take(&mut self.calls) {
            self.world.execute(&key);
        }
        self.world.check(&self.case);
        self.judge(&state);
        (state.phase, state.round)
    }

    fn judge(&self, state: &State) {
        let done = |round: u32| self.world.moved.iter().filter(|((of, ..), n)| *of == round && **n == 1).count();
        match state.phase {
            RunPhase::Succeeded => {
                assert_eq!(done(state.round), 7, "{:?}: all that was done is there once", self.case);
                assert!((1..state.round).all(|round| self.world.is_clean(round)), "{:?}", self.case);
            }
            RunPhase::RolledBack => {
                assert_eq!(self.world.account, 0, "{:?}: {:?}", self.case, self.world.moved);
            }
            RunPhase::Cancelled => assert!(self.world.moved.is_empty(), "{:?}", self.case),
            other => panic!("{:?} ended {other:?}", self.case),
        }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for step in 0..STEPS.len() {
        for operation in [Operation::Do, Operation::Undo] {
            for fault in [Fault::Business, Fault::Refuses, Fault::AnswerLost, Fault::CallLost] {
                for crash in [Crash::Never, Crash::BeforeStoring, Crash::AfterStoring, Crash::HalfWayThroughActions] {
                    cases.extend((1..=6).map(|seed| Case { seed, step, operation, fault, crash }));
                }
            }
        }
    }
    cases
}

#[test]
fn money_is_neither_made_nor_lost_whatever_fails_and_whoever_dies() {
    let cases = cases();
    assert!(cases.len() >= 500);
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for case in cases {
        let (phase, round) = Sim::new(case).play();
        *ends.entry(format!("{} in round {round}", phase.name())).or_default() += 1;
    }
    // A simulation in which nothing ever goes back would show nothing.
    for end in ["succeeded in round 1", "succeeded in round 2", "rolled-back in round 1"] {
        assert!(ends.get(end).is_some_and(|n| *n >= 20), "{ends:?}");
    }
}

#[test]
fn the_barrier_makes_empty_repeated_and_late_calls_harmless() {
    let mut world = World::default();
    let (act, undo) = (long("a.do.1"), long("a.undo.1"));
    world.execute(&undo);
    assert_eq!(world.account, 0, "empty: there was nothing to undo");
    world.execute(&act);
    assert_eq!(world.account, 0, "hanging: the action comes after its undo");
    let (act, undo) = (long("b.do.1"), long("b.undo.1"));
    world.execute(&act);
    world.execute(&long("b.do.2"));
    assert_eq!(world.account, -10, "repeated: done once");
    world.execute(&undo);
    world.execute(&long("b.undo.2"));
    assert_eq!(world.account, 0, "undone once");
}
