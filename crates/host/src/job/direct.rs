//! Jobs as direct children of this process: cheap enough to run every second.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Error, Job, Outcome};
use crate::memfd;
use crate::process::{Identity, Process, Table};
use crate::shim::child::{self, Plan};
use crate::shim::{environment, keeper};

impl Job {
    /// Runs the command to its end or its deadline; then, and also when the future is dropped, its whole process
    /// group and session is killed. The token need not be unique.
    pub async fn run(&self) -> Result<Outcome, Error> {
        let system = |source| Error::System { token: self.token.clone(), source };
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| system(e.into()))?;
        rustix::io::ioctl_fionbio(&reader, true).map_err(|e| system(e.into()))?;
        let stdin = match self.stdin.as_slice() {
            [] => None,
            bytes => Some(memfd::create("stdin", bytes).map_err(system)?),
        };
        let job = self.clone();
        let spawned = tokio::task::spawn_blocking(move || job.spawn(stdin, writer)).await;
        let mut child = spawned.map_err(|e| system(io::Error::other(e)))??;
        let mut output = Vec::new();
        let begun = tokio::time::Instant::now();
        let watched = child.watch(reader, &mut output, self.output_bytes_max);
        let timed_out = match tokio::time::timeout(self.deadline, watched).await {
            Ok(result) => {
                result.map_err(system)?;
                false
            }
            Err(_) => true,
        };
        let (code, signal) = child.finish();
        let lived_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Outcome { code, signal, timed_out, lived_ms, output })
    }

    fn spawn(&self, stdin: Option<OwnedFd>, output: OwnedFd) -> Result<Direct, Error> {
        let failed = |failure| Error::NotStarted { token: self.token.clone(), failure };
        let spec = self.spec();
        let account = keeper::resolve_account(&spec).map_err(failed)?;
        let env = environment::resolve(&spec, account.as_ref()).map_err(failed)?;
        let plan = Plan {
            spec: &spec,
            argv: &spec.argv,
            env,
            account: account.as_ref(),
            output,
            stdin: stdin.as_ref().map(|fd| fd.as_fd()),
            listeners: Vec::new(),
            cgroup: None,
            bound: false,
            oom_score_adj: None,
        };
        let who = child::spawn(plan).map_err(failed)?;
        let system = |source| Error::System { token: self.token.clone(), source };
        // Not reaped by anybody else, so the id is still its own.
        match Process::open(who).map_err(system)? {
            Some(process) => Ok(Direct { who, process, reaped: None }),
            None => Err(system(io::Error::from(io::ErrorKind::NotFound))),
        }
    }

    /// A probe as one line: the program's name and its arguments.
    pub fn command_line(&self) -> String {
        let name =
            self.argv.first().map(|a| Path::new(a).file_name().map_or(a.clone(), |n| n.to_string_lossy().into_owned()));
        name.into_iter().chain(self.argv.iter().skip(1).cloned()).collect::<Vec<_>>().join(" ")
    }
}

struct Direct {
    who: Identity,
    process: Process,
    reaped: Option<(Option<i32>, Option<i32>)>,
}

impl Direct {
    /// Collects output until the child itself has ended; what its descendants still hold open is not waited for.
    async fn watch(&self, reader: OwnedFd, output: &mut Vec<u8>, limit: u64) -> io::Result<()> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let pidfd = self.process.pidfd().try_clone()?;
        // SAFETY: both descriptors are owned by their `AsyncFd` and never replaced.
        let (reader, ended) = unsafe {
            (
                AsyncFd::register_with_interest(reader, Interest::READABLE)?,
                AsyncFd::register_with_interest(pidfd, Interest::READABLE)?,
            )
        };
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                guard = reader.readable(), if open => {
                    let mut guard = guard?;
                    if let Ok(result) = guard.try_io(|fd| read_some(fd.get_ref(), output, limit)) {
                        open = result?;
                    }
                }
                guard = ended.readable() => {
                    let _ = guard?;
                    // What it wrote before it ended is in the pipe.
                    while open && read_some(reader.get_ref(), output, limit).unwrap_or(false) {}
                    return Ok(());
                }
            }
        }
    }

    /// Kills what is left, reaps the child, and says how it ended.
    fn finish(&mut self) -> (Option<i32>, Option<i32>) {
        if let Some(ended) = self.reaped {
            return ended;
        }
        // Of a child that lives, descendants that left its group can still be found; looked for before the kill.
        if crate::process::is_alive(self.who) {
            self.kill_strays();
        }
        // The child is not reaped yet, so group and session of its id are its own.
        let pid = self.who.pid;
        if pid > 1 {
            // SAFETY: passes numbers to the kernel; group ids 0 and 1 are excluded.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
        }
        let _ = self.process.signal(libc::SIGKILL);
        let mut status = 0;
        // SAFETY: waits for exactly this child, which has ended or has just been killed.
        let reaped = unsafe { libc::waitpid(pid, &mut status, 0) } == pid;
        let ended = match reaped {
            true if libc::WIFEXITED(status) => (Some(libc::WEXITSTATUS(status)), None),
            true => (None, Some(libc::WTERMSIG(status))),
            false => (None, None),
        };
        self.reaped = Some(ended);
        ended
    }
}

impl Direct {
    fn kill_strays(&self) {
        let table = Table::read();
        for stray in table.descendants(self.who.pid).into_iter().filter(|s| s.pgrp != self.who.pid) {
            let _ = crate::process::signal(stray.identity(), libc::SIGKILL);
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.finish();
    }
}

/// `false` at the end of the pipe. More than `limit` bytes are read and forgotten.
fn read_some(fd: &OwnedFd, output: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    let mut chunk = [0u8; 8192];
    match rustix::io::read(fd, &mut chunk) {
        Ok(0) => Ok(false),
        Ok(n) => {
            let room = limit.saturating_sub(output.len()).min(n);
            output.extend_from_slice(&chunk[..room]);
            Ok(true)
        }
        Err(e) => Err(e.into()),
    }
}
