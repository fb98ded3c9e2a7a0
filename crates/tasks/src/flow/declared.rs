//! A workflow as the agent tells it and as runs are pinned to it: plain data, from which the machine's definition is made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_policy::backoff::Backoff;
use holdfast_policy::flow::expr::{Expr, ExprError, Template};
use holdfast_policy::flow::{self, Items, Kind, Parameter, ParameterKind, Trigger};
use holdfast_policy::schedule::{Missed, Overlap};
use ring::digest;
use serde::{Deserialize, Serialize};

use super::value::from_json;
use crate::definition::EnvValue;
use crate::error::{Error, Result};

/// `[workflow.NAME]`. Stored: a field is added with a default, never changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Workflow {
    pub name: String,
    pub parameters: BTreeMap<String, Given>,
    /// Patterns of cron; empty is by hand only.
    pub schedule: Vec<String>,
    pub timezone: String,
    pub missed: Made,
    /// `skip`, `queue`, `cancel`, `allow`.
    pub overlap: String,
    pub timeout_ms: u64,
    pub wait_ms: Option<u64>,
    pub concurrency: u32,
    pub priority: i32,
    pub keep_ms: u64,
    pub rounds: u32,
    pub round_delay_ms: u64,
    pub steps: Vec<Step>,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// `text`, `integer`, `number`, `bool`, `date`.
    pub kind: String,
    pub default: Option<serde_json::Value>,
}

/// What becomes of firings that nobody was there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Made {
    None,
    #[default]
    Latest,
    All(u32),
}

/// `[workflow.NAME.step.STEP]`. Texts may hold references.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    pub name: String,
    pub after: Vec<String>,
    pub when: Option<String>,
    pub trigger: String,
    pub each: Option<Each>,
    pub work: Work,
    /// Of the programs that the step and its undo run.
    pub env: BTreeMap<String, EnvValue>,
    pub workdir: Option<PathBuf>,
    pub user: Option<String>,
    pub attempts: u32,
    pub base_ms: u64,
    pub factor: f64,
    pub max_ms: u64,
    pub jitter: f64,
    /// Exit codes after which there is no other try.
    pub terminal: Vec<i32>,
    pub limit_wait_ms: Option<u64>,
    pub limit_run_ms: Option<u64>,
    pub limit_total_ms: Option<u64>,
    pub limit_heartbeat_ms: Option<u64>,
    pub pool: Option<String>,
    pub priority: Option<i32>,
    pub undo: Option<Work>,
    pub kind: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Each {
    /// A reference to a list, when there is no `list`.
    pub from: Option<String>,
    pub list: Vec<String>,
    pub width: u32,
    pub items_max: u32,
    pub allow_failed: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    Command(Vec<String>),
    Http(Call),
    Send { queue: String, body: String, group: Option<String>, wait_for_worker: bool },
    Wait(String),
    SleepMs(u64),
    Run { workflow: String, parameters: BTreeMap<String, serde_json::Value> },
}

impl Default for Work {
    fn default() -> Self {
        Work::SleepMs(0)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Call {
    pub url: String,
    pub method: String,
    pub headers: BTreeMap<String, EnvValue>,
    pub body: Option<String>,
}

impl Workflow {
    /// Names what a run is pinned to.
    pub(crate) fn hash(&self) -> Result<String> {
        let text = self.encode()?;
        Ok(digest::digest(&digest::SHA256, text.as_bytes()).as_ref()[..16].iter().map(|b| format!("{b:02x}")).collect())
    }

    pub(crate) fn encode(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|e| Error::System { what: "encode a workflow".into(), source: std::io::Error::other(e) })
    }

    pub(crate) fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// For the machine. An error names the step.
    pub(crate) fn definition(&self) -> Result<flow::Definition> {
        let definition = flow::Definition {
            name: self.name.clone(),
            parameters: self.parameters.iter().map(|(name, given)| (name.clone(), given.parameter())).collect(),
            steps: self.steps.iter().map(|step| self.machine_step(step)).collect::<Result<_>>()?,
            timeout: (self.timeout_ms > 0).then_some(Duration::from_millis(self.timeout_ms)),
            wait: self.wait_ms.map(Duration::from_millis),
            concurrency: self.concurrency,
            priority: self.priority,
            rounds: self.rounds,
            round_delay: Duration::from_millis(self.round_delay_ms),
        };
        // The machine's own check, with a name that only this look sees.
        let parameters = definition.parameters.keys().map(|name| (name.clone(), flow::Value::Null));
        let submission = flow::Submission { run: "check".into(), parameters: parameters.collect(), nominal: None };
        match flow::Run::new(std::sync::Arc::new(definition.clone()), submission, holdfast_policy::Timestamp::ZERO) {
            Err(why @ flow::NotARun::Definition(_)) => Err(self.bad(why.to_string())),
            _ => Ok(definition),
        }
    }

    pub(crate) fn missed(&self) -> Missed {
        match self.missed {
            Made::None => Missed::None,
            Made::Latest => Missed::Latest,
            Made::All(max) => Missed::All { max },
        }
    }

    pub(crate) fn overlap(&self) -> Overlap {
        match self.overlap.as_str() {
            "queue" => Overlap::Queue,
            "cancel" => Overlap::Cancel,
            "allow" => Overlap::Allow,
            _ => Overlap::Skip,
        }
    }

    pub(crate) fn bad(&self, reason: impl Into<String>) -> Error {
        Error::Workflow { workflow: self.name.clone(), reason: reason.into() }
    }

    fn machine_step(&self, step: &Step) -> Result<flow::Step> {
        let bad = |e: ExprError| self.bad(format!("step `{}`: {e}", step.name));
        let work = |work: &Work| -> Result<flow::Work> {
            if let Work::Http(call) = work
                && call.url.starts_with("https:")
            {
                return Err(self.bad(format!("step `{}`: https is not spoken; call a proxy that does", step.name)));
            }
            step.machine_work(work).map_err(bad)
        };
        Ok(flow::Step {
            name: step.name.clone(),
            after: step.after.clone(),
            when: step.when.as_deref().map(Expr::parse).transpose().map_err(bad)?,
            trigger: step.trigger(),
            each: step.each.as_ref().map(Each::machine).transpose().map_err(bad)?,
            work: work(&step.work)?,
            retry: flow::Retry {
                attempts: step.attempts.max(1),
                backoff: Backoff {
                    base: Duration::from_millis(step.base_ms),
                    factor: step.factor,
                    max: Duration::from_millis(step.max_ms),
                    jitter: step.jitter,
                },
            },
            limits: step.limits(),
            pool: step.pool.clone(),
            priority: step.priority,
            undo: step.undo.as_ref().map(work).transpose()?,
            kind: step.kind.as_deref().map(|kind| match kind {
                "pivot" => Kind::Pivot,
                "retriable" => Kind::Retriable,
                _ => Kind::Compensable,
            }),
        })
    }
}

impl Given {
    fn parameter(&self) -> Parameter {
        Parameter { kind: self.kind(), default: self.default.clone().map(from_json) }
    }

