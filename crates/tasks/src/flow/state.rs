//! The machine's state as it is stored: every field of it, as JSON. A field is added with a default, never changed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use holdfast_policy::Timestamp;
use holdfast_policy::flow::{
    self, Audit, Call, Halt, Halting, Item, Phase, RunPhase, Running, State, StepPhase, StepState, Value,
};
use serde::{Deserialize, Serialize};

/// Nanoseconds of engine time.
type Nanos = u64;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    run: String,
    workflow: String,
    parameters: BTreeMap<String, Val>,
    nominal: Option<String>,
    version: u64,
    seen: Nanos,
    began: Nanos,
    ended: Option<Nanos>,
    phase: RunWord,
    paused: bool,
    round: u32,
    rounds_again: u32,
    cause: Option<String>,
    again: bool,
    pending: Option<String>,
    overdue: bool,
    started: bool,
    steps: Vec<StoredStep>,
    signals: BTreeMap<String, VecDeque<Val>>,
    signals_seen: VecDeque<String>,
    audit: VecDeque<Word>,
}

/// A value with the bits of its numbers, so that what is read is what was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Val {
    N,
    B(bool),
    F(u64),
    T(String),
    L(Vec<Val>),
    M(BTreeMap<String, Val>),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RunWord {
    Queued,
    Running,
    Stopping { timed_out: bool },
    RollingBack,
    BetweenRounds { at: Nanos },
    Succeeded,
    Failed,
    Cancelled,
    RolledBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StepWord {
    Waiting,
    Open,
    Blocked,
    Done,
    Failed,
    Skipped,
    Cancelled,
    Undoing,
    Undone,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredStep {
    phase: StepWord,
    round: u32,
    values: Option<Vec<Val>>,
    items: Vec<StoredItem>,
    live: BTreeSet<u32>,
    failed: u32,
    undo_left: u32,
    output: Option<Val>,
    error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredItem {
    action: StoredCall,
    undo: StoredCall,
    output: Option<Val>,
    undo_again: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredCall {
    phase: CallWord,
    attempt: u32,
    ran: u32,
    failures: u32,
    doubt: bool,
    paged: bool,
    ready: Nanos,
    began: Option<Nanos>,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CallWord {
    Idle,
    Ready,
    Asking,
    Running(StoredRunning),
    Retrying { at: Nanos },
    Done,
    Failed,
    Skipped,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct StoredRunning {
    slot: bool,
    started: Option<Nanos>,
    heard: Nanos,
    wake: Option<Nanos>,
    poll: Option<Nanos>,
    halt: Option<StoredHalt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct StoredHalt {
    why: HaltWord,
    until: Option<Nanos>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum HaltWord {
    WaitLimit,
    RunLimit,
    Heartbeat,
    TotalLimit,
    Cancelled,
    Rollback,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Word {
    at: Nanos,
    by: String,
    what: String,
    reason: String,
}

fn nanos(at: Timestamp) -> Nanos {
    at.as_nanos()
}

fn time(at: Nanos) -> Timestamp {
    Timestamp::from_nanos(at)
}

/// Both ways between words that have no content.
macro_rules! words {
    ($there:ident, $here:ident: $($word:ident)*) => {
        impl From<$there> for $here {
            fn from(word: $there) -> $here {
                match word { $($there::$word => $here::$word,)* }
            }
        }
        impl From<$here> for $there {
            fn from(word: $here) -> $there {
                match word { $($here::$word => $there::$word,)* }
            }
        }
    };
}

words!(StepPhase, StepWord: Waiting Open Blocked Done Failed Skipped Cancelled Undoing Undone);
words!(Halt, HaltWord: WaitLimit RunLimit Heartbeat TotalLimit Cancelled Rollback);

impl From<&Value> for Val {
    fn from(value: &Value) -> Val {
        match value {
            Value::Null => Val::N,
            Value::Bool(value) => Val::B(*value),
            Value::Number(n) => Val::F(n.to_bits()),
            Value::Text(text) => Val::T(text.clone()),
            Value::List(values) => Val::L(values.iter().map(Val::from).collect()),
            Value::Map(fields) => Val::M(fields.iter().map(|(name, value)| (name.clone(), value.into())).collect()),
        }
    }
}

impl From<Val> for Value {
    fn from(value: Val) -> Value {
        match value {
            Val::N => Value::Null,
            Val::B(value) => Value::Bool(value),
            Val::F(bits) => Value::Number(f64::from_bits(bits)),
            Val::T(text) => Value::Text(text),
            Val::L(values) => Value::List(values.into_iter().map(Value::from).collect()),
            Val::M(fields) => Value::Map(fields.into_iter().map(|(name, value)| (name, value.into())).collect()),
        }
    }
}

impl From<RunPhase> for RunWord {
    fn from(phase: RunPhase) -> RunWord {
        match phase {
            RunPhase::Queued => RunWord::Queued,
            RunPhase::Running => RunWord::Running,
            RunPhase::Stopping { timed_out } => RunWord::Stopping { timed_out },
            RunPhase::RollingBack => RunWord::RollingBack,
            RunPhase::BetweenRounds { at } => RunWord::BetweenRounds { at: nanos(at) },
            RunPhase::Succeeded => RunWord::Succeeded,
            RunPhase::Failed => RunWord::Failed,
            RunPhase::Cancelled => RunWord::Cancelled,
            RunPhase::RolledBack => RunWord::RolledBack,
        }
    }
}

impl From<RunWord> for RunPhase {
    fn from(word: RunWord) -> RunPhase {
        match word {
            RunWord::Queued => RunPhase::Queued,
            RunWord::Running => RunPhase::Running,
            RunWord::Stopping { timed_out } => RunPhase::Stopping { timed_out },
            RunWord::RollingBack => RunPhase::RollingBack,
            RunWord::BetweenRounds { at } => RunPhase::BetweenRounds { at: time(at) },
            RunWord::Succeeded => RunPhase::Succeeded,
            RunWord::Failed => RunPhase::Failed,
            RunWord::Cancelled => RunPhase::Cancelled,
            RunWord::RolledBack => RunPhase::RolledBack,
        }
    }
}

impl From<Phase> for CallWord {
    fn from(phase: Phase) -> CallWord {
        match phase {
            Phase::Idle => CallWord::Idle,
            Phase::Ready => CallWord::Ready,
            Phase::Asking => CallWord::Asking,
            Phase::Running(r) => CallWord::Running(StoredRunning {
                slot: r.slot,
                started: r.started.map(nanos),
                heard: nanos(r.heard),
                wake: r.wake.map(nanos),
                poll: r.poll.map(nanos),
                halt: r.halt.map(|h| StoredHalt { why: h.why.into(), until: h.until.map(nanos) }),
            }),
            Phase::Retrying { at } => CallWord::Retrying { at: nanos(at) },
            Phase::Done => CallWord::Done,
            Phase::Failed => CallWord::Failed,
            Phase::Skipped => CallWord::Skipped,
            Phase::Cancelled => CallWord::Cancelled,
        }
    }
}

impl From<CallWord> for Phase {
    fn from(word: CallWord) -> Phase {
        match word {
            CallWord::Idle => Phase::Idle,
            CallWord::Ready => Phase::Ready,
            CallWord::Asking => Phase::Asking,
            CallWord::Running(r) => Phase::Running(Running {
                slot: r.slot,
                started: r.started.map(time),
                heard: time(r.heard),
                wake: r.wake.map(time),
                poll: r.poll.map(time),
                halt: r.halt.map(|h| Halting { why: h.why.into(), until: h.until.map(time) }),
            }),
            CallWord::Retrying { at } => Phase::Retrying { at: time(at) },
            CallWord::Done => Phase::Done,
            CallWord::Failed => Phase::Failed,
            CallWord::Skipped => Phase::Skipped,
            CallWord::Cancelled => Phase::Cancelled,
        }
    }
}

impl From<&Call> for StoredCall {
    fn from(call: &Call) -> StoredCall {
        StoredCall {
            phase: call.phase.into(),
            attempt: call.attempt,
            ran: call.ran,
            failures: call.failures,
            doubt: call.doubt,
            paged: call.paged,
            ready: nanos(call.ready),
            began: call.began.map(nanos),
            error: call.error.clone(),
        }
    }
}

impl From<StoredCall> for Call {
    fn from(call: StoredCall) -> Call {
        Call {
            phase: call.phase.into(),
            attempt: call.attempt,
            ran: call.ran,
            failures: call.failures,
            doubt: call.doubt,
            paged: call.paged,
            ready: time(call.ready),
            began: call.began.map(time),
            error: call.error,
        }
    }
}

impl From<&Item> for StoredItem {
    fn from(item: &Item) -> StoredItem {
        let output = item.output.as_ref().map(Val::from);
        StoredItem { action: (&item.action).into(), undo: (&item.undo).into(), output, undo_again: item.undo_again }
    }
}

impl From<StoredItem> for Item {
    fn from(item: StoredItem) -> Item {
        let output = item.output.map(Value::from);
        Item { action: item.action.into(), undo: item.undo.into(), output, undo_again: item.undo_again }
    }
}

impl From<&StepState> for StoredStep {
    fn from(step: &StepState) -> StoredStep {
        StoredStep {
            phase: step.phase.into(),
            round: step.round,
            values: step.values.as_ref().map(|values| values.iter().map(Val::from).collect()),
            items: step.items.iter().map(StoredItem::from).collect(),
            live: step.live.clone(),
            failed: step.failed,
            undo_left: step.undo_left,
            output: step.output.as_ref().map(Val::from),
            error: step.error.clone(),
        }
    }
}

impl From<StoredStep> for StepState {
    fn from(step: StoredStep) -> StepState {
        StepState {
            phase: step.phase.into(),
            round: step.round,
            values: step.values.map(|values| values.into_iter().map(Value::from).collect()),
            items: step.items.into_iter().map(Item::from).collect(),
            live: step.live,
            failed: step.failed,
            undo_left: step.undo_left,
            output: step.output.map(Value::from),
            error: step.error,
        }
    }
}

impl From<&State> for Stored {
    fn from(state: &State) -> Stored {
        Stored {
            run: state.run.clone(),
            workflow: state.workflow.clone(),
            parameters: state.parameters.iter().map(|(name, value)| (name.clone(), value.into())).collect(),
            nominal: state.nominal.clone(),
            version: state.version,
            seen: nanos(state.seen),
            began: nanos(state.began),
            ended: state.ended.map(nanos),
            phase: state.phase.into(),
            paused: state.paused,
            round: state.round,
            rounds_again: state.rounds_again,
            cause: state.cause.clone(),
            again: state.again,
            pending: state.pending.clone(),
            overdue: state.overdue,
            started: state.started,
            steps: state.steps.iter().map(StoredStep::from).collect(),
            signals: state.signals.iter().map(|(name, q)| (name.clone(), q.iter().map(Val::from).collect())).collect(),
            signals_seen: state.signals_seen.clone(),
            audit: state.audit.iter().map(Word::from).collect(),
        }
    }
}

impl From<Stored> for State {
    fn from(state: Stored) -> State {
        let queue = |queue: VecDeque<Val>| queue.into_iter().map(Value::from).collect();
        State {
            run: state.run,
            workflow: state.workflow,
            parameters: state.parameters.into_iter().map(|(name, value)| (name, value.into())).collect(),
            nominal: state.nominal,
            version: state.version,
            seen: time(state.seen),
            began: time(state.began),
            ended: state.ended.map(time),
            phase: state.phase.into(),
            paused: state.paused,
            round: state.round,
            rounds_again: state.rounds_again,
            cause: state.cause,
            again: state.again,
            pending: state.pending,
            overdue: state.overdue,
            started: state.started,
            steps: state.steps.into_iter().map(StepState::from).collect(),
            signals: state.signals.into_iter().map(|(name, signals)| (name, queue(signals))).collect(),
            signals_seen: state.signals_seen,
            audit: state.audit.into_iter().map(Audit::from).collect(),
        }
    }
}

impl From<&Audit> for Word {
    fn from(audit: &Audit) -> Word {
        let Audit { at, by, what, reason } = audit.clone();
        Word { at: nanos(at), by, what, reason }
    }
}

impl From<Word> for Audit {
    fn from(word: Word) -> Audit {
        let Word { at, by, what, reason } = word;
        Audit { at: time(at), by, what, reason }
    }
}

/// As it stands in the table.
pub(crate) fn encode(state: &State) -> crate::Result<String> {
    crate::store::encode(&Stored::from(state))
}

pub(crate) fn decode(text: &str) -> crate::Result<flow::State> {
    Ok(crate::store::decode::<Stored>(text, "state of a run")?.into())
}

#[cfg(test)]
mod tests;
