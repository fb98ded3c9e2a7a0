//! Queues in one SQLite file: the truth is in its tables, what memory holds may be forgotten at any time.
//!
//! A message is a row numbered by its queue and its place in it, so that one queue is one range of rows, in order. A
//! claim is a second, small row of each message that was received or delayed; a message without one is fresh. Receiving
//! takes claims that are due, then fresh messages from where the last receive stopped.

mod bury;
mod catalogue;
mod fifo;
mod flow;
mod look;
mod moves;
mod receive;
mod schema;
mod send;
mod settle;
mod single;
mod sweep;
mod work;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_policy::Timestamp;
use holdfast_store::{Options, Store};

use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::{Clock, Millis, Ticks};
use crate::error::{Error, Result};
use crate::queue::Spec;
use crate::queue::entry::Entry;
use crate::queue::receipt::Sealer;

/// Operations that wait to be written; more are told to come again.
const WRITES_WAITING_MAX: usize = 8_192;
/// In one commit. With 1,000 waiting clients a group of this size costs about 5 ms.
const BATCH_MAX: usize = 512;
/// For a full disk: some thousand acknowledgements.
const RESERVE_BYTES: u64 = 8 << 20;
/// Larger groups of 1 KiB messages reach this in some seconds; a checkpoint then costs less than 100 ms.
const WAL_BYTES_MAX: u64 = 64 << 20;

/// A handle; clones share the file.
#[derive(Clone)]
pub(crate) struct Sqlite {
    store: Store,
    clock: Clock,
    sealer: Sealer,
    epoch: i64,
    cache: Arc<Mutex<Cache>>,
}

/// What operations saw of the tables; forgotten when one is undone.
#[derive(Default)]
struct Cache {
    entries: HashMap<String, Arc<Entry>>,
    fresh: HashMap<i64, i64>,
    /// At most so many messages are in flight.
    in_flight: HashMap<i64, u32>,
}

/// What one operation works with, on the writer thread.
struct Work<'a> {
    db: &'a Connection,
    cache: &'a mut Cache,
    now: Millis,
    epoch: i64,
    sealer: &'a Sealer,
}

impl Sqlite {
    pub(crate) const IS_SHARED: bool = false;

    pub(crate) fn open(path: &Path, memory_bytes: u64) -> Result<Sqlite> {
        Sqlite::open_by(path, memory_bytes, crate::clock::boot)
    }

