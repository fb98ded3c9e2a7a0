//! The writer thread: takes what is waiting, commits it as one batch, then answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Verdict, is_corrupt, verdict};
use crate::readers::Readers;
use crate::reserve::Reserve;
use crate::{Error, Options, Result};

/// Commits after which a checkpoint is made even when operations keep coming.
const CHECKPOINT_COMMITS: u32 = 1000;

/// A page and its header in the WAL.
const FRAME_BYTES: u64 = 4096 + 24;

/// A WAL this many times longer than it should be is cut back, which costs more than writing over it.
const WAL_FAR: u64 = 4;

/// A small operation may fit where a larger one did not: that is not the end of it, and no news.
const FULL_FOR_AT_LEAST: Duration = Duration::from_secs(3);

/// After an operation failed, so many batches take the trouble of savepoints from the start: where one fails others do.
const GUARDED_BATCHES: u32 = 64;

const NOT_PRETENDED: u64 = 0;

#[derive(Clone)]
pub(crate) struct Handle {
    queue: mpsc::Sender<Message>,
    queue_max: usize,
    path: Arc<PathBuf>,
    failure: Arc<Mutex<Option<String>>>,
    full: Arc<AtomicBool>,
    /// Boot time; of a drill.
    pretended_until: Arc<AtomicU64>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

enum Message {
    Do(Box<dyn Job>),
    Close,
}

/// An operation with its answer, its types forgotten.
trait Job: Send {
    /// May run again after what it did was undone; the error tells the writer what to do with the batch.
    fn run(&mut self, connection: &Connection) -> std::result::Result<(), Verdict>;
    /// What it writes can wait: the reserve for a full disk is not for it.
    fn can_wait(&self) -> bool;
    /// `Ok` delivers what `run` left; an error replaces it.
    fn answer(self: Box<Self>, committed: Result<()>);
}

struct Op<F, T, D> {
    op: F,
    outcome: Option<Result<T>>,
    done: D,
    can_wait: bool,
}

impl<T, F, D> Job for Op<F, T, D>
where
    T: Send,
    F: FnMut(&Connection) -> Result<T> + Send,
    D: FnOnce(Result<T>) + Send,
{
    fn run(&mut self, connection: &Connection) -> std::result::Result<(), Verdict> {
        let op = &mut self.op;
        let outcome = catch_unwind(AssertUnwindSafe(|| op(connection))).unwrap_or(Err(Error::Panicked));
        let result = match &outcome {
            Ok(_) => Ok(()),
            Err(Error::Sql(e)) => Err(verdict(e)),
            Err(Error::Full { .. }) => Err(Verdict::Full),
            Err(_) => Err(Verdict::Operation),
        };
        self.outcome = Some(outcome);
        result
    }

    fn can_wait(&self) -> bool {
        self.can_wait
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let outcome = match (committed, self.outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => Err(Error::Closed),
            (Err(e), _) => Err(e),
        };
        let done = self.done;
        if catch_unwind(AssertUnwindSafe(|| done(outcome))).is_err() {
            tracing::error!("an answer to a store operation panicked");
        }
    }
}

impl Handle {
    pub(crate) async fn write<T, F>(&self, op: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let message = message(op, move |outcome| drop(reply.send(outcome)), false);
        self.queue.send(message).await.map_err(|_| self.gone())?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    pub(crate) fn write_blocking<T, F>(&self, op: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let message = message(op, move |outcome| drop(reply.send(outcome)), false);
        self.queue.blocking_send(message).map_err(|_| self.gone())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(self.gone()))
    }

    pub(crate) fn submit<T, F, D>(&self, op: F, done: D, can_wait: bool) -> Result<()>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
        D: FnOnce(Result<T>) + Send + 'static,
    {
        self.queue.try_send(message(op, done, can_wait)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Error::QueueFull { limit: self.queue_max },
            mpsc::error::TrySendError::Closed(_) => self.gone(),
        })
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed) || self.pretends_to_be_full()
    }

    fn pretends_to_be_full(&self) -> bool {
        let until = self.pretended_until.load(Ordering::Relaxed);
        until != NOT_PRETENDED && holdfast_host::clock::now().as_nanos() < until
    }

    pub(crate) fn pretend_full(&self, until_boot_ns: Option<u64>) {
        self.pretended_until.store(until_boot_ns.unwrap_or(NOT_PRETENDED), Ordering::Relaxed);
    }

    pub(crate) fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // From a thread of its own, because `blocking_send` may not be called on an async one.
        let queue = self.queue.clone();
        let closing = std::thread::spawn(move || {
            drop(queue.blocking_send(Message::Close));
            drop(thread.join());
        });
        drop(closing.join());
    }

    fn gone(&self) -> Error {
        match self.failure() {
            Some(reason) => Error::Failed { path: (*self.path).clone(), reason },
            None => Error::Closed,
        }
    }
}

fn message<T, F, D>(op: F, done: D, can_wait: bool) -> Message
where
    T: Send + 'static,
    F: FnMut(&Connection) -> Result<T> + Send + 'static,
    D: FnOnce(Result<T>) + Send + 'static,
{
    Message::Do(Box::new(Op { op, outcome: None, done, can_wait }))
}

