//! Which process is meant. A pid alone is never signalled: numbers are used again, after a reboot all of
//! them. The descriptor is opened first and the start time compared after it, so that the process cannot
//! be replaced between look and signal.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use holdfast_policy::Timestamp;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::system::Process;

/// Sweeps over a session until no unstopped member is found; a program that forks faster than this is
/// stopped as far as possible and said so.
const SWEEPS_MAX: u32 = 50;
/// A member inside a system call stops when it leaves it.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);

pub fn boot_now() -> Timestamp {
    let t = clock_gettime(ClockId::Boottime);
    let nanos = t.tv_sec.max(0) as u64 * 1_000_000_000 + t.tv_nsec.max(0) as u64;
    Timestamp::from_nanos(nanos)
}

/// Random per boot; pids and boot times are comparable only within one.
pub fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
    })
}

/// One process of one boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    pub start_ticks: u64,
    pub boot_id: String,
}

/// A held process: signals reach it or nothing.
#[derive(Debug)]
pub(crate) struct Held {
    fd: OwnedFd,
}

impl From<Process> for Identity {
    fn from(process: Process) -> Self {
        Identity { pid: process.pid, start_ticks: process.start_ticks, boot_id: boot_id().to_owned() }
    }
}

impl Identity {
    /// The process with this pid now; `None` when there is none.
    pub fn of(pid: i32) -> Option<Identity> {
        let stat = Stat::read(pid)?;
        Some(Identity { pid, start_ticks: stat.start_ticks, boot_id: boot_id().to_owned() })
    }

    pub fn is_alive(&self) -> bool {
        self.boot_id == boot_id()
            && Stat::read(self.pid).is_some_and(|s| s.start_ticks == self.start_ticks && s.state != 'Z')
    }

    /// `None` when that process is gone, whoever has its number now.
    pub(crate) fn hold(&self) -> io::Result<Option<Held>> {
        if self.boot_id != boot_id() {
            return Ok(None);
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        match Stat::read(self.pid) {
            Some(stat) if stat.start_ticks == self.start_ticks && stat.state != 'Z' => Ok(Some(Held { fd })),
            _ => Ok(None),
        }
    }

    /// True when the signal was delivered, false when the process is gone.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<bool> {
        match self.hold()? {
            Some(held) => held.signal(signal),
            None => Ok(false),
        }
    }
}

impl Held {
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Without waiting.
    pub(crate) fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&at_once)), Ok(n) if n > 0)
    }
}

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) start_ticks: u64,
}

