//! A program on a machine, seen from outside: a wrapper is our child and waits for the program in its namespaces.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::running::{children, path, stat, wait_until};
use crate::{Error, Result};

/// The wrapper forks within microseconds; on busy cores it takes longer.
const BORN_LIMIT: Duration = Duration::from_secs(10);

/// From SIGKILL to the end, for a value that is dropped.
const DEAD_LIMIT: Duration = Duration::from_secs(10);

/// Dropping it kills the program; what that started and detached goes on until its machine is killed.
pub struct Process {
    wrapper: Child,
    shown: String,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(mut command: Command, shown: &str, log: PathBuf) -> Result<Process> {
        let what = || format!("start {shown}");
        let create = |end| File::create(log.with_extension(end)).map_err(|e| Error::io(what(), e));
        command.stdin(Stdio::null()).stdout(create("out")?).stderr(create("err")?).env("PATH", path());
        let wrapper = command.spawn().map_err(|e| Error::io(what(), e))?;
        Ok(Process { wrapper, shown: shown.to_owned(), log })
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn stdout(&self) -> String {
        self.read("out")
    }

    pub fn stderr(&self) -> String {
        self.read("err")
    }

    fn read(&self, end: &str) -> String {
        fs::read(self.log.with_extension(end)).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// The program's pid as we see it, `None` once it has ended.
    pub fn pid(&self) -> Option<u32> {
        let wrapper = self.wrapper.id();
        let look = || match children(wrapper).first() {
            Some(pid) => Some(Some(*pid)),
            None => matches!(stat(wrapper), None | Some(('Z', _))).then_some(None),
        };
        wait_until(BORN_LIMIT, look).flatten()
    }

    pub fn is_running(&self) -> bool {
        self.pid().and_then(stat).is_some_and(|(state, _)| state != 'Z')
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let gone = || Error::failed(format!("send a signal to {}", self.shown), "it has ended");
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())).ok_or_else(gone)?;
        kill_process(pid, signal).map_err(|e| Error::io(format!("send a signal to {}", self.shown), e.into()))
    }

    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Until it has ended by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = wait_until(limit, || self.wrapper.try_wait().ok().flatten());
        let late = || {
            let why = format!("not within {limit:?}; stderr: {}", self.stderr());
            Error::failed(format!("see the end of {}", self.shown), why)
        };
        ended.ok_or_else(late)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.wrapper.try_wait(), Ok(None)) {
            let _ = self.kill();
            if self.wait(DEAD_LIMIT).is_err() {
                let _ = self.wrapper.kill();
                let _ = self.wrapper.wait();
            }
        }
    }
}
