//! The validated configuration: what the rest of holdfast reads. No TOML, no spans, no unresolved
//! defaults; secrets are still references.

mod tasks;
mod workflow;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_policy::health::Thresholds;
use holdfast_policy::lease::Timings;
use holdfast_policy::restart;
use holdfast_policy::standby::Tier;

pub use tasks::*;
pub use workflow::*;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub node: Node,
    /// `None` keeps this machine alone.
    pub cluster: Option<Cluster>,
    /// Machines that the file describes; others may join too.
    pub nodes: BTreeMap<String, Machine>,
    pub services: BTreeMap<String, Service>,
    pub balancers: BTreeMap<String, Balancer>,
    pub drills: BTreeMap<String, Drill>,
    /// `None` where the file has nothing for the plane to do.
    pub tasks: Option<Tasks>,
    pub keys: BTreeMap<String, AccessKey>,
    pub queues: BTreeMap<String, Queue>,
    pub workers: BTreeMap<String, Worker>,
    pub pools: BTreeMap<String, Pool>,
    pub workflows: BTreeMap<String, Workflow>,
}

/// `[node]`: this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Default: the host name.
    pub name: String,
    pub zone: Option<String>,
    /// Ports that holdfast may assign; must lie outside the kernel's ephemeral range. Default 20000-29999.
    pub ports: RangeInclusive<u16>,
    /// Where `/metrics` is served; `None` serves it on the agent's Unix socket only.
    pub metrics: Option<SocketAddr>,
    /// Balancer processes on this node, 1..=8. Default 2.
    pub balancer_processes: u16,
    /// Threads of each balancer process; default one per core.
    pub balancer_threads: Option<u16>,
    pub journal_days: u32,
    pub journal_size_bytes: u64,
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its keys in etcd lie below `/holdfast/NAME`.
    pub name: String,
    /// `http://` or `https://`, host and port.
    pub etcd: Vec<String>,
    /// Holdfast runs etcd itself, on the machines that say so.
    pub managed: bool,
    pub etcd_program: String,
    /// `default`, `fast` or `wan`.
    pub lease_profile: &'static str,
    pub lease: Timings,
    /// Where agents answer each other; 0 is any free port. Default 7400.
    pub link_port: u16,
    /// Of a machine's certificate. Default 90 days.
    pub certificate_valid: Duration,
    pub user: Option<String>,
    /// A reference.
    pub password: Option<Value>,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// `[node.NAME]`: one machine of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    pub name: String,
    pub address: Option<IpAddr>,
    /// Where clients reach its balancers; empty is `address`.
    pub public_addresses: Vec<IpAddr>,
    pub host: Option<String>,
    pub rack: Option<String>,
    pub zone: Option<String>,
    /// Runs a member of a managed etcd.
    pub etcd: bool,
    pub labels: BTreeMap<String, String>,
    pub cpus: Option<u32>,
    pub memory_bytes: Option<u64>,
}

/// Of managed etcd members.
pub const ETCD_CLIENT_PORT: u16 = 2379;
pub const ETCD_PEER_PORT: u16 = 2380;

/// What an instance reserves of its machine; used for placement only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub cpu_millis: u32,
    pub memory_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Kept running.
    Service,
    /// Runs once per applied definition until it succeeded (`type = "job"`).
    Job,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Argv(Vec<String>),
    /// `/bin/sh -c TEXT`, only where the file says `shell = "…"`.
    Shell(String),
}

/// A value that may be a secret. A reference is resolved by the shim at exec, on the node that runs it.
#[derive(Clone, PartialEq)]
pub enum Value {
    Plain(String),
    File(PathBuf),
    Env(String),
}

