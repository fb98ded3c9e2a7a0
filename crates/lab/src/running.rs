//! Programs of the system, run to their end, and what `/proc` says of their children.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// No tool of ours works longer; a hung one is killed by timeout(1), from coreutils.
const TOOL_LIMIT_S: &str = "30";

/// How often something is looked at that cannot be waited for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Daemons and network tools live in sbin, which ordinary users do not search.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with a limit in time. `argv` is never empty.
pub(crate) fn tool<S: AsRef<OsStr>>(argv: &[S]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", TOOL_LIMIT_S]).args(argv).env("PATH", path());
    command
}

/// What we were given, and then the system's folders.
pub(crate) fn path() -> String {
    match std::env::var("PATH") {
        Ok(own) => format!("{own}:{PATH}"),
        Err(_) => PATH.to_owned(),
    }
}

/// Runs it to its end with `input` on its stdin and gives its stdout; an error with its stderr when it fails.
pub(crate) fn finish(command: &mut Command, input: &str) -> Result<String> {
    let shown = shown(command);
    let failed = |e| Error::io(format!("run `{shown}`"), e);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why on its stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let out = child.wait_with_output().map_err(failed)?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let why = format!("{}, {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    Err(Error::failed(format!("run `{shown}`"), why))
}

pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Children of a process with one thread, as pids of our process namespace.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    if let Ok(list) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        return list.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    }
    // A kernel without that file.
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|one| stat(*one).is_some_and(|(_, parent)| parent == pid)).collect()
}

/// State letter and parent of a process.
pub(crate) fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = text.get(text.rfind(')')? + 2..)?.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// Looks again and again until there is an answer; `None` when the time is over.
pub(crate) fn wait_until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(LOOK_EVERY);
    }
}
