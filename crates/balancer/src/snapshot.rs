//! What the agent tells a plane: the whole truth about its balancers, replaced at once, never patched.
//!
//! Ordered by (agent epoch, seq); an older one is refused. Kept in the plane's directory and read at start, so
//! that a plane that starts without an agent serves what it served before.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use holdfast_host::files;
use holdfast_policy::Incarnation;
use holdfast_policy::balance::{Algorithm, State, budget::Budget, eject, replay};
use serde::{Deserialize, Serialize};

mod names;

use crate::error::Error;

pub const VERSION: u32 = 1;

/// A snapshot of a thousand balancers is below 4 MiB.
pub const SIZE_BYTES_MAX: u64 = 32 << 20;

const FILE: &str = "snapshot.json";

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub version: u32,
    /// Fencing epoch of the agent that wrote it.
    pub epoch: u64,
    pub seq: u64,
    /// Balancer processes on this node; limits are divided by it.
    pub processes: u16,
    pub balancers: Vec<BalancerSnapshot>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalancerSnapshot {
    pub name: String,
    pub service: String,
    /// Index of its counters in the shared table, stable as long as the balancer exists.
    pub slot: u16,
    pub listen: Vec<SocketAddr>,
    #[serde(with = "names::algorithm")]
    pub algorithm: Algorithm,
    pub retry: Retry,
    pub eject: Eject,
    pub slow_start_ms: u64,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub access_log: Option<AccessLog>,
    /// One endpoint is active and others take over: requests wait for that.
    pub redundant: bool,
    pub trusted_proxies: Vec<IpAddr>,
    /// Where requests go that no instance can answer.
    pub fallback: Option<Fallback>,
    pub endpoints: Vec<EndpointSnapshot>,
}

impl Default for BalancerSnapshot {
    fn default() -> Self {
        BalancerSnapshot {
            name: String::new(),
            service: String::new(),
            slot: 0,
            listen: Vec::new(),
            algorithm: Algorithm::default(),
            retry: Retry::default(),
            eject: Eject::default(),
            slow_start_ms: 10_000,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            access_log: None,
            redundant: false,
            trusted_proxies: Vec::new(),
            fallback: None,
            endpoints: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSnapshot {
    /// `web-2`.
    pub instance: String,
    #[serde(with = "names::incarnation")]
    pub incarnation: Incarnation,
    /// Index in the shared table; of one instance at a time.
    pub slot: u16,
    pub addr: SocketAddr,
    #[serde(with = "names::state")]
    pub state: State,
    /// Boot time since which it is ready: slow start counts from here.
    pub ready_since_boot_ns: u64,
    /// Answered with 503 while nothing is ready.
    pub retry_after_s: u32,
}

impl Default for EndpointSnapshot {
    fn default() -> Self {
        EndpointSnapshot {
            instance: String::new(),
            incarnation: Incarnation::default(),
            slot: 0,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            state: State::Ready,
            ready_since_boot_ns: 0,
            retry_after_s: 1,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    pub enabled: bool,
    pub tries_max: u32,
    pub budget_ratio: f64,
    pub budget_min: u32,
    /// Answers that are retried for idempotent requests.
    pub statuses: Vec<u16>,
}

impl Default for Retry {
    fn default() -> Self {
        let (rules, budget) = (replay::Rules::default(), Budget::default());
        Retry {
            enabled: rules.enabled,
            tries_max: rules.tries_max,
            budget_ratio: budget.ratio,
            budget_min: budget.min,
            statuses: Vec::new(),
        }
    }
}

impl Retry {
    pub(crate) fn rules(&self) -> replay::Rules {
        replay::Rules { enabled: self.enabled, tries_max: self.tries_max.max(1) }
    }

    pub(crate) fn budget(&self) -> Budget {
        Budget { ratio: self.budget_ratio.clamp(0.0, 1.0), min: self.budget_min }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Eject {
    pub enabled: bool,
    pub failures: u32,
    pub gateway_errors: u32,
    pub base_ms: u64,
    pub max_ms: u64,
}

impl Default for Eject {
    fn default() -> Self {
        let r = eject::Rules::default();
        Eject {
            enabled: r.enabled,
            failures: r.failures,
            gateway_errors: r.gateway_errors,
            base_ms: r.base.as_millis() as u64,
            max_ms: r.max.as_millis() as u64,
        }
    }
}

impl Eject {
    pub(crate) fn rules(&self) -> eject::Rules {
        eject::Rules {
            enabled: self.enabled,
            failures: self.failures.max(1),
            gateway_errors: self.gateway_errors.max(1),
            base: std::time::Duration::from_millis(self.base_ms),
            max: std::time::Duration::from_millis(self.max_ms),
        }
    }
}

/// All in milliseconds; 0 is no limit for `total_ms` only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    pub connect_ms: u64,
    pub first_byte_ms: u64,
    pub idle_ms: u64,
    pub total_ms: u64,
    pub request_head_ms: u64,
    pub keep_alive_ms: u64,
    /// Idle upstream connections are closed after this; below the 5 s of common servers.
    pub pool_idle_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect_ms: 1_000,
            first_byte_ms: 60_000,
            idle_ms: 60_000,
            total_ms: 0,
            request_head_ms: 10_000,
            keep_alive_ms: 60_000,
            pool_idle_ms: 4_000,
        }
    }
}

/// Declared per node; a plane takes its share of `connections` and counts `in_flight` over all processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub connections: u32,
    pub header_bytes: u32,
    pub headers: u32,
    pub body_bytes: Option<u64>,
    /// Requests in flight per instance.
    pub in_flight: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 10_000, header_bytes: 32 << 10, headers: 100, body_bytes: None, in_flight: None }
    }
}

/// Each process writes its own file: `PATH.N`, N counting processes from 1; rotated ones are `PATH.N.1`, `PATH.N.2` …
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessLog {
    pub path: PathBuf,
    pub size_bytes_max: u64,
    pub keep: u32,
}

impl Default for AccessLog {
    fn default() -> Self {
        AccessLog { path: PathBuf::from("access.log"), size_bytes_max: 10 << 20, keep: 5 }
    }
}

/// A queue that keeps requests while no instance is there for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fallback {
    /// Of the plane of tasks on this machine.
    pub socket: PathBuf,
    /// As SQS calls it: `orders.fifo`.
    pub queue: String,
    /// Header whose value is the message group.
    pub key: Option<String>,
}

