//! Which instance runs on which node: the planner's vocabulary. [`Planner::plan`] is the decision.
//!
//! A plan is a value: it can be printed, and leaves its executor no choices. Each step changes the *assignment*
//! (which node is told to run an instance), never a process. A [`Step::Move`] makes the assignment hold both nodes
//! until the new one is ready; a later plan removes the old one.

mod fill;
mod lose;
mod plan;
mod planner;
mod rebalance;
mod settle;
mod shift;
mod table;
mod trouble;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::membership::{Hold, Standing, View};
use crate::{InstanceId, NodeId, Timestamp};

pub use lose::{Blocker, Loss, StoreMember, can_lose};
pub use plan::{Held, Plan, Planned, Step};
pub use planner::{Memory, Planner, Rules, Trouble};

/// Failed starts on one node after which an instance is tried on another. The restart policy has spent some minutes by then.
pub const LOCAL_FAILURES_MAX: u32 = 5;
/// Before an instance that failed on one node after another moves again; doubled each time.
pub const FAILED_MOVE_DELAY: Duration = Duration::from_secs(30);
/// The longest such delay, and how long an instance must have been well for its failures to be forgotten.
pub const FAILED_MOVE_DELAY_MAX: Duration = Duration::from_secs(3600);
/// A moved instance that is not ready on its new node after this long goes back to the old one alone.
pub const MOVE_PATIENCE: Duration = Duration::from_secs(600);
/// A node takes part in rebalancing once it has taken new instances for this long without a doubt.
pub const STABLE_FOR: Duration = Duration::from_secs(60);
/// Between two moves that only improve the balance: time for the last to show in traffic and in load.
pub const REBALANCE_EVERY: Duration = Duration::from_secs(10);

/// Names of the failure domains that every node has a label for; others are free.
pub const HOST: &str = "host";
pub const RACK: &str = "rack";
pub const ZONE: &str = "zone";
/// Widest first: what is lost together most expensively is spread over first.
pub const SPREAD: [&str; 3] = [ZONE, RACK, HOST];

pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// What a node offers. `None` is not declared, thus not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    pub cpu_millis: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// Instances.
    pub slots: Option<u32>,
}

/// What one instance takes, beside one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: NodeId,
    /// `host` is the node's name unless given.
    pub labels: Labels,
    pub capacity: Capacity,
    pub standing: Standing,
    /// Why it stands so, for people.
    pub why: String,
    /// Since when it takes new instances without a doubt.
    pub stable_since: Timestamp,
}

impl Node {
    pub fn new(name: &str) -> Node {
        Node {
            name: name.into(),
            labels: Labels::new(),
            capacity: Capacity::default(),
            standing: Standing::Open,
            why: String::new(),
            stable_since: Timestamp::ZERO,
        }
    }

    /// As membership sees it, with what its registration declares.
    pub fn seen(view: &View, labels: Labels, capacity: Capacity) -> Node {
        Node {
            name: view.node.clone(),
            labels,
            capacity,
            standing: view.standing,
            why: view.why.clone(),
            stable_since: view.stable_since,
        }
    }

    /// The value of a label. A node without a `host` label is a host of its own.
    pub fn label(&self, name: &str) -> Option<&str> {
        match self.labels.get(name) {
            Some(value) => Some(value),
            None if name == HOST => Some(&self.name.0),
            None => None,
        }
    }
}

/// A node that breaks one takes no instance of the service. A label that is missing equals nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    Is(Arc<str>, Arc<str>),
    IsNot(Arc<str>, Arc<str>),
    In(Arc<str>, Vec<Arc<str>>),
}

impl Constraint {
    pub fn holds(&self, node: &Node) -> bool {
        match self {
            Constraint::Is(label, value) => node.label(label) == Some(value),
            Constraint::IsNot(label, value) => node.label(label) != Some(value),
            Constraint::In(label, values) => values.iter().any(|v| node.label(label) == Some(v)),
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Constraint::Is(label, value) => write!(f, "{label} = {value}"),
            Constraint::IsNot(label, value) => write!(f, "{label} != {value}"),
            Constraint::In(label, values) => write!(f, "{label} in ({})", values.join(", ")),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: Arc<str>,
    /// Ordinals are 1..=replicas, always.
    pub replicas: u32,
    pub each: Resources,
    pub constraints: Vec<Constraint>,
    /// Labels whose values are failure domains, the most important first.
    pub spread: Vec<Arc<str>>,
    /// Never on a node that runs one of these services; it holds both ways.
    pub anti_affinity: Vec<Arc<str>>,
    /// Never two instances on one node: members of a standby group.
    pub distinct: bool,
    /// `distinct` is waived while the cluster has one node only.
    pub crowd_alone: bool,
    /// Only on these nodes, when not empty.
    pub pinned: Vec<NodeId>,
    /// Holdfast takes no ready instance away when fewer than this many would stay ready.
    pub min_available: u32,
    /// At most this many are on the move, or away by holdfast's will, at once. At least 1.
    pub max_unavailable: u32,
    /// An instance on a living node may be moved. One on a lost node always is.
    pub movable: bool,
    /// A copy may run on the new node while the old one still does. Without, it is removed first, within `min_available`.
    pub surge: bool,
}

impl Service {
    pub fn new(name: &str, replicas: u32) -> Service {
        Service {
            name: name.into(),
            replicas,
            each: Resources::default(),
            constraints: Vec::new(),
            spread: SPREAD.map(Arc::from).to_vec(),
            anti_affinity: Vec::new(),
            distinct: false,
            crowd_alone: false,
            pinned: Vec::new(),
            min_available: replicas.saturating_sub(1),
            max_unavailable: 1,
            movable: true,
            surge: true,
        }
    }
}

/// What an assigned instance is to its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// One of equals.
    #[default]
    Replica,
    /// Not taken away while it lives: somebody else must be active first.
    Active,
    /// `eligible`: it could take over now.
    Standby { eligible: bool },
}

/// One instance on one node. Two entries with the same instance are a move under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub instance: InstanceId,
    pub node: NodeId,
    /// When it was assigned; of two copies the later one is where it moves to.
    pub since: Timestamp,
    pub ready: bool,
    /// Failed starts on this node since it was last well.
    pub failures: u32,
    pub duty: Duty,
}

impl Assigned {
    pub fn new(instance: InstanceId, node: &str, since: Timestamp) -> Assigned {
        Assigned { instance, node: node.into(), since, ready: true, failures: 0, duty: Duty::Replica }
    }
}

/// All that the planner looks at.
#[derive(Clone, Debug)]
pub struct Cluster<'a> {
    pub nodes: &'a [Node],
    pub services: &'a [Service],
    pub assigned: &'a [Assigned],
    /// What membership says of its own evidence.
    pub hold: Hold,
}

#[cfg(test)]
mod tests;