pub(crate) fn start(
    connection: Connection,
    path: Arc<PathBuf>,
    options: Options,
    readers: Arc<Readers>,
) -> Result<Handle> {
    let (queue, inbox) = mpsc::channel(options.queue_max.max(1));
    let failure = Arc::new(Mutex::new(None));
    let full = Arc::new(AtomicBool::new(false));
    let queue_max = options.queue_max;
    let name = options.name;
    let mut writer = Writer {
        reserve: Reserve::new(&path, options.reserve_bytes),
        connection,
        path: path.clone(),
        options,
        readers,
        failure: failure.clone(),
        commits: 0,
        full: full.clone(),
        last_full: None,
        guarded: 0,
    };
    let thread = std::thread::Builder::new()
        .name(format!("store-{name}"))
        .spawn(move || writer.run(inbox))
        .map_err(|e| Error::Failed { path: (*path).clone(), reason: format!("cannot start its writer thread: {e}") })?;
    Ok(Handle {
        queue,
        queue_max,
        path,
        failure,
        full,
        pretended_until: Arc::new(NOT_PRETENDED.into()),
        thread: Arc::new(Mutex::new(Some(thread))),
    })
}

struct Writer {
    connection: Connection,
    path: Arc<PathBuf>,
    options: Options,
    readers: Arc<Readers>,
    reserve: Reserve,
    failure: Arc<Mutex<Option<String>>>,
    commits: u32,
    full: Arc<AtomicBool>,
    last_full: Option<Instant>,
    /// Batches to come whose operations each get a savepoint.
    guarded: u32,
}

/// Why a batch as a whole did not commit.
enum Undone {
    /// Run each operation alone: the one that has no room must not take the others with it.
    Full,
    Fatal(rusqlite::Error),
    Busy(rusqlite::Error),
}

impl Writer {
    fn run(&mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut waiting = Vec::new();
        let mut open = true;
        while open && inbox.blocking_recv_many(&mut waiting, self.options.batch_max.max(1)) > 0 {
            let mut batch = Vec::with_capacity(waiting.len());
            for message in waiting.drain(..) {
                match message {
                    Message::Do(job) => batch.push(job),
                    Message::Close => open = false,
                }
            }
            self.commit(batch);
            self.tidy(inbox.is_empty());
        }
        inbox.close();
        while let Some(Message::Do(job)) = inbox.blocking_recv() {
            job.answer(Err(Error::Closed));
        }
        self.checkpoint("TRUNCATE");
    }

    fn commit(&mut self, mut batch: Vec<Box<dyn Job>>) {
        if batch.is_empty() {
            return;
        }
        if self.failed().is_some() {
            return self.refuse(batch);
        }
        match self.attempt(&mut batch) {
            Ok(()) => self.committed(batch),
            Err(Undone::Fatal(e)) => self.fail(e, batch),
            Err(Undone::Busy(e)) => {
                let reason = e.to_string();
                for job in batch {
                    job.answer(Err(Error::Sql(busy(&reason))));
                }
            }
            Err(Undone::Full) => self.commit_singly(batch),
        }
    }

    fn committed(&mut self, batch: Vec<Box<dyn Job>>) {
        self.commits += 1;
        if let Some(on_commit) = &self.options.on_commit {
            on_commit();
        }
        for job in batch {
            job.answer(Ok(()));
        }
    }

    /// No room for the batch: each operation tries for itself, with the reserve given up first. What can wait is told so.
    fn commit_singly(&mut self, batch: Vec<Box<dyn Job>>) {
        self.checkpoint("PASSIVE");
        let (waiting, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(|job| job.can_wait());
        let freed = !batch.is_empty() && self.reserve.release();
        self.last_full = Some(Instant::now());
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::error!(path = %self.path.display(), reserve_freed = freed, "no space left; operations fail until there is");
        }
        for job in waiting {
            job.answer(Err(Error::Full { path: (*self.path).clone() }));
        }
        for job in batch {
            if self.failed().is_some() {
                self.refuse(vec![job]);
                continue;
            }
            let mut one = vec![job];
            match self.attempt(&mut one) {
                Ok(()) => self.committed(one),
                Err(Undone::Fatal(e)) => self.fail(e, one),
                Err(Undone::Full | Undone::Busy(_)) => {
                    for job in one {
                        job.answer(Err(Error::Full { path: (*self.path).clone() }));
                    }
                }
            }
        }
    }

    fn attempt(&mut self, batch: &mut [Box<dyn Job>]) -> std::result::Result<(), Undone> {
        self.begin_to_commit(batch).or_else(|e| self.give_up(e))
    }

