//! What can go wrong in a plane, by operation.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] holdfast_host::files::Error),
    #[error("the snapshot is damaged: {because}")]
    SnapshotDamaged { because: String },
    #[error("the snapshot has version {version}, this program knows up to {known}")]
    SnapshotNewer { version: u32, known: u32 },
    #[error("snapshot {offered:?} is older than {held:?}, which runs already")]
    SnapshotOlder { offered: (u64, u64), held: (u64, u64) },
    #[error("cannot {operation} {}: {source}", path.display())]
    Table { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("all {count} process slots of {} are taken", path.display())]
    SlotsTaken { path: PathBuf, count: usize },
    #[error("cannot use the listening socket {name}: {because}")]
    Listener { name: String, because: String },
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("cannot {operation} control socket {}: {source}", path.display())]
    Control { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("the plane refused {request}: {because}")]
    Refused { request: &'static str, because: String, code: String },
    #[error("cannot start {what}: {source}")]
    Start { what: &'static str, source: io::Error },
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Error::File(e) => e.code(),
            Error::SnapshotDamaged { .. } => "HF0501",
            Error::SnapshotNewer { .. } => "HF0502",
            Error::SnapshotOlder { .. } => "HF0503",
            Error::Table { .. } => "HF0504",
            Error::SlotsTaken { .. } => "HF0505",
            Error::Listener { .. } | Error::Listen { .. } => "HF0506",
            Error::Control { .. } => "HF0507",
            Error::Refused { .. } => "HF0508",
            Error::Start { .. } => "HF0509",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::File(e) => e.hint(),
            Error::SnapshotDamaged { .. } => {
                Some("the agent sends a whole one again; restart the agent if it does not".into())
            }
            Error::SnapshotNewer { .. } => Some("start the balancer with the program that wrote it".into()),
            Error::SnapshotOlder { .. } => {
                Some("an earlier agent still runs, or the clock of its store went back".into())
            }
            Error::SlotsTaken { .. } => Some("run at most 8 balancer processes on a node".into()),
            Error::Control { .. } => Some("see whether the balancer runs: holdfast status".into()),
            _ => None,
        }
    }
}
