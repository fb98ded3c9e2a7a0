//! The smallest service there is: a static C program, built by the test with the compiler that Rust links with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the program is. Other test processes build the same one, so each puts its own in place in one step.
pub(crate) fn path() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let own = dir.join(format!("tiny-{}", std::process::id()));
        let (source, built) = (own.with_extension("c"), dir.join("tiny"));
        std::fs::write(&source, include_str!("tiny.c")).expect("the folder for tests is writable");
        let cc = Command::new("cc").args(["-static", "-O2", "-o"]).args([&own, &source]).output().expect("cc runs");
        assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
        std::fs::rename(&own, &built).expect("the folder for tests is writable");
        let _ = std::fs::remove_file(&source);
        built
    })
}

/// When main began, in boot time, by process id: what the programs themselves wrote into this file.
pub(crate) fn births(file: &Path) -> BTreeMap<u32, u64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    whole
        .filter_map(|line| line.split_once(' ').and_then(|(pid, at)| Some((pid.parse().ok()?, at.parse().ok()?))))
        .collect()
}

/// `CLOCK_BOOTTIME`, the clock of births and of holdfast's incidents.
pub(crate) fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// By the system call: a process of `kill` would take longer than what is measured. Gives the time just before it.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) -> u64 {
    let process = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
    let at = boot_ns();
    rustix::process::kill_process(process, signal).expect("it lives and is ours");
    at
}

pub(crate) fn millis(ns: u64) -> f64 {
    ns as f64 / 1e6
}
