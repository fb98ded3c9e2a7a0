//! What should be elsewhere, and the budget of what holdfast does of its own accord.

use std::cmp::Reverse;

use super::Step;
use super::planner::Work;
use crate::membership::Standing;

impl Work<'_, '_> {
    /// Draining nodes, and nodes that may not have what they have.
    pub(super) fn clear(&mut self) {
        let mut all = self.single(|_| true);
        // The active one last, so that somebody can take over.
        all.sort_by_key(|(key, copy)| (copy.active(), key.0, Reverse(key.1)));
        for (key, copy) in all {
            let name = &copy.of.node;
            let reason = match self.table.nodes[copy.node].standing {
                Standing::Draining => format!("{name} is drained"),
                _ => match self.table.misplaced(key.0, copy.node) {
                    Some(refusal) => format!("{name} may not keep it: {}", refusal.says()),
                    None => continue,
                },
            };
            if let Some(why) = self.stays(key, copy) {
                self.plan.hold(&self.id(key), format!("{reason}; {why}"));
                continue;
            }
            if let Some(until) = self.patience(key) {
                self.plan.look_again(until);
                self.plan.hold(&self.id(key), format!("{reason}; the last move failed"));
                continue;
            }
            match self.table.best(key.0, &[copy.node], |n| self.had_trouble(key, n)) {
                Ok(to) => self.shift(key, copy.node, to, reason),
                Err(why) => self.plan.hold(&self.id(key), format!("{reason}; {why}")),
            }
        }
    }

    /// A voluntary move, within the budget of the service.
    pub(super) fn shift(&mut self, key: (usize, u32), from: usize, to: usize, reason: String) {
        if let Some(why) = self.beyond_budget(key) {
            self.plan.hold(&self.id(key), format!("{reason}; {why}"));
            return;
        }
        self.moving[key.0] += 1;
        self.table.discount(key.0, from);
        if !self.service(key).surge {
            self.available[key.0] -= u32::from(self.copies[&key].ready());
            self.remove(key, from, reason);
            return;
        }
        self.table.occupy(key.0, to);
        self.table.count(key.0, to);
        let step = Step::Move { instance: self.id(key), from: self.name(from), to: self.name(to) };
        self.plan.add(step, reason);
        self.touched.insert(key);
    }

    fn beyond_budget(&self, key: (usize, u32)) -> Option<String> {
        let service = self.service(key);
        let (moving, missing) = (self.moving[key.0], self.missing[key.0]);
        let limit = service.max_unavailable.max(1);
        if !self.rules.budget {
            return None;
        }
        if moving >= limit {
            return Some(format!("{moving} of {} moving already", service.name));
        }
        if service.surge {
            return None;
        }
        if self.copies[&key].active() {
            return Some("it is the active one: another must take over first".into());
        }
        if !self.copies[&key].ready() {
            return None;
        }
        if moving + missing >= limit {
            return Some(format!("{} of {} are away", moving + missing, service.name));
        }
        let left = self.available[key.0].saturating_sub(1);
        (left < service.min_available)
            .then(|| format!("{left} would be ready, and min_available = {}", service.min_available))
    }
}
