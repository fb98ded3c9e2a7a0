//! Random clusters and events: what must hold of every plan, and that planning comes to an end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::rig::{Rig, seeds};
use crate::membership::{Hold, Standing};
use crate::placement::{
    Assigned, Capacity, Cluster, Constraint, LOCAL_FAILURES_MAX, Memory, Node, Plan, Planner, Rules, Service, Step,
};
use crate::rng::Rng;
use crate::{InstanceId, NodeId, Timestamp};

/// What the issue asks of negative controls.
const SEEDS_TO_NOTICE: u64 = 1000;
const EVENTS: usize = 60;
/// Rounds of 20 s after the last event within which nothing is left to do: back-off goes up to an hour.
const ROUNDS: usize = 1500;

fn one_of<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[usize::try_from(rng.below(of.len() as u64)).expect("small")]
}

fn random(rng: &mut Rng, rules: Rules) -> Rig {
    let mut rig = Rig::read("");
    rig.planner = Planner::new(rules, Memory::default());
    for n in 0..2 + rng.below(6) {
        let mut node = Node::new(&format!("n{n}"));
        node.labels.insert("zone".into(), one_of(rng, &["a", "b"]).to_string().into());
        if rng.below(2) == 0 {
            node.labels.insert("rack".into(), one_of(rng, &["1", "2", "3"]).to_string().into());
        }
        if rng.below(2) == 0 {
            node.capacity = Capacity { cpu_millis: Some(8000), memory_bytes: None, slots: Some(6) };
        }
        rig.nodes.push(node);
    }
    for s in 0..1 + rng.below(5) {
        let replicas = u32::try_from(1 + rng.below(5)).expect("small");
        let mut service = Service::new(&format!("s{s}"), replicas);
        service.min_available = u32::try_from(rng.below(u64::from(replicas) + 1)).expect("small");
        service.max_unavailable = u32::try_from(rng.below(3)).expect("small");
        service.each.cpu_millis = rng.below(3) * 500;
        service.distinct = rng.below(4) == 0;
        service.surge = rng.below(4) > 0;
        service.movable = rng.below(5) > 0;
        if rng.below(5) == 0 {
            service.constraints.push(Constraint::Is("zone".into(), "a".into()));
        }
        if s > 0 && rng.below(5) == 0 {
            service.anti_affinity.push("s0".into());
        }
        rig.services.push(service);
    }
    rig
}

fn event(rng: &mut Rng, rig: &mut Rig) {
    let now = rig.now;
    let node = usize::try_from(rng.below(rig.nodes.len() as u64)).expect("small");
    match rng.below(13) {
        10 => set(rig, node, Standing::Suspect),
        0 => set(rig, node, Standing::Lost),
        1 => set(rig, node, Standing::Closed),
        2 => set(rig, node, Standing::Draining),
        3..6 => {
            set(rig, node, Standing::Open);
            rig.nodes[node].stable_since = now;
        }
        6 => {
            let service = usize::try_from(rng.below(rig.services.len() as u64)).expect("small");
            rig.services[service].replicas = u32::try_from(rng.below(6)).expect("small");
        }
        7 => rig.hold = Hold::Brake { why: "brake".into() },
        8 => rig.hold = Hold::Void { why: "void".into(), until: now + Duration::from_secs(1) },
        9 if !rig.assigned.is_empty() => {
            let a = usize::try_from(rng.below(rig.assigned.len() as u64)).expect("small");
            rig.assigned[a].ready = false;
            rig.assigned[a].failures = one_of(rng, &[0, LOCAL_FAILURES_MAX]).to_owned();
        }
        _ => rig.hold = Hold::No,
    }
}

fn set(rig: &mut Rig, node: usize, standing: Standing) {
    rig.nodes[node].standing = standing;
    let name = rig.nodes[node].name.clone();
    if standing == Standing::Lost {
        rig.assigned.iter_mut().filter(|a| a.node == name).for_each(|a| a.ready = false);
    }
}

