//! `holdfast __shim DIR GENERATION`: becomes the keeper of an instance. One thread, nothing initialised before.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::dir::Dir;
use super::keeper::Keeper;
use super::state::Failure;
use crate::process::{self, Identity};

/// One line on the shim's standard output: what its launcher waits for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Keeps(Identity),
    Refuses(Failure),
}

/// Never returns. Exit code 0 after it was told to exit, 1 when it refused to begin.
pub fn run(dir: &Path, generation: u64) -> ! {
    let launcher = detach();
    let tell = |verdict: &Verdict| {
        let mut line = serde_json::to_vec(verdict).unwrap_or_default();
        line.push(b'\n');
        // A launcher that gave up is no reason to stop.
        let _ = launcher.as_ref().map(|fd| rustix::io::write(fd, &line));
    };
    match Keeper::open(Dir::new(dir), generation) {
        Ok(keeper) => {
            let own = std::process::id() as i32;
            tell(&Verdict::Keeps(process::identity(own).unwrap_or(Identity { pid: own, start_ticks: 0 })));
            drop(launcher);
            keeper.keep();
            std::process::exit(0)
        }
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{}: {}", failure.code, failure.text);
            tell(&Verdict::Refuses(failure));
            std::process::exit(1)
        }
    }
}

/// Own session, no terminal, no inherited descriptors. Returns what was standard output.
fn detach() -> Option<OwnedFd> {
    // SAFETY: closes descriptors that nobody in this process owns yet: it has just begun.
    unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, 0) };
    // Fails when it leads a session already, which is as good.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"holdfast-shim");
    let _ = std::env::set_current_dir("/");
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let launcher = rustix::io::fcntl_dupfd_cloexec(std::io::stdout().as_fd(), 3).ok();
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        for target in [0, 1] {
            // SAFETY: replaces standard input and output, which this process does not use otherwise.
            unsafe { libc::dup2(null.as_raw_fd(), target) };
        }
    }
    launcher
}
