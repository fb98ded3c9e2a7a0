//! What membership says.

use std::fmt;

use super::Admin;
use crate::{NodeId, Timestamp, Transition};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Registered, and not seen well yet by this leader.
    Joining,
    Ready,
    /// One source speaks against it.
    Suspect {
        since: Timestamp,
    },
    /// Both do.
    Lost {
        since: Timestamp,
    },
    /// It was lost or rebooted and is well again.
    Returned {
        since: Timestamp,
    },
    /// It was lost too often.
    Damped {
        until: Timestamp,
    },
    /// Its release does not work with the leader's.
    Incompatible,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Joining => "joining",
            State::Ready => "ready",
            State::Suspect { .. } => "suspect",
            State::Lost { .. } => "lost",
            State::Returned { .. } => "returned",
            State::Damped { .. } => "damped",
            State::Incompatible => "incompatible",
        }
    }
}

/// What the planner makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Takes new instances.
    Open,
    /// Keeps what it has.
    Closed,
    /// Keeps what it has, and what is said to be ready on it counts for nothing.
    Suspect,
    /// Is to be emptied.
    Draining,
    /// What it had runs no more, or nobody can know.
    Lost,
}

/// Whether belief may become deed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    #[default]
    No,
    /// Too many at once: nothing that is assigned moves.
    Brake { why: String },
    /// The evidence counts for nothing yet: nothing is done at all.
    Void { why: String, until: Timestamp },
}

/// One node as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub node: NodeId,
    pub state: State,
    pub admin: Admin,
    /// Draining or removing, and nothing is left on it.
    pub drained: bool,
    pub standing: Standing,
    /// Since when it stands open; [`Timestamp::NEVER`] while it does not.
    pub stable_since: Timestamp,
    pub why: String,
}

impl View {
    /// It is being removed and nothing runs on it: its registration may go.
    pub fn may_be_forgotten(&self) -> bool {
        self.admin == Admin::Removing && (self.drained || matches!(self.state, State::Lost { .. }))
    }
}

/// A transition of one node, or of what concerns all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub node: Option<NodeId>,
    pub transition: Transition,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let admin = match (self.admin, self.drained) {
            (Admin::Open, _) => "",
            (Admin::Cordoned, _) => ", cordoned",
            (Admin::Draining, false) => ", draining",
            (Admin::Removing, false) => ", being removed",
            (Admin::Draining | Admin::Removing, true) => ", drained",
        };
        write!(f, "{}: {}{admin}: {}", self.node, self.state.name(), self.why)
    }
}
