//! Where a run stands: plain data, which the owner stores after each event and before it carries out what the event led to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::value::Value;
use crate::Timestamp;

/// Signals that came before a step waited for them.
pub const SIGNALS_MAX: usize = 100;
/// Words of operators that are kept with the run; the journal has all of them.
pub const AUDIT_MAX: usize = 200;

/// All times are engine time: it never goes back, and goes on over restarts of engine and machine.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub run: String,
    pub workflow: String,
    pub parameters: BTreeMap<String, Value>,
    /// RFC 3339, UTC; of runs that a schedule began.
    pub nominal: Option<String>,
    /// Rises with each event: a store that replaces version n by n+1 only has fenced a second coordinator.
    pub version: u64,
    /// Time of the latest event.
    pub seen: Timestamp,
    /// Limits of the run count from here: its creation, or its latest rerun.
    pub began: Timestamp,
    pub ended: Option<Timestamp>,
    pub phase: RunPhase,
    pub paused: bool,
    /// Round that work which begins now belongs to; counts from 1.
    pub round: u32,
    /// Whole rounds of a saga after its first.
    pub rounds_again: u32,
    /// Why it ends, or goes back.
    pub cause: Option<String>,
    /// The rollback may be followed by another round.
    pub again: bool,
    /// A rollback that waits for the answer of the pivot.
    pub pending: Option<String>,
    /// The time limit passed when there was no way back any more.
    pub overdue: bool,
    /// At least one attempt was handed over.
    pub started: bool,
    /// As in the definition.
    pub steps: Vec<StepState>,
    pub signals: BTreeMap<String, VecDeque<Value>>,
    pub signals_seen: VecDeque<String>,
    pub audit: VecDeque<Audit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunPhase {
    /// Waits for [`super::Event::Begin`].
    Queued,
    Running,
    /// Stops what is under way; then it is cancelled, or failed by its time limit.
    Stopping {
        timed_out: bool,
    },
    RollingBack,
    BetweenRounds {
        at: Timestamp,
    },
    Succeeded,
    Failed,
    Cancelled,
    RolledBack,
}

impl RunPhase {
    pub fn name(self) -> &'static str {
        match self {
            RunPhase::Queued => "queued",
            RunPhase::Running => "running",
            RunPhase::Stopping { .. } => "stopping",
            RunPhase::RollingBack => "rolling-back",
            RunPhase::BetweenRounds { .. } => "between-rounds",
            RunPhase::Succeeded => "succeeded",
            RunPhase::Failed => "failed",
            RunPhase::Cancelled => "cancelled",
            RunPhase::RolledBack => "rolled-back",
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, RunPhase::Succeeded | RunPhase::Failed | RunPhase::Cancelled | RunPhase::RolledBack)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct StepState {
    pub phase: StepPhase,
    /// Round of its keys: that in which it was begun, unless it goes on with an attempt that may have happened.
    pub round: u32,
    /// Of a fan-out, once they are known.
    pub values: Option<Vec<Value>>,
    /// Begun children, in order; one for other steps.
    pub items: Vec<Item>,
    /// Children that something is under way for.
    pub live: BTreeSet<u32>,
    pub failed: u32,
    /// Children, counted from the first, whose undo has not begun.
    pub undo_left: u32,
    pub output: Option<Value>,
    pub error: Option<String>,
}

impl StepState {
    pub(crate) fn fresh(round: u32) -> StepState {
        StepState {
            phase: StepPhase::Waiting,
            round,
            values: None,
            items: Vec::new(),
            live: BTreeSet::new(),
            failed: 0,
            undo_left: 0,
            output: None,
            error: None,
        }
    }

    /// Children there will be when all are begun.
    pub(crate) fn width(&self) -> usize {
        self.values.as_ref().map_or(1, Vec::len)
    }

    /// At least one attempt was handed over, so that it may have had an effect.
    pub fn may_have_run(&self) -> bool {
        self.items.iter().any(|item| item.action.ran > 0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepPhase {
    Waiting,
    Open,
    /// What it depends on cannot be evaluated, and it cannot fail: an operator must decide.
    Blocked,
    Done,
    Failed,
    Skipped,
    Cancelled,
    Undoing,
    Undone,
}

impl StepPhase {
    pub fn name(self) -> &'static str {
        match self {
            StepPhase::Waiting => "waiting",
            StepPhase::Open => "open",
            StepPhase::Blocked => "blocked",
            StepPhase::Done => "done",
            StepPhase::Failed => "failed",
            StepPhase::Skipped => "skipped",
            StepPhase::Cancelled => "cancelled",
            StepPhase::Undoing => "undoing",
            StepPhase::Undone => "undone",
        }
    }

    pub(crate) fn is_over(self) -> bool {
        !matches!(self, StepPhase::Waiting | StepPhase::Open | StepPhase::Blocked | StepPhase::Undoing)
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    pub action: Call,
    pub undo: Call,
    pub output: Option<Value>,
    /// It succeeded after the rollback had begun, while its undo ran: the undo is repeated.
    pub undo_again: bool,
}

/// One operation on one item, over all its attempts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    pub phase: Phase,
    /// Number of the latest attempt in this round; 0 is none.
    pub attempt: u32,
    /// Attempts that were handed over, and may have had an effect.
    pub ran: u32,
    /// Since it began, or since an operator asked for it anew.
    pub failures: u32,
    /// An attempt ended without an answer, and none said since that nothing happened.
    pub doubt: bool,
    /// Its failures were told to somebody.
    pub paged: bool,
    pub ready: Timestamp,
    /// Start of its first attempt.
    pub began: Option<Timestamp>,
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Idle,
    Ready,
    /// For a slot of its pool.
    Asking,
    Running(Running),
    Retrying {
        at: Timestamp,
    },
    Done,
    Failed,
    Skipped,
    Cancelled,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Ready => "ready",
            Phase::Asking => "asking",
            Phase::Running(_) => "running",
            Phase::Retrying { .. } => "retrying",
            Phase::Done => "done",
            Phase::Failed => "failed",
            Phase::Skipped => "skipped",
            Phase::Cancelled => "cancelled",
        }
    }

    pub(crate) fn is_live(self) -> bool {
        matches!(self, Phase::Ready | Phase::Asking | Phase::Running(_) | Phase::Retrying { .. })
    }
}

/// An attempt that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// It has a slot of its pool.
    pub slot: bool,
    /// Somebody has taken it up.
    pub started: Option<Timestamp>,
    /// Latest sign of life.
    pub heard: Timestamp,
    /// When a sleep ends.
    pub wake: Option<Timestamp>,
    /// It said that it still runs: when it is asked again.
    pub poll: Option<Timestamp>,
    pub halt: Option<Halting>,
}

/// An attempt that was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halting {
    pub why: Halt,
    /// When it is given up without an answer; `None` waits.
    pub until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    WaitLimit,
    RunLimit,
    Heartbeat,
    TotalLimit,
    Cancelled,
    Rollback,
}

impl Halt {
    pub fn reason(self) -> &'static str {
        match self {
            Halt::WaitLimit => "it was not started within its limit",
            Halt::RunLimit => "it did not end within its limit",
            Halt::Heartbeat => "it was silent for longer than its heartbeat",
            Halt::TotalLimit => "all its attempts took longer than their limit",
            Halt::Cancelled => "the run is cancelled",
            Halt::Rollback => "the run is rolled back",
        }
    }
}

/// What an operator did, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    pub at: Timestamp,
    pub by: String,
    pub what: String,
    pub reason: String,
}