    fn give_up(&self, error: rusqlite::Error) -> std::result::Result<(), Undone> {
        if !self.connection.is_autocommit() {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
        self.undone();
        Err(match verdict(&error) {
            Verdict::Full => Undone::Full,
            Verdict::Fatal => Undone::Fatal(error),
            Verdict::Operation => Undone::Busy(error),
        })
    }

    /// Savepoints let an operation fail alone, and cost a copy of every page that it touches. Most batches need none, so they are
    /// tried without; when one does, all of it is undone and run again.
    fn begin_to_commit(&mut self, batch: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
        self.guarded = self.guarded.saturating_sub(1);
        if self.guarded == 0 {
            if self.run_all(batch, false)? {
                return self.end(true);
            }
            self.end(false)?;
            self.undone();
            self.guarded = GUARDED_BATCHES;
        }
        self.run_all(batch, true)?;
        self.end(true)
    }

    fn end(&self, commit: bool) -> rusqlite::Result<()> {
        #[cfg(test)]
        if commit && let Some(code) = tests::take_fault(self.options.name) {
            return Err(sqlite(code));
        }
        let sql = if commit { "COMMIT" } else { "ROLLBACK" };
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    /// `false`: an operation failed, and only with savepoints can the others go on.
    fn run_all(&self, batch: &mut [Box<dyn Job>], guard: bool) -> rusqlite::Result<bool> {
        let connection = &self.connection;
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for job in batch {
            if guard {
                connection.prepare_cached("SAVEPOINT op")?.execute([])?;
            }
            let outcome = job.run(connection);
            // SQLite gives up the whole transaction on some errors; every operation in it has to run again.
            if connection.is_autocommit() || outcome == Err(Verdict::Full) {
                return Err(sqlite(rusqlite::ffi::SQLITE_FULL));
            }
            match outcome {
                Ok(()) => {}
                Err(Verdict::Fatal) => return Err(sqlite(rusqlite::ffi::SQLITE_IOERR)),
                Err(_) if !guard => return Ok(false),
                Err(_) => {
                    connection.prepare_cached("ROLLBACK TO op")?.execute([])?;
                    self.undone();
                }
            }
            if guard {
                connection.prepare_cached("RELEASE op")?.execute([])?;
            }
        }
        Ok(true)
    }

    fn undone(&self) {
        if let Some(on_rollback) = &self.options.on_rollback {
            on_rollback();
        }
    }

    fn failed(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&mut self, error: rusqlite::Error, batch: Vec<Box<dyn Job>>) {
        let reason = match is_corrupt(&error) {
            true => format!("the file is damaged ({error})"),
            false => error.to_string(),
        };
        tracing::error!(path = %self.path.display(), %reason, "the store refuses writes from now on");
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.refuse(batch);
    }

    fn refuse(&self, batch: Vec<Box<dyn Job>>) {
        let reason = self.failed().unwrap_or_default();
        for job in batch {
            job.answer(Err(Error::Failed { path: (*self.path).clone(), reason: reason.clone() }));
        }
    }

    /// Between batches, after the answers.
    fn tidy(&mut self, idle: bool) {
        if self.failed().is_some() {
            return;
        }
        let (length, pending) = self.wal_bytes();
        if length > self.options.wal_bytes_max && pending > 0 {
            self.readers.end_old();
            // The WAL begins anew in the length that it has; one that grew far beyond it (a reader was in the way) is cut back.
            let far = length > self.options.wal_bytes_max.saturating_mul(WAL_FAR);
            self.checkpoint(if far { "TRUNCATE" } else { "RESTART" });
        } else if self.commits >= CHECKPOINT_COMMITS || (idle && pending > self.options.wal_bytes_max / 4) {
            self.checkpoint("PASSIVE");
        }
        let full = self.full.load(Ordering::Relaxed);
        if full || self.commits == 0 {
            self.reserve.restore();
        }
        if self.commits == 0 && !full {
            crate::open::keep_room(&self.connection, &self.path, &self.options);
        }
        let recovered = self.last_full.is_none_or(|at| at.elapsed() >= FULL_FOR_AT_LEAST);
        if full && recovered && self.reserve.is_held() {
            self.full.store(false, Ordering::Relaxed);
            tracing::info!(path = %self.path.display(), "there is space again");
        }
    }

    /// How far the WAL is written, and how much of that is not in the file itself yet. Its length tells neither: it does not
    /// shrink when its content has been copied.
    fn wal_bytes(&self) -> (u64, u64) {
        let frames = self
            .connection
            .prepare_cached("PRAGMA wal_checkpoint(NOOP)")
            .and_then(|mut query| query.query_row([], |r| Ok((r.get::<_, i64>(1)?, r.get::<_, i64>(2)?))));
        let (written, copied) = frames.unwrap_or_default();
        let bytes = |frames: i64| u64::try_from(frames).unwrap_or(0) * FRAME_BYTES;
        (bytes(written), bytes(written.saturating_sub(copied)))
    }

    fn checkpoint(&mut self, mode: &str) {
        self.commits = 0;
        let result = self.connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
        match result {
            Ok(()) => {}
            // What is in the WAL stays valid; a later checkpoint copies it.
            Err(e) if verdict(&e) != Verdict::Fatal => {
                tracing::debug!(path = %self.path.display(), error = %e, "no checkpoint now")
            }
            Err(e) => self.fail(e, Vec::new()),
        }
    }
}

fn sqlite(code: i32) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)
}

fn busy(reason: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), Some(reason.into()))
}

#[cfg(test)]
mod tests;