/// The first rule that the plan breaks.
fn broken(rig: &Rig, plan: &Plan) -> Option<String> {
    let node = |name: &NodeId| rig.nodes.iter().find(|n| n.name == *name);
    let service = |i: &InstanceId| rig.services.iter().find(|s| s.name == i.service);
    let was: BTreeSet<&InstanceId> = rig.assigned.iter().map(|a| &a.instance).collect();
    for planned in &plan.steps {
        let instance = planned.step.instance();
        match (&rig.hold, &planned.step) {
            (Hold::Void { .. }, step) => return Some(format!("{step} on void evidence")),
            (Hold::Brake { .. }, step @ Step::Move { .. }) => return Some(format!("{step} with the brake on")),
            (Hold::Brake { .. }, step @ Step::Place { .. }) if was.contains(instance) => {
                return Some(format!("{step} with the brake on"));
            }
            _ => {}
        }
        let (Step::Place { node: to, .. } | Step::Move { to, .. }) = &planned.step else { continue };
        let (Some(to), Some(service)) = (node(to), service(instance)) else {
            return Some(format!("{} names nothing known", planned.step));
        };
        let from = match &planned.step {
            Step::Move { from, .. } => node(from),
            _ => None,
        };
        if from.is_some_and(|n| n.standing == Standing::Suspect) {
            return Some(format!("{}: it may not hear of it", planned.step));
        }
        if to.standing != Standing::Open {
            return Some(format!("{}: the node is {:?}", planned.step, to.standing));
        }
        if service.constraints.iter().any(|c| !c.holds(to)) || instance.ordinal > service.replicas {
            return Some(format!("{}: against a constraint", planned.step));
        }
    }
    after(rig, plan)
}

/// What the assignment would be, looked at as a whole.
fn after(rig: &Rig, plan: &Plan) -> Option<String> {
    let mut then = Rig { planner: rig.planner.clone(), assigned: rig.assigned.clone(), ..Rig::read("") };
    then.apply(plan);
    let lost: Vec<&NodeId> = rig.nodes.iter().filter(|n| n.standing == Standing::Lost).map(|n| &n.name).collect();
    let doubted: Vec<&NodeId> = rig.nodes.iter().filter(|n| n.standing == Standing::Suspect).map(|n| &n.name).collect();
    let live = |a: &&Assigned| !lost.contains(&&a.node);
    let available = |list: &[Assigned], s: &Service| {
        let ready =
            list.iter().filter(live).filter(|a| a.ready && !doubted.contains(&&a.node) && a.instance.service == s.name);
        ready.map(|a| a.instance.ordinal).collect::<BTreeSet<u32>>().len()
    };
    let steps: BTreeSet<&InstanceId> = plan.steps.iter().map(|p| p.step.instance()).collect();
    for service in &rig.services {
        let (before, later) = (available(&rig.assigned, service), available(&then.assigned, service));
        if later < before.min(service.min_available as usize) {
            return Some(format!(
                "{} falls from {before} to {later}, min_available = {}",
                service.name, service.min_available
            ));
        }
    }
    let mut copies: BTreeMap<&InstanceId, Vec<&NodeId>> = BTreeMap::new();
    then.assigned.iter().filter(live).for_each(|a| copies.entry(&a.instance).or_default().push(&a.node));
    let new = |instance: &InstanceId, node: &NodeId| {
        plan.steps.iter().any(|p| match &p.step {
            Step::Place { instance: i, node: to } | Step::Move { instance: i, to, .. } => i == instance && to == node,
            Step::Remove { .. } => false,
        })
    };
    for (instance, nodes) in &copies {
        let Some(service) = rig.services.iter().find(|s| s.name == instance.service) else { continue };
        let twice = nodes.iter().collect::<BTreeSet<_>>().len() < nodes.len();
        let most = if service.surge { 2 } else { 1 };
        if twice || (nodes.len() > most && steps.contains(instance)) {
            return Some(format!("{instance} is on {nodes:?}"));
        }
        for (other, others) in copies.iter().filter(|(other, _)| other != &instance) {
            let meets = nodes.iter().find(|n| others.contains(n) && new(instance, n));
            let kin = service.distinct && other.service == instance.service;
            let foe = service.anti_affinity.contains(&other.service);
            if let Some(node) = meets.filter(|_| kin || foe) {
                return Some(format!("{instance} meets {other} on {node}"));
            }
        }
    }
    None
}

fn step(rig: &mut Rig) -> Result<Plan, String> {
    let mut again = rig.planner.clone();
    let plan = rig.plan();
    let (nodes, services, assigned) = (&rig.nodes, &rig.services, &rig.assigned);
    if again.plan(rig.now, &Cluster { nodes, services, assigned, hold: rig.hold.clone() }) != plan {
        return Err("two plans of the same".into());
    }
    if let Some(broken) = broken(rig, &plan) {
        return Err(format!("{broken}\n{plan}"));
    }
    rig.apply(&plan);
    Ok(plan)
}

