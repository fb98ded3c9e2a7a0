//! What a workflow is, as the configuration says it. A run is pinned to the definition that it began with.

use std::collections::BTreeMap;
use std::time::Duration;

use super::expr::{Expr, Template};
use super::value::Value;
use crate::backoff::Backoff;

/// More steps than anybody draws; each event looks at all of them.
pub const STEPS_MAX: usize = 1_000;
/// The most that `items_max` of a fan-out may be: one state is kept for each child.
pub const ITEMS_MAX: u32 = 10_000;
/// Children of one fan-out at once.
pub const WIDTH_MAX: u32 = 100;
/// A run without a time limit of its own ends after this.
pub const RUN_LIMIT: Duration = Duration::from_secs(7 * 86_400);
/// Whole rounds of a saga after the first.
pub const ROUNDS_MAX: u32 = 10;

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Definition {
    pub name: String,
    pub parameters: BTreeMap<String, Parameter>,
    pub steps: Vec<Step>,
    /// Of the whole run, counted from its creation; `None` is [`RUN_LIMIT`].
    pub timeout: Option<Duration>,
    /// Longest time from creation to the first attempt of any step.
    pub wait: Option<Duration>,
    /// Commands, calls and sends of one run at once.
    pub concurrency: u32,
    /// -100 to 100; higher goes first.
    pub priority: i32,
    /// How often a saga runs again as a whole after it was rolled back.
    pub rounds: u32,
    pub round_delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    Text,
    Integer,
    Number,
    Bool,
    /// `YYYY-MM-DD`.
    Date,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub kind: ParameterKind,
    /// Without one the parameter must be given.
    pub default: Option<Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub name: String,
    pub after: Vec<String>,
    pub when: Option<Expr>,
    pub trigger: Trigger,
    pub each: Option<Each>,
    pub work: Work,
    pub retry: Retry,
    pub limits: Limits,
    /// Each attempt needs a slot of it, undoing ones too.
    pub pool: Option<String>,
    /// `None` is that of the workflow.
    pub priority: Option<i32>,
    pub undo: Option<Work>,
    /// `None` in a saga: compensable with an undo, retriable without.
    pub kind: Option<Kind>,
}

/// Of a step in a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Can be undone, or changes nothing.
    Compensable,
    /// The point of no return.
    Pivot,
    /// After the pivot: tried without end.
    Retriable,
}

/// Judged when all steps of `after` are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Trigger {
    #[default]
    AllOk,
    AllDone,
    AnyFailed,
    AnyOk,
    AllFailed,
    NoneFailed,
}

/// A fan-out.
#[derive(Clone, Debug, PartialEq)]
pub struct Each {
    pub items: Items,
    pub width: u32,
    pub items_max: u32,
    /// Children that may fail before the step does.
    pub allow_failed: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Items {
    /// Must give a list.
    From(Template),
    List(Vec<Template>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Command {
        argv: Vec<Template>,
        env: BTreeMap<String, Template>,
        workdir: Option<Template>,
        user: Option<String>,
    },
    Http {
        url: Template,
        method: String,
        headers: BTreeMap<String, Template>,
        body: Option<Template>,
    },
    Send {
        queue: String,
        body: Template,
        wait_for_worker: bool,
    },
    /// For a signal of this name.
    Wait {
        signal: String,
    },
    Sleep(Duration),
    Run {
        workflow: String,
        parameters: BTreeMap<String, Template>,
    },
}

impl Work {
    /// It holds no worker while it lasts, and does not count against `concurrency`.
    pub(crate) fn is_passive(&self) -> bool {
        matches!(self, Work::Wait { .. } | Work::Sleep(_) | Work::Run { .. })
    }

    /// Nobody outside is asked to do anything.
    pub(crate) fn is_internal(&self) -> bool {
        matches!(self, Work::Wait { .. } | Work::Sleep(_))
    }

    /// It is taken up some time after it was handed over, and [`super::Event::Started`] says when.
    pub(crate) fn is_taken_up_later(&self) -> bool {
        matches!(self, Work::Send { wait_for_worker: true, .. })
    }

    pub(crate) fn templates(&self) -> Vec<&Template> {
        match self {
            Work::Command { argv, env, workdir, .. } => argv.iter().chain(env.values()).chain(workdir).collect(),
            Work::Http { url, headers, body, .. } => [url].into_iter().chain(headers.values()).chain(body).collect(),
            Work::Send { body, .. } => vec![body],
            Work::Run { parameters, .. } => parameters.values().collect(),
            Work::Wait { .. } | Work::Sleep(_) => Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Of one item in all, at least 1.
    pub attempts: u32,
    pub backoff: Backoff,
}

impl Default for Retry {
    fn default() -> Self {
        let (base, max) = (Duration::from_secs(1), Duration::from_secs(300));
        Retry { attempts: 3, backoff: Backoff { base, factor: 2.0, max, jitter: 0.2 } }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Limits {
    /// From ready to started.
    pub wait: Option<Duration>,
    /// Of one attempt, from its start.
    pub run: Option<Duration>,
    /// Of all attempts, from the start of the first.
    pub total: Option<Duration>,
    /// Longest silence of an attempt that beats.
    pub heartbeat: Option<Duration>,
}

impl Definition {
    pub fn is_saga(&self) -> bool {
        self.steps.iter().any(|step| step.undo.is_some())
    }

    /// `None` outside of sagas.
    pub fn kind(&self, step: &Step) -> Option<Kind> {
        let default = if step.undo.is_some() { Kind::Compensable } else { Kind::Retriable };
        self.is_saga().then(|| step.kind.unwrap_or(default))
    }

    /// Checks what is given with a run and adds the defaults. The error names the parameter.
    pub fn accept(&self, given: &BTreeMap<String, Value>) -> Result<BTreeMap<String, Value>, String> {
        if let Some(name) = given.keys().find(|name| !self.parameters.contains_key(*name)) {
            return Err(format!("workflow {} has no parameter `{name}`", self.name));
        }
        let mut accepted = BTreeMap::new();
        for (name, parameter) in &self.parameters {
            let value = given.get(name).or(parameter.default.as_ref());
            let value = value.ok_or_else(|| format!("parameter `{name}` is missing"))?;
            if !parameter.kind.fits(value) {
                return Err(format!("parameter `{name}` must be {}, not {}", parameter.kind.name(), value.kind()));
            }
            accepted.insert(name.clone(), value.clone());
        }
        Ok(accepted)
    }
}

impl ParameterKind {
    pub fn name(self) -> &'static str {
        match self {
            ParameterKind::Text => "a text",
            ParameterKind::Integer => "a whole number",
            ParameterKind::Number => "a number",
            ParameterKind::Bool => "true or false",
            ParameterKind::Date => "a date such as 2026-11-26",
        }
    }

    pub fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (ParameterKind::Text, Value::Text(_)) | (ParameterKind::Bool, Value::Bool(_)) => true,
            (ParameterKind::Number, Value::Number(n)) => n.is_finite(),
            (ParameterKind::Integer, Value::Number(n)) => n.is_finite() && n.fract() == 0.0,
            (ParameterKind::Date, Value::Text(text)) => is_date(text),
            _ => false,
        }
    }
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts.as_slice() else { return false };
    let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    if !(digits(year, 4) && digits(month, 2) && digits(day, 2)) {
        return false;
    }
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    let leap =
        number(year).is_multiple_of(4) && (!number(year).is_multiple_of(100) || number(year).is_multiple_of(400));
    let days = match number(month) {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&number(day))
}
