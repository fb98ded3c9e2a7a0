//! What a run is told, and what it asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use super::key::Key;
use super::state::Halt;
use super::value::Value;

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It may go on from queued to running.
    Begin,
    /// A deadline may have passed.
    Time,
    SlotGranted {
        key: Key,
    },
    /// A worker took it up. Needed for sends that wait for a worker; for all else handing over is starting.
    Started {
        key: Key,
    },
    Heartbeat {
        key: Key,
    },
    Ended {
        key: Key,
        outcome: Outcome,
    },
    /// `id` tells a repeated delivery from a second signal.
    Signal {
        id: String,
        name: String,
        data: Value,
    },
    Cancel {
        by: String,
    },
    Pause {
        by: String,
    },
    Resume {
        by: String,
    },
    Operator {
        step: String,
        item: u32,
        verb: Verb,
        by: String,
        reason: String,
    },
    /// Of a run that is over: from these steps, or, when none is named, from all that failed or were cancelled.
    Rerun {
        from: Vec<String>,
        parameters: Option<BTreeMap<String, Value>>,
        by: String,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Success {
        output: Value,
    },
    /// It says that it failed, and may be tried again.
    Retryable {
        error: String,
    },
    /// It says that it failed in a way that no retry mends.
    Terminal {
        error: String,
    },
    /// The answer is no.
    Business {
        error: String,
    },
    /// Not an end: ask again later.
    StillRunning,
    /// Nobody knows whether it happened.
    Unknown {
        error: String,
    },
}

/// What an operator may do to an item between two attempts, or to a step that is blocked.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// Now, with all its attempts.
    Retry,
    /// Go on without it.
    Skip,
    /// It is known to have happened.
    MarkDone { output: Value },
    /// It is known not to have happened. Not for undos and retriable steps.
    MarkFailed,
}

impl Verb {
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Retry => "retry",
            Verb::Skip => "skip",
            Verb::MarkDone { .. } => "mark done",
            Verb::MarkFailed => "mark failed",
        }
    }
}

/// To be carried out after the state was stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Answer with [`Event::SlotGranted`].
    AcquireSlot { key: Key, pool: String, priority: i32 },
    /// After a restart: this attempt has its slot, whatever else asks.
    HoldSlot { key: Key, pool: String },
    /// Also withdraws a request. Harmless when there is neither.
    ReleaseSlot { key: Key, pool: String },
    /// Answer with [`Event::Ended`] in the end.
    Start(Box<Start>),
    /// End it, and answer with [`Event::Ended`] when it is over.
    Stop { key: Key, why: Halt },
    /// Somebody must look. Repeated after a restart.
    Page { key: Option<Key>, why: String },
    /// The run is over. Repeated after a restart.
    Ended { status: RunStatus, output: Value, error: Option<String> },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    pub key: Key,
    pub job: Job,
    /// It was handed over before: find it by its key, or repeat the call with the same key.
    pub again: bool,
    pub priority: i32,
    pub run_limit: Option<Duration>,
    pub heartbeat: Option<Duration>,
    /// What the action gave, when this is its undo and that is known.
    pub output: Option<Value>,
}

/// Work with all references filled in.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    Command { argv: Vec<String>, env: BTreeMap<String, String>, workdir: Option<String>, user: Option<String> },
    Http { url: String, method: String, headers: BTreeMap<String, String>, body: Option<String> },
    Send { queue: String, body: String, wait_for_worker: bool },
    Run { workflow: String, parameters: BTreeMap<String, Value> },
}

/// As status and journal show a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunStatus {
    Queued,
    Running,
    Paused,
    Succeeded,
    Failed,
    Cancelled,
    RollingBack,
    RolledBack,
    /// It goes on trying, and somebody was told.
    Stuck,
}

impl RunStatus {
    pub fn name(self) -> &'static str {
        match self {
            RunStatus::Queued => "queued",
            RunStatus::Running => "running",
            RunStatus::Paused => "paused",
            RunStatus::Succeeded => "succeeded",
            RunStatus::Failed => "failed",
            RunStatus::Cancelled => "cancelled",
            RunStatus::RollingBack => "rolling-back",
            RunStatus::RolledBack => "rolled-back",
            RunStatus::Stuck => "stuck",
        }
    }
}

/// As status and journal show a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepStatus {
    Waiting,
    Ready,
    Running,
    Retrying,
    Done,
    Failed,
    Skipped,
    Cancelled,
    Undoing,
    Undone,
    Stuck,
}

impl StepStatus {
    pub fn name(self) -> &'static str {
        match self {
            StepStatus::Waiting => "waiting",
            StepStatus::Ready => "ready",
            StepStatus::Running => "running",
            StepStatus::Retrying => "retrying",
            StepStatus::Done => "done",
            StepStatus::Failed => "failed",
            StepStatus::Skipped => "skipped",
            StepStatus::Cancelled => "cancelled",
            StepStatus::Undoing => "undoing",
            StepStatus::Undone => "undone",
            StepStatus::Stuck => "stuck",
        }
    }
}

impl Outcome {
    /// The convention for calls: 2xx is done, 409 is a business failure, 425 still runs, every other status is tried again. A 5xx,
    /// a 408 or a redirection leaves open whether it happened; no answer at all is [`Outcome::Unknown`] as well.
    pub fn of_status(status: u16, body: Value) -> Outcome {
        let error = || format!("status {status}: {}", body.to_text());
        match status {
            200..=299 => Outcome::Success { output: body },
            409 => Outcome::Business { error: error() },
            425 => Outcome::StillRunning,
            400..=499 if status != 408 => Outcome::Retryable { error: error() },
            _ => Outcome::Unknown { error: error() },
        }
    }

    /// The convention for programs: 0 is done, 65 (`EX_DATAERR`) is a business failure, 75 (`EX_TEMPFAIL`) is always tried again,
    /// and so is every other code unless it is `terminal`. One that was killed is [`Outcome::Unknown`].
    pub fn of_exit(code: i32, terminal: &[i32], output: Value) -> Outcome {
        let error = format!("exit code {code}");
        match code {
            0 => Outcome::Success { output },
            75 => Outcome::Retryable { error },
            _ if terminal.contains(&code) => Outcome::Terminal { error },
            65 => Outcome::Business { error },
            _ => Outcome::Retryable { error },
        }
    }
}
