//! The same status on every machine of a cluster: what runs here, and what the others say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_cluster::members::Registration;
use holdfast_config::{Balancer, Config};
use holdfast_host::clock;
use holdfast_observe::status::{EndpointStatus, Instance, Node, Service, State, Warning};
use holdfast_policy::Timestamp;
use holdfast_policy::balance;

use crate::agent::core::Core;
use crate::agent::member::fits;
use crate::agent::member::keeping::ETCD;
use crate::agent::snapshot::Place;
use crate::agent::view;

impl Core {
    /// Adds what other machines run to what runs here.
    pub(super) fn add_elsewhere(&self, services: &mut BTreeMap<String, Service>, config: &Config) {
        let Some(member) = &self.member else { return };
        for service in services.values_mut() {
            for instance in &mut service.instances {
                instance.node = Some(member.name.to_string());
            }
        }
        let wall = clock::wall_ms();
        let seen = member.seen();
        for (node, state) in seen.view.states.iter().filter(|(node, _)| **node != *member.name.0) {
            let standing = member.standing(node);
            let assigned = seen.view.assigned.get(node);
            for instance in &state.instances {
                let Some(service) = services.get_mut(&instance.service) else { continue };
                let mut shown = Instance { node: Some(node.clone()), ..instance.shown.clone() };
                shown.since_ms = wall.saturating_sub(instance.since_wall_ms);
                if standing == "lost" {
                    // What was assigned to somebody else meanwhile is history.
                    if assigned.is_none_or(|a| !a.instances.contains_key(&shown.id)) {
                        continue;
                    }
                    (shown.state, shown.reason) = (State::Suspect, Some(format!("its machine {node} is lost")));
                }
                service.instances.push(shown);
            }
        }
        let scaled = self.scaled(config);
        for (name, service) in services.iter_mut() {
            let Some(declared) = scaled.services.get(name) else { continue };
            self.add_unplaced(name, service, declared.replicas);
            // One is active, the others stand by.
            service.desired = if declared.standby.is_some() { 1 } else { declared.replicas };
            let good = if service.kind == "job" { State::Completed } else { State::Ready };
            // While one moves, two have its name.
            let ready: BTreeSet<&str> =
                service.instances.iter().filter(|i| i.state == good).map(|i| i.id.as_str()).collect();
            service.ready = u32::try_from(ready.len()).unwrap_or(u32::MAX);
            service.instances.sort_by(|a, b| (ordinal(&a.id), &a.node).cmp(&(ordinal(&b.id), &b.node)));
        }
    }

    fn add_unplaced(&self, name: &str, service: &mut Service, members: u32) {
        let held = self.held();
        for ordinal in 1..=members {
            let id = format!("{name}-{ordinal}");
            if service.instances.iter().any(|i| i.id == id) {
                continue;
            }
            let reason = held.get(&id).cloned().unwrap_or_else(|| "no machine has it yet".into());
            service.instances.push(Instance { id, reason: Some(reason), ..Instance::default() });
        }
    }

    /// Every machine that is or was a member.
    pub(crate) fn nodes(&self) -> BTreeMap<String, Node> {
        let Some(member) = &self.member else { return BTreeMap::new() };
        let seen = member.seen();
        let leader = seen.view.leader.as_ref().map(|holder| holder.node.clone());
        let one = |(name, registration): (&String, &Arc<Registration>)| {
            let admin = seen.view.admin.get(name).map(|admin| (**admin).clone()).unwrap_or_default();
            let state = seen.view.states.get(name);
            let assigned = seen.view.assigned.get(name).map_or(0, |a| a.instances.len());
            let ready = state.map_or(0, |s| s.instances.iter().filter(|i| i.shown.state == State::Ready).count());
            let wanted = match (admin.removing, admin.draining, admin.cordoned) {
                (true, ..) => "removing",
                (_, true, _) if assigned == 0 => "drained",
                (_, true, _) => "draining",
                (.., true) => "cordoned",
                _ => "",
            };
            let node = Node {
                state: member.standing(name).into(),
                admin: wanted.into(),
                leader: leader.as_deref() == Some(name),
                this: *name == *member.name.0,
                address: registration.address.to_string(),
                labels: registration.labels.clone(),
                program: registration.program.clone(),
                assigned: u32::try_from(assigned).unwrap_or(u32::MAX),
                ready: u32::try_from(ready).unwrap_or(u32::MAX),
                revision: state.map_or(0, |s| s.revision),
                reason: Some(admin.reason)
                    .filter(|r| !r.is_empty())
                    .or_else(|| member.doubt(name))
                    .or_else(|| state.and_then(|s| s.trouble.clone())),
            };
            (name.clone(), node)
        };
        seen.view.nodes.iter().map(one).collect()
    }

