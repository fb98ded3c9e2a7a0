//! From the view of the store to what policy looks at, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_cluster::members::{Admin as Wanted, Links, Registration, View, lead};
use holdfast_config::Config;
use holdfast_host::clock;
use holdfast_policy::membership::{Admin, Change, Event, Hold, Lease, Link, Membership, Rules, Standing};
use holdfast_policy::placement::{self, Cluster, Constraint, Plan, Planner};
use holdfast_policy::{NodeId, Timestamp};

use super::super::linking::{Heard, LOOK_EVERY, Link as Told};
use super::super::{Member, Seen};

/// What this leader believes of everybody.
pub(super) struct Town {
    me: NodeId,
    membership: Membership,
    known: BTreeMap<String, (Arc<Registration>, Arc<Wanted>)>,
    leased: BTreeMap<String, bool>,
    counted: BTreeMap<String, u32>,
    in_touch: bool,
    /// When the planner wants to look again.
    next: Timestamp,
}

impl Town {
    pub(super) fn new(now: Timestamp, member: &Member) -> Town {
        let release = release(env!("CARGO_PKG_VERSION"));
        let ttl = member.cluster.lease.ttl;
        Town {
            me: member.name.clone(),
            membership: Membership::new(now, member.name.clone(), release, ttl, Rules::ALL),
            known: BTreeMap::new(),
            leased: BTreeMap::new(),
            counted: BTreeMap::new(),
            in_touch: true,
            next: now,
        }
    }

    pub(super) fn next_deadline(&self) -> Timestamp {
        self.membership.next_deadline().min(self.next)
    }

    pub(super) fn hold(&self, now: Timestamp) -> Hold {
        self.membership.hold(now)
    }

    /// Takes in what is new.
    pub(super) fn look(
        &mut self,
        now: Timestamp,
        seen: &Seen,
        heard: &BTreeMap<String, Heard>,
        in_touch: bool,
    ) -> Vec<Change> {
        let view = &seen.view;
        let mut changes = Vec::new();
        if std::mem::replace(&mut self.in_touch, in_touch) != in_touch {
            let event = if in_touch { Event::StoreBack } else { Event::StoreAway };
            changes.extend(self.membership.handle(now, event));
        }
        changes.extend(self.register(now, view));
        for name in view.nodes.keys() {
            let node = NodeId::from(name.as_str());
            let leased = view.alive.contains_key(name);
            // A view that is not fresh says nothing about leases that are gone.
            if (seen.fresh || leased) && self.leased.insert(name.clone(), leased) != Some(leased) {
                let lease = if leased { Lease::Present } else { Lease::Gone };
                changes.extend(self.membership.handle(now, Event::Lease { node: node.clone(), lease }));
            }
            let count = view.assigned.get(name).map_or(0, |a| u32::try_from(a.instances.len()).unwrap_or(u32::MAX));
            if self.counted.insert(name.clone(), count) != Some(count) {
                changes.extend(self.membership.handle(now, Event::Instances { node: node.clone(), count }));
            }
            if let Some((link, at)) = heard.get(name).and_then(|heard| Some((link(heard.link)?, heard.at))) {
                let event = Event::Link { node: node.clone(), by: self.me.clone(), link, at };
                changes.extend(self.membership.handle(now, event));
            }
        }
        if seen.fresh {
            changes.extend(self.testimony(now, view));
        }
        changes.extend(self.membership.tick(now));
        changes
    }

