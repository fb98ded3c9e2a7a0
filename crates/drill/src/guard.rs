//! The guard: a process of its own, started before anything is injected, that undoes everything when the
//! runner dies, hangs or says so. It is in a process group of its own, and the runner holds the
//! other end of its only connection: the kernel closes that end however the runner ends.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::Timestamp;

use crate::error::DrillError;
use crate::system::Inject;
use crate::undo::Journal;

/// The guard must report within this time, or there is no drill.
const START_LIMIT: Duration = Duration::from_secs(5);
/// After `bye`; a guard that does not end is killed, it has nothing left to do.
const END_LIMIT: Duration = Duration::from_secs(2);
/// An undo that fails (a balancer process that does not answer) is tried again this often, with the delay
/// doubled each time from 50 ms: some 25 s in all. The journal keeps what is left for the agent.
const TRIES_MAX: u32 = 9;

const READY: &str = "ready";
const BYE: &str = "bye";

/// The runner's side. Dropping it without [`Guard::release`] makes the guard undo everything.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    stream: UnixStream,
}

impl Guard {
    /// `argv` is the command whose last argument, the drill directory, is added here. Returns when the guard
    /// watches; it undoes by itself at `until`.
    pub(crate) fn start(argv: &[OsString], dir: &Path, until: Timestamp) -> Result<Guard, DrillError> {
        let failed = |because: String| DrillError::Guard { because };
        let (mut ours, theirs) = UnixStream::pair().map_err(|e| failed(e.to_string()))?;
        let (program, args) = argv.split_first().ok_or_else(|| failed("no command was given".into()))?;
        let mut child = Command::new(program)
            .args(args)
            .arg(dir)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Out of reach of the terminal's Ctrl-C, which is for the runner.
            .process_group(0)
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        match greet(&mut ours, until) {
            Ok(()) => Ok(Guard { child, stream: ours }),
            Err(e) => {
                child.kill().ok();
                child.wait().ok();
                Err(failed(format!("it did not report: {e}")))
            }
        }
    }

    /// A guard that has gone protects nothing: the drill must stop.
    pub(crate) fn is_watching(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Everything is undone, nothing is left to guard.
    pub(crate) async fn release(mut self) {
        writeln!(self.stream, "{BYE}").ok();
        let last = clock::now() + END_LIMIT;
        while self.is_watching() {
            if clock::now() >= last {
                self.child.kill().ok();
                self.child.wait().ok();
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn greet(stream: &mut UnixStream, until: Timestamp) -> std::io::Result<()> {
    stream.set_read_timeout(Some(START_LIMIT))?;
    writeln!(stream, "{}", until.as_nanos())?;
    let mut answer = [0u8; READY.len() + 1];
    stream.read_exact(&mut answer)?;
    match answer.strip_suffix(b"\n") {
        Some(text) if text == READY.as_bytes() => Ok(()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// Entry of the hidden command `holdfast __guard DIR`. Its standard input is the guard's end of the pair.
/// Returns when the runner released it or when everything was undone.
pub fn run(dir: &Path, inject: &dyn Inject) -> Result<(), DrillError> {
    let failed = |e: std::io::Error| DrillError::Guard { because: e.to_string() };
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    if watch(stream).map_err(failed)? == Verdict::Released {
        return Ok(());
    }
    runtime.block_on(undo(&Journal::of(dir), inject))
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Released,
    Undo,
}

fn watch(stream: UnixStream) -> std::io::Result<Verdict> {
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let Ok(until) = line.trim().parse().map(Timestamp::from_nanos) else { return Ok(Verdict::Undo) };
    writeln!(&stream, "{READY}")?;
    loop {
        let left = clock::now().until(until);
        if left.is_zero() {
            return Ok(Verdict::Undo);
        }
        stream.set_read_timeout(Some(left))?;
        line.clear();
        match lines.read_line(&mut line) {
            Ok(_) if line.trim() == BYE => return Ok(Verdict::Released),
            Ok(0) => return Ok(Verdict::Undo),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => return Ok(Verdict::Undo),
        }
    }
}

async fn undo(journal: &Journal, inject: &dyn Inject) -> Result<(), DrillError> {
    let mut delay = Duration::from_millis(50);
    for _ in 0..TRIES_MAX {
        if journal.undo_all(inject, "guard").await?.failed.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(delay).await;
        delay *= 2;
    }
    Err(DrillError::Guard { because: "some faults could not be undone; the agent tries again when it starts".into() })
}
