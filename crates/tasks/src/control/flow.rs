//! Runs of workflows in the plane's own API: what they are, and what people tell them.

mod forward;
mod routes;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use forward::take_requests;
pub(crate) use routes::router;

/// Runs that one look shows.
pub const RUNS_SHOWN_MAX: u32 = 1_000;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Submit {
    pub workflow: String,
    /// JSON; texts are read as what the parameter is.
    pub parameters: BTreeMap<String, serde_json::Value>,
    /// The same key with the same parameters is the same run.
    pub key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubmitDone {
    pub run: String,
    /// It was submitted before.
    pub duplicate: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    pub id: String,
    pub workflow: String,
    /// `queued`, `running`, `paused`, `succeeded`, `failed`, `cancelled`, `rolling-back`, `rolled-back`, `stuck`.
    pub status: String,
    pub over: bool,
    pub created_wall_ms: u64,
    pub ended_wall_ms: Option<u64>,
    /// Of the schedule that began it, RFC 3339 in UTC.
    pub nominal: Option<String>,
    /// Run whose step began it.
    pub parent: Option<String>,
    pub key: Option<String>,
    pub error: Option<String>,
    pub output: Option<serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunDetail {
    pub run: RunInfo,
    pub saga: bool,
    pub parameters: BTreeMap<String, serde_json::Value>,
    pub round: u32,
    /// In the order of the graph.
    pub steps: Vec<StepInfo>,
    /// In the order of their beginning.
    pub attempts: Vec<TryInfo>,
    /// Signals that came and that no step has taken.
    pub signals: BTreeMap<String, usize>,
    pub audit: Vec<AuditInfo>,
    /// When this was true.
    pub now_wall_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepInfo {
    pub name: String,
    pub after: Vec<String>,
    /// `command`, `http`, `send`, `wait`, `sleep`, `run`.
    pub kind: String,
    pub status: String,
    /// Attempts of all its items, undoing ones too.
    pub attempts: usize,
    /// Of a fan-out: how many there are, are done, and failed.
    pub items: Option<(usize, usize, u32)>,
    pub retry_wall_ms: Option<u64>,
    pub output: Option<serde_json::Value>,
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TryInfo {
    pub step: String,
    pub item: u32,
    /// `do` or `undo`.
    pub operation: String,
    pub round: u32,
    pub attempt: u32,
    pub began_wall_ms: u64,
    pub ended_wall_ms: Option<u64>,
    /// `done`, `failed`, `retrying`, `cancelled`, `skipped`.
    pub outcome: Option<String>,
    pub words: Option<String>,
    /// The end of what it printed.
    pub output: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditInfo {
    pub at_wall_ms: u64,
    pub by: String,
    pub what: String,
    pub reason: String,
}

/// Who asks, for the audit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct By {
    pub by: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signal {
    pub name: String,
    pub data: serde_json::Value,
    /// The same one again is the same signal.
    pub id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// Steps; none is all that failed or were cancelled.
    pub from: Vec<String>,
    /// Instead of those it had.
    pub parameters: Option<BTreeMap<String, serde_json::Value>>,
    pub by: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operate {
    pub step: String,
    pub item: u32,
    /// `retry`, `skip`, `done`, `failed`.
    pub verb: String,
    pub output: serde_json::Value,
    pub reason: String,
    pub by: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedules {
    /// Seconds that the clock was set by, while schedules pause for it.
    pub clock_off_s: Option<i64>,
    pub schedules: Vec<ScheduleInfo>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleInfo {
    pub workflow: String,
    pub patterns: Vec<String>,
    pub timezone: String,
    /// RFC 3339 in UTC; nothing at or before it is begun any more.
    pub watermark: Option<String>,
    pub next: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolInfo {
    pub name: String,
    pub slots: u32,
    pub held: usize,
    pub waiting: usize,
}
