//! What `holdfast status --json` holds. It only grows; readers ignore what they do not know.

mod order;

use std::collections::BTreeMap;

pub use order::worst_first;
use serde::{Deserialize, Serialize};

use crate::availability::Window;

pub const SCHEMA_VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub schema_version: u32,
    pub services: BTreeMap<String, Service>,
    pub balancers: BTreeMap<String, Balancer>,
    pub pauses: Vec<Pause>,
    pub agent: Agent,
    pub incidents_open: u64,
    /// By service: 1 h, 24 h, 30 d.
    pub availability: BTreeMap<String, Vec<Window>>,
    pub warnings: Vec<Warning>,
    /// Machines of the cluster; empty where there is only one.
    pub nodes: BTreeMap<String, Node>,
}

impl Default for Status {
    fn default() -> Self {
        Status {
            schema_version: SCHEMA_VERSION,
            services: BTreeMap::new(),
            balancers: BTreeMap::new(),
            pauses: Vec::new(),
            agent: Agent::default(),
            incidents_open: 0,
            availability: BTreeMap::new(),
            warnings: Vec::new(),
            nodes: BTreeMap::new(),
        }
    }
}

/// A machine of the cluster, as the asked one sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// `ready`; `suspect` when only its lease or only its agent is missing; `lost` when both are.
    pub state: String,
    /// `cordoned`, `draining`, `drained`, `removing`, or empty.
    pub admin: String,
    pub leader: bool,
    /// The one that was asked.
    pub this: bool,
    pub address: String,
    pub labels: BTreeMap<String, String>,
    /// Version of its program.
    pub program: String,
    /// Instances that it should run.
    pub assigned: u32,
    pub ready: u32,
    /// Revision of the file that is in force there.
    pub revision: u64,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub desired: u32,
    pub ready: u32,
    pub instances: Vec<Instance>,
    /// `service`, `job`, or `internal` for holdfast's own.
    pub kind: String,
    /// Instances of the present definition; below `desired` while an update is under way.
    pub updated: u32,
    pub min_available: u32,
    /// Why it is as it is, when that is not plain: `all instances fail together`.
    pub reason: Option<String>,
    /// The command to run next.
    pub next: Option<String>,
    /// Of a redundant service; `desired` and `ready` then speak of the active instance.
    pub standby: Option<Standby>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standby {
    /// `hot`, `warm` or `cold`.
    pub tier: String,
    /// Who holds the lease of the service.
    pub active: Option<String>,
    /// Its fencing token, `EPOCH.REVISION`.
    pub token: Option<String>,
    pub takeover: Option<Takeover>,
    /// As declared.
    pub rto_ms: Option<u64>,
    pub rpo_ms: Option<u64>,
    /// What keeps a takeover from going on.
    pub trouble: Option<String>,
}

/// The last change of the active member, or its return.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Takeover {
    pub from: String,
    pub to: String,
    /// A switchover; else a failover.
    pub planned: bool,
    pub ago_ms: u64,
    /// As measured.
    pub rto_ms: u64,
    /// `None` where holdfast does not keep the data.
    pub rpo_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// `web-2`.
    pub id: String,
    pub state: State,
    pub pid: Option<u32>,
    /// `127.0.0.1:20001`; absent for a service without a port.
    pub endpoint: Option<String>,
    /// Times that a child was started again, over all its lives.
    pub restarts: u64,
    /// `GENERATION.RUN`.
    pub incarnation: Option<String>,
    /// Time in the present state.
    pub since_ms: u64,
    pub reason: Option<String>,
    /// What holdfast does next and when: `restart in 4 s`.
    pub next: Option<String>,
    /// `exit code 1`, `killed by SIGKILL`, `out of memory`.
    pub last_exit: Option<String>,
    pub paused: bool,
    /// The machine it is on; absent where there is only one.
    pub node: Option<String>,
    /// Of a redundant service: `standby`, `promoting`, `active`, …
    pub role: Option<String>,
    /// Why it cannot take over now; `None` when it can, or is active.
    pub unable: Option<String>,
    /// Time since the last successful `sync` began.
    pub data_age_ms: Option<u64>,
    /// Whether its last dry start succeeded.
    pub dry_start: Option<bool>,
}

/// Exactly one at a time. `ready` is the only one that new requests go to, except a last `suspect` one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Wanted; waits for what it depends on, or for its turn.
    #[default]
    Pending,
    /// The child runs; its startup probe has not passed.
    Starting,
    /// Started; its readiness probe has not passed yet.
    Running,
    /// Takes requests (a service without a readiness probe is ready as soon as it runs).
    Ready,
    /// A member of a redundant service that is not the active one and can take over.
    Standby,
    /// It says itself that it is not ready.
    Unready,
    /// A probe got no answer; whether it hangs or is busy is not known yet.
    Suspect,
    /// Leaves the balancer and finishes what it has.
    Draining,
    /// Signalled; within its grace.
    Stopping,
    /// Ended on purpose.
    Stopped,
    /// Ended on its own; waits to be started again.
    Backoff,
    /// Ended and is not started again (restart policy, attempt limit, job that failed).
    Failed,
    /// A job that succeeded.
    Completed,
    /// A state of a newer release.
    #[serde(other)]
    Unknown,
}

