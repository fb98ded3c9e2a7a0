//! Jobs whose result outlives their owner.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::{Error, Job, Outcome, check_token};
use crate::files;
use crate::memfd;
use crate::shim::{self, Body, Client, Dir, Exit, Failure, Phase};

/// For one answer of the job's shim.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// To end what a job left whose shim was killed.
const ORPHANS_MAX: Duration = Duration::from_secs(1);

/// A shim has its lock before it has its socket.
const SOCKET_LOOKS: u32 = 20;
const SOCKET_LOOK_EVERY: Duration = Duration::from_millis(50);

/// What [`Job::start`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    Now,
    /// The token has been used: it runs or ran; see [`Job::collect`].
    Before,
}

/// What is known about a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Unknown,
    Running,
    Done(Outcome),
    NotStarted(Failure),
    /// It was started, and nobody saw its end (its shim was killed, or the machine went down): it may have done
    /// everything, nothing or a part.
    Lost,
}

impl Job {
    /// Starts the job under a shim in `root/TOKEN`, unless that token was ever started. `exe` is holdfast itself.
    pub async fn start(&self, exe: &Path, root: &Path) -> Result<Started, Error> {
        self.check_token()?;
        let dir = Dir::new(root.join(&self.token));
        if dir.lock().exists() {
            self.supply(&dir).await?;
            return Ok(Started::Before);
        }
        dir.write_spec(&self.spec()).map_err(|source| Error::Files { token: self.token.clone(), source })?;
        let launched = shim::launch_async(exe.to_owned(), dir.path().to_owned(), 1).await;
        match launched {
            Ok(_) => {}
            // Somebody else was faster with the same token.
            Err(_) if dir.lock().exists() => return Ok(Started::Before),
            Err(source) => return Err(Error::Launch { token: self.token.clone(), source }),
        }
        self.supply(&dir).await?;
        Ok(Started::Now)
    }

    /// Hands over the input that the shim may be waiting for.
    async fn supply(&self, dir: &Dir) -> Result<(), Error> {
        if self.stdin.is_empty() {
            return Ok(());
        }
        // Gone already: it is over.
        let Ok(client) = Client::connect(dir.path(), ANSWER_MAX).await else { return Ok(()) };
        if client.state().phase != Phase::Waiting {
            return Ok(());
        }
        let system = |source| Error::System { token: self.token.clone(), source };
        let fd = memfd::create("stdin", &self.stdin).map_err(system)?;
        let held = client.hold_fds(&[("stdin".into(), fd.as_fd())], ANSWER_MAX).await;
        held.map_err(|source| Error::Shim { token: self.token.clone(), source })
    }

    /// What became of `token`; call again while it is `Running`.
    pub fn collect(root: &Path, token: &str) -> Result<Status, Error> {
        check_token(token)?;
        let dir = Dir::new(root.join(token));
        if !dir.lock().exists() {
            return Ok(Status::Unknown);
        }
        let absence = shim::absent(dir.path()).map_err(|source| Error::Files { token: token.to_owned(), source })?;
        let Some(absence) = absence else { return Ok(Status::Running) };
        if let Some(exit) = absence.exits.last() {
            return Ok(Status::Done(outcome(&dir, exit)));
        }
        // Its shim left on its own without a run: cancelled, or never given its input.
        let unused = absence.state.as_ref().filter(|s| s.phase == Phase::Stopped && s.incarnation.run == 0);
        let unused = unused.map(|s| Failure { code: "HF0216".into(), text: s.reason.clone(), hint: None });
        if let Some(failure) = absence.state.as_ref().and_then(|s| s.error.clone()).or(unused) {
            return Ok(Status::NotStarted(failure));
        }
        let _ = absence.kill_orphans(ORPHANS_MAX);
        Ok(Status::Lost)
    }

    /// What it has printed by now, whatever became of it; empty when nothing can be read.
    pub fn output(root: &Path, token: &str) -> Vec<u8> {
        match check_token(token) {
            Ok(()) => output(&Dir::new(root.join(token))),
            Err(_) => Vec::new(),
        }
    }

    /// For an owner after one that died: what waits for the input that only the dead one had is ended before it began, and
    /// [`Job::collect`] says that it was not started.
    pub async fn abandon(root: &Path, token: &str) -> Result<(), Error> {
        check_token(token)?;
        let dir = Dir::new(root.join(token));
        if !dir.read_spec().is_ok_and(|spec| spec.stdin) {
            return Ok(());
        }
        for _ in 0..SOCKET_LOOKS {
            match Client::connect(dir.path(), ANSWER_MAX).await {
                Ok(client) if client.state().phase == Phase::Waiting => return Job::cancel(root, token).await,
                Ok(_) => return Ok(()),
                Err(_) if Job::collect(root, token)? != Status::Running => return Ok(()),
                // It lives, and was launched a moment ago.
                Err(_) => tokio::time::sleep(SOCKET_LOOK_EVERY).await,
            }
        }
        Ok(())
    }

    /// Ends a running job and everything it started; its result says that it was killed.
    pub async fn cancel(root: &Path, token: &str) -> Result<(), Error> {
        check_token(token)?;
        let Ok(client) = Client::connect(&root.join(token), ANSWER_MAX).await else { return Ok(()) };
        let body = Body::Exit { reason: "cancelled".into(), grace_ms: Some(0) };
        match client.request(body, ANSWER_MAX).await {
            Ok(_) => {
                let _ = tokio::time::timeout(ANSWER_MAX, client.closed()).await;
                Ok(())
            }
            Err(_) if client.is_closed() => Ok(()),
            Err(source) => Err(Error::Shim { token: token.to_owned(), source }),
        }
    }

    /// Removes what is kept of a token, which could then run again. Refused while it runs.
    pub fn forget(root: &Path, token: &str) -> Result<(), Error> {
        if Job::collect(root, token)? == Status::Running {
            let source = io::Error::new(io::ErrorKind::ResourceBusy, "it is still running");
            return Err(Error::System { token: token.to_owned(), source });
        }
        match fs::remove_dir_all(root.join(token)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::System { token: token.to_owned(), source: e }),
            _ => Ok(()),
        }
    }
}

fn outcome(dir: &Dir, exit: &Exit) -> Outcome {
    let output = output(dir);
    Outcome { code: exit.code, signal: exit.signal, timed_out: exit.timed_out, lived_ms: exit.lived_ms, output }
}

fn output(dir: &Dir) -> Vec<u8> {
    let limit = dir.read_spec().map_or(0, |spec| spec.log.size_bytes_max);
    files::read_optional(&dir.log(), limit).ok().flatten().unwrap_or_default()
}
