//! What the face needs of the queues behind it. The face has checked every value against its limits before it asks.

use std::collections::BTreeMap;
use std::future::Future;

/// One queue as `CreateQueue` and `SetQueueAttributes` describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub fifo: bool,
    /// Seconds, 0..=43,200. Default 30.
    pub visibility_timeout: u32,
    /// Seconds, 0..=900. Default 0.
    pub delay: u32,
    /// Seconds, 60..=1,209,600. Default 4 days.
    pub retention: u32,
    /// Bytes, 1,024..=1,048,576. Default 1,048,576.
    pub size_max: u32,
    /// Seconds a receive waits unless it says otherwise, 0..=20. Default 0.
    pub wait: u32,
    pub redrive: Option<Redrive>,
    pub redrive_allow: RedriveAllow,
    pub content_based_deduplication: bool,
    pub deduplication_scope: Scope,
    pub throughput_limit: Scope,
    /// Kept and given back, without effect: `Policy`, `KmsMasterKeyId`, `KmsDataKeyReusePeriodSeconds`,
    /// `SqsManagedSseEnabled`.
    pub kept: BTreeMap<String, String>,
}

impl Default for Attributes {
    fn default() -> Self {
        Attributes {
            fifo: false,
            visibility_timeout: 30,
            delay: 0,
            retention: 345_600,
            size_max: 1_048_576,
            wait: 0,
            redrive: None,
            redrive_allow: RedriveAllow::All,
            content_based_deduplication: false,
            deduplication_scope: Scope::Queue,
            throughput_limit: Scope::Queue,
            kept: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redrive {
    /// Name of the dead-letter queue.
    pub target: String,
    /// A message is moved when it would be received more often, 1..=1,000.
    pub receives_max: u32,
}

/// Which queues may name this one as their dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedriveAllow {
    All,
    None,
    /// By name, at most 10.
    Queues(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Queue,
    MessageGroup,
}

/// Attributes that a `SetQueueAttributes` names; the others stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub visibility_timeout: Option<u32>,
    pub delay: Option<u32>,
    pub retention: Option<u32>,
    pub size_max: Option<u32>,
    pub wait: Option<u32>,
    /// `Some(None)` takes the policy away.
    pub redrive: Option<Option<Redrive>>,
    pub redrive_allow: Option<RedriveAllow>,
    pub content_based_deduplication: Option<bool>,
    pub deduplication_scope: Option<Scope>,
    pub throughput_limit: Option<Scope>,
    /// An empty text takes the entry away.
    pub kept: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    pub name: String,
    pub attributes: Attributes,
    pub created_s: u64,
    pub modified_s: u64,
    pub visible: u64,
    pub in_flight: u64,
    pub delayed: u64,
}

/// A message to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    pub body: String,
    /// Message attributes, encoded by the face; given back as they came.
    pub attributes: Vec<u8>,
    /// `AWSTraceHeader`.
    pub trace_header: Option<String>,
    /// Seconds, 0..=900; `None` is the queue's delay.
    pub delay: Option<u32>,
    pub group: Option<String>,
    /// As given, or the SHA-256 of the body when the queue deduplicates by content: the face does not know the queue,
    /// so the backend works it out.
    pub deduplication_id: Option<String>,
    /// Access key of the sender; `SenderId`.
    pub sender: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub message_id: String,
    /// FIFO only.
    pub sequence: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub message_id: String,
    pub receipt: String,
    pub body: String,
    pub attributes: Vec<u8>,
    pub trace_header: Option<String>,
    pub sender: String,
    pub sent_ms: u64,
    pub first_received_ms: u64,
    pub receives: u32,
    pub group: Option<String>,
    pub deduplication_id: Option<String>,
    pub sequence: Option<u64>,
    /// Name of the queue whose dead letter it is.
    pub dead_letter_source: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receive {
    /// 1..=10.
    pub messages_max: u32,
    /// Seconds; `None` is the queue's.
    pub visibility_timeout: Option<u32>,
    /// Seconds; `None` is the queue's.
    pub wait: Option<u32>,
    /// FIFO only: the same id within 5 minutes gets the same messages, as long as none was deleted or changed.
    pub attempt_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveTask {
    pub handle: String,
    /// `RUNNING`, `COMPLETED`, `CANCELLING`, `CANCELLED`, `FAILED`.
    pub status: &'static str,
    /// Names.
    pub source: String,
    pub destination: Option<String>,
    /// Messages a second, 1..=500.
    pub rate_max: Option<u32>,
    pub moved: u64,
    pub to_move: u64,
    pub failure: Option<String>,
    pub started_ms: u64,
}

/// Why the backend says no. The face turns each into the shape and the older code that clients know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no such queue")]
    QueueDoesNotExist,
    #[error("a queue of this name exists with other attributes: {0}")]
    QueueNameExists(String),
    #[error("a queue of this name was deleted less than 60 seconds ago")]
    QueueDeletedRecently,
    #[error("the queue was purged less than 60 seconds ago")]
    PurgeQueueInProgress,
    #[error("{0}")]
    OverLimit(String),
    #[error("the receipt handle is not valid: {0}")]
    ReceiptHandleIsInvalid(String),
    #[error("the message is not in flight")]
    MessageNotInflight,
    #[error("{0}")]
    ResourceNotFound(String),
    #[error("{0}")]
    InvalidParameterValue(String),
    #[error("{0}")]
    MissingParameter(String),
    #[error("{0}")]
    UnsupportedOperation(String),
    /// Nothing was done; the client tries again later. HTTP 400 `RequestThrottled` in SQS's words.
    #[error("{0}")]
    Throttled(String),
    /// The answer is not known, or the plane cannot go on: HTTP 503 `ServiceUnavailable`.
    #[error("{0}")]
    Unavailable(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// The queues. Every answer that promises something comes after it is durable.
pub trait Backend: Send + Sync + 'static {
    /// The same attributes again is no error; returns the name.
    fn create(
        &self,
        name: &str,
        attributes: Attributes,
        tags: BTreeMap<String, String>,
    ) -> impl Future<Output = Result<()>> + Send;
    fn delete(&self, queue: &str) -> impl Future<Output = Result<()>> + Send;
    fn purge(&self, queue: &str) -> impl Future<Output = Result<()>> + Send;
    fn get(&self, queue: &str) -> impl Future<Output = Result<Queue>> + Send;
    fn set(&self, queue: &str, change: Change) -> impl Future<Output = Result<()>> + Send;
    /// Names in order, after `after`, at most `limit`.
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize)
    -> impl Future<Output = Result<Vec<String>>> + Send;
    /// Queues whose redrive policy names `queue`, in order.
    fn dead_letter_sources(
        &self,
        queue: &str,
        after: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<String>>> + Send;

    /// At most 10; one answer for each, in order.
    fn send(&self, queue: &str, messages: Vec<Outgoing>) -> impl Future<Output = Result<Vec<Result<Sent>>>> + Send;
    fn receive(&self, queue: &str, receive: Receive) -> impl Future<Output = Result<Vec<Received>>> + Send;
    fn acknowledge(&self, queue: &str, receipts: Vec<String>) -> impl Future<Output = Result<Vec<Result<()>>>> + Send;
    /// Receipts with seconds from now, 0..=43,200.
    fn change_visibility(
        &self,
        queue: &str,
        changes: Vec<(String, u32)>,
    ) -> impl Future<Output = Result<Vec<Result<()>>>> + Send;

    /// Adds (`Some`) and takes away (`None`); at most 50 stay.
    fn tag(&self, queue: &str, tags: BTreeMap<String, Option<String>>) -> impl Future<Output = Result<()>> + Send;
    fn tags(&self, queue: &str) -> impl Future<Output = Result<BTreeMap<String, String>>> + Send;
    /// Kept as entries of the queue's `Policy`; no effect on who may do what.
    fn set_policy(&self, queue: &str, policy: Option<String>) -> impl Future<Output = Result<()>> + Send {
        let kept = BTreeMap::from([("Policy".to_owned(), policy.unwrap_or_default())]);
        self.set(queue, Change { kept, ..Change::default() })
    }

    /// Returns the handle of the task.
    fn start_move(
        &self,
        source: &str,
        destination: Option<&str>,
        rate_max: Option<u32>,
    ) -> impl Future<Output = Result<String>> + Send;
    /// How many were moved so far.
    fn cancel_move(&self, handle: &str) -> impl Future<Output = Result<u64>> + Send;
    /// The latest first.
    fn moves(&self, source: &str, limit: usize) -> impl Future<Output = Result<Vec<MoveTask>>> + Send;
}
