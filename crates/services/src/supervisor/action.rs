//! What the Supervisor wants done.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::Check;
use holdfast_policy::lease::{FencingToken, Timings};
use holdfast_policy::{Incarnation, InstanceId, Timestamp, Transition};

use super::definition::Definition;
use super::event::{Record, Role};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    Startup,
    Ready,
    Live,
}

impl ProbeKind {
    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::Startup => "startup",
            ProbeKind::Ready => "ready",
            ProbeKind::Live => "live",
        }
    }
}

/// What balancers may do with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointState {
    Ready,
    /// A ready member of a redundant service that is not the active one: never used.
    Standby,
    /// Silent: used when nothing ready is left.
    Suspect,
    /// It said so itself, or it has not started: never used.
    NotReady,
    /// No new requests; those in flight are finished.
    Draining,
    /// This incarnation is over.
    Gone,
}

impl EndpointState {
    pub fn name(self) -> &'static str {
        match self {
            EndpointState::Ready => "ready",
            EndpointState::Standby => "standby",
            EndpointState::Suspect => "suspect",
            EndpointState::NotReady => "not_ready",
            EndpointState::Draining => "draining",
            EndpointState::Gone => "gone",
        }
    }
}

/// Said to a shim. It refuses a request that means another incarnation than its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Signal, grace, kill; then it waits. The child is not started again.
    Stop,
    /// Signal, grace, kill, and at once a new run; no failure is counted.
    Restart,
    /// Kill at once and count a failure: the restart policy decides when the next run starts.
    Kill,
    /// End the shim, so that the generation is over.
    Quit,
    /// A fenced child may live until then.
    Deadline(Timestamp),
    /// Whether the shim may restart its child by itself.
    Grant { restart: bool },
    /// The instance answers: in time the restart policy forgets its failures.
    Ready,
    /// How long the shim leaves its child dead after a fault, so that another member can take over.
    Hold(Duration),
    /// The child is active under this token: into the token file, durably.
    Activate(FencingToken),
    /// SIGSTOP or SIGCONT to the child.
    Freeze(bool),
}

/// Phases of an incident. Times are those of the facts, not of the telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Detected,
    Decided,
    Acted,
    Ready,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Detected => "detected",
            Phase::Decided => "decided",
            Phase::Acted => "acted",
            Phase::Ready => "ready",
        }
    }
}

/// One line of the story, for the journal and for `why`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Counts from 1 in each Supervisor.
    pub seq: u64,
    pub at: Timestamp,
    /// `web-2`, or `web` for the service.
    pub subject: Arc<str>,
    pub incarnation: Option<Incarnation>,
    pub transition: Transition,
    /// `seq` of the entry that led to this one.
    pub cause: Option<u64>,
    /// Incident (the `seq` of its first entry) and the phase that this entry marks.
    pub incident: Option<(u64, Phase)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    pub instance: InstanceId,
    pub generation: u64,
    pub definition: Arc<Definition>,
    pub port: Option<u16>,
    /// Fenced instances only.
    pub deadline: Option<Timestamp>,
    /// What it is at its start.
    pub role: Role,
    /// Of the lease it is launched under.
    pub token: Option<FencingToken>,
}

/// One run of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub instance: InstanceId,
    pub edge: Edge,
    /// The same name never runs twice.
    pub name: String,
    pub argv: Vec<String>,
    pub timeout: Duration,
    pub definition: Arc<Definition>,
    pub port: Option<u16>,
    pub token: Option<FencingToken>,
    /// For [`Edge::Fence`]: `db-1@NODE`, several joined by a comma.
    pub fence: String,
}

/// Where in the life of a member a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Edge {
    Promote,
    Demote,
    Fence,
    Sync,
    /// Of the volume of the active member; holdfast's own, as the next.
    Mount,
    Unmount,
    Restore,
}

impl Edge {
    /// Each run is another: an earlier result says nothing about now.
    pub fn is_repeated(self) -> bool {
        matches!(self, Edge::Sync | Edge::Mount | Edge::Unmount)
    }

    /// Done by holdfast itself and not by a command of the file.
    pub fn is_own(self) -> bool {
        matches!(self, Edge::Mount | Edge::Unmount)
    }

    pub fn name(self) -> &'static str {
        match self {
            Edge::Promote => "promote",
            Edge::Demote => "demote",
            Edge::Fence => "fence",
            Edge::Sync => "sync",
            Edge::Mount => "mount",
            Edge::Unmount => "unmount",
            Edge::Restore => "restore",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub instance: InstanceId,
    pub incarnation: Incarnation,
    pub kind: ProbeKind,
    pub check: Check,
    pub addr: Option<SocketAddr>,
    pub timeout: Duration,
    /// When it should start; the prober compares, to know its own lateness.
    pub at: Timestamp,
    pub pid: Option<u32>,
    /// For command probes: environment and placeholders of the instance.
    pub definition: Arc<Definition>,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make it durable, then tell `Persisted`. Nothing that depends on it is asked for earlier.
    Persist(Record),
    AssignPort {
        instance: InstanceId,
    },
    /// The lease of a fenced instance: acquire or renew it now, answer with `LeaseHeld` or `LeaseLost`.
    Lease {
        instance: InstanceId,
        /// One for all members of a redundant service.
        shared: bool,
        timings: Timings,
        /// Now; comes back with the answer, which may be late.
        asked: Timestamp,
    },
    /// Whoever held the lease before and did not give it back is fenced: it is owed no longer.
    Fenced {
        instance: InstanceId,
    },
    /// A command on an edge of a redundant service; answered with `JobEnded`, also when it ran under an earlier agent.
    Job(Job),
    /// The preferred member wants its service back.
    Want {
        service: Arc<str>,
        to: InstanceId,
        over: FencingToken,
    },
    ReleaseLease {
        instance: InstanceId,
        shared: bool,
    },
    Launch(Launch),
    Command {
        instance: InstanceId,
        incarnation: Incarnation,
        request: Request,
    },
    /// Find out whether the shim lives: answer with `Shim` or `ShimAbsent`.
    ProveAbsence {
        instance: InstanceId,
        generation: u64,
    },
    /// Children whose shim is proved dead.
    KillOrphans {
        instance: InstanceId,
        generation: u64,
    },
    Probe(Probe),
    /// Results of it are not wanted any more.
    StopProbes {
        instance: InstanceId,
    },
    /// Nothing of it is there and nothing is wanted.
    Forget {
        instance: InstanceId,
    },
    Publish {
        instance: InstanceId,
        incarnation: Incarnation,
        addr: Option<SocketAddr>,
        state: EndpointState,
    },
    Journal(Entry),
}
