//! What is the case now, for people and programs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_policy::{Incarnation, InstanceId, Timestamp};

use super::Supervisor;
use super::action::EndpointState;
use super::event::{Exit, ShimPhase, Target};
use super::instance::{Instance, Shim};

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Status {
    pub revision: u64,
    /// Some instances of before are not found or missed yet: what is shown is not complete.
    pub adopting: bool,
    /// Everything is being stopped, or is.
    pub stopping: bool,
    pub stopped: bool,
    pub pauses: Vec<PauseStatus>,
    pub services: BTreeMap<Arc<str>, ServiceStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PauseStatus {
    pub target: Target,
    pub since: Timestamp,
    pub until: Option<Timestamp>,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceStatus {
    pub internal: bool,
    pub job: bool,
    /// Not in the file any more; its instances are leaving.
    pub removed: bool,
    pub desired: u32,
    pub ready: u32,
    pub min_available: u32,
    /// As many as desired are ready (jobs: completed) and of the present definition.
    pub settled: bool,
    pub instances: Vec<InstanceStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct InstanceStatus {
    pub id: InstanceId,
    pub incarnation: Incarnation,
    /// `ready`, `starting`, `suspect`, `not_ready`, `backoff`, `waiting`, `draining`, …
    pub state: &'static str,
    /// The last thing that was said about it.
    pub reason: String,
    pub since: Timestamp,
    pub pid: Option<u32>,
    /// Its shim saw its process stop (SIGSTOP).
    pub stopped: bool,
    pub endpoint: Option<SocketAddr>,
    pub published: Option<EndpointState>,
    pub restarts: u64,
    /// Failures in a row; three or more are a crash loop.
    pub failures: u32,
    pub next_start: Option<Timestamp>,
    pub last_exit: Option<Exit>,
    /// It runs another definition than the one wanted.
    pub outdated: bool,
    pub crash_loop: bool,
    /// Taken down by holdfast and not back yet.
    pub acting: bool,
    /// It waits to be replaced by plan.
    pub due: bool,
    /// `common_cause`, `max_unavailable`, `min_available`, `paused` or why it waits its turn.
    pub held: Option<&'static str>,
    /// STATUS= of the program.
    pub status_text: Option<String>,
}

/// Failures in a row from which on it is called a crash loop and an incident is worth a person's look.
pub(crate) const CRASH_LOOP_FAILURES: u32 = 3;

impl Supervisor {
    pub fn status(&self, _now: Timestamp) -> Status {
        let mut services: BTreeMap<Arc<str>, ServiceStatus> = BTreeMap::new();
        for (name, definition) in &self.services {
            let status = ServiceStatus {
                internal: definition.internal,
                job: definition.is_job(),
                removed: false,
                desired: if self.stopping { 0 } else { self.wanted_ordinals(definition).len() as u32 },
                ready: 0,
                min_available: definition.service.min_available,
                settled: false,
                instances: Vec::new(),
            };
            services.insert(name.clone(), status);
        }
        for i in self.instances.values() {
            let service = services.entry(i.id.service.clone()).or_insert_with(|| ServiceStatus {
                internal: i.id.service.starts_with('_'),
                job: false,
                removed: true,
                desired: 0,
                ready: 0,
                min_available: 0,
                settled: false,
                instances: Vec::new(),
            });
            service.instances.push(self.instance_status(i));
        }
        for service in services.values_mut() {
            let good = |i: &&InstanceStatus| i.state == if service.job { "completed" } else { "ready" };
            let there = |i: &&InstanceStatus| i.state != "completed" || service.job;
            service.ready = u32::try_from(service.instances.iter().filter(good).count()).unwrap_or(u32::MAX);
            let present = service.instances.iter().filter(good).filter(|i| !i.outdated).count();
            let expected = service.instances.iter().filter(there).count();
            service.settled = present as u32 >= service.desired && expected as u32 == service.desired;
        }
        let pause = |(target, p): (&Target, &super::Pause)| PauseStatus {
            target: target.clone(),
            since: p.since,
            until: p.until,
            reason: p.reason.clone(),
        };
        Status {
            revision: self.revision,
            adopting: !self.adopted || self.instances.values().any(|i| i.shim == Shim::Unknown),
            stopping: self.stopping,
            stopped: self.stopping && self.instances.is_empty(),
            pauses: self.pauses.iter().map(pause).collect(),
            services,
        }
    }

    fn instance_status(&self, i: &Instance) -> InstanceStatus {
        let state = i.shim.state();
        let wanted = self.services.get(&i.id.service);
        let failures = state.map_or(0, |s| s.failures).max(i.launch_failures);
        InstanceStatus {
            id: i.id.clone(),
            incarnation: i.life.incarnation,
            state: i.shown,
            reason: self.last_reason(i),
            since: i.shown_since,
            pid: i.shim.child().and_then(|s| s.pid),
            stopped: i.shim.child().is_some_and(|s| s.stopped_at.is_some()),
            endpoint: i.addr().or_else(|| i.record.port.zip(wanted).map(|(p, d)| d.addr(p))),
            published: i.life.published,
            restarts: i.restarts,
            failures,
            next_start: match state.map(|s| s.phase) {
                Some(ShimPhase::Backoff { until }) => Some(until),
                _ => None,
            },
            last_exit: state.and_then(|s| s.last_exit),
            outdated: wanted.is_none_or(|d| d.hash != i.record.definition),
            crash_loop: failures >= CRASH_LOOP_FAILURES,
            acting: i.acting.is_some() || i.leave.is_some(),
            due: wanted.is_some_and(|d| self.wanted(&i.id).is_some() && self.why_due(i, d).is_some()),
            held: i.life.held,
            status_text: state.and_then(|s| s.status_text.clone()),
        }
    }

    fn last_reason(&self, i: &Instance) -> String {
        self.history.last(&i.id.to_string()).map_or_else(String::new, |e| e.transition.reason.to_string())
    }
}
