//! What would break if a node, or all that shares a failure domain, went away now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::{Assigned, Cluster, Duty, Node};
use crate::NodeId;
use crate::membership::Standing;

/// What goes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    Node(NodeId),
    /// Every node whose label has this value: `rack`, `r1`.
    Domain(Arc<str>, Arc<str>),
}

impl Loss {
    pub fn takes(&self, node: &Node) -> bool {
        match self {
            Loss::Node(name) => node.name == *name,
            Loss::Domain(label, value) => node.label(label) == Some(value),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Node(name) => write!(f, "{name}"),
            Loss::Domain(label, value) => write!(f, "{label} {value}"),
        }
    }
}

/// One member of the coordination store. No members: the store is not on these nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreMember {
    pub node: NodeId,
    pub healthy: bool,
}

/// One fact that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocker {
    UnknownNode { what: String },
    MinAvailable { service: Arc<str>, ready_after: u32, min_available: u32 },
    NoStandby { service: Arc<str>, active: NodeId },
    Quorum { healthy_after: usize, members: usize },
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocker::UnknownNode { what } => write!(f, "no node is {what}"),
            Blocker::MinAvailable { service, ready_after, min_available } => {
                write!(f, "{service} would have {ready_after} ready, and needs min_available = {min_available}")
            }
            Blocker::NoStandby { service, active } => {
                write!(f, "{service} is active on {active}, and no standby elsewhere could take over")
            }
            Blocker::Quorum { healthy_after, members } => write!(
                f,
                "the coordination store would have {healthy_after} of {members} members, and needs {}",
                members / 2 + 1
            ),
        }
    }
}

/// Whether everything stays up when `loss` happens now; all the facts against it otherwise.
pub fn can_lose(cluster: &Cluster<'_>, store: &[StoreMember], loss: &Loss) -> Result<(), Vec<Blocker>> {
    let gone: BTreeSet<&NodeId> = cluster.nodes.iter().filter(|n| loss.takes(n)).map(|n| &n.name).collect();
    if gone.is_empty() {
        return Err(vec![Blocker::UnknownNode { what: loss.to_string() }]);
    }
    let doubted = |node: &Node| matches!(node.standing, Standing::Lost | Standing::Suspect);
    let alive: BTreeSet<&NodeId> = cluster.nodes.iter().filter(|n| !doubted(n)).map(|n| &n.name).collect();
    let stays = |a: &Assigned| alive.contains(&a.node) && !gone.contains(&a.node);
    let mut by_service: BTreeMap<&str, Vec<&Assigned>> = BTreeMap::new();
    for assigned in cluster.assigned {
        by_service.entry(&assigned.instance.service).or_default().push(assigned);
    }
    let mut blockers = Vec::new();
    for service in cluster.services {
        let copies = by_service.get(&*service.name).map(Vec::as_slice).unwrap_or_default();
        if !copies.iter().any(|a| gone.contains(&a.node)) {
            continue;
        }
        let ready: BTreeSet<u32> = copies.iter().filter(|a| a.ready && stays(a)).map(|a| a.instance.ordinal).collect();
        let ready_after = u32::try_from(ready.len()).unwrap_or(u32::MAX);
        if ready_after < service.min_available {
            let (service, min_available) = (service.name.clone(), service.min_available);
            blockers.push(Blocker::MinAvailable { service, ready_after, min_available });
        }
        let active = copies.iter().find(|a| a.duty == Duty::Active && gone.contains(&a.node));
        let heir = copies.iter().any(|a| a.duty == Duty::Standby { eligible: true } && stays(a));
        if let (Some(active), false) = (active, heir) {
            blockers.push(Blocker::NoStandby { service: service.name.clone(), active: active.node.clone() });
        }
    }
    let healthy_after = store.iter().filter(|m| m.healthy && !gone.contains(&m.node)).count();
    let touched = store.iter().any(|m| gone.contains(&m.node));
    if touched && healthy_after < store.len() / 2 + 1 {
        blockers.push(Blocker::Quorum { healthy_after, members: store.len() });
    }
    if blockers.is_empty() { Ok(()) } else { Err(blockers) }
}