    /// With a clock of the caller's.
    pub(crate) fn open_by(path: &Path, memory_bytes: u64, ticks: Ticks) -> Result<Sqlite> {
        let cache = Arc::new(Mutex::new(Cache::default()));
        let forget = cache.clone();
        let options = Options {
            queue_max: WRITES_WAITING_MAX,
            batch_max: BATCH_MAX,
            reserve_bytes: RESERVE_BYTES,
            wal_bytes_max: WAL_BYTES_MAX,
            on_rollback: Some(Arc::new(move || {
                *forget.lock().unwrap_or_else(PoisonError::into_inner) = Cache::default();
            })),
            ..Options::new("tasks", schema::MIGRATIONS)
        };
        let store = Store::open(path, options)?;
        let secret: [u8; 32] = crate::random("a key")?;
        let cache_kib = i64::try_from(memory_bytes / 4 / 1024).unwrap_or(i64::MAX);
        let (clock, secret, epoch) = store.write_blocking(move |db| {
            db.pragma_update(None, "cache_size", -cache_kib)?;
            let clock = Clock::open(db, ticks)?;
            let (secret, epoch) = db.query_row(
                "INSERT INTO plane (one, secret, epoch) VALUES (1, ?1, 1)
                 ON CONFLICT (one) DO UPDATE SET epoch = epoch + 1 RETURNING secret, epoch",
                params![secret],
                |r| Ok((r.get::<_, Vec<u8>>(0)?, r.get(1)?)),
            )?;
            Ok((clock, secret, epoch))
        })?;
        Ok(Sqlite { store, clock, sealer: Sealer::new(&secret), epoch, cache })
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Why nothing can be written any more, once it is so: the process should end and begin anew.
    pub(crate) fn failure(&self) -> Option<String> {
        self.store.failure()
    }

    pub(crate) fn close(&self) {
        self.store.close();
    }

    pub(crate) fn pretend_full(&self, until: Option<Timestamp>) {
        self.store.pretend_full(until.map(Timestamp::as_nanos));
    }

    /// From memory, if it was used since the plane began.
    pub(crate) async fn spec(&self, queue: &str) -> Result<Arc<Spec>> {
        let known = {
            let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.entries.get(queue).map(|entry| entry.spec.clone())
        };
        if let Some(spec) = known {
            return Ok(spec);
        }
        let queue = queue.to_owned();
        self.write(move |work| Ok(work.entry(&queue)?.spec.clone())).await
    }

    /// Runs `op` on the writer thread; answers after its commit.
    async fn write<T, F>(&self, op: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Work<'_>) -> Result<T> + Send + 'static,
    {
        self.run(op, |_, _| {}, false).await
    }

    /// As [`Sqlite::write`], for what may grow the file: it is not done while the disk is full, because the space that is
    /// left is for acknowledgements.
    async fn write_if_room<T, F>(&self, op: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Work<'_>) -> Result<T> + Send + 'static,
    {
        self.run(op, |_, _| {}, true).await
    }

    /// `op` as the writer thread runs it.
    fn on_writer<T, F>(&self, mut op: F) -> impl FnMut(&Connection) -> holdfast_store::Result<T> + Send + 'static
    where
        F: FnMut(&mut Work<'_>) -> Result<T> + Send + 'static,
    {
        let (clock, sealer, epoch, cache) = (self.clock.clone(), self.sealer.clone(), self.epoch, self.cache.clone());
        move |db| {
            let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            let mut work = Work { db, cache: &mut cache, now: clock.now(), epoch, sealer: &sealer };
            op(&mut work).map_err(holdfast_store::Error::from)
        }
    }

    /// `unheard` gets what was done when nobody waits for the answer any more.
    async fn run<T, F, U>(&self, op: F, unheard: U, can_wait: bool) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Work<'_>) -> Result<T> + Send + 'static,
        U: FnOnce(&Sqlite, T) + Send + 'static,
    {
        let this = self.clone();
        let (reply, answer) = tokio::sync::oneshot::channel();
        let op = self.on_writer(op);
        let done = move |outcome| {
            if let Err(Ok(done)) = reply.send(outcome) {
                unheard(&this, done);
            }
        };
        // Not `write`, so that a full queue is told at once instead of waited for.
        match can_wait {
            true => self.store.submit_if_room(op, done)?,
            false => self.store.submit(op, done)?,
        }
        match answer.await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(Error::Store(holdfast_store::Error::Closed)),
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Error::Store(error.into())
    }
}

impl Work<'_> {
    fn entry(&mut self, name: &str) -> Result<Arc<Entry>> {
        self.find(name)?.ok_or_else(|| Error::NoQueue { queue: name.to_owned() })
    }

    fn find(&mut self, name: &str) -> Result<Option<Arc<Entry>>> {
        if let Some(entry) = self.cache.entries.get(name) {
            return Ok(Some(entry.clone()));
        }
        let found = self
            .db
            .prepare_cached("SELECT number, spec, floor FROM queue WHERE name = ?1")?
            .query_row([name], |r| Ok((r.get(0)?, r.get::<_, String>(1)?, r.get(2)?)))
            .optional()?;
        let Some((number, spec, floor)) = found else { return Ok(None) };
        let entry =
            Arc::new(Entry { number, name: name.to_owned(), spec: Arc::new(crate::store::spec(&spec)?), floor });
        self.cache.entries.insert(name.to_owned(), entry.clone());
        Ok(Some(entry))
    }

    /// After a change of its row.
    fn forget(&mut self, name: &str) {
        if let Some(entry) = self.cache.entries.remove(name) {
            self.cache.fresh.remove(&entry.number);
            self.cache.in_flight.remove(&entry.number);
        }
    }

    fn count(&self, entry: &Entry, by: i64) -> Result<()> {
        if by != 0 {
            self.db
                .prepare_cached("UPDATE queue SET messages = messages + ?2 WHERE number = ?1")?
                .execute(params![entry.number, by])?;
        }
        Ok(())
    }

    /// The last of `many` new places at the end of the queue; counts them.
    fn places(&self, entry: &Entry, many: usize) -> Result<i64> {
        Ok(self
            .db
            .prepare_cached(
                "UPDATE queue SET last = last + ?2, messages = messages + ?2 WHERE number = ?1 RETURNING last",
            )?
            .query_row(params![entry.number, many as i64], |r| r.get(0))?)
    }

    /// Takes messages out for good, with their claims; their queue's number of messages falls.
    fn remove(&mut self, entry: &Entry, ids: &[i64]) -> Result<()> {
        let mut gone = 0;
        for id in ids {
            let group = match entry.spec.fifo {
                true => self.group_of(*id)?,
                false => None,
            };
            self.db.prepare_cached("DELETE FROM claim WHERE id = ?1")?.execute([id])?;
            gone += self.db.prepare_cached("DELETE FROM message WHERE id = ?1")?.execute([id])? as i64;
            if let Some(group) = group {
                self.refresh_group(entry, &group)?;
            }
        }
        self.count(entry, -gone)
    }
}

#[cfg(test)]
mod tests;
