//! The mass-failure brake: when many nodes look dead at once, it is most likely not the nodes.
//!
//! A switch, a bad route or an overloaded store makes half of a cluster look dead; moving its instances to the other
//! half would turn a partition into an overload. Kubernetes stops evicting at 55 % of a zone for the same reason.

use std::collections::BTreeMap;

use super::belief::Belief;
use super::{BRAKE_SHARE, SETTLED_AFTER};
use crate::{NodeId, Timestamp, Transition};

#[derive(Clone, Debug, Default)]
pub(super) struct Brake {
    /// Away at once, of how many.
    on: Option<(usize, usize)>,
    off_until: Timestamp,
}

impl Brake {
    pub(super) fn off(&mut self, until: Timestamp) {
        self.off_until = until;
    }

    pub(super) fn engaged(&self) -> Option<String> {
        let (away, of) = self.on?;
        Some(format!("brake: {away} of {of} nodes look dead at once, {} may", limit(of)))
    }

    /// Nodes that people take away, and losses dealt with, count neither as nodes nor as lost.
    pub(super) fn judge(
        &mut self,
        now: Timestamp,
        rule: bool,
        nodes: &mut BTreeMap<NodeId, Belief>,
    ) -> Option<Transition> {
        let counted = || nodes.values().filter(|b| !b.settled && !b.removing());
        let of = counted().count();
        let away = counted().filter(|b| b.away_since().is_some()).count();
        // Before the first lost node is acted on, those that just fell silent count as well: leases end one after the other.
        let lost = counted().any(Belief::lost);
        let away = match lost {
            true => counted().filter(|b| b.away_since().is_some() || b.unheard()).count(),
            false => away,
        };
        let on = (rule && away > limit(of) && now >= self.off_until).then_some((away, of));
        let was = std::mem::replace(&mut self.on, on);
        if on.is_none() {
            for belief in nodes.values_mut() {
                belief.settled |= belief.away_since().is_some_and(|since| now.since(since) >= SETTLED_AFTER);
            }
        }
        let (from, to, reason) = match (was.is_some(), on.is_some()) {
            (false, true) => ("released", "engaged", "too many nodes look dead at once: nothing is moved"),
            (true, false) => ("engaged", "released", "few enough nodes are away, or a person said so"),
            _ => return None,
        };
        Some(Transition::new(from, to, reason).with("away", away).with("nodes", of).with("limit", limit(of)))
    }
}

fn limit(nodes: usize) -> usize {
    (nodes / BRAKE_SHARE).max(1)
}
