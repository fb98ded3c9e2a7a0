//! From what is and what should be to the steps between: what must go, what is under way, what is missing, what
//! should be elsewhere, and last what could be better.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::table::Table;
use super::{
    Assigned, Cluster, Duty, FAILED_MOVE_DELAY, FAILED_MOVE_DELAY_MAX, LOCAL_FAILURES_MAX, MOVE_PATIENCE, Plan,
    Service, Step,
};
use crate::backoff::Backoff;
use crate::membership::{Hold, Standing};
use crate::{InstanceId, NodeId, Timestamp};

/// Nodes remembered for one instance that fails; the oldest is forgotten first.
const TROUBLE_NODES_MAX: usize = 16;

/// Safety rules that a simulation can switch off, to show that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// [`Hold`] is obeyed.
    pub hold: bool,
    /// Members of a group are kept apart.
    pub distinct: bool,
    /// `min_available` and `max_unavailable` bind what holdfast does of its own accord.
    pub budget: bool,
}

impl Rules {
    pub const ALL: Rules = Rules { hold: true, distinct: true, budget: true };
}

/// What the planner remembers from plan to plan. Losing it costs back-off, never safety.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub troubles: BTreeMap<InstanceId, Trouble>,
    pub last_rebalance: Option<Timestamp>,
}

/// An instance that failed on one node after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    pub moves: u32,
    pub last: Timestamp,
    /// Where it failed, and when it was taken away.
    pub nodes: Vec<(NodeId, Timestamp)>,
}

/// Plans on the assumption that each plan is carried out; ask a clone for one that is only shown.
#[derive(Clone, Debug)]
pub struct Planner {
    pub memory: Memory,
    rules: Rules,
}

impl Default for Planner {
    fn default() -> Self {
        Planner::new(Rules::ALL, Memory::default())
    }
}

impl Planner {
    pub fn new(rules: Rules, memory: Memory) -> Planner {
        Planner { memory, rules }
    }

    pub fn plan(&mut self, now: Timestamp, cluster: &Cluster<'_>) -> Plan {
        let mut work = Work::new(now, cluster, self.rules, &mut self.memory);
        work.forget();
        work.retire();
        work.settle();
        work.fill();
        work.relieve();
        work.clear();
        work.rebalance();
        if let Hold::Void { until, .. } = work.hold {
            work.plan.look_again(until);
        }
        work.plan
    }
}

/// All copies of one instance, the latest last.
#[derive(Clone, Default)]
pub(super) struct Copies<'a> {
    pub(super) live: Vec<(usize, &'a Assigned)>,
    pub(super) lost: Vec<&'a Assigned>,
}

impl Copies<'_> {
    fn ready(&self) -> bool {
        self.live.iter().any(|(_, a)| a.ready)
    }

    fn active(&self) -> bool {
        self.live.iter().any(|(_, a)| a.duty == Duty::Active)
    }
}

pub(super) struct Work<'a, 'm> {
    pub(super) now: Timestamp,
    pub(super) hold: Hold,
    pub(super) rules: Rules,
    pub(super) memory: &'m mut Memory,
    pub(super) table: Table<'a>,
    pub(super) plan: Plan,
    /// By service and ordinal.
    pub(super) copies: BTreeMap<(usize, u32), Copies<'a>>,
    /// Assigned instances of services that are no longer wanted.
    orphans: Vec<&'a Assigned>,
    /// Per service: instances with a ready copy, instances with several copies, instances with none.
    available: Vec<u32>,
    pub(super) moving: Vec<u32>,
    missing: Vec<u32>,
    /// Instances that have a step already, or are to have none.
    pub(super) touched: BTreeSet<(usize, u32)>,
}

impl<'a, 'm> Work<'a, 'm> {
    fn new(now: Timestamp, cluster: &Cluster<'a>, rules: Rules, memory: &'m mut Memory) -> Work<'a, 'm> {
        let mut table = Table::new(cluster, rules.distinct);
        let mut copies: BTreeMap<(usize, u32), Copies<'a>> = BTreeMap::new();
        let mut orphans = Vec::new();
        for assigned in cluster.assigned {
            let Some(service) = table.service(&assigned.instance.service) else {
                orphans.push(assigned);
                continue;
            };
            let entry = copies.entry((service, assigned.instance.ordinal)).or_default();
            match table.live(assigned) {
                Some(node) => entry.live.push((node, assigned)),
                None => entry.lost.push(assigned),
            }
        }
        let mut available = vec![0; cluster.services.len()];
        let mut moving = vec![0; cluster.services.len()];
        for ((service, ordinal), copies) in &mut copies {
            copies.live.sort_by_key(|(node, a)| (a.since, *node));
            copies.live.dedup_by_key(|(node, _)| *node);
            for (node, _) in &copies.live {
                table.occupy(*service, *node);
            }
            if let Some((node, _)) = copies.live.last() {
                table.count(*service, *node);
            }
            available[*service] += u32::from(copies.ready());
            moving[*service] += u32::from(copies.live.len() > 1 && *ordinal <= cluster.services[*service].replicas);
        }
        let hold = if rules.hold { cluster.hold.clone() } else { Hold::No };
        let (plan, touched, missing) = (Plan::default(), BTreeSet::new(), vec![0; cluster.services.len()]);
        Work { now, hold, rules, memory, table, plan, copies, orphans, available, moving, missing, touched }
    }

