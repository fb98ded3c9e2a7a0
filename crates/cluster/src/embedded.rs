//! The engine of one machine: SQLite through `holdfast-store`, leases by boot clock, watches from stored history.
//!
//! Lease deadlines live in memory only: after a restart every lease runs its full time again, as after the election of
//! an etcd leader, so a renewal costs no write.

mod engine;
mod leases;
mod watcher;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::Timestamp;
use holdfast_store as store;
use tokio::sync::watch;

use crate::embedded::leases::Leases;
use crate::{Answer, Clock, Error, KeyValue, LeaseId, LeaseInfo, Listing, Outcome, Result, Store, Txn, Watch};

/// Engine time is stored to this precision, and starts this much later, so that it never goes back.
const TIME_STEP: Duration = Duration::from_secs(1);

const MIGRATIONS: &[&str] = &[include_str!("embedded/schema_1.sql")];

#[derive(Clone)]
pub struct Options {
    pub clock: Clock,
    /// Revisions a watcher can look back.
    pub history_revisions_max: u64,
    pub history_bytes_max: u64,
    /// A watcher that takes nothing for so long is given up.
    pub watch_stall_max: Duration,
    /// Revisions waiting in one watch.
    pub watch_queue_max: usize,
    /// A quiet watch says this often how far it has looked.
    pub progress_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            clock: crate::boot_clock(),
            history_revisions_max: 10_000,
            history_bytes_max: 32 << 20,
            watch_stall_max: Duration::from_secs(10),
            watch_queue_max: 256,
            progress_every: Duration::from_secs(60),
        }
    }
}

/// A handle; clones share the engine.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    db: store::Store,
    options: Options,
    leases: Leases,
    /// Bumped after every commit.
    committed: Arc<watch::Sender<u64>>,
    engine_start: EngineStart,
}

/// Engine time = what was stored at open + boot time elapsed since: it never goes back and does not run while nobody does.
#[derive(Clone, Copy)]
struct EngineStart {
    stored_ms: u64,
    opened: Timestamp,
}

impl Embedded {
    /// Opens or creates `path`; must run inside a tokio runtime, which then also expires the leases.
    pub async fn open(path: impl AsRef<Path>, options: Options) -> Result<Embedded> {
        let committed = Arc::new(watch::Sender::new(0u64));
        let mut limits = store::Options::new("coord", MIGRATIONS);
        let signal = committed.clone();
        limits.on_commit = Some(Arc::new(move || signal.send_modify(|n| *n += 1)));
        let path = path.as_ref().to_path_buf();
        let db = tokio::task::spawn_blocking(move || store::Store::open(path, limits))
            .await
            .map_err(|_| Error::Unavailable { reason: "opening was cut off".into() })??;
        let now = (options.clock)();
        let stored_ms = db.read(engine::engine_ms).await? + TIME_STEP.as_millis() as u64;
        let leases = Leases::new(db.read(engine::leases).await?, now);
        let engine_start = EngineStart { stored_ms, opened: now };
        let inner = Arc::new(Inner { db, options, leases, committed, engine_start });
        tokio::spawn(leases::expire(Arc::downgrade(&inner)));
        Ok(Embedded { inner })
    }

    /// For stored deadlines: comparable across restarts and reboots.
    pub fn engine_time(&self) -> Timestamp {
        self.inner.engine_time()
    }

    pub async fn revision(&self) -> Result<u64> {
        Ok(self.inner.db.read(engine::revision).await?)
    }

    /// Why nothing can be written, once it cannot.
    pub fn failure(&self) -> Option<String> {
        self.inner.db.failure()
    }

    /// Commits what is queued and closes the file; watches get `Lost`.
    pub async fn close(&self) {
        let inner = self.inner.clone();
        drop(tokio::task::spawn_blocking(move || inner.db.close()).await);
        self.inner.committed.send_modify(|n| *n += 1);
    }
}

impl Inner {
    fn now(&self) -> Timestamp {
        (self.options.clock)()
    }

    fn engine_time(&self) -> Timestamp {
        Timestamp::from_millis(self.engine_start.stored_ms) + self.now().since(self.engine_start.opened)
    }

    async fn write<T, F>(&self, mut op: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&engine::Engine<'_>) -> engine::Result<T> + Send + 'static,
    {
        let engine_ms = self.engine_time().as_millis();
        let limits = engine::Limits {
            revisions_max: self.options.history_revisions_max,
            bytes_max: self.options.history_bytes_max,
        };
        let run = move |db: &store::rusqlite::Connection| {
            let engine = engine::Engine { db, limits };
            match op(&engine) {
                Ok(value) => {
                    engine.remember_time(engine_ms)?;
                    Ok(value)
                }
                Err(engine::Failure::Sql(e)) => Err(store::Error::Sql(e)),
                Err(engine::Failure::Refused(e)) => Err(store::Error::refused(e)),
            }
        };
        self.db.write(run).await.map_err(|e| match e {
            store::Error::Refused(reason) => match reason.downcast::<Error>() {
                Ok(ours) => *ours,
                Err(other) => Error::Local(store::Error::Refused(other)),
            },
            other => Error::Local(other),
        })
    }
}

impl Store for Embedded {
    fn get(&self, key: String) -> Answer<'_, Option<KeyValue>> {
        Box::pin(async move {
            if key.is_empty() {
                return Err(Error::EmptyKey);
            }
            Ok(self.inner.db.read(move |db| Ok(engine::get(db, &key)?)).await?)
        })
    }

    fn list(&self, prefix: String) -> Answer<'_, Listing> {
        Box::pin(async move { Ok(self.inner.db.read(move |db| engine::listing(db, &prefix)).await?) })
    }

    fn txn(&self, txn: Txn) -> Answer<'_, Outcome> {
        Box::pin(async move {
            txn.validate()?;
            self.inner.write(move |engine| engine.txn(&txn)).await
        })
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseInfo> {
        Box::pin(async move {
            let ttl = ttl.max(leases::TTL_MIN);
            let started = self.inner.now();
            let id = self.inner.write(move |engine| engine.grant(ttl)).await?;
            self.inner.leases.add(id, ttl, started);
            Ok(LeaseInfo { id, ttl })
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, Duration> {
        Box::pin(async move {
            if let Some(reason) = self.inner.db.failure() {
                return Err(Error::Unavailable { reason });
            }
            self.inner.leases.renew(lease, self.inner.now()).ok_or(Error::LeaseNotFound(lease))
        })
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        Box::pin(async move {
            if !self.inner.leases.end(lease) {
                return Err(Error::LeaseNotFound(lease));
            }
            let result = self.inner.write(move |engine| engine.revoke(lease)).await;
            self.inner.leases.ended(lease, result.is_ok(), self.inner.now());
            result
        })
    }

    fn watch(&self, prefix: String, from: u64) -> Answer<'_, Watch> {
        Box::pin(async move { watcher::start(&self.inner, prefix, from).await })
    }

    fn compact(&self, revision: u64) -> Answer<'_, ()> {
        Box::pin(async move { self.inner.write(move |engine| engine.compact(revision)).await })
    }
}

#[cfg(test)]
mod tests;
