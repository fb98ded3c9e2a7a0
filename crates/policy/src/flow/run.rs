//! The machine's face: submission, events, actions, status.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use super::definition::{Definition, Step, Work};
use super::graph::Graph;
use super::state::StepState;
use super::{
    Action, Call, Event, Item, Key, NOTES_MAX, Operation, Phase, Problem, RunPhase, RunStatus, State, StepPhase,
    StepStatus, Value,
};
use crate::rng::Rng;
use crate::{Timestamp, Transition};

/// Why there is no run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotARun {
    Definition(Vec<Problem>),
    Parameters(String),
    /// The name cannot be part of a key.
    Name(String),
    /// The stored state belongs to another definition.
    Mismatch {
        run: String,
        workflow: String,
    },
}

impl fmt::Display for NotARun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotARun::Definition(problems) => {
                let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
                write!(f, "the workflow cannot run: {}", texts.join("; "))
            }
            NotARun::Parameters(why) => f.write_str(why),
            NotARun::Name(name) => write!(f, "`{name}` cannot name a run: it is empty or has a slash"),
            NotARun::Mismatch { run, workflow } => {
                write!(f, "run {run} was not begun with this definition of {workflow}")
            }
        }
    }
}

impl std::error::Error for NotARun {}

/// What somebody asks for. Two with the same `run` are the same if all the rest is equal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submission {
    pub run: String,
    pub parameters: BTreeMap<String, Value>,
    /// Of the schedule, RFC 3339 in UTC.
    pub nominal: Option<String>,
}

/// One operation on one item of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) step: usize,
    pub(crate) item: u32,
    pub(crate) operation: Operation,
}

#[derive(Clone, Debug)]
pub struct Run {
    pub(crate) definition: Arc<Definition>,
    pub(crate) graph: Graph,
    pub(crate) state: State,
    pub(crate) actions: VecDeque<Action>,
    notes: VecDeque<Transition>,
    /// Something moved in this pass: there may be more to do.
    pub(crate) changed: bool,
}

impl Run {
    /// A run that waits for [`Event::Begin`]. Nothing is asked for yet.
    pub fn new(definition: Arc<Definition>, submission: Submission, now: Timestamp) -> Result<Run, NotARun> {
        let graph = Graph::new(&definition).map_err(NotARun::Definition)?;
        let Submission { run, parameters, nominal } = submission;
        if run.is_empty() || run.contains('/') {
            return Err(NotARun::Name(run));
        }
        let parameters = definition.accept(&parameters).map_err(NotARun::Parameters)?;
        let state = State {
            run,
            workflow: definition.name.clone(),
            parameters,
            nominal,
            version: 0,
            seen: now,
            began: now,
            ended: None,
            phase: RunPhase::Queued,
            paused: false,
            round: 1,
            rounds_again: 0,
            cause: None,
            again: false,
            pending: None,
            overdue: false,
            started: false,
            steps: definition.steps.iter().map(|_| StepState::fresh(1)).collect(),
            signals: BTreeMap::new(),
            signals_seen: VecDeque::new(),
            audit: VecDeque::new(),
        };
        Ok(Run::assemble(definition, graph, state))
    }

    /// A run as it was stored, with the definition it began with. Call [`Run::recover`] next.
    pub fn from_state(definition: Arc<Definition>, state: State) -> Result<Run, NotARun> {
        let graph = Graph::new(&definition).map_err(NotARun::Definition)?;
        if state.workflow != definition.name || state.steps.len() != definition.steps.len() {
            return Err(NotARun::Mismatch { run: state.run, workflow: definition.name.clone() });
        }
        Ok(Run::assemble(definition, graph, state))
    }

    fn assemble(definition: Arc<Definition>, graph: Graph, state: State) -> Run {
        Run { definition, graph, state, actions: VecDeque::new(), notes: VecDeque::new(), changed: false }
    }

    /// Somebody submits it again: the same is answered with this run, anything else is refused.
    pub fn is_same(&self, definition: &Definition, submission: &Submission) -> bool {
        let same = submission.run == self.state.run && submission.nominal == self.state.nominal;
        let parameters = definition.accept(&submission.parameters);
        same && definition.name == self.state.workflow && parameters.as_ref() == Ok(&self.state.parameters)
    }