/// Without the text of a plain value: here nobody knows whether its key makes it a secret.
impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Plain(text) => write!(f, "Plain({} bytes)", text.len()),
            Value::File(path) => write!(f, "File({path:?})"),
            Value::Env(name) => write!(f, "Env({name:?})"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    None,
    /// holdfast picks one from `node.ports` and keeps it for the instance.
    Assigned,
    /// The same port for the only replica, or `base + ordinal - 1`.
    Fixed(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Started,
    Ready,
    /// A job that ended with success.
    Completed,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: String,
    pub kind: Kind,
    pub command: Command,
    pub replicas: u32,
    pub env: BTreeMap<String, Value>,
    /// Absolute paths; read by the shim at exec.
    pub env_files: Vec<PathBuf>,
    /// Absolute; default the directory of the configuration file.
    pub workdir: PathBuf,
    pub user: Option<String>,
    pub group: Option<String>,
    pub umask: Option<u32>,
    pub open_files: Option<u64>,
    pub host: IpAddr,
    pub port: Port,
    pub after: BTreeMap<String, Condition>,
    pub restart: restart::Policy,
    pub startup: Option<Probe>,
    pub ready: Option<Probe>,
    pub live: Option<Probe>,
    pub stop: Stop,
    /// Instances that holdfast's own acts never go below.
    pub min_available: u32,
    /// Liveness restarts and planned replacements at the same time.
    pub max_unavailable: u32,
    /// Must never run twice: deadline from the agent, killed by the shim when it passes.
    pub fenced: bool,
    /// One active instance, the others stand by; `replicas` counts them all, and the service is `fenced`.
    pub standby: Option<Standby>,
    pub log: Log,
    /// Labels that its machine must have, each with one of the values; `node` is the machine's name.
    pub on: BTreeMap<String, Vec<String>>,
    /// Services that no instance may share a machine with.
    pub apart_from: BTreeSet<String>,
    pub needs: Needs,
    /// Declared availability target, e.g. 0.999.
    pub availability: Option<f64>,
}

impl Service {
    /// One instance of `command`, kept running, with nothing that the file would have to say.
    pub fn new(name: impl Into<String>, command: Command) -> Service {
        Service {
            name: name.into(),
            kind: Kind::Service,
            command,
            replicas: 1,
            env: BTreeMap::new(),
            env_files: Vec::new(),
            workdir: "/".into(),
            user: None,
            group: None,
            umask: None,
            open_files: None,
            host: Ipv4Addr::LOCALHOST.into(),
            port: Port::None,
            after: BTreeMap::new(),
            restart: restart::Policy::default(),
            startup: None,
            ready: None,
            live: None,
            stop: Stop { command: None, signal: 15, grace: Duration::from_secs(10), drain: Duration::from_secs(10) },
            min_available: 0,
            max_unavailable: 1,
            fenced: false,
            standby: None,
            log: Log { size_bytes_max: 10 << 20, keep: 5 },
            on: BTreeMap::new(),
            apart_from: BTreeSet::new(),
            needs: Needs::default(),
            availability: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub check: Check,
    pub every: Duration,
    /// At most `every`.
    pub timeout: Duration,
    pub thresholds: Thresholds,
    /// Startup probes only: fails the start when not passed in this time.
    pub within: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// GET; `status` is the accepted range (default 200..=399).
    Http {
        path: String,
        status: RangeInclusive<u16>,
    },
    Tcp,
    Command(Vec<String>),
    /// sd_notify: READY=1 for startup and readiness, WATCHDOG=1 within `every` for liveness.
    Notify,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Stop {
    /// Run before the signal, with the instance's environment.
    pub command: Option<Vec<String>>,
    /// Signal number; default SIGTERM.
    pub signal: i32,
    /// From the signal to SIGKILL. Default 10 s.
    pub grace: Duration,
    /// At most this long for requests in flight after leaving the balancer. Default 10 s.
    pub drain: Duration,
}

/// `standby` of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Standby {
    pub tier: Tier,
    /// Members beside the active one.
    pub count: u32,
    pub warm: Warm,
    pub promote: Option<Vec<String>>,
    pub demote: Option<Vec<String>>,
    /// Must succeed before a takeover from a member that did not give the lease back.
    pub fence: Option<Vec<String>>,
    pub sync: Option<Vec<String>>,
    pub restore: Option<Vec<String>>,
    pub mount: Option<Mount>,
    pub max_staleness: Option<Duration>,
    pub sync_every: Duration,
    pub dry_start: Option<Duration>,
    pub failback: Failback,
    pub stable_for: Duration,
    pub rto: Option<Duration>,
    pub rpo: Option<Duration>,
    /// Name of a profile in `policy::lease`.
    pub lease: &'static str,
    /// Of each command but `restore`.
    pub timeout: Duration,
    pub restore_timeout: Duration,
}

/// A volume that the active member has mounted, and nobody else.
#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    /// As `mount` takes it.
    pub source: String,
    /// Absolute.
    pub target: PathBuf,
    pub kind: Option<String>,
    pub options: Vec<String>,
}

/// How a warm member is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warm {
    Paused,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    Sticky,
    /// Member 1 takes the service back when it is stable.
    Preferred,
}

impl Standby {
    /// Of this tier with the defaults of the file.
    pub fn new(tier: Tier, count: u32) -> Standby {
        let seconds = Duration::from_secs;
        Standby {
            tier,
            count,
            warm: Warm::Paused,
            promote: None,
            demote: None,
            fence: None,
            sync: None,
            restore: None,
            mount: None,
            max_staleness: None,
            sync_every: seconds(60),
            dry_start: None,
            failback: Failback::Sticky,
            stable_for: seconds(300),
            rto: None,
            rpo: None,
            lease: "default",
            timeout: seconds(60),
            restore_timeout: seconds(3600),
        }
    }

    pub fn timings(&self) -> Timings {
        Timings::PROFILES.into_iter().find(|(name, _)| *name == self.lease).map_or(Timings::DEFAULT, |(_, t)| t)
    }

    /// Nothing of a standby runs before it is needed.
    pub fn is_started_when_needed(&self) -> bool {
        self.tier == Tier::Cold || self.is_warm_stopped()
    }

    fn is_warm_stopped(&self) -> bool {
        self.tier == Tier::Warm && self.warm == Warm::Stopped
    }

    /// A standby is stopped (SIGSTOP) once it was ready.
    pub fn is_paused(&self) -> bool {
        self.tier == Tier::Warm && self.warm == Warm::Paused
    }

    /// As the file says it.
    pub(crate) fn declared_replicas(&self, service: &Service) -> u32 {
        service.replicas.saturating_sub(self.count)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// A file is rotated when it reaches this size. Default 10 MiB.
    pub size_bytes_max: u64,
    /// Rotated files kept besides the current one. Default 5.
    pub keep: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    RoundRobin,
    LeastRequests,
    /// Power of two choices on peak EWMA x in flight, with a failure penalty.
    #[default]
    P2c,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Balancer {
    pub name: String,
    pub listen: Vec<SocketAddr>,
    /// A key of `services`.
    pub service: String,
    pub algorithm: Algorithm,
    pub retry: Retry,
    pub eject: Eject,
    /// Weight of a new or returned instance rises linearly over this time. Default 10 s; zero is off.
    pub slow_start: Duration,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub access_log: bool,
    /// Addresses whose X-Forwarded-* headers are believed (CIDR not needed yet). Default none.
    pub trusted_proxies: Vec<IpAddr>,
    /// Labels of the machines that it listens on; empty is all.
    pub on: BTreeMap<String, Vec<String>>,
    pub availability: Option<f64>,
    pub virtual_ips: Vec<VirtualIp>,
    /// Where they are added; default the interface whose network contains the address.
    pub virtual_ip_interface: Option<String>,
    /// A name of `policy::lease::Timings::PROFILES`.
    pub virtual_ip_lease: &'static str,
    /// Names of nodes, best first.
    pub virtual_ip_prefer: Vec<String>,
    pub dns: Option<Dns>,
    pub fallback: Option<Fallback>,
}

/// A name whose addresses are those of the machines with this balancer.
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// Without the dot at its end.
    pub name: String,
    pub ttl: Duration,
    pub stable: Duration,
    pub by: DnsBy,
}

#[derive(Clone, Debug, PartialEq)]
pub enum DnsBy {
    /// RFC 2136.
    Server {
        servers: Vec<SocketAddr>,
        zone: String,
        /// Name and secret, in base64.
        key: Option<(String, Value)>,
    },
    Command(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualIp {
    pub address: IpAddr,
    pub prefix: u8,
}

impl std::fmt::Display for VirtualIp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    pub enabled: bool,
    /// Tries of one request, the first included; as many again after each wait for an instance that starts. Default 3.
    pub tries_max: u32,
    /// Retries in flight or waiting as a share of requests in flight. Default 0.2.
    pub budget_ratio: f64,
    /// Retries always allowed at the same time, per process. Default 3.
    pub budget_min: u32,
    /// Answers that are retried for idempotent requests; default none (502/503/504 may be listed).
    pub statuses: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Eject {
    pub enabled: bool,
    /// Consecutive connect or transport failures. Default 3; a refused connect ejects at once.
    pub failures: u32,
    /// Consecutive 502, 503, 504 answers. Default 5.
    pub gateway_errors: u32,
    /// First ejection; doubles each time up to `max`. Default 1 s and 60 s.
    pub base: Duration,
    pub max: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// Default 1 s.
    pub connect: Duration,
    /// To the first byte of the answer. Default 60 s.
    pub first_byte: Duration,
    /// No byte in either direction while a body or upgraded connection is open. Default 60 s.
    pub idle: Duration,
    /// All tries and the body; zero is none. Default none.
    pub total: Duration,
    /// Client to send its request head. Default 10 s.
    pub request_head: Duration,
    /// Keep-alive of idle client connections. Default 60 s.
    pub keep_alive: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Client connections per node. Default 10,000.
    pub connections: u32,
    /// Request line and headers. Default 32 KiB.
    pub header_bytes: u32,
    /// Headers in a message. Default 100.
    pub headers: u32,
    /// Request body; default none.
    pub body_bytes: Option<u64>,
    /// Requests in flight per instance, over which others are preferred and then 503. Default none.
    pub in_flight: Option<u32>,
}

/// `[drill.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Drill {
    pub name: String,
    pub fault: Fault,
    /// A service, instance or balancer; the kinds that hit holdfast itself need none.
    pub target: Option<String>,
    /// How long a fault that lasts is held. Default 10 s.
    pub hold: Duration,
    /// Prober's rate in requests per second. Default 50.
    pub rate: u32,
    /// The balancer and path the prober asks; default the first balancer in front of the target, `/`.
    pub balancer: Option<String>,
    pub path: String,
    pub targets: Targets,
    /// Faults with a size: latency added, share of answers spoiled (0..=1), path whose request burns CPU.
    pub latency: Duration,
    pub share: f64,
    pub busy_path: Option<String>,
    /// Programs of a worker that are struck at once. Default 1.
    pub count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Kill,
    Hang,
    Busy,
    CrashLoop,
    Latency,
    Errors,
    Reset,
    NoAnswer,
    DependencyStall,
    BalancerKill,
    BalancerHang,
    ShimKill,
    AgentKill,
    WorkerKill,
    WorkerHang,
    Poison,
    TasksKill,
    TasksHang,
    TasksDiskFull,
}

impl Fault {
    /// As the file and the CLI spell it.
    pub const ALL: [(&'static str, Fault); 19] = [
        ("kill", Fault::Kill),
        ("hang", Fault::Hang),
        ("busy", Fault::Busy),
        ("crash-loop", Fault::CrashLoop),
        ("latency", Fault::Latency),
        ("errors", Fault::Errors),
        ("reset", Fault::Reset),
        ("no-answer", Fault::NoAnswer),
        ("dependency-stall", Fault::DependencyStall),
        ("balancer-kill", Fault::BalancerKill),
        ("balancer-hang", Fault::BalancerHang),
        ("shim-kill", Fault::ShimKill),
        ("agent-kill", Fault::AgentKill),
        ("worker-kill", Fault::WorkerKill),
        ("worker-hang", Fault::WorkerHang),
        ("poison", Fault::Poison),
        ("tasks-kill", Fault::TasksKill),
        ("tasks-hang", Fault::TasksHang),
        ("tasks-disk-full", Fault::TasksDiskFull),
    ];

    pub fn name(self) -> &'static str {
        Fault::ALL.iter().find(|(_, f)| *f == self).map_or("unknown", |(name, _)| name)
    }

    /// It strikes programs of a worker.
    pub fn hits_worker(self) -> bool {
        matches!(self, Fault::WorkerKill | Fault::WorkerHang | Fault::Poison)
    }

    /// It strikes the plane of tasks.
    pub fn hits_tasks(self) -> bool {
        matches!(self, Fault::TasksKill | Fault::TasksHang | Fault::TasksDiskFull)
    }
}

/// What a drill must reach to pass; `None` is not judged.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Targets {
    pub detect: Option<Duration>,
    pub recover: Option<Duration>,
    pub failed: Option<u64>,
    pub p99: Option<Duration>,
    /// Of a queue: confirmed and never done; done more than once; due until done.
    pub lost: Option<u64>,
    pub twice: Option<u64>,
    pub done: Option<Duration>,
}
