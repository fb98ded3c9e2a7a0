//! Runs as every store keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_policy::flow::Value;
use holdfast_policy::schedule::Verdict;

use super::Pinned;
use crate::clock::Millis;

/// A run that somebody asks for.
#[derive(Clone)]
pub(crate) struct NewRun {
    pub(crate) pinned: Arc<Pinned>,
    pub(crate) parameters: BTreeMap<String, Value>,
    pub(crate) key: Option<String>,
    /// Run whose step asks for it.
    pub(crate) parent: Option<String>,
    /// Of the schedule, in seconds UTC.
    pub(crate) nominal: Option<i64>,
    /// It begins when the others of its workflow are over.
    pub(crate) held: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Submitted {
    pub(crate) id: String,
    /// It was not there before.
    pub(crate) fresh: bool,
}

/// What became of a firing of a schedule.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    pub(crate) verdict: Verdict,
    pub(crate) run: Option<String>,
    /// To be cancelled for it.
    pub(crate) others: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct RunRow {
    pub(crate) number: i64,
    pub(crate) id: String,
    pub(crate) workflow: String,
    /// Hash.
    pub(crate) definition: String,
    pub(crate) version: u64,
    pub(crate) state: String,
    pub(crate) status: String,
    pub(crate) over: bool,
    pub(crate) held: bool,
    pub(crate) priority: i32,
    pub(crate) created: Millis,
    pub(crate) ended: Option<Millis>,
    pub(crate) key: Option<String>,
    pub(crate) parent: Option<String>,
    pub(crate) nominal: Option<i64>,
    /// JSON.
    pub(crate) output: Option<String>,
    pub(crate) error: Option<String>,
}

/// A state that replaces version `was`.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    pub(crate) id: String,
    pub(crate) was: u64,
    pub(crate) version: u64,
    pub(crate) state: String,
    pub(crate) status: &'static str,
    /// With how long it is kept from now.
    pub(crate) over_ms: Option<u64>,
    pub(crate) output: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) notes: Vec<AttemptNote>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptNote {
    pub(crate) barrier: String,
    pub(crate) attempt: u32,
    /// `None` is its beginning.
    pub(crate) outcome: Option<String>,
    pub(crate) words: String,
    /// End of what it printed.
    pub(crate) output: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct AttemptRow {
    pub(crate) barrier: String,
    pub(crate) attempt: u32,
    pub(crate) began: Millis,
    pub(crate) ended: Option<Millis>,
    pub(crate) outcome: Option<String>,
    pub(crate) words: Option<String>,
    pub(crate) output: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) workflow: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) many: u32,
}

/// A message that a step waits for.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Waits {
        receives: u32,
    },
    /// Or its queue was deleted.
    Purged,
    /// Among the dead letters, with their JSON.
    Dead {
        story: String,
    },
}
