//! What is not yet as it should be.

use std::collections::BTreeMap;

use holdfast_cluster::members::View;
use holdfast_config::Service;
use holdfast_policy::InstanceId;
use holdfast_services::supervisor::EndpointState;

use super::world::{Machine, Town};

impl Town {
    pub(super) fn unfinished(&self) -> Option<String> {
        let now = self.now;
        let listed = View { revision: 0, ..View::of(&self.store.list("")) };
        for machine in &self.machines {
            let Some(agent) = machine.agent.as_ref().filter(|_| machine.agent_runs(now)) else {
                return Some(format!("{} has no agent", machine.name));
            };
            let seen = View { revision: 0, ..agent.member.view.clone() };
            if !agent.member.fresh || seen != listed {
                return Some(format!("{} sees another store than there is", machine.name));
            }
        }
        let carriers = self.machines.iter().filter(|m| m.address.is_some_and(|end| end > now)).count();
        if carriers != 1 {
            return Some(format!("{carriers} machines carry the address"));
        }
        self.services.values().find_map(|definition| self.unfinished_service(&definition.service))
    }

    fn why(&self, machine: &Machine, id: &InstanceId) -> String {
        let local = machine.local(self.now);
        let status = machine.agent.as_ref().map(|agent| agent.supervisor.status(local)).unwrap_or_default();
        let found = status.services.get(&id.service).and_then(|s| s.instances.iter().find(|i| i.id == *id));
        found.map_or_else(String::new, |i| format!("{}: {}", i.state, i.reason))
    }

    fn unfinished_service(&self, service: &Service) -> Option<String> {
        let mut states: BTreeMap<InstanceId, Vec<String>> = BTreeMap::new();
        let (mut ready, mut active) = (0, 0);
        for machine in &self.machines {
            for (id, place) in machine.host.places.iter().filter(|(id, _)| *id.service == *service.name) {
                active += place.children.iter().filter(|c| c.active).count();
                if place.children.is_empty() && place.shim.is_none() {
                    continue;
                }
                let state = published(machine, id);
                ready += u32::from(state == Some(EndpointState::Ready));
                let state = state.map_or("unpublished", EndpointState::name);
                let why = self.why(machine, id);
                states.entry(id.clone()).or_default().push(format!("{state} on {} ({why})", machine.name));
            }
        }
        let told = || format!("{}: {states:?}", service.name);
        if states.values().any(|copies| copies.len() > 1) {
            return Some(told());
        }
        if let Some(standby) = &service.standby {
            let others = states.len() as u32 == service.replicas || standby.is_started_when_needed();
            let good = ready == 1 && active == 1 && others;
            return (!good).then(|| format!("{}, {active} active", told()));
        }
        (ready != service.replicas || states.len() as u32 != service.replicas).then(told)
    }
}

fn published(machine: &Machine, id: &InstanceId) -> Option<EndpointState> {
    machine.agent.as_ref()?.published.get(id).map(|(_, state)| *state)
}
