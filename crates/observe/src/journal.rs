//! The journal: events of every process of this node, their incidents, and minute rows, in `journal.db`.
//!
//! It gates nothing: [`Journal::append`] never waits, what does not fit is counted and told as one `lost n` row, and a journal
//! that cannot be opened or written is discarded with a warning while everything else goes on.

mod keeper;
mod query;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_host::event::Event;
use holdfast_policy::availability::Tally;
use holdfast_store::{self as store, Store};
pub use query::{EventQuery, IncidentQuery, Row};
use tokio::sync::oneshot;

/// Name of the file in the data directory.
pub const FILE: &str = "journal.db";

const MIGRATIONS: &[&str] = &[include_str!("journal/schema_1.sql")];

/// Messages waiting for the keeper thread: seconds of a busy node, under 8 MiB.
const QUEUE_MAX: usize = 8192;

/// How much is kept; whichever is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub days: u32,
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { days: 30, bytes: 256 << 20 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the journal cannot be read: {0}")]
    Store(#[from] store::Error),
    #[error("there is no journal: {reason}")]
    Discarded { reason: String },
    #[error("the journal has {limit} messages waiting")]
    Busy { limit: usize },
    #[error("the events could not be stored; their ring still has them")]
    NotStored,
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Error::Store(e) => e.code(),
            Error::Discarded { .. } | Error::Busy { .. } | Error::NotStored => "HF0420",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Store(e) => e.hint(),
            Error::Discarded { .. } => {
                Some("services go on; mend the cause and restart the agent to have a journal again".into())
            }
            Error::Busy { .. } | Error::NotStored => None,
        }
    }

    /// Copying the same events again later may succeed.
    pub fn is_passing(&self) -> bool {
        matches!(self, Error::Busy { .. } | Error::NotStored)
    }
}

impl From<store::rusqlite::Error> for Error {
    fn from(e: store::rusqlite::Error) -> Self {
        Error::Store(e.into())
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// What was read from a ring of events since the last time.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In order.
    pub events: Vec<Event>,
    /// Everything of the ring up to this sequence was handed over before. A batch that comes after one that could not be
    /// stored is refused by it, so that no event is skipped.
    pub after: u64,
    /// Overwritten before they were read: told as one row.
    pub lost: u64,
}

/// A handle; clones share the journal.
#[derive(Clone)]
pub struct Journal {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

struct Shared {
    /// `Err` is why there is none.
    store: std::result::Result<Store, String>,
    /// Events that found the queue full since the last row about it.
    overflow: AtomicU64,
    /// All events that were not kept since the start, for the metric.
    lost: AtomicU64,
    open_incidents: AtomicU64,
    failing: Mutex<Option<String>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

pub(crate) enum Message {
    Event(Box<Event>),
    Batch(Batch, oneshot::Sender<()>),
    /// Requests that failed at the balancer in front of a service.
    Failed {
        service: String,
        requests: u64,
    },
    Minute {
        service: String,
        minute: u64,
        tally: Tally,
    },
    Services(BTreeMap<String, u32>),
    Flush(oneshot::Sender<()>),
    Close,
}

impl Journal {
    /// Always gives a journal. When the file cannot be used (damaged, newer, no rights) the second value says why, nothing
    /// is kept, and the file stays as it is.
    pub fn open(data_dir: &Path, node: &str, limits: Limits) -> (Journal, Option<Error>) {
        let mut options = store::Options::new("journal", MIGRATIONS);
        // What a power cut takes from it is seconds of observation, not state.
        options.sync = store::Sync::Normal;
        options.reserve_bytes = 0;
        match Store::open(data_dir.join(FILE), options) {
            Ok(store) => (Journal::start(Ok(store), node, limits), None),
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "no journal is kept");
                (Journal::start(Err(error.to_string()), node, limits), Some(error.into()))
            }
        }
    }

