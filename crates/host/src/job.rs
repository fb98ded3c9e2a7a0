//! Commands of any part of holdfast: probes, hooks, steps, remedies.
//!
//! A job that matters runs under a shim of its own in a directory named by its token ([`Job::start`]); its result
//! waits there for the owner, also for one that was restarted meanwhile, and no token ever runs twice. A probe, whose
//! result nobody wants after its prober died, runs as a direct child ([`Job::run`]).

mod direct;
mod kept;

use std::path::PathBuf;
use std::time::Duration;

pub use kept::{Started, Status};

use crate::files;
use crate::shim::spec::{Log, Restart, When};
use crate::shim::{ClientError, Exit, Failure, LaunchError, Spec, Value};

#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub argv: Vec<String>,
    pub env: Vec<(String, Value)>,
    /// Given through a descriptor, never written to disk.
    pub stdin: Vec<u8>,
    pub workdir: Option<PathBuf>,
    pub user: Option<String>,
    /// It is killed, with everything it started, when it ran this long.
    pub deadline: Duration,
    pub output_bytes_max: u64,
    /// Who asked: `probe/web-1`, `hook/web`.
    pub owner: String,
    /// Names the job for ever: letters, digits, `-`, `_`, `.`; at most [`TOKEN_BYTES_MAX`].
    pub token: String,
}

pub const TOKEN_BYTES_MAX: usize = 100;

impl Default for Job {
    fn default() -> Self {
        Job {
            argv: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            workdir: None,
            user: None,
            deadline: Duration::from_secs(60),
            output_bytes_max: 64 * 1024,
            owner: String::new(),
            token: String::new(),
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub timed_out: bool,
    pub lived_ms: u64,
    /// Standard output and error as they came, at most `output_bytes_max` bytes.
    pub output: Vec<u8>,
}

impl Outcome {
    pub fn success(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }

    /// [`Outcome::text`], and the last line of what it printed.
    pub fn words(&self) -> String {
        let output = String::from_utf8_lossy(&self.output);
        let last = output.trim_end().lines().last().unwrap_or_default();
        if last.is_empty() { self.text() } else { format!("{}: {last}", self.text()) }
    }

    /// `exit code 3`, `killed by SIGKILL`, …
    pub fn text(&self) -> String {
        let exit = Exit { code: self.code, signal: self.signal, timed_out: self.timed_out, ..Exit::default() };
        exit.to_string()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("job {token}: not a token")]
    Token { token: String },
    #[error("job {token}: {}", failure.text)]
    NotStarted { token: String, failure: Failure },
    #[error("job {token}: {source}")]
    Files { token: String, source: files::Error },
    #[error("job {token}: {source}")]
    Launch { token: String, source: LaunchError },
    #[error("job {token}: {source}")]
    Shim { token: String, source: ClientError },
    #[error("job {token}: {source}")]
    System { token: String, source: std::io::Error },
}

impl Error {
    pub fn code(&self) -> &str {
        match self {
            Error::Token { .. } => "HF0216",
            Error::NotStarted { failure, .. } => &failure.code,
            Error::Files { source, .. } => source.code(),
            Error::Launch { source, .. } => source.code(),
            Error::Shim { source, .. } => source.code(),
            Error::System { .. } => "HF0214",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NotStarted { failure, .. } => failure.hint.clone(),
            Error::Files { source, .. } => source.hint(),
            Error::Launch { source, .. } => source.hint(),
            Error::Shim { source, .. } => source.hint(),
            Error::Token { .. } | Error::System { .. } => None,
        }
    }
}

impl Job {
    fn spec(&self) -> Spec {
        Spec {
            instance: self.token.clone(),
            generation: 1,
            argv: self.argv.clone(),
            env: self.env.clone(),
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            restart: Restart { when: When::Never, ..Restart::default() },
            log: Log { size_bytes_max: self.output_bytes_max, keep: 0, raw: true },
            oneshot: true,
            run_ms_max: Some(u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX)),
            leaves_when_done: true,
            stdin: !self.stdin.is_empty(),
            labels: vec![("owner".into(), self.owner.clone())],
            ..Spec::default()
        }
    }

    fn check_token(&self) -> Result<(), Error> {
        check_token(&self.token)
    }
}

fn check_token(token: &str) -> Result<(), Error> {
    let plain = token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let ok = plain && !token.is_empty() && !token.starts_with('.') && token.len() <= TOKEN_BYTES_MAX;
    if ok { Ok(()) } else { Err(Error::Token { token: token.to_owned() }) }
}
