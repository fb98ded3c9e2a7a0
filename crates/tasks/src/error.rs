//! What can go wrong with tasks, each with its code.

use holdfast_store as store;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no queue `{queue}`")]
    NoQueue { queue: String },
    #[error("queue `{queue}` exists with another {what}")]
    QueueExists { queue: String, what: &'static str },
    #[error("queue `{queue}` was deleted less than 60 seconds ago")]
    DeletedRecently { queue: String },
    #[error("queue `{queue}` was purged less than 60 seconds ago")]
    PurgedRecently { queue: String },
    #[error("queue `{queue}` stands in the file")]
    Declared { queue: String },
    #[error("there are {limit} queues, no more are made")]
    TooManyQueues { limit: usize },
    #[error("queue `{queue}` has {limit} messages in flight, no more are handed out")]
    InFlight { queue: String, limit: u32 },
    #[error("queue `{queue}`: {reason}")]
    Invalid { queue: String, reason: String },
    #[error("queue `{queue}`: a FIFO queue needs a {what}")]
    Missing { queue: String, what: &'static str },
    #[error("queue `{queue}`: idempotency key `{key}` was used for another message")]
    KeyReused { queue: String, key: String },
    #[error("not a receipt of queue `{queue}`: {reason}")]
    Receipt { queue: String, reason: &'static str },
    #[error("the message is not in flight")]
    NotInFlight,
    #[error("there is no move task `{handle}`")]
    NoMove { handle: String },
    #[error("messages of `{source_queue}` are being moved already")]
    MoveRuns { source_queue: String },
    #[error("there is no workflow `{workflow}`")]
    NoWorkflow { workflow: String },
    #[error("workflow `{workflow}`: {reason}")]
    Workflow { workflow: String, reason: String },
    #[error("there is no run `{run}`")]
    NoRun { run: String },
    #[error("run `{run}`: {reason}")]
    RunRefuses { run: String, reason: String },
    #[error("workflow `{workflow}`: {reason}")]
    Parameters { workflow: String, reason: String },
    #[error("workflow `{workflow}`: idempotency key `{key}` was used with other parameters")]
    RunKeyReused { workflow: String, key: String },
    #[error("{limit} runs are not over, no more are taken")]
    TooManyRuns { limit: u32 },
    /// Nothing was done, it may work later.
    #[error("not now: {reason}")]
    Throttled { reason: String },
    /// Whether it was done is not known, or nothing can be done any more.
    #[error("{0}")]
    Store(store::Error),
    #[error("the database of queues: cannot {what}: {reason}")]
    Database { what: String, reason: String },
    #[error("{what}: {source}")]
    System { what: String, source: std::io::Error },
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Refused(inner) => match inner.downcast::<Error>() {
                Ok(own) => *own,
                Err(other) => Error::Store(store::Error::Refused(other)),
            },
            store::Error::Full { .. } => Error::Throttled { reason: "the disk is full".into() },
            store::Error::QueueFull { .. } => Error::Throttled { reason: "too much waits to be written".into() },
            other => Error::Store(other),
        }
    }
}

/// From inside a store operation.
impl From<Error> for store::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Store(inner) => inner,
            other => store::Error::refused(other),
        }
    }
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Error::NoQueue { .. } => "HF0801",
            Error::QueueExists { .. } | Error::Declared { .. } | Error::TooManyQueues { .. } => "HF0802",
            Error::DeletedRecently { .. } | Error::PurgedRecently { .. } => "HF0803",
            Error::InFlight { .. } => "HF0804",
            Error::Invalid { .. } | Error::Missing { .. } | Error::KeyReused { .. } => "HF0805",
            Error::Receipt { .. } | Error::NotInFlight => "HF0806",
            Error::NoMove { .. } | Error::MoveRuns { .. } => "HF0807",
            Error::Throttled { .. } => "HF0808",
            Error::NoWorkflow { .. } => "HF0820",
            Error::Workflow { .. } => "HF0821",
            Error::NoRun { .. } => "HF0822",
            Error::RunRefuses { .. } => "HF0823",
            Error::Parameters { .. } => "HF0824",
            Error::RunKeyReused { .. } => "HF0825",
            Error::TooManyRuns { .. } => "HF0826",
            Error::Store(inner) => inner.code(),
            Error::System { .. } => "HF0809",
            Error::Database { .. } => "HF0813",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NoQueue { .. } => Some("holdfast queue list".into()),
            Error::NoWorkflow { .. } | Error::NoRun { .. } => Some("holdfast runs list".into()),
            Error::RunRefuses { run, .. } => Some(format!("holdfast runs show {run}")),
            Error::Declared { queue } => Some(format!("take [queue.{queue}] out of the file, then holdfast up")),
            Error::Throttled { .. } => Some("nothing was stored; try again in a moment".into()),
            Error::Store(inner) => inner.hint(),
            _ => None,
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;
