//! Tells the others what runs here, when it changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::Txn;
use holdfast_cluster::members::{Idle, InstanceState, NodeState, STATE, put};
use holdfast_host::clock;
use holdfast_observe::status::State;
use holdfast_policy::time::millis;
use holdfast_services::supervisor::EndpointState;

use super::Member;
use crate::agent::core::Core;
use crate::agent::{report, view};

/// Changes within this time share one write.
const GATHER: Duration = Duration::from_millis(10);
/// What has no signal of its own (drains, troubles, open incidents) is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn run(member: Arc<Member>, core: Arc<Core>) {
    let mut status = core.services.watch_status();
    let mut endpoints = core.services.endpoints();
    let mut told: Option<NodeState> = None;
    loop {
        let seen = member.seen();
        // Somebody else's state must not be written over, nor a store that knows nothing yet of who is a member.
        let is_member = seen.view.alive.contains_key(&*member.name.0) && seen.fresh;
        let mut pause = LOOK_EVERY;
        if is_member {
            let now = state(&member, &core);
            let stored = seen.view.states.contains_key(&*member.name.0);
            if told.as_ref() != Some(&now) || !stored {
                match write(&member, &now).await {
                    true => told = Some(now),
                    false => pause = AGAIN,
                }
            }
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            changed = endpoints.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
        tokio::time::sleep(GATHER).await;
        status.mark_unchanged();
        endpoints.mark_unchanged();
    }
}

async fn write(member: &Member, state: &NodeState) -> bool {
    let Ok(op) = put(STATE, &member.name.0, state) else { return false };
    match member.store.txn(Txn::always([op])).await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, "cannot tell what runs here yet");
            false
        }
    }
}

fn state(member: &Member, core: &Core) -> NodeState {
    let status = core.services.status();
    let endpoints = core.services.endpoints();
    let endpoints = endpoints.borrow();
    let now = clock::now();
    let wall = clock::wall_ms();
    let mut instances = Vec::new();
    for (name, service) in status.services.iter().filter(|(_, s)| !s.internal) {
        let shown = report::service(service, now);
        for (seen, mut shown) in service.instances.iter().zip(shown.instances) {
            let entry = endpoints.get(&seen.id);
            // Rounded, because the two clocks are read one after the other.
            let since_wall_ms = wall.saturating_sub(millis(now.since(seen.since))) / 100 * 100;
            shown.since_ms = 0;
            // Ready is what takes requests: the next one may be taken down only then.
            if shown.state == State::Ready && !core.planes.is_known(&seen.id) {
                shown.state = State::Running;
            }
            // It counts down.
            shown.next = None;
            shown.node = Some(member.name.to_string());
            instances.push(InstanceState {
                shown,
                since_wall_ms,
                service: name.to_string(),
                ordinal: seen.id.ordinal,
                addr: entry.map(|e| e.endpoint.addr),
                endpoint: entry.and_then(|e| spelled(e.state)).map(str::to_owned),
                failures: seen.failures,
                outdated: seen.outdated,
                acting: seen.acting,
                due: seen.due,
                able: seen.role == Some("standby") && matches!(seen.able, Some(Ok(_))),
            });
        }
    }
    NodeState {
        version: 1,
        under: member.seen().view.under(&member.name.0),
        revision: core.in_force().map_or(0, |f| f.desired.revision),
        instances,
        planes: view::planes_in_force(core),
        idle: idle(core),
        trouble: core.trouble().map(|f| f.to_string()),
        incidents: core.journal.open_incidents(),
    }
}

fn spelled(state: EndpointState) -> Option<&'static str> {
    match state {
        EndpointState::Ready => Some("ready"),
        EndpointState::Standby => Some("standby"),
        EndpointState::Suspect => Some("suspect"),
        EndpointState::NotReady => Some("not_ready"),
        EndpointState::Draining => Some("draining"),
        EndpointState::Gone => None,
    }
}

/// Endpoints elsewhere that leave, and that no balancer process here has a request on.
fn idle(core: &Core) -> BTreeSet<Idle> {
    let leaving = core.planes.leaving_elsewhere();
    let free = leaving
        .into_iter()
        .filter(|(_, _, _, slot)| core.planes.up_to_date() && core.planes.table.in_flight(*slot) == 0);
    free.map(|(node, id, incarnation, _)| Idle {
        node: node.to_string(),
        instance: id.to_string(),
        incarnation: incarnation.to_string(),
    })
    .collect()
}
