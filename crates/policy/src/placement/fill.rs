//! What is missing: instances that have no living copy.

use super::Step;
use super::planner::Work;
use crate::NodeId;
use crate::membership::Hold;

impl Work<'_, '_> {
    /// Instances without a living copy.
    pub(super) fn fill(&mut self) {
        let mut wanted: Vec<(bool, usize, u32)> = Vec::new();
        for (s, service) in self.table.services.iter().enumerate() {
            let enough = self.available[s] >= service.min_available;
            for ordinal in 1..=service.replicas {
                if self.copies.get(&(s, ordinal)).is_none_or(|c| c.live.is_empty()) {
                    wanted.push((enough, s, ordinal));
                }
            }
        }
        wanted.sort();
        for (_, s, ordinal) in wanted {
            self.fill_one((s, ordinal));
        }
    }

    fn fill_one(&mut self, key: (usize, u32)) {
        self.missing[key.0] += 1;
        self.touched.insert(key);
        let lost = self.copies.get(&key).map(|c| c.lost.clone()).unwrap_or_default();
        let held = match (&self.hold, lost.last()) {
            (Hold::No, _) | (Hold::Brake { .. }, None) => None,
            (Hold::Brake { why } | Hold::Void { why, .. }, _) => Some(why.clone()),
        };
        if let Some(why) = held {
            self.plan.hold(&self.id(key), why);
            return;
        }
        let chosen = self.table.best(key.0, &[], |node| self.had_trouble(key, node));
        match (chosen, lost.last()) {
            (Ok(node), last) => {
                let reason = last.map_or_else(|| "wanted".into(), |a| self.gone(&a.node));
                for a in &lost {
                    let (instance, node) = (a.instance.clone(), a.node.clone());
                    let reason = self.gone(&node);
                    self.plan.add(Step::Remove { instance, node }, reason);
                }
                self.place(key, node, reason);
            }
            (Err(why), last) => {
                let lost = last.map(|a| self.gone(&a.node) + ", and ").unwrap_or_default();
                self.plan.hold(&self.id(key), format!("{lost}{why}"));
            }
        }
    }

    fn gone(&self, node: &NodeId) -> String {
        let what = if self.table.node(node).is_some() { "lost" } else { "no node of this cluster" };
        format!("{node} is {what}")
    }
}
