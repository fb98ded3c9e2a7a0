//! The plane's own API, on a Unix socket in the directory of its instance: for the agent and through it for the CLI.
//! What SQS has no words for.

pub mod flow;
mod routes;

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

pub(crate) use routes::router;

use crate::error::{Error, Result};

/// Name of the socket in the directory of the instance.
pub const SOCKET: &str = "plane.sock";

/// Messages that one look shows.
pub const PEEK_MAX: u32 = 1_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueInfo {
    pub name: String,
    pub fifo: bool,
    /// Stands in the file.
    pub declared: bool,
    pub visible: u64,
    pub in_flight: u64,
    pub delayed: u64,
    pub oldest_ms: u64,
    pub dead_letter: Option<String>,
    /// Names of the queues whose dead letters come here.
    pub dead_letters_of: Vec<String>,
    /// Since the plane began.
    pub since_start: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageInfo {
    pub id: String,
    pub body: String,
    pub sent_wall_ms: u64,
    pub receives: u32,
    pub failures: u32,
    pub crashes: u32,
    /// `visible`, `in flight`, `delayed`, `set aside`.
    pub state: String,
    /// Until it can be received.
    pub due_in_ms: Option<u64>,
    pub group: Option<String>,
    pub error: Option<String>,
    pub dead: Option<crate::queue::Buried>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Send {
    pub body: String,
    pub delay_ms: Option<u64>,
    pub group: Option<String>,
    pub deduplication: Option<String>,
    pub idempotency: Option<String>,
    /// What must be the same when the key is used again, instead of the body.
    pub fingerprint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SendDone {
    pub id: String,
    pub sequence: u64,
    pub duplicate: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Redrive {
    /// `None` takes each message to where it came from.
    pub to: Option<String>,
    pub rate: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveInfo {
    pub handle: String,
    pub state: String,
    pub source: String,
    pub destination: Option<String>,
    pub moved: u64,
    pub to_move: u64,
    pub failure: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    pub name: String,
    pub queue: String,
    /// Messages that it works on.
    pub at_work: u32,
    /// At most.
    pub max: u32,
    /// Waiting for it.
    pub visible: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptInfo {
    pub message: String,
    pub receive: u32,
    pub ended_wall_ms: u64,
    pub took_ms: u64,
    /// `done`, `retry`, `dead`, `crashed`, `lost its lease`, `too late`.
    pub outcome: String,
    /// What happened, then the end of what it printed.
    pub output: String,
}

/// As an error travels to the CLI.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    pub code: String,
    pub what: String,
    pub because: Vec<String>,
    pub hint: Option<String>,
    /// `failed`, `refused` or `usage`: what the command's exit code tells.
    pub exit: String,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let exit = match &error {
            Error::Store(_) | Error::System { .. } | Error::Database { .. } | Error::Throttled { .. } => "failed",
            Error::NoQueue { .. } | Error::Invalid { .. } | Error::Missing { .. } => "usage",
            Error::NoWorkflow { .. } | Error::NoRun { .. } | Error::Parameters { .. } => "usage",
            _ => "refused",
        };
        let mut because = Vec::new();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            because.push(inner.to_string());
            cause = inner.source();
        }
        Refusal {
            code: error.code().to_owned(),
            what: error.to_string(),
            because,
            hint: error.hint(),
            exit: exit.to_owned(),
        }
    }
}

/// Binds the socket anew, mode 0600: one instance has one living process.
pub(crate) fn bind(dir: &Path) -> Result<UnixListener> {
    let failed = |source| Error::System { what: format!("listen on {}", dir.join(SOCKET).display()), source };
    let held = holdfast_host::seqpacket::open_dir(dir).map_err(failed)?;
    match std::fs::remove_file(dir.join(SOCKET)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    // By the directory's descriptor: a socket address holds 108 bytes, a data directory may be deeper.
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", held.as_raw_fd())).map_err(failed)?;
    std::fs::set_permissions(dir.join(SOCKET), std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// To the plane of the instance that lives in `dir`.
pub async fn connect(dir: &Path) -> std::io::Result<UnixStream> {
    let held = holdfast_host::seqpacket::open_dir(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", held.as_raw_fd())).await
}
