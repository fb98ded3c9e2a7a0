//! Instances on other machines, as this one's balancers, dependencies and status may count on them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use holdfast_cluster::members::{Idle, InstanceState, NodeState, View};
use holdfast_config::Config;
use holdfast_policy::{Incarnation, InstanceId, NodeId};
use holdfast_services::supervisor::{EndpointState, Placement, Word, share};

use super::linking::Link;
use super::{Heard, Member, Seen};

/// An endpoint on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) id: InstanceId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) addr: SocketAddr,
    pub(crate) state: EndpointState,
}

/// Neither source speaks for the machine. A store that is away says nothing about anybody.
fn is_doubtful(seen: &Seen, heard: &BTreeMap<String, Heard>, node: &str) -> bool {
    seen.fresh && !seen.view.alive.contains_key(node) && heard.get(node).is_none_or(|h| h.link != Link::Answers)
}

/// What other machines run of what they were told to, and what they are draining.
pub(crate) fn remotes(member: &Member) -> Vec<Remote> {
    let (seen, heard) = (member.seen(), member.heard());
    let mut all = Vec::new();
    for (node, state) in others(&seen.view, member) {
        let doubtful = is_doubtful(&seen, &heard, node);
        for instance in &state.instances {
            all.extend(remote(&seen.view, node, instance, doubtful));
        }
    }
    all
}

impl Member {
    /// What this machine believes of another: one source makes a suspect, only both make it lost.
    pub(crate) fn standing(&self, node: &str) -> &'static str {
        let seen = self.seen();
        let own = *node == *self.name.0;
        let link = if own { Some(Link::Answers) } else { self.heard().get(node).map(|heard| heard.link) };
        match (seen.view.alive.contains_key(node), link) {
            (true, Some(Link::Answers | Link::Unproven)) => "ready",
            (false, None | Some(Link::Silent | Link::Refused)) if seen.fresh => "lost",
            _ => "suspect",
        }
    }

    /// Why its agent's answer, or its silence, is no proof that it lives.
    pub(crate) fn doubt(&self, node: &str) -> Option<String> {
        self.heard().get(node).and_then(|heard| heard.reason.clone())
    }

    /// Balancers elsewhere have no request on it. One that cannot be asked is not waited for: its machine is in doubt,
    /// or the drain ends by its own limit.
    pub(crate) fn is_idle_elsewhere(&self, id: &InstanceId, incarnation: Incarnation) -> bool {
        let (seen, heard) = (self.seen(), self.heard());
        let name = Idle { node: self.name.to_string(), instance: id.to_string(), incarnation: incarnation.to_string() };
        let mut balancing = others(&seen.view, self).filter(|(_, state)| state.planes > 0);
        balancing.all(|(node, state)| state.idle.contains(&name) || is_doubtful(&seen, &heard, node))
    }
}

fn others<'a>(view: &'a View, member: &Member) -> impl Iterator<Item = (&'a str, &'a NodeState)> {
    let own = member.name.to_string();
    view.states.iter().filter(move |(node, _)| **node != own).map(|(node, state)| (node.as_str(), &**state))
}

fn remote(view: &View, node: &str, instance: &InstanceState, doubtful: bool) -> Option<Remote> {
    let id: InstanceId = instance.shown.id.parse().ok()?;
    let incarnation = instance.shown.incarnation.as_deref()?.parse().ok()?;
    let assigned = view.assigned.get(node).is_some_and(|a| a.instances.contains_key(&instance.shown.id));
    let state = match instance.endpoint.as_deref()? {
        "draining" => EndpointState::Draining,
        // Told to go, or lost with its machine: somebody else has its place.
        _ if !assigned => return None,
        "ready" if doubtful => EndpointState::Suspect,
        "ready" => EndpointState::Ready,
        "standby" => EndpointState::Standby,
        "suspect" => EndpointState::Suspect,
        _ => EndpointState::NotReady,
    };
    Some(Remote { id, node: node.into(), incarnation, addr: instance.addr?, state })
}

/// This machine's share of every service, with what is known of the rest.
pub(crate) fn placement(member: &Member, config: &Config) -> Placement {
    let (seen, heard) = (member.seen(), member.heard());
    let services = config.services.keys().map(String::as_str);
    share(services, &member.name.0, &seen.view, |node| {
        let answers = heard.get(node).is_some_and(|h| matches!(h.link, Link::Answers | Link::Unproven));
        match (is_doubtful(&seen, &heard, node), answers && seen.view.alive.contains_key(node)) {
            (true, _) => Word::Void,
            (false, true) => Word::Good,
            (false, false) => Word::Doubtful,
        }
    })
}
