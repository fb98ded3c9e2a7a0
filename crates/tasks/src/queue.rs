//! Queues as every store keeps them: what a queue is, what goes in, what comes out.

pub(crate) mod entry;
pub mod receipt;
pub(crate) mod rules;

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_policy::backoff::Backoff;
use holdfast_policy::queue::Limits;
use serde::{Deserialize, Serialize};

use crate::clock::Millis;

/// Messages of one queue that may be in flight; clients are told `OverLimit`, as SQS does.
pub const IN_FLIGHT_MAX: u32 = 120_000;
/// Queues of one plane: their definitions stay in memory.
pub const QUEUES_MAX: usize = 10_000;
/// A queue of the same name may be made again after this long.
pub const DELETED_FOR_MS: Millis = 60_000;
pub const PURGE_EVERY_MS: Millis = 60_000;
/// The same deduplication id within this time is the same message.
pub const DEDUPLICATION_MS: Millis = 300_000;
/// Counted from the receive: no message may be held back longer.
pub const VISIBILITY_MAX_MS: Millis = 43_200_000;
/// Due of a message that waits for a person.
pub const NEVER: Millis = Millis::MAX;
/// Characters of a worker's last words that are kept.
pub const ERROR_CHARS_MAX: usize = 1_000;

/// What a queue does. Stored as JSON: a field is added with a default, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    pub fifo: bool,
    pub visibility_ms: u64,
    pub delay_ms: u64,
    pub retention_ms: u64,
    pub size_max: u32,
    pub wait_ms: u64,
    pub dead_letter: Option<DeadLetter>,
    pub dead_letter_of: DeadLetterOf,
    pub content_based_deduplication: bool,
    /// Deduplicate within a message group, not over the whole queue.
    pub deduplicate_in_group: bool,
    /// Given back as it was set, without effect.
    pub throughput_by_group: bool,
    /// Attributes that are kept for their reader.
    pub kept: BTreeMap<String, String>,
    pub retry: Option<Retry>,
    pub crashes_max: u32,
    /// Messages a second that are handed out.
    pub rate_max: Option<u32>,
    /// How long an idempotency key is remembered.
    pub idempotency_ms: u64,
    /// Stands in the file: clients cannot delete it.
    pub declared: bool,
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            fifo: false,
            visibility_ms: 30_000,
            delay_ms: 0,
            retention_ms: 345_600_000,
            size_max: 1 << 20,
            wait_ms: 0,
            dead_letter: None,
            dead_letter_of: DeadLetterOf::All,
            content_based_deduplication: false,
            deduplicate_in_group: false,
            throughput_by_group: false,
            kept: BTreeMap::new(),
            retry: None,
            crashes_max: 3,
            rate_max: None,
            idempotency_ms: 86_400_000,
            declared: false,
        }
    }
}

impl Spec {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            receives_max: self.dead_letter.as_ref().map(|d| d.receives_max),
            crashes_max: self.crashes_max,
            retry: self.retry.map(Retry::backoff),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Name of the queue that gets them.
    pub queue: String,
    pub receives_max: u32,
}

/// Which queues may bury their messages here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadLetterOf {
    #[default]
    All,
    None,
    Queues(Vec<String>),
}

impl DeadLetterOf {
    pub(crate) fn allows(&self, source: &str) -> bool {
        match self {
            DeadLetterOf::All => true,
            DeadLetterOf::None => false,
            DeadLetterOf::Queues(names) => names.iter().any(|n| n == source),
        }
    }
}

/// Exponential back-off as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    pub base_ms: u64,
    pub factor: f64,
    pub max_ms: u64,
    pub jitter: f64,
}

