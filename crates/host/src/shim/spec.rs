//! What a shim is to run, as the agent writes it to `spec.json` before it launches the shim.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_policy::backoff::Backoff;
use holdfast_policy::restart;
use serde::{Deserialize, Serialize};

pub const VERSION: u32 = 1;

/// Largest `spec.json` that is read.
pub const SIZE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    pub version: u32,
    /// `web-2`; also the name of the directory.
    pub instance: String,
    pub ordinal: u32,
    pub node: String,
    /// Which shim this is for; a shim launched for another one exits without starting anything.
    pub generation: u64,
    /// Program (looked up in PATH when it has no slash) and arguments. Never a secret: `/proc/PID/cmdline` is public.
    pub argv: Vec<String>,
    pub env: Vec<(String, Value)>,
    /// Lines `NAME=value`; read at exec, before `env`, which wins.
    pub env_files: Vec<PathBuf>,
    /// Pass on the whole environment of the shim (which is the agent's); otherwise only PATH, HOME, USER, LOGNAME,
    /// SHELL, LANG, LC_*, TZ and TMPDIR.
    pub env_inherit: bool,
    /// `None` is `/`.
    pub workdir: Option<PathBuf>,
    /// Name or number; resolved at exec from `/etc/passwd` and `/etc/group`.
    pub user: Option<String>,
    /// Default: the user's own group.
    pub group: Option<String>,
    /// Supplementary groups; `None` is those of the user in `/etc/group`.
    pub groups: Option<Vec<String>>,
    pub umask: Option<u32>,
    pub open_files: Option<u64>,
    pub restart: Restart,
    pub stop: Stop,
    pub log: Log,
    /// Offer a NOTIFY_SOCKET (sd_notify protocol).
    pub notify: bool,
    /// A job: completed when the child ends with success.
    pub oneshot: bool,
    /// A job is killed when it ran this long.
    pub run_ms_max: Option<u64>,
    /// The shim goes when the job is over, instead of waiting for another `Start`.
    pub leaves_when_done: bool,
    /// The held descriptor `stdin` becomes the child's standard input; it is not started before it is held.
    pub stdin: bool,
    /// Runs only while `Deadline` lies in the future, and the child dies with its shim.
    pub fenced: bool,
    /// A fenced member of a redundant service: it runs without a deadline until it is given its first one.
    pub standby: bool,
    /// A deadline that has passed ends the generation: its owner may have given the lease away on the strength of that, so
    /// a later one, which was under way, is refused.
    pub final_deadline: bool,
    /// `HOLDFAST_ROLE` until another is told (`standby`, `dry`); empty without roles.
    pub role: String,
    /// Processes that the child starts are not part of it and are left alone: the agent, which launches shims.
    pub spares_descendants: bool,
    /// Directory of the cgroup to create for this instance, from [`crate::cgroup`]; `None` runs without one.
    pub cgroup: Option<PathBuf>,
    /// Held descriptors passed to the child as LISTEN_FDS from 3, in this order. It is not started before all are held.
    pub fds: Vec<String>,
    /// Starts on launch without waiting for `Start`.
    pub autostart: bool,
    /// Carried for the agent (ports, definition hash); the shim does not read them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(String, String)>,
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            version: VERSION,
            instance: String::new(),
            ordinal: 1,
            node: String::new(),
            generation: 0,
            argv: Vec::new(),
            env: Vec::new(),
            env_files: Vec::new(),
            env_inherit: false,
            workdir: None,
            user: None,
            group: None,
            groups: None,
            umask: None,
            open_files: None,
            restart: Restart::default(),
            stop: Stop::default(),
            log: Log::default(),
            notify: false,
            oneshot: false,
            run_ms_max: None,
            leaves_when_done: false,
            stdin: false,
            fenced: false,
            standby: false,
            final_deadline: false,
            role: String::new(),
            spares_descendants: false,
            cgroup: None,
            fds: Vec::new(),
            autostart: true,
            labels: Vec::new(),
        }
    }
}

/// A value of the environment; a reference is resolved at exec and never written anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    Plain(String),
    /// Content of a file, without the newline at its end.
    File(PathBuf),
    /// A variable of the shim's own environment.
    Env(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Plain(text.to_owned())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stop {
    /// Run before the signal with the instance's environment, inside the grace.
    pub command: Option<Vec<String>>,
    pub signal: i32,
    /// From the signal to SIGKILL.
    pub grace_ms: u64,
}

impl Default for Stop {
    fn default() -> Self {
        Stop { command: None, signal: libc::SIGTERM, grace_ms: 10_000 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    pub size_bytes_max: u64,
    pub keep: u32,
    /// Output of a job: bytes as they came, without times, and what exceeds `size_bytes_max` is dropped.
    pub raw: bool,
}

impl Default for Log {
    fn default() -> Self {
        Log { size_bytes_max: 10 * 1024 * 1024, keep: 5, raw: false }
    }
}

/// [`restart::Policy`] as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restart {
    pub when: When,
    pub base_ms: u64,
    pub factor: f64,
    pub max_ms: u64,
    pub jitter: f64,
    pub reset_ms: u64,
    pub attempts: Option<u32>,
    pub window_ms: u64,
    pub success_codes: Vec<i32>,
    pub restart_codes: Vec<i32>,
    pub stop_codes: Vec<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    Always,
    OnFailure,
    Never,
}

impl Default for Restart {
    fn default() -> Self {
        Restart::from(&restart::Policy::default())
    }
}

impl From<&restart::Policy> for Restart {
    fn from(p: &restart::Policy) -> Self {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Restart {
            when: match p.when {
                restart::When::Always => When::Always,
                restart::When::OnFailure => When::OnFailure,
                restart::When::Never => When::Never,
            },
            base_ms: ms(p.backoff.base),
            factor: p.backoff.factor,
            max_ms: ms(p.backoff.max),
            jitter: p.backoff.jitter,
            reset_ms: ms(p.reset),
            attempts: p.attempts,
            window_ms: ms(p.window),
            success_codes: p.success_codes.clone(),
            restart_codes: p.restart_codes.clone(),
            stop_codes: p.stop_codes.clone(),
        }
    }
}

impl From<&Restart> for restart::Policy {
    fn from(r: &Restart) -> Self {
        let ms = Duration::from_millis;
        restart::Policy {
            when: match r.when {
                When::Always => restart::When::Always,
                When::OnFailure => restart::When::OnFailure,
                When::Never => restart::When::Never,
            },
            backoff: Backoff { base: ms(r.base_ms), factor: r.factor, max: ms(r.max_ms), jitter: r.jitter },
            reset: ms(r.reset_ms),
            attempts: r.attempts,
            window: ms(r.window_ms),
            success_codes: r.success_codes.clone(),
            restart_codes: r.restart_codes.clone(),
            stop_codes: r.stop_codes.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_survives_being_stored() {
        let policy = restart::Policy { attempts: Some(3), stop_codes: vec![64], ..restart::Policy::default() };
        let text = serde_json::to_string(&Restart::from(&policy)).unwrap();
        let read: Restart = serde_json::from_str(&text).unwrap();
        assert_eq!(restart::Policy::from(&read), policy);
    }

    #[test]
    fn a_spec_of_another_release_is_read_with_defaults() {
        let spec: Spec = serde_json::from_str(r#"{"instance":"web-1","argv":["x"],"new_field":7}"#).unwrap();
        assert_eq!(spec.stop.grace_ms, 10_000);
        assert!(spec.autostart);
    }
}