    pub(super) fn service(&self, key: (usize, u32)) -> &'a Service {
        &self.table.services[key.0]
    }

    pub(super) fn id(&self, key: (usize, u32)) -> InstanceId {
        InstanceId::new(self.service(key).name.clone(), key.1)
    }

    pub(super) fn name(&self, node: usize) -> NodeId {
        self.table.nodes[node].name.clone()
    }

    /// Troubles of instances that are gone, or well for long.
    fn forget(&mut self) {
        let (table, copies, now) = (&self.table, &self.copies, self.now);
        self.memory.troubles.retain(|instance, trouble| {
            let Some(service) = table.service(&instance.service) else { return false };
            let Some(copies) = copies.get(&(service, instance.ordinal)) else { return true };
            let well = copies.live.last().is_some_and(|(_, a)| a.ready && a.failures == 0);
            !(well && now.since(trouble.last) >= FAILED_MOVE_DELAY_MAX)
        });
    }

    /// Nobody wants them: services that are gone, ordinals above `replicas`.
    fn retire(&mut self) {
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
            for (node, _) in &copies.live {
                self.remove(key, *node, format!("{} has {} replicas", service.name, service.replicas));
            }
            self.release(key, &copies);
        }
    }

    /// No longer counts as spread anywhere.
    fn release(&mut self, key: (usize, u32), copies: &Copies<'a>) {
        if let Some((node, _)) = copies.live.last() {
            self.table.discount(key.0, *node);
        }
        for lost in &copies.lost {
            let (instance, node) = (lost.instance.clone(), lost.node.clone());
            self.plan.add(Step::Remove { instance, node }, "not wanted there any more");
        }
    }

    pub(super) fn void(&self) -> bool {
        matches!(self.hold, Hold::Void { .. })
    }

    pub(super) fn remove(&mut self, key: (usize, u32), node: usize, reason: impl Into<String>) {
        self.table.vacate(key.0, node);
        let step = Step::Remove { instance: self.id(key), node: self.name(node) };
        self.plan.add(step, reason);
        self.touched.insert(key);
    }

    fn place(&mut self, key: (usize, u32), node: usize, reason: impl Into<String>) {
        self.table.occupy(key.0, node);
        self.table.count(key.0, node);
        let step = Step::Place { instance: self.id(key), node: self.name(node) };
        self.plan.add(step, reason);
        self.touched.insert(key);
    }

    /// Moves under way: the old copy goes when the new one is ready, the new one when it does not get there.
    fn settle(&mut self) {
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

    fn settle_one(&mut self, key: (usize, u32), live: &[(usize, &'a Assigned)]) {
        let Some(((to, newest), older)) = live.split_last() else { return };
        let late = self.now.since(newest.since) >= MOVE_PATIENCE;
        let serving = older.iter().rposition(|(_, a)| a.ready || a.duty == Duty::Active);
        let failed = newest.failures >= LOCAL_FAILURES_MAX || late;
        if let Some(keep) = serving.filter(|_| !newest.ready && failed) {
            self.trouble(key, &newest.node);
            self.remove(key, *to, format!("not ready there, and {} still has it", older[keep].1.node));
            self.table.discount(key.0, *to);
            self.table.count(key.0, older[keep].0);
            self.moving[key.0] -= u32::from(older.len() == 1);
            return;
        }
        let mut left = older.len();
        for (n, (node, old)) in older.iter().enumerate() {
            let why = match (newest.ready, old.ready) {
                (true, _) => format!("ready on {}", newest.node),
                (false, true) => "one old copy is enough".into(),
                (false, false) => "not ready, and it moves away from there".into(),
            };
            if old.duty != Duty::Active && (newest.ready || serving != Some(n)) {
                self.remove(key, *node, why);
                left -= 1;
            }
        }
        if left == 0 {
            self.moving[key.0] -= 1;
        } else if newest.ready {
            self.plan
                .hold(&self.id(key), format!("active; another must take over before it leaves for {}", newest.node));
        } else {
            self.plan.look_again(newest.since + MOVE_PATIENCE);
            self.plan.hold(&self.id(key), format!("waits until it is ready on {}", newest.node));
        }
    }

    /// Instances without a living copy.
    fn fill(&mut self) {
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

    pub(super) fn had_trouble(&self, key: (usize, u32), node: &NodeId) -> u64 {
        let trouble = self.memory.troubles.get(&self.id(key));
        trouble.map_or(0, |t| t.nodes.iter().filter(|(n, at)| n == node && self.recent(*at)).count() as u64)
    }

    fn recent(&self, at: Timestamp) -> bool {
        self.now.since(at) < FAILED_MOVE_DELAY_MAX
    }

    fn trouble(&mut self, key: (usize, u32), node: &NodeId) {
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
    fn patience(&self, key: (usize, u32)) -> Option<Timestamp> {
        let backoff = Backoff { base: FAILED_MOVE_DELAY, factor: 2.0, max: FAILED_MOVE_DELAY_MAX, jitter: 0.0 };
        let trouble = self.memory.troubles.get(&self.id(key))?;
        let until = trouble.last + backoff.nominal(trouble.moves.saturating_sub(1));
        (until > self.now).then_some(until)
    }

    /// Instances whose restarts on their node are used up.
    fn relieve(&mut self) {
        for (key, node, assigned) in self.single(|_, a| a.failures >= LOCAL_FAILURES_MAX && !a.ready) {
            self.touched.insert(key);
            if let Some(why) = self.stays(key) {
                self.plan
                    .hold(&self.id(key), format!("failed {} times on {}; {why}", assigned.failures, assigned.node));
                continue;
            }
            if let Some(until) = self.patience(key) {
                self.plan.look_again(until);
                let why =
                    format!("failed on {} too; moves again in {} s", assigned.node, self.now.until(until).as_secs());
                self.plan.hold(&self.id(key), why);
                continue;
            }
            match self.table.best(key.0, &[node], |n| self.had_trouble(key, n)) {
                Ok(to) => {
                    self.trouble(key, &assigned.node);
                    let reason = format!("failed {} times on {}", assigned.failures, assigned.node);
                    self.table.discount(key.0, node);
                    self.remove(key, node, reason.clone());
                    self.place(key, to, reason);
                }
                Err(why) => self.plan.hold(&self.id(key), format!("failed on {}, and {why}", assigned.node)),
            }
        }
    }

    /// Instances with exactly one living copy and no step yet.
    fn single(&self, which: impl Fn(usize, &Assigned) -> bool) -> Vec<((usize, u32), usize, &'a Assigned)> {
        let one = |(key, copies): (&(usize, u32), &Copies<'a>)| match copies.live.as_slice() {
            [(node, a)] if !self.touched.contains(key) && which(*node, a) => Some((*key, *node, *a)),
            _ => None,
        };
        self.copies.iter().filter_map(one).collect()
    }

    /// Why an instance on a living node may not be moved at all.
    fn stays(&self, key: (usize, u32)) -> Option<String> {
        match &self.hold {
            Hold::Brake { why } | Hold::Void { why, .. } => Some(why.clone()),
            Hold::No if !self.service(key).movable => Some("it may not be moved while its node lives".into()),
            Hold::No => None,
        }
    }

    /// Draining nodes, and nodes that may not have what they have.
    fn clear(&mut self) {
        let mut all = self.single(|_, _| true);
        // The active one last, so that somebody can take over.
        all.sort_by_key(|(key, _, a)| (a.duty == Duty::Active, key.0, Reverse(key.1)));
        for (key, node, _) in all {
            let name = self.name(node);
            let reason = match self.table.nodes[node].standing {
                Standing::Draining => format!("{name} is drained"),
                _ => match self.table.misplaced(key.0, node) {
                    Some(refusal) => format!("{name} may not keep it: {}", refusal.says()),
                    None => continue,
                },
            };
            if let Some(why) = self.stays(key) {
                self.plan.hold(&self.id(key), format!("{reason}; {why}"));
                continue;
            }
            if let Some(until) = self.patience(key) {
                self.plan.look_again(until);
                self.plan.hold(&self.id(key), format!("{reason}; the last move failed"));
                continue;
            }
            match self.table.best(key.0, &[node], |n| self.had_trouble(key, n)) {
                Ok(to) => self.shift(key, node, to, reason),
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
