//! What keeps the services from being kept.

use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the records of instances: {0}")]
    Records(#[source] holdfast_cluster::Error),
    #[error("the record {key} cannot be read: {reason}")]
    Record { key: String, reason: String },
    #[error("the record {key} is of a newer version ({found}; this holdfast knows {known})")]
    NewerRecord { key: String, found: u32, known: u32 },
    #[error("cannot read the run directory {}: {source}", path.display())]
    RunDir { path: PathBuf, source: std::io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
    #[error("there is no service or instance `{0}`")]
    UnknownTarget(String),
    #[error("no other member of {service} can become active: {reason}")]
    NoSwitchover { service: String, reason: String },
    #[error("{service}: no other member was active within {} s; it is still tried", limit.as_secs())]
    SlowSwitchover { service: String, limit: Duration },
    #[error("{0} has one active instance and its standbys; their number stands in the file")]
    NotScaled(String),
    #[error("the services are not kept any more: the agent is ending")]
    Ended,
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Error::Records(e) => e.code(),
            Error::Record { .. } => "HF0415",
            Error::NewerRecord { .. } => "HF0402",
            Error::RunDir { .. } => "HF0220",
            Error::Thread(_) => "HF0221",
            Error::UnknownTarget(_) => "HF0222",
            Error::NoSwitchover { .. } => "HF0345",
            Error::SlowSwitchover { .. } => "HF0346",
            Error::NotScaled(_) => "HF0347",
            Error::Ended => "HF0223",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Records(e) => e.hint(),
            Error::Record { .. } => {
                Some("holdfast doctor says what is wrong with coord.db; running services go on".into())
            }
            Error::NewerRecord { .. } => Some("run the holdfast that wrote it, or a later one".into()),
            Error::RunDir { .. } => {
                Some("the data directory must be readable and writable by the user that runs holdfast".into())
            }
            Error::Thread(_) => Some("the limit of processes or memory is reached (ulimit -u, free -m)".into()),
            Error::UnknownTarget(_) => Some("holdfast status lists the names".into()),
            Error::NoSwitchover { service, .. } | Error::SlowSwitchover { service, .. } => {
                Some(format!("holdfast why {service}"))
            }
            Error::NotScaled(_) => Some("change standby.count and apply the file".into()),
            Error::Ended => None,
        }
    }
}