impl State {
    pub const ALL: [State; 14] = [
        State::Pending,
        State::Starting,
        State::Running,
        State::Ready,
        State::Standby,
        State::Unready,
        State::Suspect,
        State::Draining,
        State::Stopping,
        State::Stopped,
        State::Backoff,
        State::Failed,
        State::Completed,
        State::Unknown,
    ];

    /// As in JSON, metrics and journal.
    pub fn name(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Starting => "starting",
            State::Running => "running",
            State::Ready => "ready",
            State::Standby => "standby",
            State::Unready => "unready",
            State::Suspect => "suspect",
            State::Draining => "draining",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Backoff => "backoff",
            State::Failed => "failed",
            State::Completed => "completed",
            State::Unknown => "unknown",
        }
    }

    pub fn from_name(name: &str) -> State {
        State::ALL.into_iter().find(|s| s.name() == name).unwrap_or(State::Unknown)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Balancer {
    /// `127.0.0.1:8080`; several are joined by a comma.
    pub listen: String,
    pub endpoints: Vec<EndpointStatus>,
    pub service: String,
    /// Processes that accept on it.
    pub processes: u32,
    /// It listens on other machines only.
    pub elsewhere: bool,
    pub requests: u64,
    pub failed: u64,
    pub retries: u64,
    pub in_flight: u64,
    pub virtual_ips: Vec<VirtualIp>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VirtualIp {
    /// `10.0.0.100/24`.
    pub address: String,
    pub interface: Option<String>,
    /// Of this node: `released`, `standby`, `probing`, `owned`, `safe_mode`, `conflict`.
    pub state: String,
    /// The node that has the lease, as far as this one knows.
    pub owner: Option<String>,
    /// This node carries it for as long as all others answer, and one of them takes over within a second of its silence.
    pub quick: bool,
    /// Until another node could have the lease, unless it is renewed.
    pub lease_left_ms: Option<u64>,
    /// Until the kernel lets go by itself, unless it is told again.
    pub kernel_left_ms: Option<u64>,
    pub since_ms: u64,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointStatus {
    /// `web-2`.
    pub instance: String,
    /// `ready`, `slow_start`, `ejected`, `suspect`, `draining`, `unready`.
    pub state: String,
    pub endpoint: Option<String>,
    pub in_flight: u64,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pause {
    /// `None` is everything.
    pub name: Option<String>,
    pub until_wall_ms: Option<u64>,
    pub reason: String,
    pub by: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agent {
    pub node: String,
    pub version: String,
    pub pid: Option<u32>,
    pub uptime_ms: u64,
    pub epoch: u64,
    /// Revision of the applied configuration.
    pub revision: u64,
    pub config: String,
    pub data_dir: String,
    pub holds_lease: bool,
    /// Of the leader of a cluster.
    pub leading: Option<Leading>,
}

/// What leading costs, since this agent was elected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Leading {
    /// Looks at the whole cluster.
    pub passes: u64,
    /// The longest one, its writes not counted.
    pub pass_max_us: u64,
    pub pass_sum_us: u64,
    /// Transactions written.
    pub writes: u64,
}

/// Something that is not a state of a service: a full disk, a journal that is not kept, a clock that jumped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Warning {
    pub code: String,
    pub message: String,
    pub hint: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_what_scripts_rely_on() {
        let mut status = Status::default();
        let instance = Instance {
            id: "web-1".into(),
            state: State::Ready,
            pid: Some(4711),
            endpoint: Some("127.0.0.1:20001".into()),
            restarts: 2,
            ..Instance::default()
        };
        status
            .services
            .insert("web".into(), Service { desired: 3, ready: 3, instances: vec![instance], ..Service::default() });
        let endpoint = EndpointStatus { instance: "web-1".into(), state: "ready".into(), ..EndpointStatus::default() };
        let balancer = Balancer { listen: "127.0.0.1:8080".into(), endpoints: vec![endpoint], ..Balancer::default() };
        status.balancers.insert("public".into(), balancer);
        let json: serde_json::Value = serde_json::to_value(&status).unwrap();
        assert_eq!(json["schema_version"], 1);
        assert_eq!(json["services"]["web"]["desired"], 3);
        let instance = &json["services"]["web"]["instances"][0];
        assert_eq!(
            (&instance["id"], &instance["state"], &instance["pid"], &instance["endpoint"], &instance["restarts"]),
            (&"web-1".into(), &"ready".into(), &4711.into(), &"127.0.0.1:20001".into(), &2.into())
        );
        assert_eq!(json["balancers"]["public"]["listen"], "127.0.0.1:8080");
        assert_eq!(json["balancers"]["public"]["endpoints"][0]["instance"], "web-1");
        assert_eq!(json["balancers"]["public"]["endpoints"][0]["state"], "ready");
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);
    }

    #[test]
    fn a_reader_takes_what_is_newer_or_missing() {
        let text = r#"{"services":{"web":{"desired":1,"more":true,"instances":[{"id":"web-1","state":"levitating"}]}},"news":{}}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!(status.services["web"].instances[0].state, State::Unknown);
    }

    #[test]
    fn every_state_reads_back_its_name() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.name()), state);
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
    }
}
