//! The leader: from the view of the store to what policy looks at, and back. Mirrors `agent::member::leading`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::members::{ASSIGNED, LEADER, Links, Registration, View, lead, put};
use holdfast_cluster::{Guard, Op, Txn};
use holdfast_policy::membership::{Admin, Event, Hold, Lease, Link, Membership, State};
use holdfast_policy::placement::{self, Cluster, Plan, Planner, Step};
use holdfast_policy::{NodeId, Timestamp};

use super::calls::Call;
use super::member::{Heard, TTL};
use super::wanted;
use super::world::Town;

/// Without news the planner looks again after this.
const PLAN_AGAIN: Duration = Duration::from_secs(2);
const RELEASE: u32 = 1;

pub(super) struct Leader {
    me: NodeId,
    pub(super) membership: Membership,
    planner: Planner,
    known: BTreeMap<String, Arc<Registration>>,
    leased: BTreeMap<String, bool>,
    counted: BTreeMap<String, u32>,
    in_touch: bool,
    hold: Hold,
    next: Timestamp,
    plan_at: Timestamp,
    pub(super) writing: Option<u64>,
    /// Lost machines that were emptied, and when they were lost.
    emptied: BTreeMap<NodeId, Timestamp>,
}

impl Leader {
    pub(super) fn new(local: Timestamp, me: &str, rules: super::TownRules) -> Leader {
        Leader {
            me: me.into(),
            membership: Membership::new(local, me.into(), RELEASE, TTL, rules.membership),
            planner: Planner::new(rules.planner, placement::Memory::default()),
            known: BTreeMap::new(),
            leased: BTreeMap::new(),
            counted: BTreeMap::new(),
            in_touch: true,
            hold: Hold::No,
            next: local,
            plan_at: local,
            writing: None,
            emptied: BTreeMap::new(),
        }
    }

    pub(super) fn next_deadline(&self) -> Timestamp {
        self.membership.next_deadline().min(self.plan_at.min(self.next))
    }

    /// Nodes that were just called lost.
    fn look(
        &mut self,
        local: Timestamp,
        view: &View,
        fresh: bool,
        heard: &BTreeMap<String, Heard>,
        in_touch: bool,
    ) -> Vec<(String, String)> {
        let mut changes = Vec::new();
        let membership = &mut self.membership;
        if std::mem::replace(&mut self.in_touch, in_touch) != in_touch {
            let event = if in_touch { Event::StoreBack } else { Event::StoreAway };
            changes.extend(membership.handle(local, event));
        }
        for (name, node) in &view.nodes {
            if self.known.get(name) != Some(node) {
                self.known.insert(name.clone(), node.clone());
                let (boot, admin) = (node.boot.as_str().into(), Admin::Open);
                let event = Event::Known { node: name.as_str().into(), boot, release: RELEASE, admin };
                changes.extend(membership.handle(local, event));
            }
            let node = NodeId::from(name.as_str());
            let leased = view.alive.contains_key(name);
            if (fresh || leased) && self.leased.insert(name.clone(), leased) != Some(leased) {
                let lease = if leased { Lease::Present } else { Lease::Gone };
                changes.extend(membership.handle(local, Event::Lease { node: node.clone(), lease }));
            }
            let count = view.assigned.get(name).map_or(0, |a| a.instances.len() as u32);
            if self.counted.insert(name.clone(), count) != Some(count) {
                changes.extend(membership.handle(local, Event::Instances { node: node.clone(), count }));
            }
            if let Some(heard) = heard.get(name) {
                let event = Event::Link { node, by: self.me.clone(), link: heard.link, at: heard.at };
                changes.extend(membership.handle(local, event));
            }
        }
        if fresh {
            let at = local - Duration::from_millis(500);
            let speaks = |by: &String, links: &Links| {
                **by != *self.me.0 && view.alive.contains_key(by) && view.is_current(by, links.under)
            };
            for (by, links) in view.links.iter().filter(|(by, links)| speaks(by, links)) {
                let of =
                    [(&links.answers, Link::Answers), (&links.silent, Link::Silent), (&links.refused, Link::Refused)];
                for (nodes, link) in of {
                    for node in nodes.iter().filter(|node| view.nodes.contains_key(*node)) {
                        let event = Event::Link { node: node.as_str().into(), by: by.as_str().into(), link, at };
                        changes.extend(membership.handle(local, event));
                    }
                }
            }
        }
        changes.extend(membership.tick(local));
        let told = |change: holdfast_policy::membership::Change| {
            let subject = change.node.map_or_else(|| "brake".to_owned(), |node| node.to_string());
            (subject, change.transition.to.to_string())
        };
        changes.into_iter().map(told).collect()
    }