    /// A time before that of an earlier event counts as that. `rng` gives the jitter of retries.
    pub fn handle(&mut self, now: Timestamp, event: Event, rng: &mut Rng) {
        let now = now.max(self.state.seen);
        self.state.seen = now;
        self.state.version += 1;
        match event {
            Event::Begin => self.begin(),
            Event::Time => {}
            Event::SlotGranted { key } => self.slot_granted(now, &key, rng),
            Event::Started { key } => self.heard(now, &key, "a start"),
            Event::Heartbeat { key } => self.heard(now, &key, "a heartbeat"),
            Event::Ended { key, outcome } => self.ended(now, &key, outcome, rng),
            Event::Signal { id, name, data } => self.signal(now, id, name, data, rng),
            Event::Cancel { by } => self.cancel(now, &by, rng),
            Event::Pause { by } => self.pause(&by),
            Event::Resume { by } => self.resume(now, &by),
            Event::Operator { step, item, verb, by, reason } => self.operate(now, (&step, item), verb, (&by, &reason)),
            Event::Rerun { from, parameters, by } => self.rerun(now, &from, parameters, &by),
        }
        // What settles may bring a deadline that has passed already; afterwards none has.
        loop {
            self.expire(now, rng);
            self.settle(now, rng);
            if self.next_deadline().is_none_or(|at| at > now) {
                return;
            }
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What happened since the last call, in order.
    pub fn take_notes(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.notes).into()
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    fn begin(&mut self) {
        if self.state.phase == RunPhase::Queued {
            self.set_run(RunPhase::Running, "it begins".into());
        }
    }

    /// Until nothing moves any more. Each pass brings steps and calls nearer to their end, or lets them wait for time or answers.
    fn settle(&mut self, now: Timestamp, rng: &mut Rng) {
        loop {
            self.changed = false;
            match self.state.phase {
                RunPhase::Running => self.advance(now, rng),
                RunPhase::Stopping { timed_out } => self.wind_down(now, timed_out),
                RunPhase::RollingBack => self.unwind(now, rng),
                _ => return,
            }
            if !self.changed {
                return;
            }
        }
    }

    pub fn status(&self) -> RunStatus {
        let stuck = || {
            let blocked = self.state.steps.iter().any(|step| step.phase == StepPhase::Blocked);
            blocked || self.live().iter().any(|unit| self.call(*unit).paged)
        };
        match self.state.phase {
            RunPhase::Queued => RunStatus::Queued,
            RunPhase::Succeeded => RunStatus::Succeeded,
            RunPhase::Failed => RunStatus::Failed,
            RunPhase::Cancelled => RunStatus::Cancelled,
            RunPhase::RolledBack => RunStatus::RolledBack,
            _ if self.state.paused => RunStatus::Paused,
            _ if stuck() => RunStatus::Stuck,
            RunPhase::RollingBack | RunPhase::BetweenRounds { .. } => RunStatus::RollingBack,
            RunPhase::Running | RunPhase::Stopping { .. } => RunStatus::Running,
        }
    }

    /// `None` when there is no such step.
    pub fn step_status(&self, name: &str) -> Option<StepStatus> {
        let step = self.step_number(name)?;
        let calls: Vec<&Call> = self.live_in(step).into_iter().map(|unit| self.call(unit)).collect();
        Some(match self.state.steps[step].phase {
            StepPhase::Waiting => StepStatus::Waiting,
            StepPhase::Done => StepStatus::Done,
            StepPhase::Failed => StepStatus::Failed,
            StepPhase::Skipped => StepStatus::Skipped,
            StepPhase::Cancelled => StepStatus::Cancelled,
            StepPhase::Undone => StepStatus::Undone,
            StepPhase::Blocked => StepStatus::Stuck,
            StepPhase::Open | StepPhase::Undoing if calls.iter().any(|call| call.paged) => StepStatus::Stuck,
            StepPhase::Undoing => StepStatus::Undoing,
            StepPhase::Open if calls.iter().any(|call| matches!(call.phase, Phase::Running(_))) => StepStatus::Running,
            StepPhase::Open if calls.iter().any(|c| matches!(c.phase, Phase::Retrying { .. })) => StepStatus::Retrying,
            StepPhase::Open => StepStatus::Ready,
        })
    }
}

/// Places in the state, and the notes that changes leave.
impl Run {
    pub(crate) fn step_number(&self, name: &str) -> Option<usize> {
        self.definition.steps.iter().position(|step| step.name == name)
    }

    pub(crate) fn step(&self, step: usize) -> &Step {
        &self.definition.steps[step]
    }

    pub(crate) fn item(&self, unit: Unit) -> &Item {
        &self.state.steps[unit.step].items[unit.item as usize]
    }

    pub(crate) fn item_mut(&mut self, unit: Unit) -> &mut Item {
        &mut self.state.steps[unit.step].items[unit.item as usize]
    }

    pub(crate) fn call(&self, unit: Unit) -> &Call {
        match unit.operation {
            Operation::Do => &self.item(unit).action,
            Operation::Undo => &self.item(unit).undo,
        }
    }

    pub(crate) fn call_mut(&mut self, unit: Unit) -> &mut Call {
        match unit.operation {
            Operation::Do => &mut self.item_mut(unit).action,
            Operation::Undo => &mut self.item_mut(unit).undo,
        }
    }

    pub(crate) fn work(&self, unit: Unit) -> &Work {
        let step = self.step(unit.step);
        match unit.operation {
            Operation::Do => &step.work,
            Operation::Undo => step.undo.as_ref().expect("an undo is begun only where there is one"),
        }
    }

    pub(crate) fn key(&self, unit: Unit) -> Key {
        Key {
            run: self.state.run.clone(),
            round: self.state.steps[unit.step].round,
            step: self.step(unit.step).name.clone(),
            item: unit.item,
            operation: unit.operation,
            attempt: self.call(unit).attempt,
        }
    }

    /// Everything that waits for time, a slot or an answer.
    pub(crate) fn live(&self) -> Vec<Unit> {
        (0..self.state.steps.len()).flat_map(|step| self.live_in(step)).collect()
    }

    pub(crate) fn live_in(&self, step: usize) -> Vec<Unit> {
        let items = self.state.steps[step].live.iter();
        let units = items.flat_map(|item| [Operation::Do, Operation::Undo].map(|operation| (*item, operation)));
        let units = units.map(|(item, operation)| Unit { step, item, operation });
        units.filter(|unit| self.call(*unit).phase.is_live()).collect()
    }

    pub(crate) fn note(&mut self, note: Transition) {
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }

    pub(crate) fn set_run(&mut self, phase: RunPhase, reason: String) {
        let (from, to) = (self.state.phase.name(), phase.name());
        self.state.phase = phase;
        self.changed = true;
        self.note(Transition::new(from, to, reason).with("run", &self.state.run).with("round", self.state.round));
    }

    pub(crate) fn set_step(&mut self, step: usize, phase: StepPhase, reason: String) {
        let (from, to) = (self.state.steps[step].phase.name(), phase.name());
        self.state.steps[step].phase = phase;
        self.changed = true;
        let note = Transition::new(from, to, reason).with("run", &self.state.run).with("step", &self.step(step).name);
        self.note(note);
    }

    /// Also keeps the list of what is live.
    pub(crate) fn set_call(&mut self, unit: Unit, phase: Phase, reason: String) {
        let (from, to) = (self.call(unit).phase.name(), phase.name());
        self.call_mut(unit).phase = phase;
        self.changed = true;
        let item = self.item(unit);
        let live = item.action.phase.is_live() || item.undo.phase.is_live();
        let list: &mut BTreeSet<u32> = &mut self.state.steps[unit.step].live;
        if live {
            list.insert(unit.item)
        } else {
            list.remove(&unit.item)
        };
        let note = Transition::new(from, to, reason).with("key", self.key(unit));
        self.note(note);
    }

    pub(crate) fn end(&mut self, now: Timestamp, phase: RunPhase, reason: String) {
        self.set_run(phase, reason);
        self.state.ended = Some(now);
        self.state.paused = false;
        self.tell_end();
    }

    pub(crate) fn tell_end(&mut self) {
        let (status, error) = (self.status(), self.state.cause.clone());
        let output = if status == RunStatus::Succeeded { self.output() } else { Value::Null };
        self.actions.push_back(Action::Ended { status, output, error });
    }

    /// Of the last steps by name; of a single last step its own.
    fn output(&self) -> Value {
        let last = (0..self.state.steps.len()).filter(|n| self.graph.before[*n].is_empty());
        let mut outputs: BTreeMap<String, Value> =
            last.map(|n| (self.step(n).name.clone(), self.state.steps[n].output.clone().unwrap_or_default())).collect();
        match outputs.len() {
            1 => outputs.pop_first().map(|(_, output)| output).unwrap_or_default(),
            _ => Value::Map(outputs),
        }
    }
}
