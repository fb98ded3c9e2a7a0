//! What keeps queues, runs and histories: one trait, so that no part of the plane knows which engine it stands on.
//!
//! Every answer that promises something comes after the commit that holds it. An operation that fails has changed nothing;
//! [`Error::Throttled`] is worth another try.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use holdfast_policy::Timestamp;
use holdfast_policy::queue::Report;
use holdfast_policy::schedule::Overlap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::flow::stored::{AttemptRow, Fate, Filter, Found, Keep, NewRun, RunRow, Submitted};
use crate::postgres::Postgres;
use crate::queue::{Acknowledged, Counts, Move, Moved, New, Peeked, Queue, Received, Sent, Settled, Spec};
use crate::sqlite::Sqlite;
use crate::work::history::{Attempt, Begun};

pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// May be called again when the engine has to begin anew.
pub(crate) type Edit<T> = Box<dyn FnMut(&mut T) -> Result<()> + Send>;

type Tags = BTreeMap<String, String>;

/// Each operation stands once: here. An engine has it as a method of its own, and pays one box for each call.
macro_rules! operations {
    (@engine $engine:ident, $a:lifetime, $(fn $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl Store for $engine {
            fn clock(&self) -> &Clock {
                $engine::clock(self)
            }

            fn failure(&self) -> Option<String> {
                $engine::failure(self)
            }

            fn close(&self) {
                $engine::close(self);
            }

            fn is_shared(&self) -> bool {
                $engine::IS_SHARED
            }

            fn pretend_full(&self, until: Option<Timestamp>) {
                $engine::pretend_full(self, until);
            }

            $(fn $name<$a>(&$a self, $($arg: $type),*) -> Answer<$a, $answer> {
                Box::pin($engine::$name(self, $($arg),*))
            })*
        }
    };
    ($a:lifetime, $($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        pub(crate) trait Store: Send + Sync {
            fn clock(&self) -> &Clock;

            /// Why nothing can be written any more, once it is so: the process should end and begin anew.
            fn failure(&self) -> Option<String>;

            fn close(&self);

            /// Other planes may be at work on it.
            fn is_shared(&self) -> bool;

            /// For drills: sends to this plane are refused until then as if there were no space.
            fn pretend_full(&self, until: Option<Timestamp>);

            $($(#[$doc])* fn $name<$a>(&$a self, $($arg: $type),*) -> Answer<$a, $answer>;)*
        }

        operations! { @engine Sqlite, $a, $(fn $name($($arg: $type),*) -> $answer;)* }
        operations! { @engine Postgres, $a, $(fn $name($($arg: $type),*) -> $answer;)* }
    };
}

operations! { 'a,
    /// From memory, if it was used since the plane began.
    fn spec(queue: &'a str) -> Arc<Spec>;
    /// The same definition again is no error.
    fn create(name: &'a str, spec: Spec, tags: Tags) -> ();
    /// Makes the queue, or makes it be so.
    fn declare(name: &'a str, spec: Spec, tags: Tags) -> ();
    fn change(name: &'a str, change: Edit<Spec>) -> ();
    fn change_tags(name: &'a str, change: Edit<Tags>) -> ();
    fn delete(name: &'a str) -> ();
    /// Messages sent before are gone, those in flight too.
    fn purge(name: &'a str) -> ();
    fn get(name: &'a str) -> Queue;
    /// In order of their names, after `after`.
    fn list(prefix: &'a str, after: Option<&'a str>, limit: usize) -> Vec<Queue>;
    fn counts(queue: &'a str) -> Counts;
    /// Which of these have messages that can be received, and about how many.
    fn ready(queues: Vec<String>) -> Vec<(String, u64)>;
    /// The first `many` messages in order of sending.
    fn peek(queue: &'a str, many: u32) -> Vec<Peeked>;

    /// One answer for each message, in order: a message that is refused takes no other with it.
    fn send(queue: &'a str, messages: Vec<New>) -> Vec<Result<Sent>>;
    /// At most `many` messages, invisible to others for `visibility_ms` (`None`: as the queue says).
    fn receive(queue: &'a str, many: u32, visibility_ms: Option<u64>) -> Received;
    /// With `strict` a receipt that ran out is refused even if nobody else received the message: whoever held it could not
    /// know that it was still theirs.
    fn acknowledge(queue: &'a str, receipts: Vec<String>, strict: bool) -> Vec<Result<Acknowledged>>;
    /// Milliseconds from now; 0 gives the message back.
    fn change_visibility(queue: &'a str, changes: Vec<(String, u64)>) -> Vec<Result<()>>;
    /// Nobody looked at the message: others may have it at once, and nothing is charged. Its receipt is void from now on,
    /// and must not be used again.
    fn hand_back(queue: &'a str, receipt: &'a str) -> ();
    /// A worker did not finish the message. Refused when its claim ran out: somebody else may have it.
    fn report(queue: &'a str, receipt: &'a str, report: Report, words: &'a str) -> Settled;

    /// Begins to move what is in `source` now; the caller makes the steps.
    fn start_move(source: &'a str, destination: Option<&'a str>, rate_max: Option<u32>) -> Move;
    /// One step of at most `many` messages.
    fn step_move(handle: &'a str, many: u32) -> Moved;
    /// What was moved stays moved.
    fn cancel_move(handle: &'a str) -> Move;
    /// The latest first.
    fn moves(source: &'a str, limit: usize) -> Vec<Move>;
    /// Those that a plane that died has left.
    fn running_moves(limit: usize) -> Vec<Move>;

    /// One step; true when there is more to do at once.
    fn sweep() -> bool;
    /// Expired messages of one queue: those at its head, and those among the next rows after `from`, because dead letters
    /// are not in the order of their sending. Returns where to go on, `None` at the end.
    fn expire(queue: &'a str, from: i64) -> Option<i64>;
    fn keep_clock() -> ();

    fn begin_work(work: Begun) -> ();
    /// `token` names what was begun, if anything was.
    fn end_work(token: Option<String>, attempt: Attempt) -> ();
    /// What earlier processes of this plane have begun and not seen the end of.
    fn open_work() -> Vec<Begun>;
    /// Of a worker that will never be again.
    fn forget_attempts(worker: &'a str) -> ();
    /// The latest first.
    fn attempts(worker: &'a str, limit: u32) -> Vec<Attempt>;

    /// The same key with the same parameters is the same run.
    fn submit_run(new: NewRun) -> Submitted;
    /// One firing of a schedule: a run or none, and the watermark, in one transaction.
    fn fire(new: NewRun, at: i64, rule: Overlap) -> Fate;
    /// The watermark of a schedule; of one that is new or changed it is `now`.
    fn watermark(workflow: &'a str, pattern: &'a str, now: i64) -> i64;
    fn move_watermark(workflow: &'a str, to: i64) -> ();
    /// `false`: somebody else has stored a state since.
    fn keep_run(keep: Keep) -> bool;
    fn flow_run(id: &'a str) -> RunRow;
    /// In the order of their numbers.
    fn open_runs() -> Vec<RunRow>;
    /// The latest first.
    fn runs(filter: Filter) -> Vec<RunRow>;
    /// How many of each workflow are in each state, of those that are not over.
    fn count_open_runs() -> Vec<(String, String, u64)>;
    /// In the order of their beginning.
    fn run_attempts(run: &'a str) -> Vec<AttemptRow>;
    /// Keys of attempts of runs that are not over, and that are not either.
    fn open_attempts() -> Vec<String>;
    fn flow_definition(hash: &'a str) -> String;
    /// Those that nobody has begun.
    fn queued_runs() -> Vec<String>;
    /// Whether this plane is the one that leads runs, for so long from now.
    fn lead(for_ms: u64) -> bool;
    /// Leaves a request for the plane that leads.
    fn post(request: String) -> i64;
    /// Requests that wait for this plane, which leads.
    fn posted() -> Vec<(i64, String)>;
    fn reply(number: i64, reply: String) -> ();
    /// What the plane that leads has answered; given once.
    fn replied(number: i64) -> Option<String>;
    /// Ended runs whose time is over; their names, so that their files go too.
    fn sweep_runs() -> Vec<String>;
    /// Of the step of another run.
    fn run_of_key(key: &'a str) -> Option<String>;
    /// Where a message that was sent is now; `None` when it is gone.
    fn find_sent(queue: &'a str, sent: &'a Sent) -> Option<Found>;
}

pub(crate) fn spec(text: &str) -> Result<Spec> {
    decode(text, "definition of a queue")
}

pub(crate) fn decode<T: DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|e| Error::System { what: format!("read the stored {what}"), source: std::io::Error::other(e) })
}

pub(crate) fn encode(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::System { what: "encode what is stored".into(), source: std::io::Error::other(e) })
}

#[cfg(test)]
mod tests;
