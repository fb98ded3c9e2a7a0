//! The one owner of SQLite: a writer thread per file with group commit, bounded readers, own checkpointing.
//!
//! An operation is answered only after the commit that holds it. A failed operation rolls back alone (savepoint);
//! a full disk fails operations as [`Error::Full`] until there is room again; a failed sync ends the store, because
//! nobody can know any more what is on the disk.

mod error;
mod open;
mod options;
mod readers;
mod reserve;
mod wal;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::Error;
pub use options::{OnCommit, Options, Sync};
pub use rusqlite;
use rusqlite::Connection;

pub type Result<T> = std::result::Result<T, Error>;

/// Older releases can corrupt the WAL when one connection checkpoints while another writes.
pub const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// A handle; clones share the file. The writer ends when the last handle is dropped or [`Store::close`] is called.
#[derive(Clone)]
pub struct Store {
    path: Arc<PathBuf>,
    writer: writer::Handle,
    readers: Arc<readers::Readers>,
}

impl Store {
    /// Opens or creates the file, checks it, brings its schema up to date and starts the writer thread.
    /// A damaged file or one of a newer version is refused and left as it is.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Store> {
        let path = Arc::new(path.as_ref().to_path_buf());
        let connection = open::writer(&path, &options)?;
        let readers = Arc::new(readers::Readers::new(path.clone(), &options));
        let writer = writer::start(connection, path.clone(), options, readers.clone())?;
        Ok(Store { path, writer, readers })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `op` in a transaction and answers after its commit. `op` may run more than once (when a full disk
    /// undid the batch it was in), so it must not have effects outside the transaction. Dropping the future
    /// does not take the operation back.
    pub async fn write<T, F>(&self, op: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
    {
        self.writer.write(op).await
    }

    /// [`Store::write`] for threads; panics inside an async runtime.
    pub fn write_blocking<T, F>(&self, op: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
    {
        self.writer.write_blocking(op)
    }

    /// Queues `op` without waiting; `done` runs on the writer thread after the commit. [`Error::QueueFull`] at once
    /// when the queue is full.
    pub fn submit<T, F, D>(&self, op: F, done: D) -> Result<()>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
        D: FnOnce(Result<T>) + Send + 'static,
    {
        self.writer.submit(op, done, false)
    }

    /// As [`Store::submit`], for what can wait: on a full disk it fails at once, and leaves the reserve to others.
    pub fn submit_if_room<T, F, D>(&self, op: F, done: D) -> Result<()>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
        D: FnOnce(Result<T>) + Send + 'static,
    {
        if self.is_full() {
            return Err(Error::Full { path: (*self.path).clone() });
        }
        self.writer.submit(op, done, true)
    }

    /// Runs `query` on a read-only snapshot, off the async threads.
    pub async fn read<T, F>(&self, query: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let readers = self.readers.clone();
        match tokio::task::spawn_blocking(move || readers.read(query)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Panicked),
        }
    }

    /// [`Store::read`] for threads.
    pub fn read_blocking<T, F>(&self, query: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T>,
    {
        self.readers.read(query)
    }

    /// Why the store refuses everything, once it does.
    pub fn failure(&self) -> Option<String> {
        self.writer.failure()
    }

    /// The disk was full at the last look: what can wait should not be written now.
    pub fn is_full(&self) -> bool {
        self.writer.is_full()
    }

    /// For drills: it is as if the disk were full, until then or until told `None`. What can wait is refused as on a full
    /// disk; the disk, its reserve and the writer are not touched. Nothing of it outlives the process.
    pub fn pretend_full(&self, until_boot_ns: Option<u64>) {
        self.writer.pretend_full(until_boot_ns);
    }

    /// Waits for what is queued, checkpoints, closes the file; blocks as long as that takes. Later operations get [`Error::Closed`].
    pub fn close(&self) {
        self.writer.close();
        self.readers.close();
    }
}
