//! Processes of the machine: run one with a deadline, and read what `/proc` says of the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::steps::{self, signal, typed};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long the last lines of a command that has ended may take to arrive.
const LAST_LINES: Duration = Duration::from_millis(200);

/// After SIGTERM a command may clean up behind itself for this long: a drill undoes its fault.
const GRACE: Duration = Duration::from_secs(20);

/// Runs a command on our terminal. At the deadline, or when `stop` is raised, it gets SIGTERM.
pub(crate) fn run(command: Command, limit: Duration, stop: &AtomicBool) -> Result<()> {
    run_reading(command, limit, stop, |_| {})
}

/// The same; a stdout that is a pipe is handed on line by line.
pub(crate) fn run_reading(
    mut command: Command,
    limit: Duration,
    stop: &AtomicBool,
    mut line: impl FnMut(&str),
) -> Result<()> {
    let shown = typed(&command);
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    let lines = child.stdout.take().map(steps::read_lines);
    let mut hand_on = |wait: Duration| {
        while let Some(text) = lines.as_ref().and_then(|lines| lines.recv_timeout(wait).ok()) {
            line(&text);
        }
    };
    let deadline = Instant::now() + limit;
    let mut kill_at = None;
    loop {
        hand_on(Duration::ZERO);
        if let Some(status) = child.try_wait()? {
            hand_on(LAST_LINES);
            if status.success() {
                return Ok(());
            }
            bail!("`{shown}` ended with {status}");
        }
        let now = Instant::now();
        if kill_at.is_none() && (now > deadline || stop.load(Ordering::Relaxed)) {
            signal("TERM", &child.id().to_string());
            kill_at = Some(now + GRACE);
        }
        if kill_at.is_some_and(|at| now > at) {
            child.kill()?;
            child.wait()?;
            bail!("`{shown}` did not end within {} s", limit.as_secs());
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Where cargo puts what it builds, as the environment of this run has it.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

pub(crate) fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub(crate) fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

/// Processes that work in `dir` or name it, ourselves excepted.
pub(crate) fn left_behind(dir: &Path) -> Vec<String> {
    let name = dir.to_string_lossy().into_owned();
    let ours = std::process::id();
    pids()
        .into_iter()
        .filter(|pid| *pid != ours)
        .filter_map(|pid| {
            let line = command_line(pid);
            let inside = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
            (inside || line.contains(&name)).then(|| format!("{pid} {line}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_out_of_time_is_ended() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec sleep 60"]);
        let began = Instant::now();
        let error = run(command, Duration::from_millis(100), &AtomicBool::new(false)).expect_err("out of time");
        assert!(error.to_string().contains("ended with signal"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_process_inside_a_folder_is_seen() {
        let dir = std::env::temp_dir().join(format!("holdfast-xtask-left-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("temp dir");
        let mut child = Command::new("sleep").arg("60").current_dir(&dir).spawn().expect("sleep");
        assert!(left_behind(&dir).iter().any(|line| line.starts_with(&child.id().to_string())));
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(left_behind(&dir), Vec::<String>::new());
        fs::remove_dir(&dir).expect("empty");
    }
}
