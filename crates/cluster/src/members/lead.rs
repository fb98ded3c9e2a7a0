//! Between the records and what policy looks at: the leader's reading and writing, without its I/O. The simulator leads by it too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_observe::status::State;
use holdfast_policy::placement::{self, Duty, Plan, Step};
use holdfast_policy::rollout::{self, Share};
use holdfast_policy::{InstanceId, Timestamp};

use super::{Assigned, Assignment, InstanceState, View};

/// By machine, then by service.
pub type Turns = BTreeMap<String, BTreeMap<String, u32>>;

/// What a service allows to be down at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub replicas: u32,
    pub min_available: u32,
    pub max_unavailable: u32,
}

/// Every instance where it is assigned, as its machine says that it is. Wall clocks of two leaders differ; only the
/// order of two copies depends on them.
pub fn assigned(now: Timestamp, wall_ms: u64, view: &View) -> Vec<placement::Assigned> {
    let mut all = Vec::new();
    for (node, assignment) in &view.assigned {
        for (name, told) in &assignment.instances {
            let Ok(instance) = name.parse::<InstanceId>() else { continue };
            let state = view.states.get(node).and_then(|s| s.instances.iter().find(|i| i.shown.id == *name));
            let current = view.states.get(node).is_some_and(|s| view.is_current(node, s.under));
            let age = Duration::from_millis(wall_ms.saturating_sub(told.since_wall_ms));
            all.push(placement::Assigned {
                ready: current && state.is_some_and(|s| s.able || is_well(s)),
                failures: state.map_or(0, |s| s.failures),
                duty: state.map_or(Duty::Replica, duty),
                ..placement::Assigned::new(instance, node, now - age)
            });
        }
    }
    all
}

fn is_well(state: &InstanceState) -> bool {
    matches!(state.shown.state, State::Ready | State::Completed)
}

fn duty(state: &InstanceState) -> Duty {
    match state.shown.role.as_deref() {
        None => Duty::Replica,
        Some("active" | "promoting" | "draining") => Duty::Active,
        Some(_) => Duty::Standby { eligible: state.able },
    }
}

/// How many instances each machine may take down by plan now.
pub fn turns(view: &View, limits: impl Fn(&str) -> Option<Limits>) -> Turns {
    let mut shares: BTreeMap<&str, BTreeMap<&str, Share>> = BTreeMap::new();
    for (node, assignment) in &view.assigned {
        let Some(state) = view.states.get(node) else { continue };
        for instance in state.instances.iter().filter(|i| assignment.instances.contains_key(&i.shown.id)) {
            let share = shares.entry(&instance.service).or_default().entry(node).or_default();
            share.held = assignment.turns.get(&instance.service).copied().unwrap_or(0);
            add(share, instance, view.is_current(node, state.under));
        }
    }
    let mut all = Turns::new();
    for (name, of) in shares {
        let Some(limits) = limits(name) else { continue };
        let min_available = limits.min_available.min(limits.replicas.saturating_sub(1));
        let list: Vec<Share> = of.values().copied().collect();
        let granted = rollout::turns(&list, limits.max_unavailable, min_available);
        for (node, turns) in of.into_keys().zip(granted).filter(|(_, turns)| *turns > 0) {
            all.entry(node.to_owned()).or_default().insert(name.to_owned(), turns);
        }
    }
    all
}

fn add(share: &mut Share, instance: &InstanceState, current: bool) {
    let ready = current && is_well(instance);
    share.ready += u32::from(ready);
    share.acting += u32::from(instance.acting);
    share.due += u32::from(instance.due);
    share.due_ready += u32::from(instance.due && ready);
    share.away += u32::from(!ready && !instance.acting && !instance.due);
}

/// What is assigned once the plan is carried out.
pub fn carried_out(
    before: &BTreeMap<String, Arc<Assignment>>,
    plan: &Plan,
    turns: &Turns,
    since_wall_ms: u64,
) -> BTreeMap<String, Assignment> {
    let mut after: BTreeMap<String, Assignment> =
        before.iter().map(|(node, assignment)| (node.clone(), (**assignment).clone())).collect();
    for planned in &plan.steps {
        match &planned.step {
            Step::Place { instance, node } | Step::Move { instance, to: node, .. } => {
                let assignment = after.entry(node.to_string()).or_default();
                assignment.instances.insert(instance.to_string(), Assigned { since_wall_ms });
            }
            Step::Remove { instance, node } => {
                if let Some(assignment) = after.get_mut(&*node.0) {
                    assignment.instances.remove(&instance.to_string());
                }
            }
        }
    }
    for (node, assignment) in &mut after {
        assignment.version = 1;
        assignment.turns = turns.get(node).cloned().unwrap_or_default();
    }
    after
}
