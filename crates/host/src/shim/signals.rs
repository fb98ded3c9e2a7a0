//! Signals of the shim as a descriptor, and the children it reaps as subreaper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::child;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Some child ended, was stopped or goes on.
    Child,
    /// The shim itself is to go.
    Terminate,
}

/// SIGCHLD and SIGTERM, blocked and read from a descriptor; what a terminal sends is ignored.
pub(crate) struct Signals {
    fd: OwnedFd,
}

impl Signals {
    pub(crate) fn take_over() -> io::Result<Signals> {
        // SAFETY: a signal set on this stack; the process has one thread.
        unsafe {
            for signo in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE, libc::SIGTSTP] {
                libc::signal(signo, libc::SIG_IGN);
            }
            // An ignored SIGCHLD, inherited from who knows where, would throw exit codes away.
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGCHLD);
            libc::sigaddset(&mut set, libc::SIGTERM);
            if libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Signals { fd: child::adopt(fd) })
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn read(&self) -> Vec<Heard> {
        const RECORD: usize = size_of::<libc::signalfd_siginfo>();
        let mut heard = Vec::new();
        let mut buffer = [0u8; RECORD * 4];
        while let Ok(n) = rustix::io::read(&self.fd, &mut buffer) {
            for record in buffer[..n].chunks_exact(RECORD) {
                let signo = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]) as i32;
                heard.push(if signo == libc::SIGTERM { Heard::Terminate } else { Heard::Child });
            }
            if n < buffer.len() {
                break;
            }
        }
        heard
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

/// A child that ended, not reaped yet, so that its ids still belong to it.
pub(crate) enum Peek {
    Ended(i32, Status),
    /// Children live, none has ended.
    Alive,
    None,
}

pub(crate) fn peek() -> Peek {
    // SAFETY: a zeroed siginfo is a valid place for the answer.
    let (result, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let result = libc::waitid(libc::P_ALL, 0, &mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
        (result, info)
    };
    if result < 0 {
        return Peek::None;
    }
    // SAFETY: the kernel filled in the fields of a child event, or left pid 0.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Peek::Alive;
    }
    let exited = info.si_code == libc::CLD_EXITED;
    Peek::Ended(pid, Status { code: exited.then_some(status), signal: (!exited).then_some(status) })
}

/// What a living child was seen to do since the last call: stopped (`true`) or continued; the last of several.
pub(crate) fn stop_or_continue(pid: i32) -> Option<bool> {
    let id = libc::id_t::try_from(pid).ok()?;
    let mut last = None;
    loop {
        // SAFETY: a zeroed siginfo is a valid place for the answer; the kernel fills it in or leaves pid 0.
        let (seen, code) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG;
            let result = libc::waitid(libc::P_PID, id, &mut info, flags);
            (result == 0 && info.si_pid() == pid, info.si_code)
        };
        if !seen {
            return last;
        }
        last = Some(code != libc::CLD_CONTINUED);
    }
}

pub(crate) fn reap(pid: i32) {
    // SAFETY: waits for a child that has ended; it cannot block.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
}

/// Signals a child that this process has not reaped yet (so that the id is still its own).
pub(crate) fn kill_child(pid: i32, signo: i32) {
    if pid > 1 {
        // SAFETY: passes numbers to the kernel.
        unsafe { libc::kill(pid, signo) };
    }
}

/// Signals a whole process group whose leader is a child that is not reaped yet.
pub(crate) fn kill_group(leader: i32, signo: i32) {
    if leader > 1 {
        // SAFETY: passes numbers to the kernel; group ids 0 and 1 are excluded.
        unsafe { libc::kill(-leader, signo) };
    }
}

/// Direct children of this process; as a subreaper it also gets the orphans among its descendants.
pub(crate) fn children() -> Vec<i32> {
    let own = std::process::id();
    match std::fs::read_to_string(format!("/proc/self/task/{own}/children")) {
        Ok(list) => list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        // Kernels without CONFIG_PROC_CHILDREN.
        Err(_) => crate::process::Table::read().iter().filter(|s| s.ppid == own as i32).map(|s| s.pid).collect(),
    }
}
