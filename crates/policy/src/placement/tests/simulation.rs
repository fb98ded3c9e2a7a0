//! Membership and planner together on a small world of nodes, leases and links that fail: nothing is taken from a node
//! that lives and is seen, nothing moves when many go at once; and each rule switched off is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::rig::seeds;
use crate::membership::{self, Admin, BRAKE_SHARE, Event, Hold, Lease, Link, Membership, Standing};
use crate::placement::{Assigned, Capacity, Cluster, Labels, Node, Planner, Service, Step};
use crate::rng::Rng;
use crate::{InstanceId, NodeId, Timestamp};

/// What the issue asks of negative controls.
const SEEDS_TO_NOTICE: u64 = 1000;
const STEP_MILLIS: u64 = 100;
/// Of simulated time for each seed.
const LENGTH_MILLIS: u64 = 150_000;
const RENEW_MILLIS: u64 = 3_000;
const TTL_MILLIS: u64 = 10_000;
const LOOK_MILLIS: u64 = 1_000;
/// From both sources saying so to the removal, and a tick of the world.
const DECIDED_MILLIS: u64 = 1_000 + STEP_MILLIS;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The machine is off.
    Dead,
    /// It cannot reach the store.
    NoStore,
    /// Nobody can reach it, it reaches the store.
    NoLinks,
    /// The leader cannot reach it; all others do.
    OneLink,
    /// Neither.
    Isolated,
}

struct Machine {
    name: NodeId,
    fault: Option<Fault>,
    since: u64,
    until: u64,
    lease_ends: Option<u64>,
    renews_at: u64,
    /// An answer was heard since it was last gone.
    heard: bool,
}

impl Machine {
    fn store(&self) -> bool {
        !matches!(self.fault, Some(Fault::Dead | Fault::NoStore | Fault::Isolated))
    }

    /// `leader` asks.
    fn answers(&self, leader: bool) -> bool {
        match self.fault {
            None | Some(Fault::NoStore) => true,
            Some(Fault::OneLink) => !leader,
            Some(_) => false,
        }
    }

    fn gone(&self) -> bool {
        matches!(self.fault, Some(Fault::Dead | Fault::Isolated))
    }
}