    fn start(store: std::result::Result<Store, String>, node: &str, limits: Limits) -> Journal {
        let (queue, inbox) = sync_channel(QUEUE_MAX);
        let shared = Arc::new(Shared {
            store,
            overflow: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            open_incidents: AtomicU64::new(0),
            failing: Mutex::default(),
            thread: Mutex::default(),
        });
        let keeper = keeper::Keeper::new(shared.clone(), node.to_owned(), limits);
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || keeper.run(&inbox));
        match thread {
            Ok(thread) => *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread),
            Err(error) => tracing::warn!(%error, "no journal is kept: its thread cannot start"),
        }
        Journal { queue, shared }
    }

    /// Never waits. An event without a sequence gets the next one of its source.
    pub fn append(&self, event: Event) {
        if self.send(Message::Event(Box::new(event))).is_err() {
            self.shared.overflow.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Answered when they are stored (known ones are skipped). On an error that is passing, ask [`Journal::acked`] and copy
    /// again from there: the ring still has them.
    pub async fn append_batch(&self, batch: Batch) -> Result<()> {
        let (reply, stored) = oneshot::channel();
        self.send(Message::Batch(batch, reply))?;
        stored.await.map_err(|_| match &self.shared.store {
            Ok(_) => Error::NotStored,
            Err(reason) => Error::Discarded { reason: reason.clone() },
        })
    }

    /// Highest sequence stored of `source` on `node`, in its newest life: where the copying of its ring goes on.
    pub async fn acked(&self, node: &str, source: &str) -> Result<u64> {
        let (node, source) = (node.to_owned(), source.to_owned());
        self.read(move |db| Ok(rows::acked(db, &node, &source)?.map_or(0, |(_, seq)| seq))).await
    }

    /// Counted into the open incidents of `service`.
    pub fn requests_failed(&self, service: &str, requests: u64) {
        if requests > 0 {
            drop(self.send(Message::Failed { service: service.to_owned(), requests }));
        }
    }

    /// Adds to the row of the minute that `wall_ms` lies in.
    pub fn add_minute(&self, service: &str, wall_ms: u64, tally: Tally) {
        let message = Message::Minute { service: service.to_owned(), minute: wall_ms / 60_000, tally };
        drop(self.send(message));
    }

    /// How many instances each service should have; tells a common cause from single failures.
    pub fn set_services(&self, services: BTreeMap<String, u32>) {
        drop(self.send(Message::Services(services)));
    }

    /// Waits until everything appended before is stored, at most `limit`. False when it was not.
    pub async fn flush(&self, limit: Duration) -> bool {
        let (reply, done) = oneshot::channel();
        self.send(Message::Flush(reply)).is_ok() && matches!(tokio::time::timeout(limit, done).await, Ok(Ok(())))
    }

    /// Why nothing can be stored, while it cannot.
    pub fn failure(&self) -> Option<String> {
        self.shared.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn events_lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    pub fn open_incidents(&self) -> u64 {
        self.shared.open_incidents.load(Ordering::Relaxed)
    }

    /// Stores what is queued and closes the file. Blocks for as long as that takes.
    pub fn close(&self) {
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            drop(self.queue.send(Message::Close));
            drop(thread.join());
        }
        if let Ok(store) = &self.shared.store {
            store.close();
        }
    }

    fn send(&self, message: Message) -> Result<()> {
        self.queue.try_send(message).map_err(|e| match e {
            TrySendError::Full(_) => Error::Busy { limit: QUEUE_MAX },
            TrySendError::Disconnected(_) => self.discarded("closed"),
        })
    }

    fn discarded(&self, reason: &str) -> Error {
        let reason = self.shared.store.as_ref().err().map_or(reason, String::as_str);
        Error::Discarded { reason: reason.into() }
    }

    pub(crate) async fn read<T, F>(&self, query: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&store::rusqlite::Connection) -> store::Result<T> + Send + 'static,
    {
        match &self.shared.store {
            Ok(store) => Ok(store.read(query).await?),
            Err(reason) => Err(Error::Discarded { reason: reason.clone() }),
        }
    }
}
