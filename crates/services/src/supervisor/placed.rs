//! In a cluster: which instances are this machine's, and what is known of those on others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
