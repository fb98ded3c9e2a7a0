//! Workflows: steps in an order, run by hand or at times, and rolled back where they are a saga.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use holdfast_policy::flow::{self, Kind as StepKind, Limits, Parameter, ParameterKind, Retry, Trigger};
use holdfast_policy::schedule::{Cron, Missed, Overlap};

use super::Value;

/// `[workflow.NAME]`. Texts may hold references such as `${parameters.day}`: [`flow::expr`] reads them, and they are kept as
/// written.
#[derive(Clone, Debug, PartialEq)]
pub struct Workflow {
    pub name: String,
    pub parameters: BTreeMap<String, Parameter>,
    pub schedule: Vec<SchedulePattern>,
    /// Name of the IANA database. Default `UTC`.
    pub timezone: String,
    /// At most 1 to 1000 runs, by default 10, where all are made up for.
    pub missed: Missed,
    pub overlap: Overlap,
    /// Of a whole run, 1 s to 365 d. Default 7 d.
    pub timeout: Duration,
    /// Longest time from the creation of a run to its first step, 1 s to 30 d.
    pub wait: Option<Duration>,
    /// Steps of one run at once, 1 to 1000. Default 16.
    pub concurrency: u32,
    /// -100 to 100. Default 0.
    pub priority: i32,
    /// How long ended runs are kept, 1 h to 3650 d. Default 30 d.
    pub keep: Duration,
    /// How often a saga that was rolled back is run again as a whole, 0 to 10. Default 0.
    pub rounds: u32,
    /// Between a roll-back and the next round, 0 to 30 d. Default 1 min.
    pub round_delay: Duration,
    /// The order is that of `after`, not of the file.
    pub steps: BTreeMap<String, Step>,
}

impl Workflow {
    /// Whether a failure is answered by undoing what was done.
    pub fn is_saga(&self) -> bool {
        self.steps.values().any(|step| step.undo.is_some())
    }

    /// Every step that is over before this one begins.
    pub fn upstream(&self, step: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut left: Vec<&str> = vec![step];
        while let Some(name) = left.pop() {
            for before in self.steps.get(name).into_iter().flat_map(|step| &step.after) {
                if found.insert(before.as_str()) {
                    left.push(before);
                }
            }
        }
        found
    }
}

/// One line of a schedule, as written and as understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulePattern {
    /// Five fields of cron, or a word such as `@daily`.
    pub text: String,
    pub cron: Cron,
}

/// Types of parameters, as the file spells them.
pub const PARAMETER_KINDS: [(&str, ParameterKind); 5] = [
    ("text", ParameterKind::Text),
    ("integer", ParameterKind::Integer),
    ("number", ParameterKind::Number),
    ("bool", ParameterKind::Bool),
    ("date", ParameterKind::Date),
];

/// What becomes of a scheduled run while an earlier one is not over.
pub const OVERLAPS: [(&str, Overlap); 4] =
    [("skip", Overlap::Skip), ("queue", Overlap::Queue), ("cancel", Overlap::Cancel), ("allow", Overlap::Allow)];

/// What the steps in `after` must have come to.
pub const TRIGGERS: [(&str, Trigger); 6] = [
    ("all-ok", Trigger::AllOk),
    ("all-done", Trigger::AllDone),
    ("any-failed", Trigger::AnyFailed),
    ("any-ok", Trigger::AnyOk),
    ("all-failed", Trigger::AllFailed),
    ("none-failed", Trigger::NoneFailed),
];

/// What a saga may do with a step when another one fails.
pub const STEP_KINDS: [(&str, StepKind); 3] =
    [("compensable", StepKind::Compensable), ("pivot", StepKind::Pivot), ("retriable", StepKind::Retriable)];

/// How the file spells one of a list.
pub fn spelling<T: PartialEq, const N: usize>(all: [(&'static str, T); N], value: &T) -> &'static str {
    all.iter().find(|(_, other)| other == value).map_or("unknown", |(name, _)| name)
}

/// `[workflow.NAME.step.STEP]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub name: String,
    /// Keys of `steps`.
    pub after: BTreeSet<String>,
    /// A condition; where it is false the step is skipped.
    pub when: Option<String>,
    pub trigger: Trigger,
    pub for_each: Option<ForEach>,
    pub work: StepWork,
    /// Of the programs that the step and its `undo` run.
    pub env: BTreeMap<String, Value>,
    /// Absolute; default the directory of the configuration file.
    pub workdir: PathBuf,
    pub user: Option<String>,
    /// Default 3 attempts, and 1 for `wait`, `sleep` and `run`; 1 s, doubled up to 5 min, 20 % jitter.
    pub retry: Retry,
    /// Exit codes, 0 to 255, after which there is no other try.
    pub terminal: Vec<i32>,
    /// Each 1 s to 365 d; `None` is no limit but the workflow's `timeout`.
    pub limits: Limits,
    /// A key of `pools`.
    pub pool: Option<String>,
    /// -100 to 100; `None` is the workflow's.
    pub priority: Option<i32>,
    pub undo: Option<Undo>,
    /// Of a saga only.
    pub kind: Option<StepKind>,
}

impl Step {
    /// Whether `env`, `workdir` and `user` mean anything.
    pub fn runs_programs(&self) -> bool {
        matches!(self.work, StepWork::Command(_)) || matches!(self.undo, Some(Undo::Command(_)))
    }
}

/// The step runs once for each item, `${item}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForEach {
    pub items: Items,
    /// At once, 1 to 100. Default 8.
    pub width: u32,
    /// More fail the step, 1 to 10,000. Default 1000.
    pub items_max: u32,
    /// Items that may fail without failing the step, 0 to 10,000. Default 0.
    pub allow_failed: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Items {
    /// To a list.
    Reference(String),
    List(Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum StepWork {
    /// Started without a shell; references are replaced inside single arguments.
    Command(Vec<String>),
    Http(HttpCall),
    Send(SendMessage),
    /// For a signal of this name.
    Wait(String),
    Sleep(Duration),
    Run(RunWorkflow),
}

impl StepWork {
    /// Whether a second try is made only where the file asks for it: what it waits for would not be another one.
    pub(crate) fn is_tried_once(&self) -> bool {
        matches!(self, StepWork::Wait(_) | StepWork::Sleep(_) | StepWork::Run(_))
    }
}

/// An answer of 2xx is done, 409 a failure for good, 425 still running; everything else is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpCall {
    /// `http://` or `https://`.
    pub url: String,
    pub method: &'static str,
    pub headers: BTreeMap<String, Value>,
    pub body: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendMessage {
    /// A key of `queues`.
    pub queue: String,
    pub body: String,
    /// Message group; FIFO only. `None` is the id of the run.
    pub group: Option<String>,
    /// The step is done when a worker is done with the message, not when it is in the queue.
    pub wait_for_worker: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RunWorkflow {
    /// A key of `workflows`.
    pub workflow: String,
    /// Texts may hold references.
    pub parameters: BTreeMap<String, flow::Value>,
}

/// Takes back what a step has done.
#[derive(Clone, Debug, PartialEq)]
pub enum Undo {
    /// With `env`, `workdir` and `user` of the step.
    Command(Vec<String>),
    Http(HttpCall),
}
