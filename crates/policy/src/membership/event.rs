//! What membership hears.

use std::sync::Arc;

use crate::{NodeId, Timestamp};

/// What the store says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    Present,
    Gone,
}

/// What a member says that looked at the node's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Answers,
    Silent,
    /// The machine answers that no agent is there.
    Refused,
}

/// What people want of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admin {
    #[default]
    Open,
    /// Takes nothing new.
    Cordoned,
    /// Is emptied.
    Draining,
    /// Is emptied and then forgotten; a lost one at once.
    Removing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node is registered, or its registration changed. `boot` changes with the machine's start, `release` is the
    /// minor number of the program.
    Known {
        node: NodeId,
        boot: Arc<str>,
        release: u32,
        admin: Admin,
    },
    /// It is registered no more.
    Forgotten {
        node: NodeId,
    },
    Lease {
        node: NodeId,
        lease: Lease,
    },
    /// `by` looked at `node` at time `at`.
    Link {
        node: NodeId,
        by: NodeId,
        link: Link,
        at: Timestamp,
    },
    /// How many instances are assigned to the node.
    Instances {
        node: NodeId,
        count: u32,
    },
    /// This member leads from now on.
    Elected,
    StoreAway,
    StoreBack,
    /// A person says that the brake is wrong; it is off until then.
    BrakeOff {
        until: Timestamp,
    },
}
