//! What the agent and its clients say to each other: JSON over HTTP/1 on the agent's Unix socket.
//!
//! Versioned by path (`/v1`); fields are only added. Errors are a [`crate::failure::Failure`] as JSON.

use serde::{Deserialize, Serialize};

/// `POST /v1/apply`: the text is what was read at `path`; the agent parses it again and decides.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Apply {
    pub(crate) path: String,
    pub(crate) text: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) revision: u64,
    /// False when the file is the one already applied.
    pub(crate) changed: bool,
}

/// `GET /v1/desired`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Desired {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) revision: u64,
}

/// `POST /v1/restart`: a service or one instance of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Restart {
    pub(crate) target: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Scale {
    pub(crate) service: String,
    pub(crate) replicas: u32,
}

/// `POST /v1/switchover`: makes `to`, or any other member than the present one, the active one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Switchover {
    pub(crate) service: String,
    #[serde(default)]
    pub(crate) to: Option<String>,
    /// Whatever the age of its data.
    #[serde(default)]
    pub(crate) force: bool,
}

/// `POST /v1/pause`; no name means everything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pause {
    pub(crate) name: Option<String>,
    pub(crate) for_ms: u64,
    pub(crate) reason: String,
    pub(crate) who: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Resume {
    pub(crate) name: Option<String>,
}

/// The answer where there is nothing more to say.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) message: String,
}

/// `GET /v1/why/{name}`: the chain of decisions, oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Why {
    pub(crate) subject: String,
    /// What it is now, in one line.
    pub(crate) now: String,
    pub(crate) entries: Vec<WhyEntry>,
    /// The command to go on with.
    #[serde(default)]
    pub(crate) next: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WhyEntry {
    pub(crate) wall_ms: u64,
    pub(crate) subject: String,
    #[serde(default)]
    pub(crate) incarnation: Option<String>,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) inputs: Vec<(String, String)>,
    /// `detected`, `decided`, `acted` or `ready` where it marks a time of an incident.
    #[serde(default)]
    pub(crate) phase: Option<String>,
}

/// `GET /v1/incidents`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct IncidentQuery {
    /// An instance or service; a service covers its instances.
    #[serde(default)]
    pub(crate) subject: Option<String>,
    /// One incident by its id.
    #[serde(default)]
    pub(crate) id: Option<String>,
    /// Detected at or after this boot time.
    #[serde(default)]
    pub(crate) since_boot_ns: Option<u64>,
    #[serde(default)]
    pub(crate) limit: Option<usize>,
}

/// `GET /v1/system`: what a drill must know of the running system.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct System {
    pub(crate) agent: Option<Process>,
    pub(crate) services: Vec<SystemService>,
    pub(crate) balancers: Vec<SystemBalancer>,
    pub(crate) planes: Vec<SystemPlane>,
    #[serde(default)]
    pub(crate) tasks: Option<SystemTasks>,
    pub(crate) open_incidents: Vec<String>,
    pub(crate) pauses: Vec<String>,
}

/// A process by its identity within this boot.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SystemService {
    pub(crate) name: String,
    pub(crate) desired: u32,
    pub(crate) min_available: u32,
    pub(crate) after: Vec<String>,
    pub(crate) instances: Vec<SystemInstance>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SystemInstance {
    pub(crate) id: String,
    pub(crate) incarnation: String,
    pub(crate) state: String,
    pub(crate) process: Option<Process>,
    pub(crate) shim: Option<Process>,
    pub(crate) endpoint: Option<std::net::SocketAddr>,
    /// Path and accepted status of an HTTP readiness probe.
    pub(crate) ready_http: Option<(String, u16, u16)>,
    pub(crate) dir: std::path::PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SystemBalancer {
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) listen: Vec<std::net::SocketAddr>,
    /// Instance, whether it gets new requests, and the boot time since when.
    pub(crate) endpoints: Vec<(String, bool, Option<u64>)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SystemPlane {
    pub(crate) id: String,
    pub(crate) incarnation: String,
    pub(crate) ready: bool,
    pub(crate) process: Process,
    pub(crate) dir: std::path::PathBuf,
}

/// The plane of tasks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SystemTasks {
    pub(crate) plane: SystemPlane,
    pub(crate) listen: std::net::SocketAddr,
    pub(crate) account: String,
    /// Workers with programs, and how many places each has.
    pub(crate) workers: Vec<(String, u32)>,
}

