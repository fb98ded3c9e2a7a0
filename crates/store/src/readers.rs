//! A few read-only connections. Each read is one snapshot, and one that lasts too long is ended.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, InterruptHandle};

use crate::error::is_corrupt;
use crate::{Error, Options, Result, open};

/// Longest wait for a free connection.
const WAIT_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Readers {
    path: Arc<PathBuf>,
    max: usize,
    age_max: Duration,
    pool: Mutex<Pool>,
    freed: Condvar,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    active: Vec<Active>,
    next: u64,
    closed: bool,
}

struct Active {
    number: u64,
    since: Instant,
    handle: Option<InterruptHandle>,
}

impl Readers {
    pub(crate) fn new(path: Arc<PathBuf>, options: &Options) -> Self {
        Readers {
            path,
            max: options.readers_max.max(1),
            age_max: options.reader_age_max,
            pool: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    pub(crate) fn read<T>(&self, query: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        // Not after the slot is taken: its age, by which it is ended, counts from before its connection is opened.
        let started = Instant::now();
        let slot = self.take()?;
        let result = in_snapshot(slot.connection.as_ref().expect("held until the slot is dropped"), query);
        let limit_ms = self.age_max.as_millis() as u64;
        drop(slot);
        result.map_err(|e| match e {
            Error::Sql(rusqlite::Error::SqliteFailure(f, _))
                if f.code == rusqlite::ErrorCode::OperationInterrupted && started.elapsed() >= self.age_max =>
            {
                Error::ReadTooLong { limit_ms }
            }
            Error::Sql(e) if is_corrupt(&e) => Error::Corrupt { path: (*self.path).clone(), detail: e.to_string() },
            other => other,
        })
    }

    /// Called by the writer before it wants a checkpoint to pass.
    pub(crate) fn end_old(&self) {
        for active in &self.lock().active {
            if let (true, Some(handle)) = (active.since.elapsed() > self.age_max, &active.handle) {
                tracing::warn!(path = %self.path.display(), age_s = active.since.elapsed().as_secs(), "ending an old read");
                handle.interrupt();
            }
        }
    }

    pub(crate) fn close(&self) {
        let mut pool = self.lock();
        pool.closed = true;
        pool.idle.clear();
        self.freed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Slot<'_>> {
        let deadline = Instant::now() + WAIT_MAX;
        let mut pool = self.lock();
        while pool.active.len() >= self.max && !pool.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::ReadersBusy { waited_ms: WAIT_MAX.as_millis() as u64 });
            }
            pool = self.freed.wait_timeout(pool, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if pool.closed {
            return Err(Error::Closed);
        }
        let number = pool.next;
        pool.next += 1;
        let idle = pool.idle.pop();
        pool.active.push(Active { number, since: Instant::now(), handle: None });
        drop(pool);
        let mut slot = Slot { readers: self, number, connection: idle };
        if slot.connection.is_none() {
            slot.connection = Some(open::reader(&self.path)?);
        }
        let handle = slot.connection.as_ref().map(Connection::get_interrupt_handle);
        if let Some(active) = self.lock().active.iter_mut().find(|a| a.number == number) {
            active.handle = handle;
        }
        Ok(slot)
    }
}

struct Slot<'a> {
    readers: &'a Readers,
    number: u64,
    connection: Option<Connection>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut pool = self.readers.lock();
        pool.active.retain(|a| a.number != self.number);
        // A connection that is still inside a transaction (its query panicked) is not used again.
        let reusable = self.connection.take().filter(|c| c.is_autocommit());
        if let (Some(connection), false) = (reusable, pool.closed) {
            pool.idle.push(connection);
        }
        self.readers.freed.notify_one();
    }
}

fn in_snapshot<T>(connection: &Connection, query: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    connection.execute_batch("BEGIN")?;
    let result = query(connection);
    let ended = connection.execute_batch("ROLLBACK");
    let value = result?;
    ended?;
    Ok(value)
}
