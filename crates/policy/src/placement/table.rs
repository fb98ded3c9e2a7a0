//! Who runs where, counted: which nodes take an instance of a service, and which of them best.

use std::collections::BTreeMap;

use super::{Assigned, Cluster, Node, Resources, Service};
use crate::NodeId;
use crate::membership::Standing;

/// Domains counted for one service; further ones in `spread` are ignored. Hosts, racks, zones and one more.
const LEVELS_MAX: usize = 4;
/// Shares of a capacity are compared in millionths.
const WHOLE: u64 = 1_000_000;

/// Why a node does not take an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    Lost,
    Draining,
    Suspect,
    Closed,
    Here,
    Pinned,
    Constraint,
    AntiAffinity,
    Distinct,
    Cpu,
    Memory,
    Slots,
}

impl Refusal {
    /// After "it is".
    pub(super) fn says(self) -> &'static str {
        match self {
            Refusal::Lost => "lost",
            Refusal::Draining => "draining",
            Refusal::Suspect => "suspect",
            Refusal::Closed => "taking nothing new",
            Refusal::Here => "running it already",
            Refusal::Pinned => "not among its nodes",
            Refusal::Constraint => "against its constraints",
            Refusal::AntiAffinity => "running what it must not meet",
            Refusal::Distinct => "running another member",
            Refusal::Cpu => "short of CPU",
            Refusal::Memory => "short of memory",
            Refusal::Slots => "full",
        }
    }
}

/// Smaller is better: trouble had there, instances of the service per domain, share of the capacity, instances, order.
pub(super) type Score = [u64; LEVELS_MAX + 4];

#[derive(Clone, Copy, Default)]
struct Used {
    each: Resources,
    count: u64,
}

pub(super) struct Table<'a> {
    pub(super) nodes: &'a [Node],
    pub(super) services: &'a [Service],
    node_index: BTreeMap<&'a str, usize>,
    service_index: BTreeMap<&'a str, usize>,
    used: Vec<Used>,
    /// Copies of service `s` on node `n`: `on[s][n]`.
    on: Vec<Vec<u32>>,
    /// Instances of service `s` that are on node `n`, or on their way there: `home[s][n]`.
    home: Vec<Vec<u32>>,
    /// Domain of node `n` at level `l` of service `s`: `domain[s][l][n]`.
    domain: Vec<Vec<Vec<usize>>>,
    /// Instances of service `s` in a domain; an instance on the move counts where it goes.
    spread: Vec<Vec<Vec<u32>>>,
    enemies: Vec<Vec<usize>>,
    distinct: bool,
}