impl Stat {
    pub(crate) fn read(pid: i32) -> Option<Stat> {
        Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The command name may hold blanks and brackets, so fields count from the last one.
    fn parse(text: &str) -> Option<Stat> {
        let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
        Some(Stat {
            state: fields.first()?.chars().next()?,
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

/// `leader` and everything in its session or process group. While one member lives the kernel does not give
/// the number to another process, so members are known even after the leader has gone; a different
/// process under the leader's number means that the session is no more.
pub(crate) fn session(leader: &Identity) -> Vec<Identity> {
    if leader.boot_id != boot_id() {
        return Vec::new();
    }
    let leader_now = Stat::read(leader.pid);
    if leader_now.is_some_and(|s| s.start_ticks != leader.start_ticks) {
        return Vec::new();
    }
    let mut members: Vec<Identity> = numbered_processes()
        .filter_map(|pid| Some((pid, Stat::read(pid)?)))
        .filter(|(pid, s)| {
            let belongs = s.session == leader.pid || s.group == leader.pid || *pid == leader.pid;
            belongs && s.state != 'Z' && s.start_ticks >= leader.start_ticks
        })
        .map(|(pid, s)| Identity { pid, start_ticks: s.start_ticks, boot_id: leader.boot_id.clone() })
        .collect();
    members.sort_by_key(|m| m.pid);
    members
}

fn numbered_processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Stops every member of the session; returns how many. Sweeps again until all are stopped, because a member
/// may have forked between the look and the signal.
pub(crate) fn stop_session(leader: &Identity) -> io::Result<u32> {
    let mut stopped = 0;
    for _ in 0..SWEEPS_MAX {
        let running: Vec<Identity> = session(leader).into_iter().filter(|m| !is_stopped(m)).collect();
        if running.is_empty() {
            return Ok(stopped);
        }
        for member in running {
            stopped += u32::from(member.signal(Signal::STOP)?);
        }
        std::thread::sleep(SWEEP_PAUSE);
    }
    tracing::warn!(pid = leader.pid, "the session forks faster than it can be stopped");
    Ok(stopped)
}

/// Continues every member; returns how many were still there. Continuing one that runs changes nothing.
pub(crate) fn continue_session(leader: &Identity) -> io::Result<u32> {
    let mut continued = 0;
    for member in session(leader) {
        continued += u32::from(member.signal(Signal::CONT)?);
    }
    Ok(continued)
}

/// A signal takes a moment to act; a member that is about to stop may be signalled twice, harmlessly.
fn is_stopped(member: &Identity) -> bool {
    Stat::read(member.pid).is_none_or(|s| matches!(s.state, 'T' | 't' | 'Z') || s.start_ticks != member.start_ticks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};
    use std::time::Instant;

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Sleeper {
            Sleeper(Command::new("sleep").arg("60").spawn().unwrap())
        }
        fn identity(&self) -> Identity {
            Identity::of(self.0.id() as i32).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(5), "never: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_command_name_with_brackets_and_blanks_is_no_obstacle() {
        let text = "42 (a) b (c) T 1 40 41 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.group, stat.session, stat.start_ticks), ('T', 40, 41, 12345));
    }

    #[test]
    fn another_process_under_the_same_number_is_never_signalled() {
        let sleeper = Sleeper::start();
        let real = sleeper.identity();
        let earlier = Identity { start_ticks: real.start_ticks - 1, ..real.clone() };
        let other_boot = Identity { boot_id: "another".into(), ..real.clone() };
        for wrong in [earlier, other_boot] {
            assert!(!wrong.is_alive());
            assert!(!wrong.signal(Signal::KILL).unwrap());
            assert_eq!(stop_session(&wrong).unwrap(), 0);
            assert_eq!(continue_session(&wrong).unwrap(), 0);
        }
        assert!(real.is_alive());
        assert_ne!(Stat::read(real.pid).unwrap().state, 'T');
    }

    #[test]
    fn the_right_one_is_and_then_it_is_gone() {
        let sleeper = Sleeper::start();
        let real = sleeper.identity();
        let held = real.hold().unwrap().unwrap();
        assert!(!held.has_exited());
        assert!(real.signal(Signal::KILL).unwrap());
        wait_for("exit seen on the descriptor", || held.has_exited());
        wait_for("death seen", || !real.is_alive());
        assert!(!real.signal(Signal::KILL).unwrap(), "a zombie is not signalled");
    }

    #[test]
    fn a_whole_session_is_stopped_and_continued() {
        let script = "sleep 60 & sleep 60 & wait";
        let mut shell = Command::new("setsid").args(["sh", "-c", script]).spawn().unwrap();
        let leader = Identity::of(shell.id() as i32).unwrap();
        wait_for("two children", || session(&leader).len() == 3);
        stop_session(&leader).unwrap();
        let states = |leader: &Identity| -> Vec<char> {
            session(leader).iter().filter_map(|m| Some(Stat::read(m.pid)?.state)).collect()
        };
        assert_eq!(states(&leader), vec!['T', 'T', 'T'], "stopped when the call returns");
        assert_eq!(continue_session(&leader).unwrap(), 3);
        wait_for("all run again", || !states(&leader).contains(&'T'));
        for member in session(&leader) {
            member.signal(Signal::KILL).unwrap();
        }
        shell.wait().unwrap();
    }
}