impl Snapshot {
    pub fn parse(bytes: &[u8]) -> Result<Snapshot, Error> {
        let snapshot: Snapshot =
            serde_json::from_slice(bytes).map_err(|e| Error::SnapshotDamaged { because: e.to_string() })?;
        if snapshot.version > VERSION {
            return Err(Error::SnapshotNewer { version: snapshot.version, known: VERSION });
        }
        Ok(snapshot)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a snapshot has string keys only")
    }

    pub fn order(&self) -> (u64, u64) {
        (self.epoch, self.seq)
    }

    /// What an earlier process of this directory kept; `None` when there is none.
    pub fn load(dir: &Path) -> Result<Option<Snapshot>, Error> {
        let path = dir.join(FILE);
        match files::read_optional(&path, SIZE_BYTES_MAX)? {
            Some(bytes) => Snapshot::parse(&bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Rewritten in place of a reserve, so that a disk that fills up later does not matter.
    pub fn keep(&self, dir: &Path) -> Result<(), Error> {
        Ok(files::write_in_reserve(&dir.join(FILE), &self.to_bytes(), true)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_gets_its_default_and_what_is_unknown_is_ignored() {
        let text = br#"{"version":1,"epoch":2,"seq":7,"new_thing":1,"balancers":[{"name":"public","algorithm":"p2c",
            "endpoints":[{"instance":"web-1","incarnation":"3.1","addr":"127.0.0.1:80","state":"not_ready"}]}]}"#;
        let s = Snapshot::parse(text).unwrap();
        assert_eq!(s.order(), (2, 7));
        let b = &s.balancers[0];
        assert_eq!(b.limits, Limits::default());
        assert_eq!(b.fallback, None, "as an agent wrote it that knew of none");
        assert_eq!(b.endpoints[0].state, State::NotReady);
        assert_eq!(b.endpoints[0].incarnation, Incarnation { generation: 3, run: 1 });
        assert_eq!(Snapshot::parse(&s.to_bytes()).unwrap(), s);
    }

    #[test]
    fn a_newer_version_is_refused() {
        assert!(matches!(Snapshot::parse(br#"{"version":99}"#), Err(Error::SnapshotNewer { .. })));
    }

    #[test]
    fn it_is_kept_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Snapshot::load(dir.path()).unwrap(), None);
        let s = Snapshot { version: 1, epoch: 1, seq: 4, ..Snapshot::default() };
        s.keep(dir.path()).unwrap();
        assert_eq!(Snapshot::load(dir.path()).unwrap(), Some(s));
    }
}
