//! What the Supervisor knows about one instance.

use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_policy::health::{LiveCounter, ReadyCounter, Sign, Thresholds};
use holdfast_policy::lease::FencingToken;
use holdfast_policy::{Incarnation, InstanceId, Timestamp};

use super::action::{EndpointState, ProbeKind};
use super::definition::Definition;
use super::event::{Record, Role, ShimPhase, ShimState};
use super::standby::Member;

/// Where the shim of an instance stands, as far as is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shim {
    /// From before this agent; not reported yet.
    Unknown,
    /// No shim lives: proved, or none was ever launched.
    Absent,
    /// Its record is being made durable.
    Persisting {
        since: Timestamp,
    },
    /// Launch was ordered.
    Launching {
        since: Timestamp,
    },
    Alive(ShimState),
    /// Its connection ended; proof is asked for.
    Missing {
        asked: Timestamp,
        last: ShimState,
    },
    /// Proved dead, but the child lives on.
    Orphaned {
        last: ShimState,
    },
}

impl Shim {
    pub(crate) fn state(&self) -> Option<&ShimState> {
        match self {
            Shim::Alive(state) | Shim::Missing { last: state, .. } | Shim::Orphaned { last: state } => Some(state),
            Shim::Unknown | Shim::Absent | Shim::Persisting { .. } | Shim::Launching { .. } => None,
        }
    }

    /// A child of it lives or may live.
    pub(crate) fn child(&self) -> Option<&ShimState> {
        self.state().filter(|s| matches!(s.phase, ShimPhase::Running | ShimPhase::Stopping))
    }
}

/// Why holdfast takes an instance down of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Liveness,
    StartupTimeout,
    Changed,
    Asked,
    ShimLost,
    /// Not wanted any more: scaled down, removed, or everything stops.
    Unwanted,
    /// Another member takes over after a fault.
    HandOver,
    /// Another member takes over because somebody wants it.
    Switchover,
    /// Its lease is lost.
    Unleased,
    /// A trial start has shown what it can.
    DryDone,
    /// A stopped or finished shim stands in the way of a new generation.
    Stale,
}

impl Why {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Why::Liveness => "liveness failed",
            Why::StartupTimeout => "startup probe not passed in time",
            Why::Changed => "definition changed",
            Why::Asked => "restart asked for",
            Why::ShimLost => "its shim is lost",
            Why::Unwanted => "not wanted any more",
            Why::HandOver => "another member takes over",
            Why::Switchover => "switchover to another member",
            Why::Unleased => "its lease is lost",
            Why::DryDone => "the dry start is over",
            Why::Stale => "its shim has nothing left to run",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// A new run under the same shim.
    SameShim,
    /// The generation ends; whether another follows is decided afterwards.
    End,
}

/// The step of taking it down that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Published as draining; goes on when drained or at `until`.
    Draining {
        until: Timestamp,
    },
    /// Stop, Restart or Kill was sent, and is sent again when nothing is seen of it.
    Stopping {
        sent: Timestamp,
    },
    /// The result is being made durable before the shim ends.
    Recording {
        sent: Timestamp,
    },
    /// Quit was sent.
    Quitting {
        sent: Timestamp,
    },
    KillingOrphans {
        sent: Timestamp,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leave {
    pub(crate) why: Why,
    pub(crate) then: Then,
    pub(crate) step: Step,
    /// The life that is meant.
    pub(crate) incarnation: Incarnation,
    /// Journal entry of the decision.
    pub(crate) cause: u64,
}

/// One probe of one incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prober {
    pub(crate) kind: ProbeKind,
    pub(crate) next: Timestamp,
    /// When the one in flight was sent.
    pub(crate) in_flight: Option<Timestamp>,
    /// `next` is its slot within the node-wide rate.
    pub(crate) reserved: bool,
}

/// What is known about the present incarnation; begins anew with each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Life {
    pub(crate) incarnation: Incarnation,
    pub(crate) ready: ReadyCounter,
    pub(crate) live: LiveCounter,
    pub(crate) started_up: bool,
    /// When this agent saw it first.
    pub(crate) seen: Timestamp,
    pub(crate) first_ready: Option<Timestamp>,
    /// It was ready and does not answer any more.
    pub(crate) silent_since: Option<Timestamp>,
    pub(crate) published: Option<EndpointState>,
    pub(crate) probers: Vec<Prober>,
    /// Liveness failed and was journaled.
    pub(crate) live_failed: Option<u64>,
    /// What the brake or a pause last said, so that it is journaled once.
    pub(crate) held: Option<&'static str>,
    pub(crate) told_ready: bool,
    /// It ended while the shim was not allowed to restart it.
    pub(crate) ended_ungranted: bool,
    /// Its exit was journaled.
    pub(crate) exit_told: bool,
}