    pub(crate) fn kind(&self) -> ParameterKind {
        match self.kind.as_str() {
            "integer" => ParameterKind::Integer,
            "number" => ParameterKind::Number,
            "bool" => ParameterKind::Bool,
            "date" => ParameterKind::Date,
            _ => ParameterKind::Text,
        }
    }
}

impl Each {
    fn machine(&self) -> std::result::Result<flow::Each, ExprError> {
        let items = match &self.from {
            Some(from) => Items::From(Template::parse(from)?),
            None => {
                Items::List(self.list.iter().map(|item| Template::parse(item)).collect::<std::result::Result<_, _>>()?)
            }
        };
        let Each { width, items_max, allow_failed, .. } = *self;
        Ok(flow::Each { items, width, items_max, allow_failed })
    }
}

impl Step {
    fn trigger(&self) -> Trigger {
        match self.trigger.as_str() {
            "all-done" => Trigger::AllDone,
            "any-failed" => Trigger::AnyFailed,
            "any-ok" => Trigger::AnyOk,
            "all-failed" => Trigger::AllFailed,
            "none-failed" => Trigger::NoneFailed,
            _ => Trigger::AllOk,
        }
    }

    fn limits(&self) -> flow::Limits {
        let time = |ms: Option<u64>| ms.map(Duration::from_millis);
        flow::Limits {
            wait: time(self.limit_wait_ms),
            run: time(self.limit_run_ms),
            total: time(self.limit_total_ms),
            heartbeat: time(self.limit_heartbeat_ms),
        }
    }

    fn machine_work(&self, work: &Work) -> std::result::Result<flow::Work, ExprError> {
        Ok(match work {
            Work::Command(argv) => flow::Work::Command {
                argv: argv.iter().map(|word| Template::parse(word)).collect::<std::result::Result<_, _>>()?,
                env: plain(&self.env)?,
                workdir: self.workdir.as_ref().map(|dir| Template::literal(&dir.to_string_lossy())),
                user: self.user.clone(),
            },
            Work::Http(call) => flow::Work::Http {
                url: Template::parse(&call.url)?,
                method: call.method.clone(),
                headers: plain(&call.headers)?,
                body: call.body.as_deref().map(Template::parse).transpose()?,
            },
            Work::Send { queue, body, wait_for_worker, .. } => flow::Work::Send {
                queue: queue.clone(),
                body: Template::parse(body)?,
                wait_for_worker: *wait_for_worker,
            },
            Work::Wait(signal) => flow::Work::Wait { signal: signal.clone() },
            Work::SleepMs(ms) => flow::Work::Sleep(Duration::from_millis(*ms)),
            Work::Run { workflow, parameters } => {
                let template = |value: &serde_json::Value| match value {
                    serde_json::Value::String(text) => Template::parse(text),
                    other => Ok(Template::literal(&other.to_string())),
                };
                let each = parameters.iter().map(|(name, value)| Ok((name.clone(), template(value)?)));
                flow::Work::Run {
                    workflow: workflow.clone(),
                    parameters: each.collect::<std::result::Result<_, ExprError>>()?,
                }
            }
        })
    }
}

/// References to secrets do not pass through the machine, whose state is stored.
fn plain(all: &BTreeMap<String, EnvValue>) -> std::result::Result<BTreeMap<String, Template>, ExprError> {
    let plain = all.iter().filter_map(|(name, value)| match value {
        EnvValue::Plain(text) => Some((name, text)),
        EnvValue::File(_) | EnvValue::Env(_) => None,
    });
    plain.map(|(name, text)| Ok((name.clone(), Template::parse(text)?))).collect()
}