/// An incident as the journal keeps it; times are boot times, `wall_ms` is that of the detection.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Incident {
    /// `I-000012`.
    pub(crate) id: String,
    /// The same on every node.
    pub(crate) key: String,
    /// `web-2`, `_agent-1`, a service or a balancer.
    pub(crate) subject: String,
    pub(crate) cause: String,
    /// `open`, `recovered`, `ended` or `merged`.
    pub(crate) outcome: String,
    pub(crate) wall_ms: u64,
    pub(crate) detected_boot_ns: u64,
    pub(crate) decided_boot_ns: Option<u64>,
    pub(crate) acted_boot_ns: Option<u64>,
    pub(crate) ready_boot_ns: Option<u64>,
    pub(crate) failed_requests: u64,
    pub(crate) faults: u32,
    pub(crate) actions: Vec<String>,
    pub(crate) subjects: Vec<String>,
}

/// `GET /v1/why/{name}`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct WhyQuery {
    /// Only what belongs to this incident.
    #[serde(default)]
    pub(crate) incident: Option<String>,
}

/// `POST /v1/node`: what people want of a machine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NodeChange {
    pub(crate) name: String,
    pub(crate) wish: NodeWish,
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) who: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NodeWish {
    Cordon,
    Uncordon,
    Drain,
    Remove,
}

/// `GET /v1/can-lose/{what}`: a machine, or `LABEL=VALUE`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CanLose {
    /// Facts that say no.
    pub(crate) blockers: Vec<String>,
}

/// `GET /v1/cluster`: certificates of this machine and of the cluster.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ClusterInfo {
    pub(crate) name: String,
    /// Fingerprint of the cluster's authority.
    pub(crate) authority: Option<String>,
    /// This machine keeps its key.
    pub(crate) keeps_key: bool,
    /// Of this machine's certificate.
    pub(crate) not_after_wall_ms: Option<u64>,
    pub(crate) serial: Option<String>,
    pub(crate) link: Option<std::net::SocketAddr>,
}

/// `POST /v1/cluster/token`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TokenWish {
    pub(crate) valid_ms: u64,
    /// Only this machine may use it, and replaces its certificate.
    #[serde(default)]
    pub(crate) node: Option<String>,
    #[serde(default)]
    pub(crate) who: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) token: String,
    /// Where machines may join with it.
    pub(crate) from: Vec<std::net::SocketAddr>,
    pub(crate) expires_wall_ms: u64,
}

/// `POST /v1/cluster/renew`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RenewWish {
    /// This machine when left out.
    #[serde(default)]
    pub(crate) node: Option<String>,
    #[serde(default)]
    pub(crate) who: String,
}

/// `GET /v1/keys`: of API clients.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeyInfo {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) created_wall_ms: u64,
    pub(crate) by: String,
}

/// `POST /v1/keys`. The answer to a new one is the key itself, this once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeyWish {
    pub(crate) name: String,
    /// None takes it away.
    #[serde(default)]
    pub(crate) role: Option<String>,
    #[serde(default)]
    pub(crate) who: String,
}

/// `POST /v1/rolling`: how far rebooting all has come; the answer is what to do next.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rolling {
    pub(crate) nodes: Vec<String>,
    pub(crate) done: Vec<String>,
    pub(crate) current: Option<RollingCurrent>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RollingCurrent {
    pub(crate) node: String,
    /// Since it was told to.
    pub(crate) since_ms: u64,
    /// Its boot id before.
    pub(crate) boot: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "next")]
pub(crate) enum RollingNext {
    Reboot { node: String, address: String, boot: String },
    Wait { why: String },
    Completed { node: String },
    Stop { why: Vec<String> },
    Done,
}

/// `POST /v1/migrate` with an [`Apply`]: this machine becomes the first of a cluster.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct MigrateQuery {
    /// What it is called from then on.
    #[serde(default)]
    pub(crate) node: Option<String>,
}
