//! What the Supervisor is told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::hung::Verdict;
use holdfast_policy::lease::FencingToken;
use holdfast_policy::standby;
use holdfast_policy::{Incarnation, InstanceId, Timestamp};

use super::action::ProbeKind;
use super::definition::Definition;
use super::placed::Placement;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Exit {
    pub at: Timestamp,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub out_of_memory: bool,
    /// Stopped on request.
    pub wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ShimPhase {
    /// No child yet, or between two children without delay.
    #[default]
    Starting,
    Running,
    /// Waits to start the child again.
    Backoff {
        until: Timestamp,
    },
    /// Told to stop or restart: the child has its signal.
    Stopping,
    /// Told to stop, and the child is gone.
    Stopped,
    /// The child ended and policy does not start it again.
    Finished {
        success: bool,
    },
}

/// What a child is among the members of a redundant service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// It has no part in that.
    #[default]
    None,
    Standby,
    Active,
    /// A trial start.
    Dry,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::None => "",
            Role::Standby => "standby",
            Role::Active => "active",
            Role::Dry => "dry",
        }
    }

    pub fn from_name(name: &str) -> Role {
        [Role::Standby, Role::Active, Role::Dry].into_iter().find(|r| r.name() == name).unwrap_or_default()
    }
}

/// Who has the lease of a redundant service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub member: InstanceId,
    pub node: String,
    pub token: FencingToken,
}

pub type Wish = standby::Wish<InstanceId, FencingToken>;

/// What a living shim says of itself; level-triggered, so a lost one does no harm.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ShimState {
    pub incarnation: Incarnation,
    /// Rises with each change within the generation.
    pub seq: u64,
    pub phase: ShimPhase,
    pub pid: Option<u32>,
    /// When the child of this run was spawned.
    pub since: Timestamp,
    /// When this run was first known to be ready.
    pub ready_at: Option<Timestamp>,
    /// Since when its child is stopped, if it is. The child alone: what it started may go on.
    pub stopped_at: Option<Timestamp>,
    /// READY=1 from this run.
    pub notified_ready: bool,
    /// Last WATCHDOG=1 of this run.
    pub watchdog_at: Option<Timestamp>,
    /// STATUS= of this run.
    pub status_text: Option<String>,
    /// Failures in a row, as the restart policy counts them.
    pub failures: u32,
    pub last_exit: Option<Exit>,
    /// Why the child could not be spawned.
    pub spawn_error: Option<String>,
    /// Highest deadline that the shim acknowledged.
    pub deadline: Option<Timestamp>,
    pub role: Role,
    /// Newest token of its token file.
    pub token: Option<FencingToken>,
    /// See [`super::Request::Hold`].
    pub hold: Duration,
    /// The shim may restart its child by itself.
    pub granted: bool,
    pub crash_looping: bool,
    /// Runs after the first one of this shim.
    pub restarts: u64,
    /// Labels of its spec: what it was launched from.
    pub definition: Option<u64>,
    pub port: Option<u16>,
    /// Where it listens, which a changed file does not change.
    pub host: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    /// An explicit no: a status outside the accepted range, an exit code other than 0.
    Refused(i32),
    /// `busy`: the instance used CPU while the probe waited.
    Timeout {
        busy: bool,
    },
    ConnectError,
    /// The prober itself was late, so this says nothing.
    Late,
}

/// What the agent knew before it was restarted, as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub instance: InstanceId,
    /// Highest generation handed out.
    pub generation: u64,
    /// Definition of that generation.
    pub definition: u64,
    pub port: Option<u16>,
    /// The result of a job, or of a service that policy does not start again.
    pub finished: Option<Finished>,
    /// When the last `sync` that succeeded began.
    pub synced: Option<Timestamp>,
}

