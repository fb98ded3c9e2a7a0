//! What must go, and what is under way: instances that nobody wants, and moves that are to be finished or given up.

use super::planner::{Copies, Copy, Work};
use super::{Assigned, MOVE_PATIENCE, Step};
use crate::membership::Hold;

impl<'a> Work<'a, '_> {
    /// Nobody wants them: services that are gone, ordinals above `replicas`.
    pub(super) fn retire(&mut self) {
        if self.void() {
            return;
        }
        for orphan in std::mem::take(&mut self.orphans) {
            let (instance, node) = (orphan.instance.clone(), orphan.node.clone());
            self.plan.add(Step::Remove { instance, node }, "its service is gone");
        }
        let surplus: Vec<(usize, u32)> =
            self.copies.keys().copied().filter(|key| key.1 > self.service(*key).replicas).rev().collect();
        for key in surplus {
            let copies = self.copies[&key].clone();
            let service = self.service(key);
            self.touched.insert(key);
            if copies.ready() && self.rules.budget && self.available[key.0] <= service.min_available {
                let why = format!("surplus, but only {} are ready", self.available[key.0]);
                self.plan.hold(&self.id(key), why);
                continue;
            }
            if copies.active() {
                self.plan.hold(&self.id(key), "surplus, but it is the active one: another must take over first");
                continue;
            }
            self.available[key.0] -= u32::from(copies.ready());
            for copy in &copies.live {
                self.remove(key, copy.node, format!("{} has {} replicas", service.name, service.replicas));
            }
            self.release(key, &copies);
        }
    }

    /// No longer counts as spread anywhere.
    fn release(&mut self, key: (usize, u32), copies: &Copies<'a>) {
        if let Some(copy) = copies.live.last() {
            self.table.discount(key.0, copy.node);
        }
        for lost in &copies.lost {
            let (instance, node) = (lost.instance.clone(), lost.node.clone());
            self.plan.add(Step::Remove { instance, node }, "not wanted there any more");
        }
    }

    /// Moves under way: the old copy goes when the new one is ready, the new one when it does not get there.
    pub(super) fn settle(&mut self) {
        if self.void() {
            return;
        }
        let several: Vec<(usize, u32)> =
            self.copies.iter().filter(|(_, c)| c.live.len() > 1).map(|(key, _)| *key).collect();
        for key in several {
            if self.touched.insert(key) {
                let live = self.copies[&key].live.clone();
                self.settle_one(key, &live);
            }
        }
        if self.hold == Hold::No {
            let wanted = |key: &(usize, u32)| key.1 <= self.service(*key).replicas;
            let copies = self.copies.iter().filter(|(key, c)| wanted(key) && !c.live.is_empty());
            let healed: Vec<&Assigned> = copies.flat_map(|(_, c)| c.lost.iter().copied()).collect();
            for lost in healed {
                let (instance, node) = (lost.instance.clone(), lost.node.clone());
                self.plan.add(Step::Remove { instance, node }, "it runs elsewhere, and that node is lost");
            }
        }
    }

    fn settle_one(&mut self, key: (usize, u32), live: &[Copy<'a>]) {
        let Some((newest, older)) = live.split_last() else { return };
        let to = &newest.of.node;
        let patience = newest.of.since + MOVE_PATIENCE;
        // On a suspect node it may well serve: not to be taken away for that.
        let serving = older.iter().rposition(|c| c.of.ready || c.active());
        let failed = newest.failed() || self.now >= patience;
        if let Some(keep) = serving.filter(|_| !newest.ready && failed) {
            let keep = older[keep];
            self.trouble(key, to);
            self.remove(key, newest.node, format!("not ready there, and {} still has it", keep.of.node));
            self.table.discount(key.0, newest.node);
            self.table.count(key.0, keep.node);
            self.moving[key.0] -= u32::from(older.len() == 1);
            return;
        }
        let mut left = older.len();
        for (n, old) in older.iter().enumerate() {
            let why = match (newest.ready, old.of.ready) {
                (true, _) => format!("ready on {to}"),
                (false, true) => "one old copy is enough".into(),
                (false, false) => "not ready, and it moves away from there".into(),
            };
            if !old.active() && (newest.ready || serving != Some(n)) {
                self.remove(key, old.node, why);
                left -= 1;
            }
        }
        if left == 0 {
            self.moving[key.0] -= 1;
        } else if newest.ready {
            self.plan.hold(&self.id(key), format!("active; another must take over before it leaves for {to}"));
        } else {
            self.plan.look_again(patience);
            self.plan.hold(&self.id(key), format!("waits until it is ready on {to}"));
        }
    }
}