    fn register(&mut self, now: Timestamp, view: &View) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, node) in &view.nodes {
            let admin = view.admin.get(name).cloned().unwrap_or_default();
            let now_known = (node.clone(), admin);
            if self.known.get(name) == Some(&now_known) {
                continue;
            }
            let event = Event::Known {
                node: name.as_str().into(),
                boot: node.boot.as_str().into(),
                release: release(&node.program),
                admin: wanted(&now_known.1),
            };
            self.known.insert(name.clone(), now_known);
            changes.extend(self.membership.handle(now, event));
        }
        let gone: Vec<String> = self.known.keys().filter(|name| !view.nodes.contains_key(*name)).cloned().collect();
        for name in gone {
            self.known.remove(&name);
            self.leased.remove(&name);
            self.counted.remove(&name);
            changes.extend(self.membership.handle(now, Event::Forgotten { node: name.as_str().into() }));
        }
        changes
    }

    /// What living members say of others: written when it changes, and true for as long as they live. It may be one look old.
    fn testimony(&mut self, now: Timestamp, view: &View) -> Vec<Change> {
        let at =
            Timestamp::from_nanos(now.as_nanos().saturating_sub(u64::try_from(LOOK_EVERY.as_nanos()).unwrap_or(0)));
        let mut changes = Vec::new();
        let speaks = |by: &String, links: &Links| {
            **by != *self.me.0 && view.alive.contains_key(by) && view.is_current(by, links.under)
        };
        for (by, links) in view.links.iter().filter(|(by, links)| speaks(by, links)) {
            let of = [(&links.answers, Link::Answers), (&links.silent, Link::Silent), (&links.refused, Link::Refused)];
            for (nodes, link) in of {
                for node in nodes.iter().filter(|node| view.nodes.contains_key(*node)) {
                    let event = Event::Link { node: node.as_str().into(), by: by.as_str().into(), link, at };
                    changes.extend(self.membership.handle(now, event));
                }
            }
        }
        changes
    }

    pub(super) fn plan(&mut self, now: Timestamp, seen: &Seen, config: &Config, planner: &mut Planner) -> Plan {
        let nodes = self.nodes();
        let services: Vec<placement::Service> = config.services.values().map(service).collect();
        let assigned = assigned(now, &seen.view);
        let cluster =
            Cluster { nodes: &nodes, services: &services, assigned: &assigned, hold: self.membership.hold(now) };
        let plan = planner.plan(now, &cluster);
        self.next = plan.next.unwrap_or(Timestamp::NEVER);
        plan
    }

    fn nodes(&self) -> Vec<placement::Node> {
        let views = self.membership.views();
        let known = |view: holdfast_policy::membership::View| {
            let node = node(&self.known.get(&*view.node.0)?.0);
            Some(placement::Node::seen(&view, node.labels, node.capacity))
        };
        views.into_iter().filter_map(known).collect()
    }

    /// Machines that were to be removed and have nothing left.
    pub(super) fn forgotten(&self, seen: &Seen) -> Vec<String> {
        let empty = |node: &str| seen.view.assigned.get(node).is_none_or(|a| a.instances.is_empty());
        let views = self.membership.views();
        let over = views.iter().filter(|view| view.may_be_forgotten() && empty(&view.node.0));
        over.map(|view| view.node.to_string()).collect()
    }
}

fn node(registration: &Registration) -> placement::Node {
    let labels = registration.labels.iter().map(|(k, v)| (Arc::from(k.as_str()), Arc::from(v.as_str())));
    placement::Node {
        labels: labels.collect(),
        capacity: placement::Capacity {
            cpu_millis: registration.cpu_millis,
            memory_bytes: registration.memory_bytes,
            slots: None,
        },
        ..placement::Node::new(&registration.name)
    }
}

/// Machines as one that does not lead sees them.
pub(in crate::agent::member) fn nodes_as_seen(member: &Member, seen: &Seen) -> Vec<placement::Node> {
    let standing = |name: &str| match member.standing(name) {
        "lost" => Standing::Lost,
        "ready" => Standing::Open,
        _ => Standing::Suspect,
    };
    let nodes = seen.view.nodes.values();
    nodes.map(|n| placement::Node { standing: standing(&n.name), ..node(n) }).collect()
}

fn wanted(admin: &Wanted) -> Admin {
    match (admin.removing, admin.draining, admin.cordoned) {
        (true, ..) => Admin::Removing,
        (_, true, _) => Admin::Draining,
        (.., true) => Admin::Cordoned,
        _ => Admin::Open,
    }
}

/// `None` is no evidence.
fn link(told: Told) -> Option<Link> {
    match told {
        Told::Answers => Some(Link::Answers),
        Told::Silent => Some(Link::Silent),
        Told::Refused => Some(Link::Refused),
        Told::Unproven => None,
    }
}

/// Releases are counted by their minor number, as long as the major one is 0.
fn release(program: &str) -> u32 {
    program.split('.').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

pub(in crate::agent::member) fn service(service: &holdfast_config::Service) -> placement::Service {
    let constraint = |(label, values): (&String, &Vec<String>)| {
        Constraint::In(label.as_str().into(), values.iter().map(|v| v.as_str().into()).collect())
    };
    placement::Service {
        each: placement::Resources {
            cpu_millis: service.needs.cpu_millis.into(),
            memory_bytes: service.needs.memory_bytes,
        },
        constraints: service.on.iter().map(constraint).collect(),
        anti_affinity: service.apart_from.iter().map(|name| name.as_str().into()).collect(),
        min_available: service.min_available,
        max_unavailable: service.max_unavailable,
        // Two copies of one that must never run twice would wait for each other.
        surge: !service.fenced && service.kind == holdfast_config::Kind::Service,
        movable: service.kind == holdfast_config::Kind::Service,
        distinct: service.standby.is_some(),
        crowd_alone: true,
        ..placement::Service::new(&service.name, service.replicas)
    }
}

pub(in crate::agent::member) fn assigned(now: Timestamp, view: &View) -> Vec<placement::Assigned> {
    lead::assigned(now, clock::wall_ms(), view)
}

/// How many instances each machine may take down by plan now.
pub(super) fn turns(seen: &Seen, config: &Config) -> lead::Turns {
    lead::turns(&seen.view, |name| {
        let service = config.services.get(name)?;
        Some(lead::Limits {
            replicas: service.replicas,
            min_available: service.min_available,
            max_unavailable: service.max_unavailable,
        })
    })
}