impl Life {
    /// An earlier agent found it ready. It counts as ready until a probe says otherwise, so that a restart of the
    /// agent takes nobody out of the balancer.
    pub(crate) fn adopt_ready(&mut self, at: Timestamp) {
        self.started_up = true;
        self.first_ready = Some(at);
        self.told_ready = true;
        self.ready.record(Thresholds { rise: 1, fall: 1 }, Sign::Pass);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) record: Record,
    pub(crate) shim: Shim,
    /// What the running generation was launched from, when known.
    pub(crate) running: Option<Arc<Definition>>,
    pub(crate) life: Life,
    pub(crate) leave: Option<Leave>,
    /// Taken down by holdfast at this time, and not ready again since.
    pub(crate) acting: Option<Timestamp>,
    pub(crate) restart_asked: bool,
    /// Launch failures and lost shims in a row, and when the next try is due.
    pub(crate) launch_failures: u32,
    pub(crate) launch_after: Timestamp,
    pub(crate) launch_error: Option<String>,
    pub(crate) port_asked: Option<Timestamp>,
    /// What it waits for, in words.
    pub(crate) waits: Option<String>,
    /// Fenced: until when the child may live, and when renewal was last asked for.
    pub(crate) lease_until: Option<Timestamp>,
    pub(crate) lease_asked: Option<Timestamp>,
    /// Of that lease.
    pub(crate) token: Option<FencingToken>,
    /// Its part in a redundant service.
    pub(crate) member: Member,
    /// Deadline or grant last sent, for sending it again.
    pub(crate) told_deadline: Option<Timestamp>,
    pub(crate) told_grant: Option<(bool, Timestamp)>,
    /// Runs begun since this agent knows it, less the first.
    pub(crate) restarts: u64,
    /// Since when it is not wanted.
    pub(crate) unwanted_since: Option<Timestamp>,
    pub(crate) incident: Option<u64>,
    /// Last entry about it, the cause of the next.
    pub(crate) last_entry: Option<u64>,
    pub(crate) last_seq: u64,
    /// State name last journaled.
    pub(crate) shown: &'static str,
    pub(crate) shown_since: Timestamp,
    /// When its shim was last heard of or asked for.
    pub(crate) audited: Timestamp,
}

impl Instance {
    pub(crate) fn new(record: Record, shim: Shim) -> Self {
        Instance {
            id: record.instance.clone(),
            record,
            shim,
            running: None,
            life: Life::default(),
            leave: None,
            acting: None,
            restart_asked: false,
            launch_failures: 0,
            launch_after: Timestamp::ZERO,
            launch_error: None,
            port_asked: None,
            waits: None,
            lease_until: None,
            lease_asked: None,
            token: None,
            member: Member::default(),
            told_deadline: None,
            told_grant: None,
            restarts: 0,
            unwanted_since: None,
            incident: None,
            last_entry: None,
            last_seq: 0,
            shown: "new",
            shown_since: Timestamp::ZERO,
            audited: Timestamp::ZERO,
        }
    }

    /// What people see; every change of it is journaled.
    pub(crate) fn state_name(&self, job: bool) -> &'static str {
        if let Some(leave) = self.leave {
            return match (leave.step, leave.then) {
                (Step::Draining { .. }, _) => "draining",
                (_, Then::SameShim) => "restarting",
                (Step::Recording { .. }, _) => "finishing",
                (_, Then::End) => "stopping",
            };
        }
        match &self.shim {
            Shim::Unknown => "unknown",
            Shim::Persisting { .. } | Shim::Launching { .. } => "launching",
            Shim::Missing { .. } => "lost",
            Shim::Orphaned { .. } => "orphaned",
            Shim::Absent => match self.record.finished {
                Some(f) if f.success => "completed",
                Some(_) => "failed",
                None if self.member.stands_by() => "standby",
                None if self.launch_error.is_some() => "backoff",
                None if self.member.is_promoting() => "promoting",
                None if self.waits.is_some() => "waiting",
                None => "absent",
            },
            Shim::Alive(state) => match state.phase {
                ShimPhase::Starting => "starting",
                ShimPhase::Backoff { .. } => "backoff",
                ShimPhase::Stopping => "stopping",
                ShimPhase::Stopped => "stopped",
                ShimPhase::Finished { success: true } => "completed",
                ShimPhase::Finished { success: false } => "failed",
                ShimPhase::Running if job => "running",
                ShimPhase::Running => match self.life.published {
                    Some(EndpointState::Ready) => "ready",
                    _ if self.member.is_promoting() => "promoting",
                    _ if state.role == Role::Dry => "dry",
                    Some(EndpointState::Standby) => "standby",
                    Some(EndpointState::Suspect) => "suspect",
                    _ if self.life.first_ready.is_none() => "starting",
                    _ => "not_ready",
                },
            },
        }
    }

    pub(crate) fn usable(&self) -> bool {
        self.leave.is_none() && self.life.published == Some(EndpointState::Ready)
    }

    pub(crate) fn child_runs(&self) -> bool {
        self.shim.child().is_some()
    }

    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        let port = self.record.port?;
        self.running.as_ref().map(|d| d.addr(port))
    }
}
