//! Once a second: what the balancers counted goes to availability, incidents and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_observe::metrics::{BalancerLabels, Follow, InstanceLabels, OutcomeLabels, ServiceLabels};
use holdfast_observe::status::State;
use holdfast_policy::Timestamp;
use holdfast_policy::availability::Tally;

use super::core::Core;

const EVERY: Duration = Duration::from_secs(1);
/// A longer gap between two looks is time that nobody observed.
const GAP_MAX: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Followed {
    counters: BTreeMap<(String, &'static str), Follow>,
}

pub(super) fn start(core: &Arc<Core>) {
    let core = core.clone();
    tokio::spawn(async move {
        let mut last = clock::now();
        let mut followed = Followed::default();
        // What was counted before this agent lived belongs to nobody's second.
        core.planes.counted();
        loop {
            tokio::time::sleep(EVERY).await;
            let now = clock::now();
            minute(&core, last, now);
            export(&core, &mut followed);
            last = now;
        }
    });
}

fn minute(core: &Core, last: Timestamp, now: Timestamp) {
    let mut counted = core.planes.counted();
    let status = core.services.status();
    if status.stopping {
        return;
    }
    let elapsed = now.since(last);
    // Whole seconds, carried by the clock rather than by the loop: a row never has more than its minute.
    let seconds = now.as_millis() / 1000 - last.as_millis() / 1000;
    let wall = clock::wall_ms();
    for (name, service) in status.services.iter().filter(|(_, s)| !s.internal && !s.job) {
        let requests = counted.remove(&**name).unwrap_or_default();
        let up = service.ready >= service.min_available.max(1);
        let (mut ready, mut down, mut unknown) = (0, 0, 0);
        match (elapsed > GAP_MAX, up) {
            (true, _) => unknown = seconds,
            (false, true) => ready = seconds,
            (false, false) => down = seconds,
        }
        if requests.failed > 0 {
            core.journal.requests_failed(name, requests.failed);
        }
        let tally = Tally {
            good: requests.good,
            failed: requests.failed,
            degraded: requests.degraded,
            ready_seconds: ready,
            down_seconds: down,
            unknown_seconds: unknown,
        };
        core.journal.add_minute(name, wall, tally);
    }
}

fn export(core: &Core, followed: &mut Followed) {
    let metrics = &core.metrics;
    for (name, counters) in core.planes.balancer_counters() {
        for (outcome, total) in [("good", counters.good), ("failed", counters.failed), ("degraded", counters.degraded)] {
            let counter = metrics.balancer_requests.get_or_create(&OutcomeLabels::new(&*name, outcome)).clone();
            followed.counters.entry((name.to_string(), outcome)).or_default().update(&counter, total);
        }
        let retries = metrics.balancer_retries.get_or_create(&BalancerLabels::new(&*name)).clone();
        followed.counters.entry((name.to_string(), "retried")).or_default().update(&retries, counters.retried);
        metrics.balancer_processes.get_or_create(&BalancerLabels::new(&*name)).set(i64::from(super::view::planes_in_force(core)));
    }
    let status = core.services.status();
    for (name, service) in status.services.iter().filter(|(_, s)| !s.internal) {
        metrics.service_desired_instances.get_or_create(&ServiceLabels::new(&**name)).set(i64::from(service.desired));
        for state in State::ALL {
            let count = service.instances.iter().filter(|i| super::report::state(i.state) == state).count();
            metrics.service_instances.get_or_create(&InstanceLabels::new(&**name, state.name())).set(i64::try_from(count).unwrap_or(0));
        }
    }
    metrics.incidents_open.set(i64::try_from(core.journal.open_incidents()).unwrap_or(0));
    metrics.pauses.set(i64::try_from(status.pauses.len()).unwrap_or(0));
    metrics.agent_holds_lease.set(1);
}
