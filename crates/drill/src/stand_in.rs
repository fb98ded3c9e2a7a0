//! What works on the messages of a drill in place of a worker's own program, which must not be started for them: holdfast
//! itself, under the same shim, lease and limits. It writes down when it begins and when it ends, and works in between.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_host::process::{self, Identity};
use holdfast_policy::Timestamp;
use serde::{Deserialize, Serialize};

use crate::session::SIGKILL;

/// A probe is some dozen bytes.
const BODY_BYTES_MAX: u64 = 4_096;

/// Body of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) id: u64,
    /// How long the first try works, and how long later ones do.
    pub(crate) work_ms: u64,
    pub(crate) again_ms: u64,
    /// Whoever works on it dies of it.
    pub(crate) crash: bool,
}

/// One line of the file: `begin ID PID START_TICKS BOOT_NS`, or `end …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) id: u64,
    pub(crate) process: Identity,
    pub(crate) ended: bool,
    pub(crate) at: Timestamp,
}

impl Line {
    pub(crate) fn parse(text: &str) -> Option<Line> {
        let mut words = text.split(' ');
        let ended = match words.next()? {
            "begin" => false,
            "end" => true,
            _ => return None,
        };
        let id = words.next()?.parse().ok()?;
        let process = Identity { pid: words.next()?.parse().ok()?, start_ticks: words.next()?.parse().ok()? };
        Some(Line { id, process, ended, at: Timestamp::from_nanos(words.next()?.parse().ok()?) })
    }

    fn text(&self) -> String {
        let word = if self.ended { "end" } else { "begin" };
        let Identity { pid, start_ticks } = self.process;
        format!("{word} {} {pid} {start_ticks} {}\n", self.id, self.at.as_nanos())
    }
}

/// Entry of the hidden command `holdfast __probe FILE`; the message is on standard input.
pub fn run(file: &Path, receives: u32) -> io::Result<()> {
    let mut body = String::new();
    io::stdin().take(BODY_BYTES_MAX).read_to_string(&mut body)?;
    let probe: Probe = serde_json::from_str(&body)?;
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let process = process::identity(pid).ok_or_else(|| io::Error::other("this process is not known"))?;
    let note = |ended| {
        let line = Line { id: probe.id, process, ended, at: clock::now() };
        // One write, so that lines of several never mix.
        OpenOptions::new().create(true).append(true).open(file)?.write_all(line.text().as_bytes())
    };
    note(false)?;
    if probe.crash {
        process::signal(process, SIGKILL)?;
    }
    std::thread::sleep(Duration::from_millis(if receives > 1 { probe.again_ms } else { probe.work_ms }));
    note(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_and_a_torn_one_is_none() {
        let process = Identity { pid: 12, start_ticks: 345 };
        let line = Line { id: 6, process, ended: true, at: Timestamp::from_nanos(78) };
        assert_eq!(Line::parse(line.text().trim_end()), Some(line));
        for text in ["", "begin", "begin 1 2 3", "began 1 2 3 4", "end x 2 3 4"] {
            assert_eq!(Line::parse(text), None, "{text}");
        }
    }
}
