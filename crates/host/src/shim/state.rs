//! What a shim knows about its instance: pushed to every client, and kept in `state.json` for the reader after a crash.

use holdfast_policy::Incarnation;
use serde::{Deserialize, Serialize};

use crate::process::Identity;

pub const VERSION: u32 = 1;

/// Largest `state.json` that is read.
pub const SIZE_BYTES_MAX: u64 = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for `Start`, for held descriptors or for a first deadline.
    #[default]
    Waiting,
    /// Spawned, not yet known to be ready.
    Starting,
    /// Ready: told by sd_notify or by the agent's `Ready`.
    Running,
    /// Ended; starts again at `next_start_boot_ns`.
    Backoff,
    Stopping,
    /// Ended because it was told to.
    Stopped,
    /// Ended with success, and policy does not start it again.
    Completed,
    /// Ended with failure, and policy (or a missing grant) does not start it again.
    Failed,
    /// A phase of a newer release.
    #[serde(other)]
    Unknown,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Backoff => "backoff",
            Phase::Stopping => "stopping",
            Phase::Stopped => "stopped",
            Phase::Completed => "completed",
            Phase::Failed => "failed",
            Phase::Unknown => "unknown",
        }
    }

    /// A child exists.
    pub fn is_alive(self) -> bool {
        matches!(self, Phase::Starting | Phase::Running | Phase::Stopping)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct State {
    pub version: u32,
    pub instance: String,
    pub boot_id: String,
    /// The shim itself.
    pub shim: Option<Identity>,
    #[serde(with = "incarnation_text")]
    pub incarnation: Incarnation,
    pub phase: Phase,
    /// The child, while one lives.
    pub child: Option<Identity>,
    pub started_boot_ns: u64,
    pub ready_boot_ns: Option<u64>,
    /// Since when the child is stopped (SIGSTOP), if it is.
    pub stopped_boot_ns: Option<u64>,
    /// READY=1 came over the notify socket during this run.
    pub notified_ready: bool,
    /// The last STATUS= of the child.
    pub status: String,
    pub watchdog_boot_ns: Option<u64>,
    pub next_start_boot_ns: Option<u64>,
    pub last_exit: Option<Exit>,
    /// Children started after the first, by this shim.
    pub restarts: u64,
    /// Failures in a row, forgotten after a long enough ready time.
    pub failures: u32,
    pub crash_looping: bool,
    pub attempts_exhausted: bool,
    /// Why it is in this phase.
    pub reason: String,
    /// Why the last start was not possible.
    pub error: Option<Failure>,
    /// Local restarts are allowed.
    pub granted: bool,
    /// Of a fenced instance: until when it may run.
    pub deadline_boot_ns: Option<u64>,
    /// As the token file says it: `active`, `standby`, `dry`, or nothing.
    pub role: String,
    /// Newest fencing token, `EPOCH.REVISION`, also of an earlier generation.
    pub token: Option<String>,
    /// After a fault the program stays down for this long, unless somebody asks for its start.
    pub hold_ms: u64,
    pub held: Vec<String>,
    /// Log lines dropped because the disk took no more.
    pub log_lines_dropped: u64,
}

/// How one run ended. Kept in the `exit` ring, so that it outlives shim and agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Exit {
    pub version: u32,
    #[serde(with = "incarnation_text")]
    pub incarnation: Incarnation,
    pub pid: i32,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub oom: bool,
    /// Killed at the time limit of its job.
    pub timed_out: bool,
    /// Stopped on request; not a failure.
    pub wanted: bool,
    pub boot_id: String,
    pub started_boot_ns: u64,
    pub ended_boot_ns: u64,
    pub wall_ms: u64,
    pub lived_ms: u64,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            _ if self.oom => f.write_str("killed: out of memory"),
            _ if self.timed_out => f.write_str("killed at its time limit"),
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "killed by {}", crate::process::signal_name(signal)),
            (None, None) => f.write_str("ended, exit code unknown"),
        }
    }
}

/// Why a start was not possible: for people, and for `holdfast explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Failure {
    pub code: String,
    pub text: String,
    pub hint: Option<String>,
}

/// `GENERATION.RUN`.
pub(crate) mod incarnation_text {
    use holdfast_policy::Incarnation;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &Incarnation, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Incarnation, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_read_back_and_unknown_things_are_ignored() {
        let state = State {
            incarnation: Incarnation { generation: 3, run: 2 },
            phase: Phase::Backoff,
            last_exit: Some(Exit { code: Some(3), ..Exit::default() }),
            ..State::default()
        };
        let text = serde_json::to_string(&state).unwrap();
        assert!(text.contains(r#""incarnation":"3.2""#), "{text}");
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        let newer = text.replace("\"backoff\"", "\"hibernating\"").replacen('{', r#"{"added":1,"#, 1);
        assert_eq!(serde_json::from_str::<State>(&newer).unwrap().phase, Phase::Unknown);
    }
}
