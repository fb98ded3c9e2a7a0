//! A whole session stopped and continued: an instance is more than its first process.

use std::io;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_host::process::{self, Identity, Stat, Table};

/// Signal numbers of Linux on every architecture that holdfast is built for.
pub(crate) const SIGKILL: i32 = 9;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

/// Sweeps over a session until no unstopped member is found; a program that forks faster than this is
/// stopped as far as possible and said so.
const SWEEPS_MAX: u32 = 50;
/// A member inside a system call stops when it leaves it.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);

/// `leader` and everything in its session or process group. While one member lives the kernel does not give
/// the number to another process, so members are known even after the leader has gone; a different
/// process under the leader's number means that the session is no more.
pub(crate) fn members(leader: Identity) -> Vec<Stat> {
    if process::stat(leader.pid).is_some_and(|s| s.start_ticks != leader.start_ticks) {
        return Vec::new();
    }
    let belongs = |s: &&Stat| s.session == leader.pid || s.pgrp == leader.pid || s.pid == leader.pid;
    let table = Table::read();
    table.iter().filter(belongs).filter(|s| !s.is_zombie() && s.start_ticks >= leader.start_ticks).cloned().collect()
}

/// Stops every member of the session. Sweeps again until all are stopped, because a member may have forked
/// between the look and the signal.
pub(crate) fn stop(leader: Identity) -> io::Result<()> {
    for _ in 0..SWEEPS_MAX {
        let running: Vec<Stat> = members(leader).into_iter().filter(|s| !matches!(s.state, 'T' | 't')).collect();
        if running.is_empty() {
            return Ok(());
        }
        for member in running {
            process::signal(member.identity(), SIGSTOP)?;
        }
        std::thread::sleep(SWEEP_PAUSE);
    }
    tracing::warn!(pid = leader.pid, "the session forks faster than it can be stopped");
    Ok(())
}

/// Continues every member; one that runs is not changed by it. A leader of another boot has none.
pub(crate) fn resume(leader: Identity, boot_id: &str) -> io::Result<()> {
    if !clock::same_boot(boot_id) {
        return Ok(());
    }
    for member in members(leader) {
        process::signal(member.identity(), SIGCONT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::Instant;

    use super::*;

    struct Reaped(Child);

    impl Drop for Reaped {
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
    fn a_stranger_under_the_same_number_is_left_alone() {
        let sleeper = Reaped(Command::new("sleep").arg("60").spawn().unwrap());
        let real = process::identity(sleeper.0.id() as i32).unwrap();
        let stranger = Identity { start_ticks: real.start_ticks - 1, ..real };
        stop(stranger).unwrap();
        assert_ne!(process::stat(real.pid).unwrap().state, 'T');
        stop(real).unwrap();
        resume(stranger, clock::boot_id()).unwrap();
        resume(real, "another boot").unwrap();
        assert_eq!(process::stat(real.pid).unwrap().state, 'T');
        resume(real, clock::boot_id()).unwrap();
        assert_ne!(process::stat(real.pid).unwrap().state, 'T');
    }

    #[test]
    fn a_whole_session_is_stopped_and_continued() {
        let script = "sleep 60 & sleep 60 & wait";
        let shell = Reaped(Command::new("setsid").args(["sh", "-c", script]).spawn().unwrap());
        let leader = process::identity(shell.0.id() as i32).unwrap();
        wait_for("two children", || members(leader).len() == 3);
        let states = || -> Vec<char> { members(leader).iter().map(|m| m.state).collect() };
        stop(leader).unwrap();
        assert_eq!(states(), vec!['T', 'T', 'T'], "stopped when the call returns");
        resume(leader, clock::boot_id()).unwrap();
        wait_for("all run again", || !states().contains(&'T'));
        for member in members(leader) {
            process::signal(member.identity(), SIGKILL).unwrap();
        }
    }
}