/// Nothing left to do, and nothing to wait for but what never comes.
fn come_to_rest(rig: &mut Rig) -> Result<(), String> {
    rig.hold = Hold::No;
    let mut idle = 0;
    for _ in 0..ROUNDS {
        let plan = step(rig)?;
        idle = if plan.is_idle() && plan.next.is_none() { idle + 1 } else { 0 };
        if idle == 5 {
            return explained(rig, &plan);
        }
        rig.settle(Duration::from_secs(20));
    }
    Err(format!("no end:\n{}", rig.plan()))
}

/// At rest everything is as it should be, or held with a reason.
fn explained(rig: &Rig, plan: &Plan) -> Result<(), String> {
    let held: BTreeSet<&InstanceId> = plan.held.iter().map(|h| &h.instance).collect();
    let standing = |a: &Assigned| rig.nodes.iter().find(|n| n.name == a.node).map(|n| n.standing);
    for service in &rig.services {
        for ordinal in 1..=service.replicas {
            let id = InstanceId::new(service.name.clone(), ordinal);
            let copies = rig.assigned.iter().filter(|a| a.instance == id && standing(a) != Some(Standing::Lost));
            let places: Vec<Option<Standing>> = copies.map(standing).collect();
            let right = places.len() == 1 && places[0] != Some(Standing::Draining);
            if !right && !held.contains(&id) {
                return Err(format!("{id} is on {places:?} nodes and nobody says why"));
            }
        }
    }
    let surplus = rig.assigned.iter().find(|a| {
        !rig.services.iter().any(|s| s.name == a.instance.service && a.instance.ordinal <= s.replicas)
            && !held.contains(&a.instance)
    });
    surplus.map_or(Ok(()), |a| Err(format!("{} is still there", a.instance)))
}

fn run(seed: u64, rules: Rules) -> Result<(), String> {
    let mut rng = Rng::from_seed(seed);
    let mut rig = random(&mut rng, rules);
    for _ in 0..EVENTS {
        event(&mut rng, &mut rig);
        step(&mut rig)?;
        match rng.below(3) {
            0 => rig.settle(Duration::from_secs(rng.below(90))),
            _ => rig.now = rig.now + Duration::from_secs(rng.below(30)),
        }
    }
    come_to_rest(&mut rig)?;
    lose_one(&mut rng, &mut rig)?;
    come_to_rest(&mut rig)
}

/// Of a cluster at rest one node is lost: only what it had moves.
fn lose_one(rng: &mut Rng, rig: &mut Rig) -> Result<(), String> {
    let node = usize::try_from(rng.below(rig.nodes.len() as u64)).expect("small");
    let name = rig.nodes[node].name.clone();
    set(rig, node, Standing::Lost);
    let had: Vec<InstanceId> = rig.assigned.iter().filter(|a| a.node == name).map(|a| a.instance.clone()).collect();
    let plan = step(rig)?;
    match plan.steps.iter().find(|p| !had.contains(p.step.instance())) {
        Some(planned) => Err(format!("{name} is lost: {}", planned.step)),
        None => Ok(()),
    }
}

#[test]
fn every_plan_of_a_random_cluster_keeps_the_rules_and_comes_to_rest() {
    for seed in seeds() {
        if let Err(broken) = run(seed, Rules::ALL) {
            panic!("seed {seed}: {broken}");
        }
    }
}

#[test]
fn each_rule_switched_off_is_noticed() {
    for (name, says, rules) in [
        ("hold", "with the brake on", Rules { hold: false, ..Rules::ALL }),
        ("hold", "on void evidence", Rules { hold: false, ..Rules::ALL }),
        ("distinct", " meets ", Rules { distinct: false, ..Rules::ALL }),
        ("budget", " falls from ", Rules { budget: false, ..Rules::ALL }),
    ] {
        let notices = |seed: &u64| run(*seed, rules).is_err_and(|broken| broken.contains(says));
        let noticed = (0..SEEDS_TO_NOTICE).find(notices);
        assert!(noticed.is_some(), "{name} switched off is not noticed");
    }
}

#[test]
fn time_zero_is_no_special_time() {
    let mut rig = Rig::read("node n1\nservice web 1");
    rig.now = Timestamp::ZERO;
    assert_eq!(rig.plan().steps.len(), 1);
}
