//! What can go wrong with a lab.

use std::io;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine does not allow it: no failure of what is tested.
    #[error("a lab cannot be built here: {reason}")]
    Skipped { reason: String },
    #[error("cannot {what}: {why}")]
    Failed { what: String, why: String },
    #[error("cannot {what}")]
    Io { what: String, source: io::Error },
}

impl Error {
    pub(crate) fn skipped(reason: impl Into<String>) -> Error {
        Error::Skipped { reason: reason.into() }
    }

    pub(crate) fn failed(what: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Failed { what: what.into(), why: why.into() }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Error {
        Error::Io { what: what.into(), source }
    }
}
