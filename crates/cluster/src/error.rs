//! What a coordination store answers when it does not do it.

use crate::LeaseId;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("an empty key was given")]
    EmptyKey,
    #[error("key {key} is written twice in one transaction")]
    DuplicateKey { key: String },
    #[error("a transaction has {count} operations; {} are allowed", crate::TXN_OPS_MAX)]
    TooManyOps { count: usize },
    #[error("the value of {key} has {bytes} bytes; {} are allowed", crate::VALUE_BYTES_MAX)]
    TooLarge { key: String, bytes: usize },
    #[error("lease {0} does not exist, or no longer")]
    LeaseNotFound(LeaseId),
    #[error("revision {asked} was compacted (up to {compacted})")]
    Compacted { asked: u64, compacted: u64 },
    #[error("revision {asked} lies in the future (now {now})")]
    FutureRevision { asked: u64, now: u64 },
    /// Whether a write happened is unknown.
    #[error("the coordination store does not answer: {reason}")]
    Unavailable { reason: String },
    #[error("coordination store: {0}")]
    Local(#[from] holdfast_store::Error),
    #[error("no member of etcd can be reached: {reason}")]
    Unreachable { reason: String },
    #[error("etcd does not accept who we are ({endpoint}): {reason}")]
    Credentials { endpoint: String, reason: String },
    /// A file, or the endpoint whose certificate it is about.
    #[error("TLS to etcd fails ({subject}): {reason}")]
    Tls { subject: String, reason: String },
    /// Nothing was written.
    #[error("the database of etcd is full: {reason}")]
    Full { reason: String },
    /// Nothing was done.
    #[error("etcd refuses the request: {reason}")]
    Refused { reason: String },
    #[error("etcd cannot be set up with this {what}: {reason}")]
    Setup { what: String, reason: String },
    #[error("record {key} cannot be read: {reason}")]
    Record { key: String, reason: String },
    #[error("record {key} is of a newer version ({found}; this holdfast knows {known})")]
    NewerRecord { key: String, found: u32, known: u32 },
    #[error("{key} was changed meanwhile (revision {found}, expected {expected})")]
    Changed { key: String, expected: u64, found: u64 },
    #[error("no free port is left in {first}-{last} for {instance}")]
    NoPort { instance: String, first: u16, last: u16 },
    #[error("{key} changed {tries} times while it was being updated")]
    Contended { key: String, tries: u32 },
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Error::Local(e) => e.code(),
            Error::NewerRecord { .. } => "HF0402",
            Error::Unavailable { .. } => "HF0410",
            Error::Compacted { .. } | Error::FutureRevision { .. } => "HF0411",
            Error::LeaseNotFound(_) => "HF0412",
            Error::Changed { .. } | Error::Contended { .. } => "HF0413",
            Error::NoPort { .. } => "HF0414",
            Error::Record { .. } => "HF0415",
            Error::Credentials { .. } => "HF0421",
            Error::Tls { .. } => "HF0422",
            Error::Full { .. } => "HF0423",
            Error::Refused { .. } => "HF0424",
            Error::Setup { .. } => "HF0425",
            Error::Unreachable { .. } => "HF0426",
            Error::EmptyKey | Error::DuplicateKey { .. } | Error::TooManyOps { .. } | Error::TooLarge { .. } => {
                "HF0416"
            }
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Local(e) => e.hint(),
            Error::NewerRecord { .. } => Some("run the holdfast that wrote it, or a later one".into()),
            Error::Unavailable { .. } => Some("running services go on; holdfast doctor says what is missing".into()),
            Error::Unreachable { .. } => Some("try it: etcdctl --endpoints=ENDPOINTS endpoint health".into()),
            Error::Credentials { .. } => Some("check user, password and role: etcdctl user get USER --detail".into()),
            Error::Tls { .. } => {
                Some("look at it: openssl x509 -in FILE -noout -subject -ext subjectAltName -dates".into())
            }
            Error::Full { .. } => Some("compact, defragment, then etcdctl alarm disarm".into()),
            Error::Changed { .. } => Some("look at it again (holdfast plan), then repeat".into()),
            Error::NoPort { .. } => Some("widen [node] ports in the file, or stop what holds them".into()),
            _ => None,
        }
    }
}
