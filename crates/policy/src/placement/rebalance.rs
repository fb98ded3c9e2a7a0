//! Better places for what runs well: one move at a time, only towards nodes that have been stable, only for a gain
//! that cannot swing back.

use super::planner::Work;
use super::{REBALANCE_EVERY, STABLE_FOR};
use crate::membership::{Hold, Standing};

impl Work<'_, '_> {
    /// Every move makes a sum of squares smaller (instances per domain, or load per node), so this comes to an end.
    pub(super) fn rebalance(&mut self) {
        if self.hold != Hold::No || !self.plan.steps.is_empty() || self.moving.iter().any(|m| *m > 0) {
            return;
        }
        let Some((key, from, to, reason)) = self.gain() else { return };
        let free_at = self.memory.last_rebalance.map(|last| last + REBALANCE_EVERY);
        if let Some(at) = free_at.filter(|at| *at > self.now) {
            self.plan.look_again(at);
            return;
        }
        self.shift(key, from, to, reason);
        if !self.plan.steps.is_empty() {
            self.memory.last_rebalance = Some(self.now);
        }
    }

    fn gain(&mut self) -> Option<((usize, u32), usize, usize, String)> {
        let now = self.now;
        let nodes = self.table.nodes;
        let mut targets = Vec::new();
        for (n, node) in nodes.iter().enumerate().filter(|(_, node)| node.standing == Standing::Open) {
            match now.since(node.stable_since) >= STABLE_FOR {
                true => targets.push(n),
                false => self.plan.look_again(node.stable_since + STABLE_FOR),
            }
        }
        for (key, copies) in &self.copies {
            let [copy] = copies.live.as_slice() else { continue };
            let from = &copy.node;
            let stays = !self.service(*key).movable || !copy.ready || copy.active();
            if stays || self.touched.contains(key) || nodes[*from].standing != Standing::Open {
                continue;
            }
            let gains = targets.iter().filter(|to| *to != from).filter_map(|to| {
                let why = self.better(key.0, *from, *to)?;
                let free = self.table.refusal(key.0, *to).is_none() && self.had_trouble(*key, &nodes[*to].name) == 0;
                free.then(|| (self.table.score(key.0, *to, 0), *to, why))
            });
            if let Some((_, to, why)) = gains.min_by_key(|(score, ..)| *score) {
                return Some((*key, *from, to, why));
            }
        }
        None
    }

    /// What is gained when one instance goes from one node to the other.
    fn better(&self, service: usize, from: usize, to: usize) -> Option<String> {
        let table = &self.table;
        let levels = table.crowd(service, from).zip(table.crowd(service, to));
        for (level, ((from_domain, here), (to_domain, there))) in levels.enumerate() {
            if from_domain == to_domain {
                continue;
            }
            if here >= there + 2 {
                let label = &table.services[service].spread[level];
                return Some(format!("{here} in its {label}, {there} in that of {}", self.name(to)));
            }
            if here < there + 1 {
                return None;
            }
        }
        let (gives, takes) = (table.part(service, from), table.part(service, to));
        let weighs = |part: [u64; 3]| part.iter().any(|p| *p > 0);
        let (from_count, to_count) = (table.instances(from), table.instances(to));
        match (weighs(gives), weighs(takes)) {
            (true, true) => {
                let (before, after) = (table.share(from, [0; 3]), table.share(to, takes));
                let margin = takes.into_iter().max().unwrap_or(0);
                (before >= after.saturating_add(margin) && before > after).then(|| {
                    format!("{} % of its node in use, then {} % of {}", before / 10_000, after / 10_000, self.name(to))
                })
            }
            (false, false) => (from_count >= to_count + 2)
                .then(|| format!("{from_count} instances on its node, {to_count} on {}", self.name(to))),
            _ => None,
        }
    }
}
