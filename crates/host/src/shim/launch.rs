//! Launching a shim so that it belongs to nobody.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::dir::Dir;
use super::run::Verdict;
use super::state::Failure;
use crate::files::FILE_MODE;
use crate::process::Identity;

/// From fork to the lock being held. A loaded machine needs tens of milliseconds.
pub const LAUNCH_MAX: Duration = Duration::from_secs(10);

/// A shim says next to nothing; this much is kept of what it said over its lives.
const SHIM_LOG_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot launch a shim in {}: {source}", dir.display())]
    Spawn { dir: PathBuf, source: io::Error },
    #[error("the shim in {} refused to begin: {}", dir.display(), failure.text)]
    Refused { dir: PathBuf, failure: Failure },
    #[error("the shim in {} did not begin within {} s", dir.display(), LAUNCH_MAX.as_secs())]
    Slow { dir: PathBuf },
    #[error("the shim in {} ended before it began; see {}/shim.log", dir.display(), dir.display())]
    Ended { dir: PathBuf },
}

impl Error {
    pub fn code(&self) -> &str {
        match self {
            Error::Refused { failure, .. } => &failure.code,
            _ => "HF0207",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Refused { failure, .. } => failure.hint.clone(),
            Error::Spawn { source, .. } if source.kind() == io::ErrorKind::WouldBlock => {
                Some("the limit of processes is reached (ulimit -u)".into())
            }
            _ => None,
        }
    }
}

/// Runs `exe __shim DIR GENERATION`, detached: own session, adopted by init, no zombie. Returns when it holds its lock.
/// The spec must have been written before. Blocks for some milliseconds; see [`launch_async`].
pub fn launch(exe: &Path, dir: &Path, generation: u64) -> Result<Identity, Error> {
    let dir = Dir::new(dir);
    let failed = |source| Error::Spawn { dir: dir.path().to_owned(), source };
    let log = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(dir.shim_log()).map_err(failed)?;
    if log.metadata().is_ok_and(|m| m.len() > SHIM_LOG_BYTES_MAX) {
        log.set_len(0).map_err(failed)?;
    }
    let (reader, writer) = io::pipe().map_err(failed)?;
    let mut command = Command::new(exe);
    command.arg("__shim").arg(dir.path()).arg(generation.to_string());
    // The launcher may be an instance itself; what it launches is not part of it.
    command.env_remove(super::MARK).env_remove("NOTIFY_SOCKET");
    for name in ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(writer).stderr(log);
    // SAFETY: only async-signal-safe calls; the first child leaves at once, so that the second is adopted by init.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            match libc::fork() {
                0 => Ok(()),
                -1 => Err(io::Error::last_os_error()),
                _ => libc::_exit(0),
            }
        });
    }
    let mut first = command.spawn().map_err(failed)?;
    // The command holds the writing end of the pipe, whose end is to be seen.
    drop(command);
    let _ = first.wait();
    wait(File::from(std::os::fd::OwnedFd::from(reader)), &dir)
}

fn wait(mut reader: File, dir: &Dir) -> Result<Identity, Error> {
    let path = || dir.path().to_owned();
    let deadline = Instant::now() + LAUNCH_MAX;
    let mut line = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos() as _ };
        let mut fds = [PollFd::new(&reader, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Err(Error::Slow { dir: path() }),
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(Error::Spawn { dir: path(), source: e.into() }),
            Ok(_) => {}
        }
        let mut chunk = [0u8; 4096];
        let n = reader.read(&mut chunk).map_err(|source| Error::Spawn { dir: path(), source })?;
        line.extend_from_slice(&chunk[..n]);
        if n == 0 || line.ends_with(b"\n") {
            break;
        }
    }
    match serde_json::from_slice(&line) {
        Ok(Verdict::Keeps(shim)) => Ok(shim),
        Ok(Verdict::Refuses(failure)) => Err(Error::Refused { dir: path(), failure }),
        Err(_) => Err(Error::Ended { dir: path() }),
    }
}

/// [`launch`] off the runtime's threads.
pub async fn launch_async(exe: PathBuf, dir: PathBuf, generation: u64) -> Result<Identity, Error> {
    let failed = dir.clone();
    match tokio::task::spawn_blocking(move || launch(&exe, &dir, generation)).await {
        Ok(result) => result,
        Err(e) => Err(Error::Spawn { dir: failed, source: io::Error::other(e) }),
    }
}
