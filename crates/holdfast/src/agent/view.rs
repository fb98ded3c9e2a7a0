//! Endpoints of the services to what the balancers are told, and back: who has nothing in flight any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_balancer::snapshot::EndpointSnapshot;
use holdfast_policy::balance::State;
use holdfast_policy::{Incarnation, InstanceId, Timestamp};
use holdfast_services::supervisor::EndpointState;
use holdfast_services::{EndpointEntry, Endpoints};

use super::core::Core;
use super::snapshot::Place;

/// How often drains are looked at while there are any.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// A shim that hangs must not keep the balancers from hearing of everybody else.
const ADOPTION_TIME: Duration = Duration::from_secs(3);
/// Answered with 503 while nothing is ready.
const RETRY_AFTER_S: u32 = 1;

pub(super) fn keep_planes_told(core: &Arc<Core>) {
    for ordinal in 1..=holdfast_balancer::shared::PROCESSES_MAX as u32 {
        core.planes.keep_told(ordinal, core.services.watch_status());
    }
    let core = core.clone();
    tokio::spawn(async move {
        // What runs must be found again before anybody is told what there is.
        let mut status = core.services.watch_status();
        let adopted = status.wait_for(|s| !s.adopting);
        if tokio::time::timeout(ADOPTION_TIME, adopted).await.is_err() {
            tracing::warn!("some instances are still unknown; the balancers are told of the others");
        }
        let mut endpoints = core.services.endpoints();
        let mut ready_since = BTreeMap::new();
        let mut drained: BTreeSet<(InstanceId, Incarnation)> = BTreeSet::new();
        endpoints.mark_changed();
        loop {
            let draining = draining(&endpoints.borrow());
            drained.retain(|one| draining.contains(one));
            tokio::select! {
                changed = endpoints.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let table = endpoints.borrow_and_update().clone();
                    publish(&core, &table, &mut ready_since);
                }
                () = tokio::time::sleep(DRAIN_LOOK), if draining.len() > drained.len() => {
                    for one in draining {
                        if !drained.contains(&one) && is_drained(&core, &one.0) {
                            let _ = core.services.drained(&one.0, one.1).await;
                            drained.insert(one);
                        }
                    }
                }
            }
        }
    });
}

fn draining(table: &Endpoints) -> BTreeSet<(InstanceId, Incarnation)> {
    let leaving = table.iter().filter(|(_, e)| e.state == EndpointState::Draining);
    leaving.map(|(id, entry)| (id.clone(), entry.incarnation)).collect()
}

/// Every plane knows that it leaves, and none has a request on it.
fn is_drained(core: &Core, id: &InstanceId) -> bool {
    match core.planes.slot_of(id) {
        Some(slot) => core.planes.up_to_date() && core.planes.table.in_flight(slot) == 0,
        None => true,
    }
}

fn publish(core: &Core, table: &Endpoints, ready_since: &mut BTreeMap<InstanceId, (Incarnation, Timestamp)>) {
    let seen: BTreeMap<&InstanceId, &EndpointEntry> =
        table.iter().filter(|(id, e)| !id.service.starts_with('_') && e.state != EndpointState::Gone).collect();
    ready_since.retain(|id, (life, _)| seen.get(id).is_some_and(|e| e.incarnation == *life));
    let slots = core.planes.slots_for(seen.keys().map(|id| Arc::from(id.to_string())));
    let mut places = Vec::new();
    for (id, entry) in seen {
        let name = id.to_string();
        let Some(slot) = slots.get(name.as_str()) else {
            tracing::warn!(instance = name, "no slot left in the shared table: it gets no requests");
            continue;
        };
        if entry.state == EndpointState::Ready {
            ready_since.entry(id.clone()).or_insert_with(|| (entry.incarnation, holdfast_host::clock::now()));
        }
        let since = ready_since.get(id).map_or(0, |(_, at)| at.as_nanos());
        core.planes.table.claim_endpoint(*slot, &name, entry.incarnation);
        places.push(Place {
            id: id.clone(),
            service: id.service.clone(),
            endpoint: EndpointSnapshot {
                instance: name,
                incarnation: entry.incarnation,
                slot: *slot,
                addr: entry.endpoint.addr,
                state: state(entry.state),
                ready_since_boot_ns: since,
                retry_after_s: RETRY_AFTER_S,
            },
        });
    }
    core.planes.set_places(places);
}

fn state(state: EndpointState) -> State {
    match state {
        EndpointState::Ready => State::Ready,
        EndpointState::Suspect => State::Suspect,
        EndpointState::Draining => State::Draining,
        EndpointState::Standby | EndpointState::NotReady | EndpointState::Gone => State::NotReady,
    }
}

/// Balancer processes that run and serve by the newest snapshot.
pub(super) fn planes_in_force(core: &Core) -> u32 {
    let acked = (1..=holdfast_balancer::shared::PROCESSES_MAX as u32).filter(|n| core.planes.is_acked(*n));
    u32::try_from(acked.count()).unwrap_or(u32::MAX)
}
