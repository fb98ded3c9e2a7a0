//! From what is and what should be to the steps between: what must go, what is under way, what is missing, what
//! should be elsewhere, and last what could be better.

use std::collections::{BTreeMap, BTreeSet};

use super::table::Table;
use super::{Assigned, Cluster, Duty, LOCAL_FAILURES_MAX, Plan, Service, Step};
use crate::membership::{Hold, Standing};
use crate::{InstanceId, NodeId, Timestamp};

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

/// One copy on a living node.
#[derive(Clone, Copy)]
pub(super) struct Copy<'a> {
    pub(super) node: usize,
    pub(super) ready: bool,
    pub(super) of: &'a Assigned,
}

impl Copy<'_> {
    pub(super) fn failed(&self) -> bool {
        self.of.failures >= LOCAL_FAILURES_MAX
    }

    pub(super) fn active(&self) -> bool {
        self.of.duty == Duty::Active
    }
}

/// All copies of one instance, the latest last.
#[derive(Clone, Default)]
pub(super) struct Copies<'a> {
    pub(super) live: Vec<Copy<'a>>,
    pub(super) lost: Vec<&'a Assigned>,
}

impl Copies<'_> {
    pub(super) fn ready(&self) -> bool {
        self.live.iter().any(|c| c.ready)
    }

    pub(super) fn active(&self) -> bool {
        self.live.iter().any(Copy::active)
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
    pub(super) orphans: Vec<&'a Assigned>,
    /// Per service: instances with a ready copy, instances with several copies, instances with none.
    pub(super) available: Vec<u32>,
    pub(super) moving: Vec<u32>,
    pub(super) missing: Vec<u32>,
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
                Some(node) => entry.live.push(Copy { node, ready: table.ready(node, assigned), of: assigned }),
                None => entry.lost.push(assigned),
            }
        }
        let mut available = vec![0; cluster.services.len()];
        let mut moving = vec![0; cluster.services.len()];
        for ((service, ordinal), copies) in &mut copies {
            copies.live.sort_by_key(|c| (c.of.since, c.node));
            copies.live.dedup_by_key(|c| c.node);
            for copy in &copies.live {
                table.occupy(*service, copy.node);
            }
            if let Some(copy) = copies.live.last() {
                table.count(*service, copy.node);
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

    pub(super) fn void(&self) -> bool {
        matches!(self.hold, Hold::Void { .. })
    }

    pub(super) fn remove(&mut self, key: (usize, u32), node: usize, reason: impl Into<String>) {
        self.table.vacate(key.0, node);
        let step = Step::Remove { instance: self.id(key), node: self.name(node) };
        self.plan.add(step, reason);
        self.touched.insert(key);
    }

    pub(super) fn place(&mut self, key: (usize, u32), node: usize, reason: impl Into<String>) {
        self.table.occupy(key.0, node);
        self.table.count(key.0, node);
        let step = Step::Place { instance: self.id(key), node: self.name(node) };
        self.plan.add(step, reason);
        self.touched.insert(key);
    }

    /// Instances with exactly one living copy and no step yet.
    pub(super) fn single(&self, which: impl Fn(&Copy<'a>) -> bool) -> Vec<((usize, u32), Copy<'a>)> {
        let one = |(key, copies): (&(usize, u32), &Copies<'a>)| match copies.live.as_slice() {
            [copy] if !self.touched.contains(key) && which(copy) => Some((*key, *copy)),
            _ => None,
        };
        self.copies.iter().filter_map(one).collect()
    }

    /// Why an instance on a living node may not be moved at all.
    pub(super) fn stays(&self, key: (usize, u32), copy: Copy<'a>) -> Option<String> {
        match &self.hold {
            Hold::Brake { why } | Hold::Void { why, .. } => Some(why.clone()),
            Hold::No if !self.service(key).movable => Some("it may not be moved while its node lives".into()),
            Hold::No if self.table.nodes[copy.node].standing == Standing::Suspect => {
                Some(format!("{} is suspect, and may not hear of it", copy.of.node))
            }
            Hold::No => None,
        }
    }
}
