//! What is the case now, for people and programs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::Standby;
use holdfast_policy::lease::FencingToken;
use holdfast_policy::standby::{Ineligible, eligible};
use holdfast_policy::{Incarnation, InstanceId, Timestamp};

use super::Supervisor;
use super::action::EndpointState;
use super::event::{Exit, ShimPhase, Target};
use super::instance::{Instance, Shim};
pub use super::standby::Takeover;

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
    /// Of a redundant service.
    pub standby: Option<StandbyStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StandbyStatus {
    pub tier: &'static str,
    /// The member that holds the lease.
    pub active: Option<InstanceId>,
    pub token: Option<FencingToken>,
    pub newest: Option<FencingToken>,
    pub takeover: Option<Takeover>,
    pub rto: Option<Duration>,
    pub rpo: Option<Duration>,
    /// What keeps a takeover from going on.
    pub trouble: Option<String>,
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
    /// Of a redundant service: state of the member, and whether it can take over.
    pub role: Option<&'static str>,
    pub able: Option<Result<(), Ineligible>>,
    pub data_age: Option<Duration>,
    pub dry_start: Option<(Timestamp, bool)>,
}

/// Failures in a row from which on it is called a crash loop and an incident is worth a person's look.
pub(crate) const CRASH_LOOP_FAILURES: u32 = 3;

impl Supervisor {
    pub fn status(&self, now: Timestamp) -> Status {
        let mut services: BTreeMap<Arc<str>, ServiceStatus> = BTreeMap::new();
        for (name, definition) in &self.services {
            let status = ServiceStatus {
                internal: definition.internal,
                job: definition.is_job(),
                removed: false,
                desired: match definition.standby() {
                    _ if self.stopping => 0,
                    Some(_) => 1,
                    None => self.wanted_ordinals(definition).len() as u32,
                },
                ready: 0,
                min_available: definition.service.min_available,
                settled: false,
                instances: Vec::new(),
                standby: definition.standby().map(|s| self.standby_status(name, s)),
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
                standby: None,
            });
            service.instances.push(self.instance_status(now, i));
        }
        for service in services.values_mut() {
            let good = |i: &&InstanceStatus| i.state == if service.job { "completed" } else { "ready" };
            let there = |i: &&InstanceStatus| i.state != "completed" || service.job;
            service.ready = u32::try_from(service.instances.iter().filter(good).count()).unwrap_or(u32::MAX);
            let present = service.instances.iter().filter(good).filter(|i| !i.outdated).count();
            let expected = service.instances.iter().filter(there).count();
            if service.standby.is_some() {
                // One is ready, all others stand by.
                let others = |i: &&InstanceStatus| i.state == "standby" && !i.outdated;
                let others = service.instances.iter().filter(others).count();
                service.settled = present >= 1 && present + others == service.instances.len();
                continue;
            }
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
            // Before it is known what is wanted, nothing that was found is published.
            adopting: !self.adopted
                || !self.told && !self.stopping && !self.instances.is_empty()
                || self.instances.values().any(|i| i.shim == Shim::Unknown),
            stopping: self.stopping,
            stopped: self.stopping && self.instances.is_empty(),
            pauses: self.pauses.iter().map(pause).collect(),
            services,
        }
    }

    fn standby_status(&self, name: &Arc<str>, standby: &Standby) -> StandbyStatus {
        let group = self.groups.get(name).cloned().unwrap_or_default();
        StandbyStatus {
            tier: standby.tier.name(),
            active: group.holder.as_ref().map(|h| h.member.clone()),
            token: group.holder.as_ref().map(|h| h.token),
            newest: group.newest,
            takeover: group.takeover,
            rto: standby.rto,
            rpo: standby.rpo,
            trouble: self.of_service(name).find_map(|i| i.member.trouble.clone()),
        }
    }

    fn instance_status(&self, now: Timestamp, i: &Instance) -> InstanceStatus {
        let state = i.shim.state();
        let wanted = self.services.get(&i.id.service);
        let failures = state.map_or(0, |s| s.failures).max(i.launch_failures);
        let member = wanted.is_some_and(|d| d.standby().is_some());
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
            // A member that is started when it is needed is started from the present definition.
            outdated: wanted.is_none_or(|d| d.hash != i.record.definition) && !(member && i.shim == Shim::Absent),
            crash_loop: failures >= CRASH_LOOP_FAILURES,
            acting: i.acting.is_some() || i.leave.is_some(),
            due: wanted.is_some_and(|d| self.wanted(&i.id).is_some() && self.why_due(i, d).is_some()),
            held: i.life.held,
            status_text: state.and_then(|s| s.status_text.clone()),
            role: member.then(|| i.member.machine.state().name()),
            able: wanted.and_then(|d| self.facts(now, i, d, false)).map(eligible),
            data_age: i.record.synced.map(|at| now.since(at)),
            dry_start: i.member.dry_result,
        }
    }

    fn last_reason(&self, i: &Instance) -> String {
        self.history.last(&i.id.to_string()).map_or_else(String::new, |e| e.transition.reason.to_string())
    }
}
