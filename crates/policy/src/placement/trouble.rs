//! What fails again and again where it is: it moves, with a back-off of its own, and where it failed least.

use super::planner::Work;
use super::{FAILED_MOVE_DELAY, FAILED_MOVE_DELAY_MAX};
use crate::backoff::Backoff;
use crate::{NodeId, Timestamp};

/// Nodes remembered for one instance that fails; the oldest is forgotten first.
const TROUBLE_NODES_MAX: usize = 16;

impl Work<'_, '_> {
    /// Instances whose restarts on their node are used up.
    pub(super) fn relieve(&mut self) {
        for (key, copy) in self.single(|c| c.failed() && !c.of.ready) {
            let (node, failures) = (&copy.of.node, copy.of.failures);
            self.touched.insert(key);
            if let Some(why) = self.stays(key, copy) {
                self.plan.hold(&self.id(key), format!("failed {failures} times on {node}; {why}"));
                continue;
            }
            if let Some(until) = self.patience(key) {
                self.plan.look_again(until);
                let why = format!("failed on {node} too; moves again in {} s", self.now.until(until).as_secs());
                self.plan.hold(&self.id(key), why);
                continue;
            }
            match self.table.best(key.0, &[copy.node], |n| self.had_trouble(key, n)) {
                Ok(to) => {
                    self.trouble(key, node);
                    let reason = format!("failed {failures} times on {node}");
                    self.table.discount(key.0, copy.node);
                    self.remove(key, copy.node, reason.clone());
                    self.place(key, to, reason);
                }
                Err(why) => self.plan.hold(&self.id(key), format!("failed on {node}, and {why}")),
            }
        }
    }

    pub(super) fn had_trouble(&self, key: (usize, u32), node: &NodeId) -> u64 {
        let trouble = self.memory.troubles.get(&self.id(key));
        trouble.map_or(0, |t| t.nodes.iter().filter(|(n, at)| n == node && self.recent(*at)).count() as u64)
    }

    fn recent(&self, at: Timestamp) -> bool {
        self.now.since(at) < FAILED_MOVE_DELAY_MAX
    }

    pub(super) fn trouble(&mut self, key: (usize, u32), node: &NodeId) {
        let (id, now) = (self.id(key), self.now);
        let trouble = self.memory.troubles.entry(id).or_default();
        trouble.moves = trouble.moves.saturating_add(1);
        trouble.last = now;
        trouble.nodes.push((node.clone(), now));
        if trouble.nodes.len() > TROUBLE_NODES_MAX {
            trouble.nodes.remove(0);
        }
    }

    /// When an instance that failed before may move again.
    pub(super) fn patience(&self, key: (usize, u32)) -> Option<Timestamp> {
        let backoff = Backoff { base: FAILED_MOVE_DELAY, factor: 2.0, max: FAILED_MOVE_DELAY_MAX, jitter: 0.0 };
        let trouble = self.memory.troubles.get(&self.id(key))?;
        let until = trouble.last + backoff.nominal(trouble.moves.saturating_sub(1));
        (until > self.now).then_some(until)
    }

    /// Troubles of instances that are gone, or well for long.
    pub(super) fn forget(&mut self) {
        let (table, copies, now) = (&self.table, &self.copies, self.now);
        self.memory.troubles.retain(|instance, trouble| {
            let Some(service) = table.service(&instance.service) else { return false };
            let Some(copies) = copies.get(&(service, instance.ordinal)) else { return true };
            let well = copies.live.last().is_some_and(|c| c.ready && c.of.failures == 0);
            !(well && now.since(trouble.last) >= FAILED_MOVE_DELAY_MAX)
        });
    }
}