struct World {
    rng: Rng,
    now: u64,
    machines: Vec<Machine>,
    membership: Membership,
    planner: Planner,
    services: Vec<Service>,
    assigned: Vec<Assigned>,
    /// Machines that went at the same moment, more than the brake lets pass.
    crowd: BTreeSet<NodeId>,
    /// The leader and the store stand still until then, and what they hear first is wrong.
    stopped: Option<u64>,
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

impl World {
    fn new(seed: u64, rules: membership::Rules) -> World {
        let mut rng = Rng::from_seed(seed);
        let now = 1_000_000;
        let machines: Vec<Machine> = (1..=2 + rng.below(6))
            .map(|n| Machine {
                name: NodeId::from(&*format!("n{n}")),
                fault: None,
                since: 0,
                until: 0,
                lease_ends: None,
                renews_at: now + rng.below(RENEW_MILLIS),
                heard: true,
            })
            .collect();
        let ttl = Duration::from_millis(TTL_MILLIS);
        let mut membership = Membership::new(at(now), machines[0].name.clone(), 7, ttl, rules);
        for machine in &machines {
            let node = machine.name.clone();
            membership.handle(at(now), Event::Known { node, boot: "b".into(), release: 7, admin: Admin::Open });
        }
        let mut service = Service::new("web", 9);
        service.min_available = 1;
        World {
            rng,
            now,
            machines,
            membership,
            planner: Planner::default(),
            services: vec![service],
            assigned: Vec::new(),
            crowd: BTreeSet::new(),
            stopped: None,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let end = self.now + LENGTH_MILLIS;
        while self.now < end {
            self.now += STEP_MILLIS;
            self.faults();
            if self.stopped.is_some_and(|until| self.now < until) {
                continue;
            }
            if self.stopped.take().is_some() {
                self.wake();
            }
            self.leases();
            if self.now.is_multiple_of(LOOK_MILLIS) {
                self.look(false);
            }
            self.membership.tick(at(self.now));
            self.plan()?;
        }
        Ok(())
    }

    fn faults(&mut self) {
        let now = self.now;
        for machine in self.machines.iter_mut().filter(|m| m.fault.is_some() && m.until <= now) {
            (machine.fault, machine.since) = (None, now);
        }
        let machines = &self.machines;
        self.crowd.retain(|name| machines.iter().any(|m| m.name == *name && m.gone()));
        if self.rng.below(300) > 0 || self.machines.iter().any(|m| m.fault.is_some()) {
            return;
        }
        let followers = self.machines.len() as u64 - 1;
        let faults = [Fault::Dead, Fault::NoStore, Fault::NoLinks, Fault::OneLink, Fault::Isolated];
        let fault = faults[usize::try_from(self.rng.below(5)).expect("small")];
        match self.rng.below(4) {
            0 => self.stopped = Some(now + 3_000 + self.rng.below(20_000)),
            1 => {
                let many = usize::try_from(1 + self.rng.below(followers)).expect("small");
                (0..many).for_each(|n| self.hurt(1 + n, fault));
                let gone = self.machines.iter().filter(|m| m.gone());
                if many > (self.machines.len() / BRAKE_SHARE).max(1) {
                    self.crowd = gone.map(|m| m.name.clone()).collect();
                }
            }
            _ => {
                let which = usize::try_from(1 + self.rng.below(followers)).expect("small");
                self.hurt(which, fault);
            }
        }
    }

    fn hurt(&mut self, which: usize, fault: Fault) {
        let now = self.now;
        let until = now + 5_000 + if self.crowd.is_empty() { 25_000 } else { 0 };
        let machine = &mut self.machines[which];
        (machine.fault, machine.since, machine.until) = (Some(fault), now, until);
        machine.heard &= !machine.gone();
    }

    /// After a stop of leader and store all leases have run out, and the looks under way fail.
    fn wake(&mut self) {
        for machine in &mut self.machines {
            machine.lease_ends = None;
            machine.renews_at = self.now + self.rng.below(RENEW_MILLIS);
            let node = machine.name.clone();
            self.membership.handle(at(self.now), Event::Lease { node, lease: Lease::Gone });
        }
        self.look(true);
    }

    fn leases(&mut self) {
        for machine in &mut self.machines {
            let node = machine.name.clone();
            if machine.store() && machine.renews_at <= self.now {
                machine.renews_at = self.now + RENEW_MILLIS;
                machine.lease_ends = Some(self.now + TTL_MILLIS);
                self.membership.handle(at(self.now), Event::Lease { node, lease: Lease::Present });
            } else if machine.lease_ends.is_some_and(|ends| ends <= self.now) {
                machine.lease_ends = None;
                self.membership.handle(at(self.now), Event::Lease { node, lease: Lease::Gone });
            }
        }
    }

    /// The word of a member arrives when the leader reaches it.
    fn look(&mut self, fails: bool) {
        let heard = |by: usize| by == 0 || self.machines[by].answers(true);
        let mut said = Vec::new();
        for by in (0..self.machines.len()).filter(|by| heard(*by)) {
            for node in (0..self.machines.len()).filter(|node| *node != by) {
                let answers = !fails && self.machines[node].answers(by == 0);
                let link = if answers { Link::Answers } else { Link::Silent };
                said.push((node, self.machines[by].name.clone(), link));
            }
        }
        for (node, by, link) in said {
            self.machines[node].heard |= link == Link::Answers;
            let node = self.machines[node].name.clone();
            self.membership.handle(at(self.now), Event::Link { node, by, link, at: at(self.now) });
        }
    }

    fn plan(&mut self) -> Result<(), String> {
        let views = self.membership.views();
        let seen = |v| Node::seen(v, Labels::new(), Capacity::default());
        let nodes: Vec<Node> = views.iter().map(seen).collect();
        let hold = self.membership.hold(at(self.now));
        let held = hold != Hold::No;
        let cluster = Cluster { nodes: &nodes, services: &self.services, assigned: &self.assigned, hold };
        let plan = self.planner.plan(at(self.now), &cluster);
        let lost: BTreeMap<&NodeId, Standing> = nodes.iter().map(|n| (&n.name, n.standing)).collect();
        for planned in &plan.steps {
            match &planned.step {
                Step::Remove { instance, node } => {
                    if lost.get(node) == Some(&Standing::Lost) {
                        self.blame(node, held).map_err(|e| format!("at {}: {}: {e}", self.now, planned.step))?;
                    }
                    self.assigned.retain(|a| !(a.instance == *instance && a.node == *node));
                }
                Step::Place { instance, node } | Step::Move { instance, to: node, .. } => {
                    self.assigned.push(Assigned::new(instance.clone(), &node.0, at(self.now)));
                }
            }
        }
        self.prompt()
    }

    /// Whether what was taken from a lost node should have stayed.
    fn blame(&self, node: &NodeId, held: bool) -> Result<(), String> {
        let machine = self.machines.iter().find(|m| m.name == *node).expect("a known node");
        if held {
            return Err("something holds".into());
        }
        if !machine.gone() && machine.heard {
            return Err(format!("it lives, with {:?} since {}", machine.fault, machine.since));
        }
        if self.crowd.contains(node) {
            return Err(format!("{:?} went at once", self.crowd));
        }
        Ok(())
    }

    /// One node that is gone alone is dealt with in time.
    fn prompt(&self) -> Result<(), String> {
        let gone: Vec<&Machine> = self.machines.iter().filter(|m| m.fault.is_some()).collect();
        let [machine] = gone.as_slice() else { return Ok(()) };
        let late = machine.since + TTL_MILLIS + DECIDED_MILLIS;
        let calm = self.membership.hold(at(self.now)) == Hold::No;
        if !machine.gone() || self.now < late || !calm || self.assigned.iter().all(|a| a.node != machine.name) {
            return Ok(());
        }
        let open = self.membership.views().iter().any(|v| v.standing == Standing::Open);
        let left: Vec<&InstanceId> =
            self.assigned.iter().filter(|a| a.node == machine.name).map(|a| &a.instance).collect();
        if open { Err(format!("{left:?} still on {} at {}", machine.name, self.now)) } else { Ok(()) }
    }
}

fn run(seed: u64, rules: membership::Rules) -> Result<(), String> {
    World::new(seed, rules).run()
}

#[test]
fn nothing_is_taken_from_a_node_that_lives_and_the_dead_one_is_dealt_with_in_time() {
    for seed in seeds() {
        if let Err(broken) = run(seed, membership::Rules::ALL) {
            panic!("seed {seed}: {broken}");
        }
    }
}

#[test]
fn each_rule_of_membership_switched_off_is_noticed() {
    let all = membership::Rules::ALL;
    for (name, says, rules) in [
        ("two-source rule", "it lives", membership::Rules { two_sources: false, ..all }),
        ("brake", "went at once", membership::Rules { brake: false, ..all }),
        ("void evidence", "it lives", membership::Rules { void_evidence: false, ..all }),
    ] {
        let notices = |seed: &u64| run(*seed, rules).is_err_and(|broken| broken.contains(says));
        let noticed = (0..SEEDS_TO_NOTICE).find(notices);
        assert!(noticed.is_some(), "{name} switched off is not noticed");
    }
}
