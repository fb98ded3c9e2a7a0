//! `reboot --rolling`: which node next, or the fact that stops it. It stops on the first doubt.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::membership::{Hold, Standing};
use crate::placement::{Assigned, Blocker, Cluster, Loss, MOVE_PATIENCE, Plan, StoreMember, can_lose};
use crate::{InstanceId, NodeId, Timestamp};

/// A machine that is not back with all its instances after this long is a doubt.
pub const RETURN_LIMIT: Duration = Duration::from_secs(600);

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// In this order, but the leader's own node last.
    pub nodes: Vec<NodeId>,
    pub done: Vec<NodeId>,
    pub current: Option<Current>,
    /// Where the leader runs.
    pub leader: Option<NodeId>,
}

/// The node that was told to reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    pub node: NodeId,
    pub since: Timestamp,
    /// Its boot id has changed since.
    pub rebooted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Reboot(NodeId),
    /// The current node, or an instance, is on its way.
    Wait {
        why: String,
        until: Timestamp,
    },
    /// The current node is back and well: move it to `done` and ask again.
    Completed(NodeId),
    /// For a person to look at. Asking again later is safe.
    Stop {
        why: Vec<String>,
    },
    Done,
}

/// `plan` is the planner's for the same cluster: what it cannot do is a doubt, what it is about to do is waited for.
pub fn next(now: Timestamp, cluster: &Cluster<'_>, plan: &Plan, store: &[StoreMember], progress: &Progress) -> Next {
    if let Some(current) = &progress.current {
        return returned(now, cluster, store, current);
    }
    let left = progress.nodes.iter().filter(|n| !progress.done.contains(n));
    let (last, first): (Vec<&NodeId>, Vec<&NodeId>) = left.partition(|n| progress.leader.as_ref() == Some(*n));
    let Some(node) = first.first().or(last.first()).copied() else { return Next::Done };
    let moving = under_way(cluster, plan);
    let mut why = unwell(cluster, store, None);
    why.extend(not_ready(cluster, |a| !moving.contains(&a.instance)));
    let held = plan.held.iter().filter(|h| !moving.contains(&h.instance));
    why.extend(held.map(|h| format!("{}: {}", h.instance, h.why)));
    if !why.is_empty() {
        return Next::Stop { why };
    }
    if let Some(instance) = moving.first() {
        return Next::Wait { why: format!("{instance} is on the move"), until: now + MOVE_PATIENCE };
    }
    match can_lose(cluster, store, &Loss::Node(node.clone())) {
        Ok(()) => Next::Reboot(node.clone()),
        Err(blockers) => Next::Stop { why: blockers.iter().map(Blocker::to_string).collect() },
    }
}

/// While a node is away its instances start elsewhere, so that only nodes and the store are a doubt at once.
fn returned(now: Timestamp, cluster: &Cluster<'_>, store: &[StoreMember], current: &Current) -> Next {
    let until = current.since + RETURN_LIMIT;
    let why = unwell(cluster, store, Some(&current.node));
    if !why.is_empty() {
        return Next::Stop { why };
    }
    let mut left = match current.rebooted {
        true => unwell(cluster, store, None),
        false => vec![format!("{} has not rebooted yet", current.node)],
    };
    left.extend(not_ready(cluster, |_| true));
    match left.first() {
        None => Next::Completed(current.node.clone()),
        Some(first) if now < until => Next::Wait { why: first.clone(), until },
        Some(_) => {
            let mut why = vec![format!("{} is not back and well after {} s", current.node, RETURN_LIMIT.as_secs())];
            why.extend(left);
            Next::Stop { why }
        }
    }
}

/// Instances with a step, or with two copies.
fn under_way<'a>(cluster: &'a Cluster<'_>, plan: &'a Plan) -> BTreeSet<&'a InstanceId> {
    let mut moving: BTreeSet<&InstanceId> = plan.steps.iter().map(|p| p.step.instance()).collect();
    let mut seen = BTreeSet::new();
    moving.extend(cluster.assigned.iter().map(|a| &a.instance).filter(|instance| !seen.insert(*instance)));
    moving
}

fn not_ready(cluster: &Cluster<'_>, counts: impl Fn(&&Assigned) -> bool) -> Vec<String> {
    let instances = cluster.assigned.iter().filter(counts).filter(|a| !a.ready);
    instances.map(|a| format!("{} on {} is not ready", a.instance, a.node)).collect()
}

/// Nodes and members of the store that are not well, apart from those of one node.
fn unwell(cluster: &Cluster<'_>, store: &[StoreMember], apart: Option<&NodeId>) -> Vec<String> {
    let counts = |node: &NodeId| apart != Some(node);
    let mut why = Vec::new();
    match &cluster.hold {
        Hold::Brake { why: hold } => why.push(hold.clone()),
        Hold::Void { why: hold, .. } if apart.is_none() => why.push(hold.clone()),
        Hold::Void { .. } | Hold::No => {}
    }
    let nodes = cluster.nodes.iter().filter(|n| counts(&n.name) && n.standing != Standing::Open);
    why.extend(nodes.map(|n| format!("{} is not well: {}", n.name, n.why)));
    let members = store.iter().filter(|m| counts(&m.node) && !m.healthy);
    why.extend(members.map(|m| format!("the store's member on {} is not healthy", m.node)));
    why
}

#[cfg(test)]
mod tests;
