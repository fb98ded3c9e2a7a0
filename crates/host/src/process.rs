//! Processes as `/proc` shows them, and signals that never reach a recycled process id.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process for its whole life, within one boot: a process id alone is recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    pub start_ticks: u64,
}

/// One line of `/proc/PID/stat`, the fields that decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    /// `R` running, `S` sleeping, `D` waiting for a disk, `T` stopped, `Z` zombie, …
    pub state: char,
    pub ppid: i32,
    pub pgrp: i32,
    pub session: i32,
    /// User and system time of all threads, in clock ticks.
    pub cpu_ticks: u64,
    pub start_ticks: u64,
}

impl Stat {
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ticks: self.start_ticks }
    }

    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// `pid (name) state ppid pgrp session …`; the name may hold spaces and parentheses.
    fn parse(line: &str) -> Option<Stat> {
        let (pid, rest) = line.split_once(" (")?;
        let (_, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
        Some(Stat {
            pid: pid.parse().ok()?,
            state: fields.first()?.chars().next()?,
            ppid: number(1)? as i32,
            pgrp: number(2)? as i32,
            session: number(3)? as i32,
            cpu_ticks: number(11)? + number(12)?,
            start_ticks: number(19)?,
        })
    }
}

/// `None` when there is no such process.
pub fn stat(pid: i32) -> Option<Stat> {
    Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The identity of a live process; `None` when there is none.
pub fn identity(pid: i32) -> Option<Identity> {
    stat(pid).map(|s| s.identity())
}

/// Whether this very process lives; a zombie does not.
pub fn is_alive(who: Identity) -> bool {
    stat(who.pid).is_some_and(|s| s.start_ticks == who.start_ticks && !s.is_zombie())
}

/// A handle that means one process only, even after it ended.
#[derive(Debug)]
pub struct Process {
    who: Identity,
    fd: OwnedFd,
}

impl Process {
    /// `None` when it is gone. The descriptor is opened first and the start time read after it, so that a
    /// recycled id is told from the process that was meant.
    pub fn open(who: Identity) -> io::Result<Option<Process>> {
        let Some(pid) = Pid::from_raw(who.pid).filter(|_| who.pid > 0) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let same = stat(who.pid).is_some_and(|s| s.start_ticks == who.start_ticks);
        Ok(same.then_some(Process { who, fd }))
    }

    pub fn identity(&self) -> Identity {
        self.who
    }

    /// `false` when it has ended meanwhile.
    pub fn signal(&self, signo: i32) -> io::Result<bool> {
        // SAFETY: only the number is passed to the kernel, which checks it.
        let signal = unsafe { Signal::from_raw_unchecked(signo) };
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Readable when the process has ended.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.fd
    }
}

/// Signals that very process; `false` when it is gone.
pub fn signal(who: Identity, signo: i32) -> io::Result<bool> {
    match Process::open(who)? {
        Some(process) => process.signal(signo),
        None => Ok(false),
    }
}

/// All processes of the machine at one moment.
#[derive(Clone, Debug, Default)]
pub struct Table {
    all: Vec<Stat>,
}

impl Table {
    pub fn read() -> Table {
        let Ok(entries) = fs::read_dir("/proc") else { return Table::default() };
        let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        Table { all: pids.filter_map(stat).collect() }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Stat> {
        self.all.iter()
    }

    pub fn group(&self, pgrp: i32) -> impl Iterator<Item = &Stat> {
        self.all.iter().filter(move |s| s.pgrp == pgrp)
    }

    pub fn session(&self, session: i32) -> impl Iterator<Item = &Stat> {
        self.all.iter().filter(move |s| s.session == session)
    }

    /// Children of `pid`, their children, and so on, without `pid` itself.
    pub fn descendants(&self, pid: i32) -> Vec<&Stat> {
        let mut children: HashMap<i32, Vec<&Stat>> = HashMap::new();
        for s in &self.all {
            children.entry(s.ppid).or_default().push(s);
        }
        let (mut found, mut queue, mut seen) = (Vec::new(), vec![pid], HashSet::from([pid]));
        while let Some(parent) = queue.pop() {
            for s in children.get(&parent).into_iter().flatten() {
                if seen.insert(s.pid) {
                    found.push(*s);
                    queue.push(s.pid);
                }
            }
        }
        found
    }

    /// CPU time of a session's living processes: a single-threaded server that is busy moves it, a hung one does not.
    pub fn session_cpu_ticks(&self, session: i32) -> u64 {
        self.session(session).map(|s| s.cpu_ticks).sum()
    }
}

/// Clock ticks as time (100 a second on every Linux that we know; asked all the same).
pub fn ticks(count: u64) -> Duration {
    // SAFETY: asks the C library for a constant.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1);
    Duration::from_millis(count * 1000 / per_second)
}

/// As the first process of a container this one inherits every orphan, and nobody else waits for them.
pub fn reap_inherited() {
    if std::process::id() == 1 {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}

/// `SIGKILL` for 9.
pub fn signal_name(signal: i32) -> String {
    let known = [
        (1, "HUP"),
        (2, "INT"),
        (3, "QUIT"),
        (4, "ILL"),
        (6, "ABRT"),
        (7, "BUS"),
        (8, "FPE"),
        (9, "KILL"),
        (11, "SEGV"),
        (13, "PIPE"),
        (14, "ALRM"),
        (15, "TERM"),
    ];
    known
        .iter()
        .find(|(n, _)| *n == signal)
        .map_or_else(|| format!("signal {signal}"), |(_, name)| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_parentheses_is_no_obstacle() {
        let line = "42 (a) b (c)) T 1 40 39 0 -1 4194560 1 2 3 4 50 7 8 9 20 0 1 0 987654 0 0";
        let s = Stat::parse(line).unwrap();
        assert_eq!(
            (s.pid, s.state, s.ppid, s.pgrp, s.session, s.cpu_ticks, s.start_ticks),
            (42, 'T', 1, 40, 39, 57, 987_654)
        );
    }

    #[test]
    fn only_the_process_that_was_meant_is_signalled() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let who = identity(child.id() as i32).unwrap();
        let other = Identity { start_ticks: who.start_ticks + 1, ..who };
        assert!(!signal(other, libc::SIGKILL).unwrap());
        assert!(is_alive(who) && !is_alive(other));
        assert!(Table::read().descendants(std::process::id() as i32).iter().any(|s| s.identity() == who));
        assert!(signal(who, libc::SIGKILL).unwrap());
        child.wait().unwrap();
        assert!(!is_alive(who));
        assert!(!signal(who, libc::SIGKILL).unwrap());
    }
}
