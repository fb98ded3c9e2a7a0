//! Configuration and endpoints to what the balancer processes are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_balancer::snapshot::{
    AccessLog, BalancerSnapshot, Eject, EndpointSnapshot, Fallback, Limits, Retry, Snapshot, Timeouts, VERSION,
};
use holdfast_config::{Algorithm, Balancer, Config};
use holdfast_policy::time::millis;
use holdfast_policy::{Incarnation, InstanceId, NodeId, balance};

use crate::layout::Layout;

/// Access logs are rotated at this size, and so many old ones are kept for each process.
const ACCESS_LOG_BYTES: u64 = 64 << 20;
const ACCESS_LOGS_KEPT: u32 = 5;

/// Indices into the shared table: the same name keeps its index for as long as it exists, and a freed one is
/// given away last, because a plane that has not seen the newest snapshot may still count in it.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    taken: BTreeMap<Arc<str>, u16>,
    next: u16,
}

impl Slots {
    pub(crate) fn assign(&mut self, names: impl Iterator<Item = Arc<str>>, limit: u16) -> BTreeMap<Arc<str>, u16> {
        let names: BTreeSet<Arc<str>> = names.collect();
        self.taken.retain(|name, _| names.contains(name));
        let mut used: BTreeSet<u16> = self.taken.values().copied().collect();
        for name in names {
            if self.taken.contains_key(&name) {
                continue;
            }
            let free = (0..limit).map(|n| (self.next + n) % limit).find(|slot| !used.contains(slot));
            if let Some(slot) = free {
                used.insert(slot);
                self.next = (slot + 1) % limit;
                self.taken.insert(name, slot);
            }
        }
        self.taken.clone()
    }
}

/// One instance as balancers may see it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) id: InstanceId,
    /// The other machine that it is on.
    pub(crate) node: Option<NodeId>,
    /// What it is called in the shared table: `web-2`, or `web-2@n3`.
    pub(crate) name: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) draining: bool,
    pub(crate) endpoint: EndpointSnapshot,
    pub(crate) service: Arc<str>,
}

pub(crate) fn build(
    config: &Config,
    layout: &Layout,
    places: &[Place],
    balancer_slots: &BTreeMap<Arc<str>, u16>,
    order: (u64, u64),
) -> Snapshot {
    let balancers = config
        .balancers
        .values()
        .filter_map(|balancer| {
            let slot = *balancer_slots.get(balancer.name.as_str())?;
            Some(one(config, balancer, layout, places, slot))
        })
        .collect();
    Snapshot { version: VERSION, epoch: order.0, seq: order.1, processes: config.node.balancer_processes, balancers }
}

fn one(config: &Config, balancer: &Balancer, layout: &Layout, places: &[Place], slot: u16) -> BalancerSnapshot {
    BalancerSnapshot {
        name: balancer.name.clone(),
        service: balancer.service.clone(),
        slot,
        listen: balancer.listen.clone(),
        algorithm: match balancer.algorithm {
            Algorithm::RoundRobin => balance::Algorithm::RoundRobin,
            Algorithm::LeastRequests => balance::Algorithm::LeastRequests,
            Algorithm::P2c => balance::Algorithm::P2c,
        },
        retry: Retry {
            enabled: balancer.retry.enabled,
            tries_max: balancer.retry.tries_max,
            budget_ratio: balancer.retry.budget_ratio,
            budget_min: balancer.retry.budget_min,
            statuses: balancer.retry.statuses.clone(),
        },
        eject: Eject {
            enabled: balancer.eject.enabled,
            failures: balancer.eject.failures,
            gateway_errors: balancer.eject.gateway_errors,
            base_ms: millis(balancer.eject.base),
            max_ms: millis(balancer.eject.max),
        },
        slow_start_ms: millis(balancer.slow_start),
        timeouts: Timeouts {
            connect_ms: millis(balancer.timeouts.connect),
            first_byte_ms: millis(balancer.timeouts.first_byte),
            idle_ms: millis(balancer.timeouts.idle),
            total_ms: millis(balancer.timeouts.total),
            request_head_ms: millis(balancer.timeouts.request_head),
            keep_alive_ms: millis(balancer.timeouts.keep_alive),
            ..Timeouts::default()
        },
        limits: Limits {
            connections: balancer.limits.connections,
            header_bytes: balancer.limits.header_bytes,
            headers: balancer.limits.headers,
            body_bytes: balancer.limits.body_bytes,
            in_flight: balancer.limits.in_flight,
        },
        access_log: balancer.access_log.then(|| AccessLog {
            path: layout.data_dir.join("plane").join(format!("access-{}.log", balancer.name)),
            size_bytes_max: ACCESS_LOG_BYTES,
            keep: ACCESS_LOGS_KEPT,
        }),
        redundant: config.services.get(&balancer.service).is_some_and(|s| s.standby.is_some()),
        trusted_proxies: balancer.trusted_proxies.clone(),
        fallback: fallback(config, balancer, layout),
        endpoints: places.iter().filter(|p| *p.service == *balancer.service).map(|p| p.endpoint.clone()).collect(),
    }
}

/// None on a machine without the plane of tasks: its balancers answer 503, as they do when the plane is away.
fn fallback(config: &Config, balancer: &Balancer, layout: &Layout) -> Option<Fallback> {
    let fallback = balancer.fallback.as_ref().filter(|_| config.tasks.is_some())?;
    Some(Fallback {
        socket: layout.run_dir(&super::tasks::instance().to_string()).join(holdfast_tasks::control::SOCKET),
        queue: config.queues.get(&fallback.queue)?.sqs_name(),
        key: fallback.key.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_stays_with_its_name_and_a_freed_one_is_given_away_last() {
        let mut slots = Slots::default();
        let names = |text: &str| text.split(' ').map(Arc::from).collect::<Vec<Arc<str>>>().into_iter();
        let first = slots.assign(names("a b c"), 4);
        let second = slots.assign(names("a c d"), 4);
        assert_eq!(second["a"], first["a"]);
        assert_eq!(second["c"], first["c"]);
        assert_ne!(second["d"], first["b"], "b's slot is still counted in by planes with the old snapshot");
        let third = slots.assign(names("a c d e"), 4);
        assert_eq!(third["e"], first["b"]);
    }
}