impl Record {
    pub fn new(instance: InstanceId) -> Self {
        Record { instance, generation: 0, definition: 0, port: None, finished: None, synced: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    pub definition: u64,
    pub success: bool,
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

/// Everything, a service with all its instances, or one instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    All,
    Service(Arc<str>),
    Instance(InstanceId),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::All => f.write_str("all"),
            Target::Service(name) => f.write_str(name),
            Target::Instance(id) => id.fmt(f),
        }
    }
}

#[derive(Clone, Debug)]
pub enum Event {
    /// First of all: what was there before. Every instance in `records` or `found` is unknown until its state or
    /// its absence is reported; nothing is launched over an unknown one.
    Adopt {
        records: Vec<Record>,
        found: Vec<InstanceId>,
    },
    Desired {
        services: BTreeMap<Arc<str>, Arc<Definition>>,
        scale: BTreeMap<Arc<str>, u32>,
        revision: u64,
    },
    /// What of the services runs here; `None` is everything. Told before the first `Desired` of a machine in a cluster.
    Placement(Option<Placement>),
    /// `None` goes back to the file's number.
    Scale {
        service: Arc<str>,
        replicas: Option<u32>,
    },
    Shim {
        instance: InstanceId,
        state: ShimState,
    },
    /// WATCHDOG=1, and nothing else that is new: the last state holds, with this time.
    Watchdog {
        instance: InstanceId,
        incarnation: Incarnation,
        at: Timestamp,
    },
    /// The connection to a shim ended; whether it lives is not known.
    ShimLost {
        instance: InstanceId,
        generation: u64,
    },
    /// Proved by taking its lock: no shim up to `generation` lives or ever will. `last` is what its files say.
    ShimAbsent {
        instance: InstanceId,
        generation: u64,
        last: Option<ShimState>,
        orphans: bool,
    },
    /// A record that was asked for is on disk.
    Persisted {
        instance: InstanceId,
        generation: u64,
    },
    PersistFailed {
        instance: InstanceId,
        generation: u64,
        reason: String,
    },
    Launched {
        instance: InstanceId,
        generation: u64,
    },
    /// No shim of this generation exists or ever will.
    LaunchFailed {
        instance: InstanceId,
        generation: u64,
        reason: String,
    },
    PortAssigned {
        instance: InstanceId,
        port: u16,
    },
    PortFailed {
        instance: InstanceId,
        reason: String,
    },
    /// `sent` is the `at` of the probe that this answers.
    Probe {
        instance: InstanceId,
        incarnation: Incarnation,
        kind: ProbeKind,
        sent: Timestamp,
        outcome: Outcome,
        took: Duration,
    },
    /// The hung-or-busy watcher's finding.
    Verdict {
        instance: InstanceId,
        incarnation: Incarnation,
        verdict: Verdict,
    },
    /// No request is in flight on it any more, on any balancer process.
    Drained {
        instance: InstanceId,
        incarnation: Incarnation,
    },
    OrphansGone {
        instance: InstanceId,
        generation: u64,
    },
    Pause {
        target: Target,
        until: Option<Timestamp>,
        reason: String,
    },
    Resume {
        target: Target,
    },
    Restart {
        target: Target,
    },
    StopAll,
    /// A fenced instance's lease is held; its child may live until `until`.
    LeaseHeld {
        instance: InstanceId,
        until: Timestamp,
        asked: Timestamp,
        token: FencingToken,
        /// Earlier holders that did not give it back: `db-1@NODE`.
        owed: Vec<String>,
    },
    /// Who holds the leases of redundant services, and what is wanted of them: all there is, after each change.
    Holders {
        holders: BTreeMap<Arc<str>, Holder>,
        /// Who held it last, also when nobody does now.
        last: BTreeMap<Arc<str>, InstanceId>,
        wishes: BTreeMap<Arc<str>, Wish>,
    },
    JobEnded {
        instance: InstanceId,
        name: String,
        success: bool,
        /// `exit code 1`, and the last line of its output.
        detail: String,
    },
    LeaseLost {
        instance: InstanceId,
        reason: String,
    },
    /// Only time has passed.
    Tick,
}