impl Retry {
    fn backoff(self) -> Backoff {
        Backoff {
            base: Duration::from_millis(self.base_ms),
            factor: self.factor,
            max: Duration::from_millis(self.max_ms),
            jitter: self.jitter,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    pub name: String,
    pub spec: Spec,
    pub tags: BTreeMap<String, String>,
    /// Engine time.
    pub created: Millis,
    pub modified: Millis,
}

/// How many messages there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub visible: u64,
    pub in_flight: u64,
    /// Sent with a delay, waiting for their next try, or set aside.
    pub delayed: u64,
    /// Since the oldest was sent, 0 when empty.
    pub oldest_ms: u64,
}

/// A message on its way in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct New {
    pub body: String,
    /// Opaque to the store.
    pub attributes: Vec<u8>,
    pub trace: Option<String>,
    pub sender: String,
    /// `None` is the queue's.
    pub delay_ms: Option<u64>,
    pub group: Option<String>,
    pub deduplication: Option<String>,
    /// Beyond SQS, for any queue: the same key with the same body is the same message; with another body it is refused.
    pub idempotency: Option<String>,
    /// What must be the same when the key is used again, instead of the body.
    pub fingerprint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub message: MessageId,
    /// Place in the queue; clients of FIFO queues see it.
    pub sequence: u64,
    /// It was there already.
    pub duplicate: bool,
}

/// What clients call a message: a random UUID that it keeps among the dead letters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub [u8; 16]);

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Every answer is full of them, and a formatter for each byte is slow.
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (i, byte) in self.0.iter().enumerate() {
            at += usize::from(matches!(i, 4 | 6 | 8 | 10));
            (text[at], text[at + 1]) = (digit(byte >> 4), digit(byte & 15));
            at += 2;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl std::fmt::Debug for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A message handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub message: MessageId,
    pub receipt: String,
    pub body: String,
    pub attributes: Vec<u8>,
    pub trace: Option<String>,
    pub sender: String,
    pub sent: Millis,
    pub first_received: Millis,
    pub receives: u32,
    pub failures: u32,
    pub group: Option<String>,
    pub deduplication: Option<String>,
    pub sequence: u64,
    pub buried: Option<Buried>,
}

/// How a message came among the dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buried {
    /// Name of the queue that it was in.
    pub source: String,
    /// `receives`, `refused`, `poison`, or `moved` by hand.
    pub reason: String,
    /// Last words of its last worker.
    pub error: Option<String>,
}

/// A message that is looked at, not received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    pub message: MessageId,
    pub body: String,
    pub sent: Millis,
    pub receives: u32,
    pub failures: u32,
    pub crashes: u32,
    /// When it can be received; in the past when it can be now, `None` when it is set aside.
    pub due: Option<Millis>,
    pub group: Option<String>,
    pub error: Option<String>,
    pub buried: Option<Buried>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub deliveries: Vec<Delivery>,
    /// With nothing to hand out: when something will be, unless it is sent before.
    pub next_due: Option<Millis>,
    /// Queues that got dead letters by this.
    pub buried_in: Vec<String>,
}

/// What an acknowledgement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    Deleted,
    /// The receipt was no longer the latest, or the message was gone: nothing was deleted, and SQS says that is fine.
    Stale,
}

/// What a worker's report led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    Again { due: Millis },
    Buried { queue: String },
    Quarantined,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub handle: String,
    pub state: MoveState,
    pub source: String,
    /// `None` takes each message to where it came from.
    pub destination: Option<String>,
    pub rate_max: Option<u32>,
    pub moved: u64,
    pub to_move: u64,
    pub failure: Option<String>,
    pub started: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveState {
    Running,
    Completed,
    Cancelled,
    Failed,
}

impl MoveState {
    pub fn word(self) -> &'static str {
        match self {
            MoveState::Running => "RUNNING",
            MoveState::Completed => "COMPLETED",
            MoveState::Cancelled => "CANCELLED",
            MoveState::Failed => "FAILED",
        }
    }

    pub(crate) fn parse(word: &str) -> MoveState {
        match word {
            "RUNNING" => MoveState::Running,
            "COMPLETED" => MoveState::Completed,
            "CANCELLED" => MoveState::Cancelled,
            _ => MoveState::Failed,
        }
    }
}

/// How far a step of a move came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub many: u32,
    pub state: MoveState,
    /// Queues that got messages.
    pub into: Vec<String>,
}
