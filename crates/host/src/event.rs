//! What happened, as every process of holdfast writes it to its own ring and the agent copies it to the journal.

use serde::{Deserialize, Serialize};

use crate::clock;

pub const VERSION: u32 = 1;

/// One fact. (`node`, `source`, `incarnation`, `seq`) is its identity everywhere; `cause` names another event by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Event {
    pub version: u32,
    pub node: String,
    /// Who wrote it: `shim/web-2`, `balancer/1`, `agent`, `drill/kill-web`.
    pub source: String,
    /// Life of the source: `GENERATION.RUN` of the process that wrote it.
    pub incarnation: String,
    /// Strictly rising within a ring, given by the ring's writer.
    pub seq: u64,
    pub boot_id: String,
    pub boot_ns: u64,
    pub wall_ms: u64,
    /// What it is about: `instance/web-2`, `balancer/public`.
    pub subject: String,
    pub from: String,
    pub to: String,
    pub reason: String,
    pub cause: Option<String>,
    /// What the decision was taken from, so that it can be printed and replayed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<(String, String)>,
}

impl Event {
    /// An event of now, on this boot. `seq` is set by the ring.
    pub fn now(node: &str, source: &str, incarnation: impl ToString, subject: &str) -> Event {
        Event {
            version: VERSION,
            node: node.to_owned(),
            source: source.to_owned(),
            incarnation: incarnation.to_string(),
            boot_id: clock::boot_id().to_owned(),
            boot_ns: clock::now().as_nanos(),
            wall_ms: clock::wall_ms(),
            subject: subject.to_owned(),
            ..Event::default()
        }
    }

    pub fn change(mut self, from: &str, to: &str, reason: impl Into<String>) -> Event {
        self.from = from.to_owned();
        self.to = to.to_owned();
        self.reason = reason.into();
        self
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Event {
        self.inputs.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn caused_by(mut self, key: Option<String>) -> Event {
        self.cause = key;
        self
    }

    /// `node:source:incarnation:seq`, as `cause` of another event and as id of an incident.
    pub fn key(&self) -> String {
        format!("{}:{}:{}:{}", self.node, self.source, self.incarnation, self.seq)
    }
}
