//! The limits of one store.

use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Every commit is on the disk before it is answered.
    Full,
    /// A power cut may lose the last commits, never the file. For what can be observed again.
    Normal,
}

/// Runs on the writer thread after each commit that changed something; must be quick.
pub type OnCommit = Arc<dyn Fn() + Send + std::marker::Sync>;

#[derive(Clone)]
pub struct Options {
    /// Names the writer thread and log lines.
    pub name: &'static str,
    /// Numbered from 1 by position. Only ever append; a migration adds and never removes what the last release reads.
    pub migrations: &'static [&'static str],
    pub sync: Sync,
    /// Operations waiting for the writer.
    pub queue_max: usize,
    /// Operations in one commit. Measured: batches of 200 reach half the rate of 1,000 at a fifth of the delay.
    pub batch_max: usize,
    /// The WAL is cut back when it grew past this.
    pub wal_bytes_max: u64,
    /// Set aside beside the file, given up when the disk is full, so that small operations still work.
    pub reserve_bytes: u64,
    pub readers_max: usize,
    /// A read that holds its snapshot longer is ended, because no checkpoint can pass it.
    pub reader_age_max: Duration,
    pub on_commit: Option<OnCommit>,
    /// Runs on the writer thread after an operation, or a batch of them, was undone: whoever keeps a copy in memory of what
    /// operations saw forgets it here, before the next one runs.
    pub on_rollback: Option<OnCommit>,
}

impl Options {
    pub fn new(name: &'static str, migrations: &'static [&'static str]) -> Options {
        Options {
            name,
            migrations,
            sync: Sync::Full,
            queue_max: 4096,
            batch_max: 256,
            wal_bytes_max: 16 << 20,
            reserve_bytes: 1 << 20,
            readers_max: 4,
            reader_age_max: Duration::from_secs(10),
            on_commit: None,
            on_rollback: None,
        }
    }
}
