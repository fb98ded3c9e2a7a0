//! Once a second: what the balancers counted goes to availability, incidents and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_balancer::shared::{Counters, PROCESSES_MAX};
use holdfast_host::clock;
use holdfast_observe::metrics::{BalancerLabels, Follow, InstanceLabels, OutcomeLabels, ServiceLabels};
use holdfast_observe::status::State;
use holdfast_policy::availability::Tally;

use super::core::Core;
use super::rings::Ring;

const EVERY: Duration = Duration::from_secs(1);

/// In ticks: nobody waits for these events, and looking reads the whole ring.
const RINGS_EVERY: u64 = 5;

#[derive(Default)]
struct Followed {
    counters: BTreeMap<(String, &'static str), Follow>,
}

pub(super) fn start(core: &Arc<Core>) {
    let core = core.clone();
    tokio::spawn(async move {
        let mut followed = Followed::default();
        let mut rings = rings(&core);
        let mut ticks = 0u64;
        // What was counted before this agent lived belongs to nobody's second.
        core.planes.counted();
        loop {
            tokio::time::sleep(EVERY).await;
            requests(&core);
            export(&core, &mut followed);
            ticks += 1;
            if ticks.is_multiple_of(RINGS_EVERY) {
                for ring in &mut rings {
                    ring.copy(&core).await;
                }
            }
        }
    });
}

/// Events of the planes and of drills; those of the shims come with the shims.
fn rings(core: &Core) -> Vec<Ring> {
    let planes = (1..=PROCESSES_MAX as u32)
        .map(|ordinal| core.layout.run_dir(&super::planes::plane(ordinal).to_string()).join("plane.events"));
    planes.chain([core.layout.drill_dir().join("events")]).map(Ring::new).collect()
}

/// Requests only: ready and down seconds are counted where readiness is decided.
fn requests(core: &Core) {
    let wall = clock::wall_ms();
    for (service, counted) in core.planes.counted() {
        if counted.failed > 0 {
            core.journal.requests_failed(&service, counted.failed);
        }
        if counted.good + counted.failed + counted.degraded > 0 {
            let Counters { good, failed, degraded, .. } = counted;
            core.journal.add_minute(&service, wall, Tally { good, failed, degraded, ..Tally::default() });
        }
    }
}

fn export(core: &Core, followed: &mut Followed) {
    let metrics = &core.metrics;
    for (name, counters) in core.planes.balancer_counters() {
        for (outcome, total) in [("good", counters.good), ("failed", counters.failed), ("degraded", counters.degraded)]
        {
            let counter = metrics.balancer_requests.get_or_create(&OutcomeLabels::new(&*name, outcome)).clone();
            followed.counters.entry((name.to_string(), outcome)).or_default().update(&counter, total);
        }
        let retries = metrics.balancer_retries.get_or_create(&BalancerLabels::new(&*name)).clone();
        followed.counters.entry((name.to_string(), "retried")).or_default().update(&retries, counters.retried);
        metrics
            .balancer_processes
            .get_or_create(&BalancerLabels::new(&*name))
            .set(i64::from(super::view::planes_in_force(core)));
    }
    let seen = core.vips.seen();
    for balancer in core.in_force().iter().flat_map(|f| f.config.balancers.values()) {
        let carries = |ip: &&holdfast_config::VirtualIp| {
            seen.get(&ip.address).is_some_and(|s| s.state == "owned" || s.state == "safe_mode")
        };
        let owned = balancer.virtual_ips.iter().filter(carries).count();
        let gauge = metrics.balancer_virtual_ips_owned.get_or_create(&BalancerLabels::new(&balancer.name)).clone();
        gauge.set(i64::try_from(owned).unwrap_or(0));
    }
    let status = core.services.status();
    for (name, service) in status.services.iter().filter(|(_, s)| !s.internal) {
        metrics.service_desired_instances.get_or_create(&ServiceLabels::new(&**name)).set(i64::from(service.desired));
        for state in State::ALL {
            let count = service.instances.iter().filter(|i| super::report::state(i.state) == state).count();
            metrics
                .service_instances
                .get_or_create(&InstanceLabels::new(&**name, state.name()))
                .set(i64::try_from(count).unwrap_or(0));
        }
    }
    metrics.incidents_open.set(i64::try_from(core.journal.open_incidents()).unwrap_or(0));
    metrics.pauses.set(i64::try_from(status.pauses.len()).unwrap_or(0));
    metrics.agent_holds_lease.set(1);
}
