//! Who waits for whom: starting in the order of `after`, stopping in the reverse.

use std::sync::Arc;

use holdfast_config::{Condition, Port};
use holdfast_policy::InstanceId;

use super::Supervisor;
use super::action::EndpointState;
use super::definition::Definition;
use super::instance::{Instance, Shim};

impl Supervisor {
    /// The first dependency that keeps the service from starting, in words.
    pub(crate) fn blocked_by(&self, definition: &Definition) -> Option<String> {
        definition.service.after.iter().find_map(|(name, condition)| {
            let met = self.services.get(name.as_str()).is_some_and(|d| self.is_met(d, *condition));
            let state = match condition {
                Condition::Started => "started",
                Condition::Ready => "ready",
                Condition::Completed => "completed",
            };
            (!met).then(|| format!("{name} is not {state}"))
        })
    }

    fn is_met(&self, of: &Definition, condition: Condition) -> bool {
        let instances = || self.of_service(&of.service.name).filter(|i| self.wanted(&i.id).is_some());
        let elsewhere = self.elsewhere(of);
        let needed = (of.service.min_available.max(1) as usize).min(self.replicas(of) as usize);
        match condition {
            Condition::Started => {
                let started = instances().filter(|i| i.child_runs() || is_complete(i, of)).count();
                started + elsewhere.started as usize >= needed
            }
            Condition::Ready => {
                let ready = |i: &&Instance| i.life.published == Some(EndpointState::Ready);
                instances().filter(ready).count() + elsewhere.ready as usize >= needed
            }
            Condition::Completed => {
                elsewhere.completed || (instances().all(|i| is_complete(i, of)) && instances().count() > 0)
            }
        }
    }

    pub(crate) fn of_service(&self, name: &str) -> impl Iterator<Item = &Instance> {
        let name: Arc<str> = name.into();
        let from = InstanceId::new(name.clone(), 0);
        self.instances.range(from..).take_while(move |(id, _)| id.service == name).map(|(_, i)| i)
    }

    /// An unwanted instance that depends on this service and is still there: it goes first.
    pub(crate) fn still_needed_by(&self, service: &str) -> Option<InstanceId> {
        let depends = |i: &&Instance| {
            *i.id.service != *service
                && i.shim != Shim::Absent
                && i.running.as_ref().is_some_and(|d| d.service.after.contains_key(service))
                && self.wanted(&i.id).is_none()
        };
        self.instances.values().find(depends).map(|i| i.id.clone())
    }

    /// Another instance that still holds the port.
    pub(crate) fn port_holder(&self, id: &InstanceId, definition: &Definition, port: u16) -> Option<InstanceId> {
        if definition.service.port == Port::None {
            return None;
        }
        let holds = |i: &&Instance| i.id != *id && i.record.port == Some(port) && i.shim != Shim::Absent;
        self.instances.values().find(holds).map(|i| i.id.clone())
    }
}

pub(crate) fn is_complete(i: &Instance, of: &Definition) -> bool {
    i.leave.is_none() && i.record.finished.is_some_and(|f| f.success && f.definition == of.hash)
}
