//! In a cluster: which instances are this machine's, and what is known of those on others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_cluster::members::{Assignment, InstanceState, View};
use holdfast_observe::status::State;
use holdfast_policy::InstanceId;

use super::Supervisor;
use super::definition::Definition;

/// A service's share on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Its instances that run here.
    pub ordinals: BTreeSet<u32>,
    /// Instances that may be taken down here by plan at the same time; the leader shares `max_unavailable` out.
    pub turns: u32,
    pub elsewhere: Elsewhere,
}

/// Instances of a service on other machines, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    pub started: u32,
    pub ready: u32,
    /// The job has succeeded with the present definition.
    pub completed: bool,
    /// Ordinal of a member of a redundant service that could take over.
    pub able: Option<u32>,
}

/// By service; one that is missing has nothing here.
pub type Placement = BTreeMap<Arc<str>, Placed>;

/// A share as it was kept, nothing being known of the rest.
pub fn kept_share<'a>(services: impl IntoIterator<Item = &'a str>, kept: &Assignment) -> Placement {
    let mut placement: Placement = services.into_iter().map(|name| (Arc::from(name), Placed::default())).collect();
    for id in kept.instances.keys().filter_map(|id| id.parse::<InstanceId>().ok()) {
        if let Some(placed) = placement.get_mut(&id.service) {
            placed.ordinals.insert(id.ordinal);
        }
    }
    for (service, placed) in &mut placement {
        placed.turns = kept.turns.get(&**service).copied().unwrap_or(0);
    }
    placement
}

/// What is to be thought of a machine's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Neither the store nor its own agent speaks for it.
    Void,
    /// One of them does.
    Doubtful,
    Good,
}

/// The share of machine `own`, with what is known of the rest by the `word` of each machine.
pub fn share<'a>(
    services: impl IntoIterator<Item = &'a str>,
    own: &str,
    view: &View,
    word: impl Fn(&str) -> Word,
) -> Placement {
    let assigned = view.assigned.get(own).cloned().unwrap_or_default();
    let mut placement = kept_share(services, &assigned);
    for (node, state) in view.states.iter().filter(|(node, _)| *node != own) {
        let word = word(node);
        if word == Word::Void || !view.is_current(node, state.under) {
            continue;
        }
        for instance in &state.instances {
            if let Some(placed) = placement.get_mut(instance.service.as_str()) {
                let stays = view.assigned.get(node).is_some_and(|a| a.instances.contains_key(&instance.shown.id));
                placed.elsewhere.count(instance, stays && word == Word::Good);
            }
        }
    }
    placement
}

impl Elsewhere {
    /// Not `sure` is what is ready and about to leave: after a store was set back, every machine may have some of those at once,
    /// and each would take the others' for its reason to stop its own. Nor is what stands on a machine in doubt.
    fn count(&mut self, instance: &InstanceState, sure: bool) {
        let state = instance.shown.state;
        let is_started =
            matches!(state, State::Ready | State::Running | State::Starting | State::Suspect | State::Unready);
        self.ready += u32::from(state == State::Ready && sure);
        self.started += u32::from(is_started);
        self.completed |= state == State::Completed;
        if instance.able {
            self.able = Some(self.able.map_or(instance.ordinal, |n| n.min(instance.ordinal)));
        }
    }
}

impl Supervisor {
    pub(crate) fn on_placement(&mut self, placement: Option<Placement>) {
        if self.placement != placement {
            self.placement = placement;
            self.dirty = true;
        }
    }

    /// `None` where everything runs here.
    pub(crate) fn placed(&self, definition: &Definition) -> Option<Placed> {
        let placement = self.placement.as_ref().filter(|_| !definition.internal)?;
        Some(placement.get(definition.service.name.as_str()).cloned().unwrap_or_default())
    }

    pub(crate) fn elsewhere(&self, definition: &Definition) -> Elsewhere {
        self.placed(definition).map_or(Elsewhere::default(), |p| p.elsewhere)
    }

    /// Instances of the service that should be here.
    pub(crate) fn wanted_ordinals(&self, definition: &Definition) -> Vec<u32> {
        let replicas = self.replicas(definition);
        match self.placed(definition) {
            Some(placed) => placed.ordinals.into_iter().collect(),
            None => (1..=replicas).collect(),
        }
    }

    pub(crate) fn is_wanted_here(&self, definition: &Definition, id: &InstanceId) -> bool {
        match self.placed(definition) {
            Some(placed) => placed.ordinals.contains(&id.ordinal),
            None => id.ordinal <= self.replicas(definition),
        }
    }

    /// Ready instances that this machine must keep: what others have counts too.
    pub(crate) fn min_available_here(&self, definition: &Definition) -> u32 {
        self.min_available(definition).saturating_sub(self.elsewhere(definition).ready)
    }

    /// How many may be taken down here by plan at the same time.
    pub(crate) fn turns(&self, definition: &Definition) -> u32 {
        let limit = definition.service.max_unavailable;
        self.placed(definition).map_or(limit, |placed| placed.turns.min(limit))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_cluster::members::{Assigned, NodeState};
    use holdfast_observe::status;

    use super::*;

    /// Every machine of `states` runs `web-N` ready; `assigned` says where each should be.
    fn view(states: &[(&str, u32)], assigned: &[(&str, u32)]) -> View {
        let mut view = View::default();
        for (node, ordinal) in states {
            let shown = status::Instance { id: format!("web-{ordinal}"), state: State::Ready, ..Default::default() };
            let instance = InstanceState { shown, service: "web".into(), ordinal: *ordinal, ..Default::default() };
            let state = NodeState { instances: vec![instance], ..Default::default() };
            view.states.insert((*node).into(), Arc::new(state));
        }
        for (node, ordinal) in assigned {
            let mut assignment = view.assigned.get(*node).map(|a| Assignment::clone(a)).unwrap_or_default();
            assignment.instances.insert(format!("web-{ordinal}"), Assigned::default());
            view.assigned.insert((*node).into(), Arc::new(assignment));
        }
        view
    }

    fn ready_elsewhere(view: &View, word: impl Fn(&str) -> Word) -> (u32, u32) {
        let elsewhere = share(["web"], "a", view, word)["web"].elsewhere;
        (elsewhere.ready, elsewhere.started)
    }

    #[test]
    fn what_is_about_to_leave_is_not_counted_on() {
        let placed = view(&[("a", 1), ("b", 2), ("c", 3)], &[("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(ready_elsewhere(&placed, |_| Word::Good), (2, 2));
        let set_back = view(&[("a", 1), ("b", 2), ("c", 3)], &[("b", 1), ("c", 2), ("c", 3)]);
        assert_eq!(ready_elsewhere(&set_back, |_| Word::Good), (1, 2), "web-2 of b leaves as web-1 of a does");
    }

    #[test]
    fn what_stands_on_a_machine_in_doubt_is_not_counted_on() {
        let placed = view(&[("b", 2), ("c", 3)], &[("b", 2), ("c", 3)]);
        let of = |b: Word| ready_elsewhere(&placed, move |node| if node == "b" { b } else { Word::Good });
        assert_eq!(of(Word::Doubtful), (1, 2), "it may well have been started");
        assert_eq!(of(Word::Void), (1, 1));
    }
}
