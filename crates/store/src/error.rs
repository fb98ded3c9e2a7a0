//! What can go wrong with a store, each with its code.

use std::path::PathBuf;

use rusqlite::ffi;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open {}: {source}", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} holds state of a newer version ({found}; this holdfast knows {known})", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{} is damaged: {detail}", path.display())]
    Corrupt { path: PathBuf, detail: String },
    #[error("cannot bring {} to schema {version}: {source}", path.display())]
    Migrate { path: PathBuf, version: i64, source: rusqlite::Error },
    #[error("the bundled SQLite {found} is older than {}", crate::SQLITE_VERSION_MIN)]
    OldSqlite { found: i32 },
    #[error("no space left to write {}", path.display())]
    Full { path: PathBuf },
    /// Nothing can be written any more; what was acknowledged before is safe.
    #[error("{} refuses writes since a failed one: {reason}", path.display())]
    Failed { path: PathBuf, reason: String },
    #[error("the store is closed")]
    Closed,
    #[error("the write queue is full ({limit} operations)")]
    QueueFull { limit: usize },
    #[error("no reader became free within {waited_ms} ms")]
    ReadersBusy { waited_ms: u64 },
    #[error("the read took longer than {limit_ms} ms and was ended")]
    ReadTooLong { limit_ms: u64 },
    #[error("the operation panicked and was rolled back")]
    Panicked,
    /// The operation itself said no; its changes were rolled back.
    #[error("{0}")]
    Refused(Box<dyn std::error::Error + Send + std::marker::Sync>),
    #[error("SQLite: {0}")]
    Sql(#[from] rusqlite::Error),
}

impl Error {
    pub fn refused(reason: impl std::error::Error + Send + std::marker::Sync + 'static) -> Self {
        Error::Refused(Box::new(reason))
    }

    pub fn code(&self) -> &'static str {
        match self {
            Error::Open { .. } | Error::Read { .. } | Error::Migrate { .. } => "HF0401",
            Error::Newer { .. } => "HF0402",
            Error::Corrupt { .. } => "HF0403",
            Error::Full { .. } => "HF0404",
            Error::Failed { .. } => "HF0405",
            Error::Closed | Error::QueueFull { .. } | Error::ReadersBusy { .. } | Error::ReadTooLong { .. } => "HF0406",
            Error::OldSqlite { .. } | Error::Panicked | Error::Refused(_) | Error::Sql(_) => "HF0407",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Open { .. } | Error::Read { .. } | Error::Migrate { .. } => {
                Some("check the owner and the rights of the data directory".into())
            }
            Error::Newer { .. } => Some("run the holdfast that wrote it, or a later one; nothing was changed".into()),
            Error::Corrupt { path, .. } => Some(format!(
                "the file was left as it is; move it away (mv {0} {0}.damaged) and start again, running services are found again",
                path.display()
            )),
            Error::Full { .. } => {
                Some("free some space; writing goes on by itself, running services are not touched".into())
            }
            Error::Failed { .. } => {
                Some("look for disk errors (dmesg), then restart the agent; services go on running".into())
            }
            Error::QueueFull { .. } | Error::ReadersBusy { .. } => {
                Some("the disk is too slow or saturated; holdfast doctor measures it".into())
            }
            _ => None,
        }
    }

    pub fn is_full(&self) -> bool {
        matches!(self, Error::Full { .. })
    }
}

/// What a failed statement or commit means for the store as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Only this operation.
    Operation,
    /// No room: undone, may work later.
    Full,
    /// Unknown what is on disk: end.
    Fatal,
}

pub(crate) fn verdict(error: &rusqlite::Error) -> Verdict {
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return Verdict::Operation };
    match (failure.extended_code, failure.extended_code & 0xff) {
        (ffi::SQLITE_IOERR_SHMSIZE, _) | (_, ffi::SQLITE_FULL) => Verdict::Full,
        (_, ffi::SQLITE_IOERR | ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB) => Verdict::Fatal,
        _ => Verdict::Operation,
    }
}

pub(crate) fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(f, _)
        if matches!(f.extended_code & 0xff, ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn a_failed_sync_is_fatal_a_full_disk_is_not_a_constraint_is_the_operations_own() {
        let cases = [
            (ffi::SQLITE_IOERR_FSYNC, Verdict::Fatal),
            (ffi::SQLITE_IOERR_DIR_FSYNC, Verdict::Fatal),
            (ffi::SQLITE_IOERR_WRITE, Verdict::Fatal),
            (ffi::SQLITE_CORRUPT_VTAB, Verdict::Fatal),
            (ffi::SQLITE_FULL, Verdict::Full),
            (ffi::SQLITE_IOERR_SHMSIZE, Verdict::Full),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, Verdict::Operation),
            (ffi::SQLITE_BUSY, Verdict::Operation),
        ];
        for (code, want) in cases {
            assert_eq!(verdict(&failure(code)), want, "{code}");
        }
    }
}
