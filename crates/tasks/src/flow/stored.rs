//! Runs as every store keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_policy::flow::{NotARun, Run, Submission, Value};
use holdfast_policy::schedule::{self, Overlap, Verdict};

use super::Pinned;
use crate::clock::Millis;
use crate::error::{Error, Result};
use crate::store::encode;

/// Of one item of one step: what is tried without end is remembered by its latest attempts.
pub(crate) const ATTEMPTS_KEPT: u32 = 100;
/// Rows that one sweep takes away.
pub(crate) const SWEEP_ROWS: u32 = 50;

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

impl NewRun {
    /// What must be the same when the key is used again.
    pub(crate) fn asked(&self) -> Result<String> {
        let json: BTreeMap<&String, serde_json::Value> =
            self.parameters.iter().map(|(name, value)| (name, super::value::to_json(value))).collect();
        encode(&json)
    }

    /// Name and first state of the run with this number.
    pub(crate) fn born(&self, number: i64, now: Millis) -> Result<(String, String)> {
        let name = &self.pinned.declared.name;
        let id = format!("{name}-{number}");
        let submission = Submission {
            run: id.clone(),
            parameters: self.parameters.clone(),
            nominal: self.nominal.map(schedule::rfc3339),
        };
        let run = Run::new(self.pinned.machine.clone(), submission, super::time(now)).map_err(|why| match why {
            NotARun::Parameters(reason) => Error::Parameters { workflow: name.clone(), reason },
            other => self.pinned.declared.bad(other.to_string()),
        })?;
        Ok((id, super::state::encode(run.state())?))
    }
}

/// What a firing leads to, by the runs that are not over and whether each of them waits for others.
pub(crate) fn verdict(rule: Overlap, open: &[(String, bool)]) -> Verdict {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    schedule::overlap(rule, count(open.len()), count(open.iter().filter(|(_, held)| *held).count()))
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