    fn plan(&mut self, local: Timestamp, wall: u64, view: &View, services: &[placement::Service]) -> Plan {
        let known = |v: holdfast_policy::membership::View| {
            self.known.contains_key(&*v.node.0).then(|| placement::Node::seen(&v, BTreeMap::new(), Default::default()))
        };
        let nodes: Vec<placement::Node> = self.membership.views().into_iter().filter_map(known).collect();
        let assigned = lead::assigned(local, wall, view);
        let hold = self.membership.hold(local);
        let cluster = Cluster { nodes: &nodes, services, assigned: &assigned, hold };
        let plan = self.planner.plan(local, &cluster);
        self.next = plan.next.map_or(Timestamp::NEVER, |at| at.max(local + Duration::from_millis(100)));
        plan
    }

    /// Machines that this plan empties because they are lost, with those of the last minute; and how many may be.
    fn emptied(&mut self, plan: &Plan) -> (usize, usize) {
        let lost: BTreeMap<NodeId, Timestamp> = self
            .membership
            .views()
            .into_iter()
            .filter_map(|v| match v.state {
                State::Lost { since } => Some((v.node, since)),
                _ => None,
            })
            .collect();
        self.emptied.retain(|node, since| lost.get(node) == Some(since));
        for planned in &plan.steps {
            if let Step::Remove { node, .. } = &planned.step
                && let Some(since) = lost.get(node)
            {
                self.emptied.insert(node.clone(), *since);
            }
        }
        let newest = self.emptied.values().max().copied().unwrap_or_default();
        let window = holdfast_policy::membership::SETTLED_AFTER - Duration::from_secs(1);
        let together = self.emptied.values().filter(|since| newest.since(**since) < window).count();
        (together, (self.known.len() / 3).max(1))
    }
}

fn turns(town: &Town, view: &View) -> lead::Turns {
    lead::turns(view, |name| {
        let service = &town.services.get(name)?.service;
        Some(lead::Limits {
            replicas: service.replicas,
            min_available: service.min_available,
            max_unavailable: service.max_unavailable,
        })
    })
}

impl Town {
    /// One round of the leader's loop, when something is new or due.
    pub(super) fn lead(&mut self, m: usize, news: bool) {
        let now = self.now;
        let machine = &mut self.machines[m];
        let (local, wall, name) = (machine.local(now), machine.wall_ms(now), machine.name.clone());
        let Some(agent) = &mut machine.agent else { return };
        let in_touch = agent.member.in_touch(local);
        let member = &mut agent.member;
        let Some(leader) = &mut member.leader else { return };
        if leader.writing.is_some() || !news && local < leader.next_deadline() {
            return;
        }
        let changes = leader.look(local, &member.view, member.fresh, &member.heard, in_touch);
        let hold = leader.membership.hold(local);
        let due = news || !changes.is_empty() || hold != leader.hold || local >= leader.plan_at.min(leader.next);
        leader.hold = hold;
        for (node, to) in changes {
            self.note(format!("    {name} leads: {node} is {to}"));
            if to == "lost" {
                self.judge_lost(m, &node);
            }
        }
        if due {
            self.plan(m, local, wall);
        }
    }

    fn plan(&mut self, m: usize, local: Timestamp, wall: u64) {
        let services: Vec<placement::Service> = self.services.values().map(|d| wanted::placed(&d.service)).collect();
        let Some(agent) = &mut self.machines[m].agent else { return };
        let member = &mut agent.member;
        let Some(leader) = &mut member.leader else { return };
        (leader.plan_at, leader.next) = (local + PLAN_AGAIN, Timestamp::NEVER);
        if !member.fresh {
            return;
        }
        let plan = leader.plan(local, wall, &member.view, &services);
        let emptied = leader.emptied(&plan);
        let view = member.view.clone();
        let revision = member.lead.revision;
        let holds = member.lead.holds(local);
        let after = lead::carried_out(&view.assigned, &plan, &turns(self, &view), wall);
        let mut ops: Vec<Op> = Vec::new();
        for (node, assignment) in &after {
            if view.assigned.get(node).map(|known| &**known) != Some(assignment) {
                ops.extend(put(ASSIGNED, node, assignment).ok());
            }
        }
        if ops.is_empty() || !holds {
            return;
        }
        for planned in &plan.steps {
            let text = format!("    {}: {}: {}", self.machines[m].name, planned.step, planned.reason);
            self.note(text);
        }
        if emptied.0 > emptied.1 {
            self.violate(format!("{} lost machines are emptied together, the brake lets {} be", emptied.0, emptied.1));
        }
        let txn = Txn::when([Guard::created_at(LEADER, revision)]).then(ops);
        let id = self.ask(m, Call::Txn(txn));
        if let Some(leader) = self.machines[m].agent.as_mut().and_then(|agent| agent.member.leader.as_mut()) {
            leader.writing = Some(id);
        }
    }
}
