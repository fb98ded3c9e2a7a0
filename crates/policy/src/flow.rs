//! One run of a workflow or a saga, as a machine: events go in, actions come out, and nothing is done here.
//!
//! The owner keeps to one rule: after [`Run::handle`] it stores [`State`], then it carries out what [`Run::poll_action`] gives.
//! So the intent is durable before each call and the result after it, and a crash in between leads to a repetition with the same
//! [`Key`], never to an omission. [`Run::recover`] gives the actions again whose results are not known. Events that are lost are
//! made up for by limits; those that come twice, late or out of order name an attempt that is over and change nothing, with two
//! exceptions: a slot that nobody waits for is given back, and a success that comes after a rollback began is recorded and undone.
//!
//! A saga is a workflow in which a step has an `undo`. Its steps are *compensable* (before the *pivot*), the pivot, or
//! *retriable* (after it). Until the pivot has committed a failure, a cancellation or the time limit begins a rollback: every step
//! and child that was handed over is undone, the last first, whether it is known to have happened or not, so that an undo must
//! accept that there is nothing to undo. A pivot that may have committed is asked until it answers. After it the run only goes
//! forward. Neither undoing nor going forward ever gives up: after [`STUCK_AFTER`] failures the run is `stuck`, somebody is told,
//! and it goes on trying. No isolation is promised: others see what is done before it is undone.

mod attempt;
mod commands;
mod definition;
mod event;
pub mod expr;
mod forward;
mod graph;
mod key;
mod limits;
mod recover;
mod render;
mod rollback;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod value;

use std::time::Duration;

pub use definition::{
    Definition, Each, ITEMS_MAX, Items, Kind, Limits, Parameter, ParameterKind, ROUNDS_MAX, RUN_LIMIT, Retry,
    STEPS_MAX, Step, Trigger, WIDTH_MAX, Work,
};
pub use event::{Action, Event, Job, Outcome, RunStatus, Start, StepStatus, Verb};
pub use graph::Problem;
pub use key::{Key, NotAKey, Operation};
pub use run::{NotARun, Run, Submission};
pub use state::{
    AUDIT_MAX, Audit, Call, Halt, Halting, Item, Phase, RunPhase, Running, SIGNALS_MAX, State, StepPhase, StepState,
};
pub use value::Value;

/// Failures of an undo, or of a step after the pivot, before somebody is told.
pub const STUCK_AFTER: u32 = 5;

/// How long an attempt that was told to end is waited for. A program has been killed by then; an answer is not coming any more.
pub const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Between two questions to what said that it still runs.
pub const POLL_EVERY: Duration = Duration::from_secs(2);

/// A back-off declared as zero does not spin.
pub const RETRY_DELAY_MIN: Duration = Duration::from_millis(10);

/// An undo without a limit of its own: it may not hold up the rollback for ever by never answering.
pub const UNDO_RUN_LIMIT: Duration = Duration::from_secs(3_600);

/// Of signals remembered, so that one that is delivered again is known.
const SIGNALS_SEEN_MAX: usize = 1_000;

/// Notes nobody took are dropped from the front; a turn makes a few for each child that is under way.
const NOTES_MAX: usize = 10_000;
