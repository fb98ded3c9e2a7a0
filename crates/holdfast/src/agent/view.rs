//! Endpoints of the services to what the balancers are told, and back: who has nothing in flight any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_balancer::snapshot::EndpointSnapshot;
use holdfast_policy::balance::State;
use holdfast_policy::{Incarnation, InstanceId, NodeId, Timestamp};
use holdfast_services::Endpoints;
use holdfast_services::supervisor::EndpointState;

use super::core::Core;
use super::member::remotes;
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
        let mut remotes = core.watch_remotes();
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
                changed = remotes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    remotes.mark_unchanged();
                    let table = endpoints.borrow().clone();
                    publish(&core, &table, &mut ready_since);
                }
                () = tokio::time::sleep(DRAIN_LOOK), if draining.len() > drained.len() => {
                    for one in draining {
                        if !drained.contains(&one) && is_drained(&core, &one.0, one.1) {
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

/// Every plane, here and on other machines, knows that it leaves, and none has a request on it.
fn is_drained(core: &Core, id: &InstanceId, incarnation: Incarnation) -> bool {
    if core.member.as_ref().is_some_and(|member| !member.is_idle_elsewhere(id, incarnation)) {
        return false;
    }
    match core.planes.slot_of(id) {
        Some(slot) => core.planes.up_to_date() && core.planes.table.in_flight(slot) == 0,
        None => true,
    }
}

/// An endpoint as the balancers are to see it.
struct Seen {
    id: InstanceId,
    node: Option<NodeId>,
    name: String,
    incarnation: Incarnation,
    addr: SocketAddr,
    state: EndpointState,
}

fn publish(core: &Core, table: &Endpoints, ready_since: &mut BTreeMap<String, (Incarnation, Timestamp)>) {
    let here = table.iter().filter(|(id, _)| !id.service.starts_with('_')).map(|(id, e)| Seen {
        id: id.clone(),
        node: None,
        name: id.to_string(),
        incarnation: e.incarnation,
        addr: e.endpoint.addr,
        state: e.state,
    });
    let in_force = core.in_force();
    let balanced: BTreeSet<&str> =
        in_force.iter().flat_map(|f| f.config.balancers.values()).map(|b| b.service.as_str()).collect();
    let remotes = core.member.iter().flat_map(|member| remotes(member));
    let elsewhere = remotes.filter(|r| balanced.contains(&*r.id.service)).map(|r| Seen {
        name: format!("{}@{}", r.id, r.node),
        id: r.id,
        node: Some(r.node),
        incarnation: r.incarnation,
        addr: r.addr,
        state: r.state,
    });
    let seen: Vec<Seen> = here.chain(elsewhere).filter(|e| e.state != EndpointState::Gone).collect();
    ready_since.retain(|name, (life, _)| seen.iter().any(|e| e.name == *name && e.incarnation == *life));
    let slots = core.planes.slots_for(seen.iter().map(|e| Arc::from(e.name.as_str())));
    let mut places = Vec::new();
    let mut without = 0u32;
    for one in seen {
        let Some(slot) = slots.get(one.name.as_str()) else {
            without += 1;
            continue;
        };
        if one.state == EndpointState::Ready {
            ready_since.entry(one.name.clone()).or_insert_with(|| (one.incarnation, holdfast_host::clock::now()));
        }
        let since = ready_since.get(&one.name).map_or(0, |(_, at)| at.as_nanos());
        core.planes.table.claim_endpoint(*slot, &one.name, one.incarnation);
        places.push(Place {
            service: one.id.service.clone(),
            incarnation: one.incarnation,
            draining: one.state == EndpointState::Draining,
            endpoint: EndpointSnapshot {
                instance: one.name.clone(),
                incarnation: one.incarnation,
                slot: *slot,
                addr: one.addr,
                state: state(one.state),
                ready_since_boot_ns: since,
                retry_after_s: RETRY_AFTER_S,
            },
            id: one.id,
            node: one.node,
            name: one.name,
        });
    }
    if without > 0 {
        tracing::warn!(without, "no slots left in the shared table: some instances get no requests");
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