    /// Balancer processes that listen for it, on all machines.
    pub(super) fn processes(&self, balancer: &Balancer) -> u32 {
        let here = view::planes_in_force(self);
        let (Some(member), Some(in_force)) = (&self.member, self.in_force()) else { return here };
        let own = if fits(&member.labels(&in_force.config), &balancer.on) { here } else { 0 };
        let seen = member.seen();
        let others = seen.view.nodes.values().filter(|n| n.name != *member.name.0 && fits(&n.labels, &balancer.on));
        own + others.filter_map(|n| seen.view.states.get(&n.name)).map(|state| state.planes).sum::<u32>()
    }

    pub(super) fn is_elsewhere(&self, balancer: &Balancer) -> bool {
        let Some((member, in_force)) = self.member.as_ref().zip(self.in_force()) else { return false };
        !fits(&member.labels(&in_force.config), &balancer.on)
    }

    pub(super) fn cluster_warnings(&self) -> Vec<Warning> {
        let Some(member) = &self.member else { return Vec::new() };
        let warning =
            |code: &str, message: String, hint: &str| Warning { code: code.into(), message, hint: Some(hint.into()) };
        let mut all = Vec::new();
        if let Some(trouble) = member.trouble() {
            all.push(warning("HF0332", trouble, "holdfast explain HF0332"));
        }
        let link = member.link_warnings().into_iter();
        all.extend(link.map(|(code, message, hint)| warning(code, message, &hint)));
        let unnamed = member.unnamed().into_iter().map(|why| format!("the addresses of a name are not written: {why}"));
        all.extend(unnamed.map(|message| warning("HF0435", message, "holdfast explain HF0435")));
        let etcd = self.services.status().services.get(ETCD).and_then(|s| s.instances.first().cloned());
        if let Some(etcd) = etcd.filter(|i| !matches!(i.state, "ready" | "starting" | "launching")) {
            let message = format!("the member of etcd on this machine does not run: {}", etcd.reason);
            all.push(warning("HF0339", message, "holdfast logs _etcd; is etcd-server installed?"));
        }
        if !member.in_touch(clock::now()) {
            let message = "etcd does not answer this machine: what runs goes on, and nothing is moved".to_owned();
            all.push(warning("HF0410", message, "holdfast doctor; etcdctl endpoint status"));
        }
        all
    }

    /// What the balancers here send requests to on other machines.
    pub(super) fn endpoints_elsewhere(&self, service: &str, now: Timestamp) -> Vec<EndpointStatus> {
        let places = self.planes.places();
        let ours = places.iter().filter(|p| *p.service == *service && p.node.is_some());
        ours.map(|place| EndpointStatus {
            instance: place.name.clone(),
            state: rotation(self, place, now).into(),
            endpoint: Some(place.endpoint.addr.to_string()),
            in_flight: u64::from(self.planes.table.in_flight(place.endpoint.slot)),
            reason: None,
        })
        .collect()
    }
}

fn rotation(core: &Core, place: &Place, now: Timestamp) -> &'static str {
    match place.endpoint.state {
        balance::State::Ready if core.planes.table.ejection(place.endpoint.slot).until > now => "ejected",
        balance::State::Ready => "ready",
        balance::State::Suspect => "suspect",
        balance::State::Draining => "draining",
        balance::State::NotReady => "unready",
    }
}

fn ordinal(id: &str) -> u32 {
    id.rsplit_once('-').and_then(|(_, n)| n.parse().ok()).unwrap_or(0)
}
