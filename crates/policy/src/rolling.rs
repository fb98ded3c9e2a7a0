//! `reboot --rolling`: which node next, or the fact that stops it. It stops on the first doubt.

use std::time::Duration;

use crate::membership::{Hold, Standing};
use crate::placement::{Blocker, Cluster, Loss, Plan, StoreMember, can_lose};
use crate::{NodeId, Timestamp};

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
    /// The current node is on its way.
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

/// `plan` is the planner's for the same cluster: anything it wants to do, or cannot, is a doubt.
pub fn next(now: Timestamp, cluster: &Cluster<'_>, plan: &Plan, store: &[StoreMember], progress: &Progress) -> Next {
    if let Some(current) = &progress.current {
        return returned(now, cluster, store, current);
    }
    let left = progress.nodes.iter().filter(|n| !progress.done.contains(n));
    let (last, first): (Vec<&NodeId>, Vec<&NodeId>) = left.partition(|n| progress.leader.as_ref() == Some(*n));
    let Some(node) = first.first().or(last.first()).copied() else { return Next::Done };
    let mut why = doubts(cluster, store, None);
    why.extend(plan.steps.iter().map(|p| format!("{} is to be done first: {}", p.step, p.reason)));
    why.extend(plan.held.iter().map(|h| format!("{}: {}", h.instance, h.why)));
    if let Err(blockers) = can_lose(cluster, store, &Loss::Node(node.clone())) {
        why.extend(blockers.iter().map(Blocker::to_string));
    }
    if why.is_empty() { Next::Reboot(node.clone()) } else { Next::Stop { why } }
}

fn returned(now: Timestamp, cluster: &Cluster<'_>, store: &[StoreMember], current: &Current) -> Next {
    let until = current.since + RETURN_LIMIT;
    let others = doubts(cluster, store, Some(&current.node));
    if !others.is_empty() {
        return Next::Stop { why: others };
    }
    let own = match current.rebooted {
        true => doubts(cluster, store, None),
        false => vec![format!("{} has not rebooted yet", current.node)],
    };
    match own.first() {
        None => Next::Completed(current.node.clone()),
        Some(first) if now < until => Next::Wait { why: first.clone(), until },
        Some(_) => {
            let mut why = vec![format!("{} is not back and well after {} s", current.node, RETURN_LIMIT.as_secs())];
            why.extend(own);
            Next::Stop { why }
        }
    }
}

/// Everything that is not well, apart from one node.
fn doubts(cluster: &Cluster<'_>, store: &[StoreMember], apart: Option<&NodeId>) -> Vec<String> {
    let counts = |node: &NodeId| apart != Some(node);
    let mut why = Vec::new();
    if let (Hold::Brake { why: hold } | Hold::Void { why: hold, .. }, None) = (&cluster.hold, apart) {
        why.push(hold.clone());
    }
    let open = |standing: Standing| standing == Standing::Open;
    let nodes = cluster.nodes.iter().filter(|n| counts(&n.name) && !open(n.standing));
    why.extend(nodes.map(|n| format!("{} is not well: {}", n.name, n.why)));
    let instances = cluster.assigned.iter().filter(|a| counts(&a.node) && !a.ready);
    why.extend(instances.map(|a| format!("{} on {} is not ready", a.instance, a.node)));
    let members = store.iter().filter(|m| counts(&m.node) && !m.healthy);
    why.extend(members.map(|m| format!("the store's member on {} is not healthy", m.node)));
    why
}