impl<'a> Table<'a> {
    pub(super) fn new(cluster: &Cluster<'a>, distinct: bool) -> Table<'a> {
        let node_index: BTreeMap<&str, usize> =
            cluster.nodes.iter().enumerate().map(|(i, n)| (&*n.name.0, i)).collect();
        let service_index: BTreeMap<&str, usize> =
            cluster.services.iter().enumerate().map(|(i, s)| (&*s.name, i)).collect();
        let mut known = BTreeMap::new();
        let domain: Vec<Vec<Vec<usize>>> = cluster
            .services
            .iter()
            .map(|s| {
                let levels = s.spread.iter().take(LEVELS_MAX);
                levels.map(|l| known.entry(&**l).or_insert_with(|| domains(cluster.nodes, l)).clone()).collect()
            })
            .collect();
        let spread = domain.iter().map(|levels| levels.iter().map(|_| vec![0; cluster.nodes.len() + 1]).collect());
        Table {
            nodes: cluster.nodes,
            services: cluster.services,
            used: vec![Used::default(); cluster.nodes.len()],
            on: vec![vec![0; cluster.nodes.len()]; cluster.services.len()],
            home: vec![vec![0; cluster.nodes.len()]; cluster.services.len()],
            spread: spread.collect(),
            domain,
            enemies: enemies(cluster.services, &service_index),
            node_index,
            service_index,
            distinct,
        }
    }

    pub(super) fn node(&self, name: &NodeId) -> Option<usize> {
        self.node_index.get(&*name.0).copied()
    }

    pub(super) fn service(&self, name: &str) -> Option<usize> {
        self.service_index.get(name).copied()
    }

    /// What is said to be ready on a node that is suspect counts for nothing.
    pub(super) fn ready(&self, node: usize, assigned: &Assigned) -> bool {
        assigned.ready && self.nodes[node].standing != Standing::Suspect
    }

    /// The node of `assigned`, when it lives.
    pub(super) fn live(&self, assigned: &Assigned) -> Option<usize> {
        self.node(&assigned.node).filter(|n| self.nodes[*n].standing != Standing::Lost)
    }

    /// A copy takes its resources and its place on the node.
    pub(super) fn occupy(&mut self, service: usize, node: usize) {
        let each = self.services[service].each;
        let used = &mut self.used[node];
        used.each.cpu_millis = used.each.cpu_millis.saturating_add(each.cpu_millis);
        used.each.memory_bytes = used.each.memory_bytes.saturating_add(each.memory_bytes);
        used.count += 1;
        self.on[service][node] += 1;
    }

    pub(super) fn vacate(&mut self, service: usize, node: usize) {
        let each = self.services[service].each;
        let used = &mut self.used[node];
        used.each.cpu_millis = used.each.cpu_millis.saturating_sub(each.cpu_millis);
        used.each.memory_bytes = used.each.memory_bytes.saturating_sub(each.memory_bytes);
        used.count = used.count.saturating_sub(1);
        self.on[service][node] = self.on[service][node].saturating_sub(1);
    }

    /// The instance counts for the domains of this node.
    pub(super) fn count(&mut self, service: usize, node: usize) {
        self.home[service][node] += 1;
        for (level, domains) in self.domain[service].iter().enumerate() {
            self.spread[service][level][domains[node]] += 1;
        }
    }

    pub(super) fn discount(&mut self, service: usize, node: usize) {
        self.home[service][node] = self.home[service][node].saturating_sub(1);
        for (level, domains) in self.domain[service].iter().enumerate() {
            let count = &mut self.spread[service][level][domains[node]];
            *count = count.saturating_sub(1);
        }
    }

    /// Why the node must not keep an instance that it runs; capacity aside, and what is about to leave.
    pub(super) fn misplaced(&self, service: usize, node: usize) -> Option<Refusal> {
        if let Some(refusal) = self.barred(service, node) {
            return Some(refusal);
        }
        if self.enemies[service].iter().any(|e| self.home[*e][node] > 0) {
            return Some(Refusal::AntiAffinity);
        }
        (self.apart(&self.services[service]) && self.home[service][node] > 1).then_some(Refusal::Distinct)
    }

    fn barred(&self, service: usize, node: usize) -> Option<Refusal> {
        let s = &self.services[service];
        let n = &self.nodes[node];
        if !s.pinned.is_empty() && !s.pinned.contains(&n.name) {
            return Some(Refusal::Pinned);
        }
        s.constraints.iter().any(|c| !c.holds(n)).then_some(Refusal::Constraint)
    }

    fn apart(&self, service: &Service) -> bool {
        self.distinct && service.distinct && !(service.crowd_alone && self.nodes.len() == 1)
    }

    /// Why the node takes no further instance of the service.
    pub(super) fn refusal(&self, service: usize, node: usize) -> Option<Refusal> {
        match self.nodes[node].standing {
            Standing::Open => {}
            Standing::Closed => return Some(Refusal::Closed),
            Standing::Suspect => return Some(Refusal::Suspect),
            Standing::Draining => return Some(Refusal::Draining),
            Standing::Lost => return Some(Refusal::Lost),
        }
        if let Some(refusal) = self.barred(service, node) {
            return Some(refusal);
        }
        if self.enemies[service].iter().any(|e| self.on[*e][node] > 0) {
            return Some(Refusal::AntiAffinity);
        }
        let s = &self.services[service];
        if self.apart(s) && self.on[service][node] > 0 {
            return Some(Refusal::Distinct);
        }
        let (used, capacity) = (&self.used[node], &self.nodes[node].capacity);
        let over = |used: u64, more: u64, limit: Option<u64>| limit.is_some_and(|l| used.saturating_add(more) > l);
        if over(used.each.cpu_millis, s.each.cpu_millis, capacity.cpu_millis) {
            return Some(Refusal::Cpu);
        }
        if over(used.each.memory_bytes, s.each.memory_bytes, capacity.memory_bytes) {
            return Some(Refusal::Memory);
        }
        over(used.count, 1, capacity.slots.map(u64::from)).then_some(Refusal::Slots)
    }

    /// The best node for one more instance; `here` has it already, `trouble` says how often it failed on a node.
    pub(super) fn best(
        &self,
        service: usize,
        here: &[usize],
        trouble: impl Fn(&NodeId) -> u64,
    ) -> Result<usize, String> {
        let mut refused: BTreeMap<Refusal, usize> = BTreeMap::new();
        let mut best: Option<(Score, usize)> = None;
        for node in 0..self.nodes.len() {
            let refusal = match here.contains(&node) {
                true => Some(Refusal::Here),
                false => self.refusal(service, node),
            };
            if let Some(refusal) = refusal {
                *refused.entry(refusal).or_default() += 1;
                continue;
            }
            let score = self.score(service, node, trouble(&self.nodes[node].name));
            if best.is_none_or(|(least, _)| score < least) {
                best = Some((score, node));
            }
        }
        best.map(|(_, node)| node).ok_or_else(|| {
            let why: Vec<String> = refused.iter().map(|(r, n)| format!("{n} {}", r.says())).collect();
            if why.is_empty() { "there is no node".into() } else { format!("no node takes it: {}", why.join(", ")) }
        })
    }

    pub(super) fn score(&self, service: usize, node: usize, trouble: u64) -> Score {
        let mut score = [0; LEVELS_MAX + 4];
        score[0] = trouble;
        for (level, domains) in self.domain[service].iter().enumerate() {
            score[1 + level] = u64::from(self.spread[service][level][domains[node]]);
        }
        score[LEVELS_MAX + 1] = self.share(node, self.part(service, node));
        score[LEVELS_MAX + 2] = self.used[node].count;
        score[LEVELS_MAX + 3] = node as u64;
        score
    }

    /// Instances of the service per domain of the node, level by level.
    pub(super) fn crowd(&self, service: usize, node: usize) -> impl Iterator<Item = (usize, u32)> {
        let levels = self.domain[service].iter().zip(&self.spread[service]);
        levels.map(move |(domains, counts)| (domains[node], counts[domains[node]]))
    }

    /// The scarcest share of the node's capacity that one instance takes: millionths for CPU, memory, slots.
    pub(super) fn part(&self, service: usize, node: usize) -> [u64; 3] {
        let (each, capacity) = (&self.services[service].each, &self.nodes[node].capacity);
        [
            part_of(each.cpu_millis, capacity.cpu_millis),
            part_of(each.memory_bytes, capacity.memory_bytes),
            part_of(1, capacity.slots.map(u64::from)),
        ]
    }

    /// The share of the scarcest resource in use on the node, with `more`, in millionths.
    pub(super) fn share(&self, node: usize, more: [u64; 3]) -> u64 {
        let (used, capacity) = (&self.used[node], &self.nodes[node].capacity);
        let now = [
            part_of(used.each.cpu_millis, capacity.cpu_millis),
            part_of(used.each.memory_bytes, capacity.memory_bytes),
            part_of(used.count, capacity.slots.map(u64::from)),
        ];
        now.iter().zip(more).map(|(a, b)| a.saturating_add(b)).max().unwrap_or(0)
    }

    pub(super) fn instances(&self, node: usize) -> u64 {
        self.used[node].count
    }
}

fn part_of(part: u64, whole: Option<u64>) -> u64 {
    whole.map_or(0, |w| u64::try_from(u128::from(part) * u128::from(WHOLE) / u128::from(w.max(1))).unwrap_or(u64::MAX))
}

/// The number of each node's domain; all nodes without the label share number 0.
fn domains(nodes: &[Node], label: &str) -> Vec<usize> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let number = |node: &'_ Node| node.label(label).map(str::to_owned);
    let values: Vec<Option<String>> = nodes.iter().map(number).collect();
    for value in values.iter().flatten() {
        let next = numbers.len() + 1;
        numbers.entry(value).or_insert(next);
    }
    values.iter().map(|v| v.as_deref().map_or(0, |v| numbers[v])).collect()
}

fn enemies(services: &[Service], index: &BTreeMap<&str, usize>) -> Vec<Vec<usize>> {
    let mut enemies = vec![Vec::new(); services.len()];
    for (i, service) in services.iter().enumerate() {
        for j in service.anti_affinity.iter().filter_map(|name| index.get(&**name).copied()).filter(|j| *j != i) {
            enemies[i].push(j);
            enemies[j].push(i);
        }
    }
    enemies
}
