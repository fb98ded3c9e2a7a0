//! The plan: what to change in the assignment, what is held back, and when to look again.

use std::fmt;

use crate::{InstanceId, NodeId, Timestamp};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Assign the instance to `node`, where it is not.
    Place { instance: InstanceId, node: NodeId },
    /// Assign it to `to` as well; `from` keeps it until a later plan removes it.
    Move { instance: InstanceId, from: NodeId, to: NodeId },
    /// Take it from `node`. A lost node learns of it when it returns.
    Remove { instance: InstanceId, node: NodeId },
}

impl Step {
    pub fn instance(&self) -> &InstanceId {
        match self {
            Step::Place { instance, .. } | Step::Move { instance, .. } | Step::Remove { instance, .. } => instance,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Place { instance, node } => write!(f, "place  {instance} on {node}"),
            Step::Move { instance, from, to } => write!(f, "move   {instance} from {from} to {to}"),
            Step::Remove { instance, node } => write!(f, "remove {instance} from {node}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub step: Step,
    pub reason: String,
}

/// An instance that is not where it should be, and why nothing is done about it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub instance: InstanceId,
    pub why: String,
}

/// Steps are to be applied in order; those of one instance together or not at all. After that, plan again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Planned>,
    pub held: Vec<Held>,
    /// Plan again at this time at the latest, although nothing changed.
    pub next: Option<Timestamp>,
}

impl Plan {
    /// Nothing to do.
    pub fn is_idle(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn add(&mut self, step: Step, reason: impl Into<String>) {
        self.steps.push(Planned { step, reason: reason.into() });
    }

    pub(super) fn hold(&mut self, instance: &InstanceId, why: impl Into<String>) {
        self.held.push(Held { instance: instance.clone(), why: why.into() });
    }

    pub(super) fn look_again(&mut self, at: Timestamp) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

/// One line a step, then one for each instance that is held.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() && self.held.is_empty() {
            return writeln!(f, "nothing to do");
        }
        for Planned { step, reason } in &self.steps {
            writeln!(f, "{step}: {reason}")?;
        }
        for Held { instance, why } in &self.held {
            writeln!(f, "hold   {instance}: {why}")?;
        }
        Ok(())
    }
}
