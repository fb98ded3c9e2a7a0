//! What the agent knows, in the words of the API: status, the system for drills, why, incidents, metrics.

mod cluster;

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_balancer::shared::Counters;
use holdfast_config::{Balancer, Check, Concurrency, Config, Work, Worker};
use holdfast_host::process::signal_name;
use holdfast_host::{clock, process};
use holdfast_observe::incident::Record;
use holdfast_observe::journal::IncidentQuery as Asked;
use holdfast_observe::status::{
    Agent, EndpointStatus, Instance, Pause, SCHEMA_VERSION, Service, State, Status, Warning,
};
use holdfast_observe::{journal, status};
use holdfast_policy::balance;
use holdfast_policy::time::millis;
use holdfast_policy::{InstanceId, Timestamp};
use holdfast_services::supervisor::{
    EndpointState, Entry, Exit, InstanceStatus, ServiceStatus, StandbyStatus, Takeover,
};

use super::core::{Core, no_such};
use crate::api::{
    self, IncidentQuery, SystemBalancer, SystemInstance, SystemPlane, SystemService, SystemTasks, Why, WhyEntry,
};
use crate::failure::Failure;
use crate::layout::{PLANES, TASKS};
use crate::terminal::human;

/// Newest incidents that are looked through for an answer.
const INCIDENTS_MAX: u32 = 1000;

/// The agent's memory and the journal tell the same moment with an error of rounding.
const SAME_MOMENT_MS: u64 = 5;

/// The Supervisor's words for a state, in those that people see.
pub(super) fn state(name: &str) -> State {
    match name {
        "launching" | "unknown" | "promoting" | "dry" => State::Starting,
        "not_ready" => State::Unready,
        "waiting" | "absent" => State::Pending,
        "restarting" | "finishing" => State::Stopping,
        "lost" | "orphaned" => State::Suspect,
        other => State::from_name(other),
    }
}

impl Core {
    pub(crate) async fn status(&self) -> Status {
        let now = clock::now();
        let seen = self.services.status();
        let in_force = self.in_force();
        let config = in_force.as_ref().map(|f| &f.config);
        // The plane of tasks is part of what the file asks for: without it no queue works.
        let services = seen.services.iter().filter(|(name, s)| !s.internal || &***name == TASKS);
        let mut services: BTreeMap<String, Service> =
            services.map(|(name, s)| (name.to_string(), self.service(s, now))).collect();
        if let Some(config) = config {
            self.add_elsewhere(&mut services, config);
        }
        let counters: BTreeMap<_, _> = self.planes.balancer_counters().into_iter().collect();
        let balancers = config.map_or_else(BTreeMap::new, |c| {
            let one = |b: &Balancer| {
                (b.name.clone(), self.balancer(b, counters.get(b.name.as_str()).copied().unwrap_or_default(), now))
            };
            c.balancers.values().map(one).collect()
        });
        Status {
            schema_version: SCHEMA_VERSION,
            services,
            balancers,
            pauses: self.pauses().await,
            agent: Agent {
                node: self.node.to_string(),
                version: env!("CARGO_PKG_VERSION").into(),
                pid: Some(std::process::id()),
                uptime_ms: millis(now.since(self.started)),
                epoch: self.epoch,
                revision: in_force.as_ref().map_or(0, |f| f.desired.revision),
                config: in_force.as_ref().map_or_else(String::new, |f| f.desired.path.clone()),
                data_dir: self.layout.data_dir.display().to_string(),
                holds_lease: self.member.as_ref().is_none_or(|member| member.in_touch(now)),
                leading: self.member.as_ref().and_then(|member| member.leading()),
            },
            incidents_open: self.journal.open_incidents(),
            availability: match config {
                Some(config) => self.availability(config).await,
                None => BTreeMap::new(),
            },
            warnings: self.warnings(),
            nodes: self.nodes(),
        }
    }

    fn service(&self, s: &ServiceStatus, now: Timestamp) -> Service {
        let mut shown = service(s, now);
        for (instance, seen) in shown.instances.iter_mut().zip(&s.instances) {
            // Ready is what takes requests: not before the balancers know it.
            if instance.state == State::Ready && !self.planes.is_known(&seen.id) {
                instance.state = State::Running;
                instance.reason = Some("ready; the balancers are being told".into());
            }
        }
        if !s.job {
            shown.ready =
                u32::try_from(shown.instances.iter().filter(|i| i.state == State::Ready).count()).unwrap_or(u32::MAX);
        }
        shown
    }

    async fn pauses(&self) -> Vec<Pause> {
        let wall = clock::wall_ms();
        let stored = self.records.pauses().await.unwrap_or_default();
        let lasting = stored.into_iter().filter(|p| p.until_wall_ms.is_none_or(|until| wall < until));
        lasting.map(|p| Pause { name: p.name, until_wall_ms: p.until_wall_ms, reason: p.reason, by: p.by }).collect()
    }

    async fn availability(&self, config: &Config) -> BTreeMap<String, Vec<holdfast_observe::availability::Window>> {
        let wall = clock::wall_ms();
        let mut found = BTreeMap::new();
        for service in config.services.values() {
            let in_front = config.balancers.values().find(|b| b.service == service.name);
            let target = service.availability.or_else(|| in_front.and_then(|b| b.availability));
            if let Ok(windows) = self.journal.availability(&service.name, wall, in_front.is_some(), target).await {
                found.insert(service.name.clone(), windows);
            }
        }
        found
    }

    fn warnings(&self) -> Vec<Warning> {
        let mut warnings = self.cluster_warnings();
        if let Some(error) = &self.journal_trouble {
            warnings.push(Warning {
                code: error.code().into(),
                message: format!("no journal is kept: {error}"),
                hint: error.hint(),
            });
        }
        if let Some(reason) = self.journal.failure() {
            warnings.push(Warning {
                code: "HF0420".into(),
                message: format!("the journal keeps nothing at present: {reason}"),
                hint: Some("free some space; what runs goes on running".into()),
            });
        }
        for (name, service) in &self.services.status().services {
            if let Some(trouble) = service.standby.as_ref().and_then(|s| s.trouble.as_ref()) {
                warnings.push(Warning {
                    code: "HF0348".into(),
                    message: format!("{name}: a takeover is held up: {trouble}"),
                    hint: Some(format!("holdfast why {name}")),
                });
            }
        }
        if let Some(failure) = self.trouble() {
            warnings.push(Warning {
                code: failure.code.clone(),
                message: format!("what was applied is not in force yet: {failure}"),
                hint: failure.hint.clone(),
            });
        }
        if let Some(reason) = self.store.failure() {
            let hint = Some("restart the agent when the disk is well again; what runs goes on running".into());
            warnings.push(Warning { code: "HF0401".into(), message: format!("nothing can be stored: {reason}"), hint });
        }
        warnings
    }

    fn balancer(&self, balancer: &Balancer, counters: Counters, now: Timestamp) -> status::Balancer {
        let listen: Vec<String> = balancer.listen.iter().map(ToString::to_string).collect();
        let mut endpoints = Vec::new();
        let mut in_flight_total = 0;
        for (id, entry) in self.services.endpoints().borrow().iter().filter(|(id, _)| *id.service == *balancer.service)
        {
            if entry.state == EndpointState::Gone {
                continue;
            }
            let slot = self.planes.slot_of(id);
            let in_flight = slot.map_or(0, |slot| u64::from(self.planes.table.in_flight(slot)));
            in_flight_total += in_flight;
            endpoints.push(EndpointStatus {
                instance: id.to_string(),
                state: self.rotation(id, entry.state, now).to_owned(),
                endpoint: Some(entry.endpoint.addr.to_string()),
                in_flight,
                reason: None,
            });
        }
        endpoints.extend(self.endpoints_elsewhere(&balancer.service, now));
        status::Balancer {
            listen: listen.join(","),
            endpoints,
            service: balancer.service.clone(),
            processes: self.processes(balancer),
            elsewhere: self.is_elsewhere(balancer),
            requests: counters.good + counters.failed + counters.degraded,
            failed: counters.failed,
            retries: counters.retried,
            in_flight: in_flight_total,
            virtual_ips: self.virtual_ips(balancer),
        }
    }

    fn virtual_ips(&self, balancer: &Balancer) -> Vec<status::VirtualIp> {
        let mut seen = self.vips.seen();
        balancer.virtual_ips.iter().filter_map(|ip| seen.remove(&ip.address)).collect()
    }

    /// What the balancers do with it at this moment.
    fn rotation(&self, id: &InstanceId, state: EndpointState, now: Timestamp) -> &'static str {
        let slot = self.planes.slot_of(id);
        match state {
            EndpointState::Ready => match slot {
                Some(slot) if self.planes.table.ejection(slot).until > now => "ejected",
                Some(slot) if self.planes.table.verdict(slot, now) == balance::Verdict::Stopped => "ejected",
                Some(_) => "ready",
                None => "unready",
            },
            EndpointState::Standby => "standby",
            EndpointState::Suspect => "suspect",
            EndpointState::Draining => "draining",
            EndpointState::NotReady | EndpointState::Gone => "unready",
        }
    }

    pub(crate) async fn system(&self) -> api::System {
        let now = clock::now();
        let seen = self.services.status();
        let in_force = self.in_force();
        let Some(config) = in_force.as_ref().map(|f| &f.config) else { return api::System::default() };
        let services = seen.services.iter().filter(|(_, s)| !s.internal && !s.job);
        let planes = seen.services.get(PLANES).map_or(&[][..], |s| s.instances.as_slice());
        let open = Asked { open_only: true, limit: INCIDENTS_MAX, ..Asked::default() };
        let incidents = self.journal.incidents(open).await.unwrap_or_default();
        api::System {
            agent: identity(i32::try_from(std::process::id()).unwrap_or(0)),
            services: services.map(|(name, s)| self.system_service(name, s, config)).collect(),
            balancers: config.balancers.values().map(|b| self.system_balancer(b, now)).collect(),
            planes: planes
                .iter()
                .filter_map(|i| self.system_plane(i, i.state == "ready" && self.planes.is_acked(i.id.ordinal)))
                .collect(),
            tasks: self.system_tasks(seen.services.get(TASKS).and_then(|s| s.instances.first()), config),
            open_incidents: incidents.iter().map(|r| subject(&r.subject)).collect(),
            pauses: self.pauses().await.into_iter().map(|p| p.name.unwrap_or_else(|| "all".into())).collect(),
        }
    }

    fn system_service(&self, name: &str, service: &ServiceStatus, config: &Config) -> SystemService {
        let declared = config.services.get(name);
        let ready_http = declared.and_then(|d| d.ready.as_ref()).and_then(|probe| match &probe.check {
            Check::Http { path, status } => Some((path.clone(), *status.start(), *status.end())),
            _ => None,
        });
        let instance = |i: &InstanceStatus| {
            let process = i.pid.and_then(|pid| identity(i32::try_from(pid).ok()?));
            SystemInstance {
                id: i.id.to_string(),
                incarnation: i.incarnation.to_string(),
                state: state(i.state).name().to_owned(),
                process,
                shim: process.and_then(|p| process::stat(p.pid)).and_then(|stat| identity(stat.ppid)),
                endpoint: i.endpoint,
                ready_http: ready_http.clone(),
                dir: self.layout.run_dir(&i.id.to_string()),
            }
        };
        SystemService {
            name: name.to_owned(),
            desired: service.desired,
            min_available: service.min_available,
            after: declared.map_or_else(Vec::new, |d| d.after.keys().cloned().collect()),
            instances: service.instances.iter().map(instance).collect(),
        }
    }

    fn system_balancer(&self, balancer: &Balancer, now: Timestamp) -> SystemBalancer {
        let table = self.services.endpoints().borrow().clone();
        let ours = table.iter().filter(|(id, e)| *id.service == *balancer.service && e.state != EndpointState::Gone);
        SystemBalancer {
            name: balancer.name.clone(),
            service: balancer.service.clone(),
            listen: balancer.listen.clone(),
            endpoints: ours.map(|(id, e)| (id.to_string(), self.rotation(id, e.state, now) == "ready", None)).collect(),
        }
    }

    fn system_tasks(&self, instance: Option<&InstanceStatus>, config: &Config) -> Option<SystemTasks> {
        let (instance, tasks) = (instance?, config.tasks.as_ref()?);
        let places = |worker: &Worker| match (&worker.work, worker.concurrency) {
            (Work::Http(_), _) => None,
            (Work::Program(_), Concurrency::Fixed(places)) => Some(places),
            (Work::Program(_), Concurrency::Scaled(scale)) => Some(scale.max),
        };
        Some(SystemTasks {
            plane: self.system_plane(instance, instance.state == "ready")?,
            listen: tasks.listen,
            account: tasks.account.clone(),
            workers: config.workers.values().filter_map(|w| Some((w.name.clone(), places(w)?))).collect(),
        })
    }

    fn system_plane(&self, plane: &InstanceStatus, ready: bool) -> Option<SystemPlane> {
        Some(SystemPlane {
            id: plane.id.to_string(),
            incarnation: plane.incarnation.to_string(),
            ready,
            process: identity(i32::try_from(plane.pid?).ok()?)?,
            dir: self.layout.run_dir(&plane.id.to_string()),
        })
    }

    pub(crate) async fn why(&self, name: &str, incident: Option<String>) -> Result<Why, Failure> {
        let seen = self.services.status();
        let id = name.parse::<InstanceId>().ok();
        let instance =
            id.as_ref().and_then(|id| seen.services.get(&id.service)?.instances.iter().find(|i| i.id == *id));
        let service = seen.services.get(name);
        let balancer = self.in_force().and_then(|f| f.config.balancers.get(name).cloned());
        if let Ok(address) = name.parse::<std::net::IpAddr>()
            && let Some(seen) = self.vips.seen().get(&address)
        {
            let entries = self.journaled(Journaled::Address(address), incident, None).await;
            return Ok(Why { subject: name.to_owned(), now: now_of_address(seen), entries, next: None });
        }
        if instance.is_none() && service.is_none() && balancer.is_none() && id.is_none_or(|id| &*id.service != "_agent")
        {
            return Err(no_such(name));
        }
        let subject = balancer.as_ref().map_or(name, |b| b.service.as_str());
        let mut entries = Vec::new();
        if incident.is_none() {
            entries.extend(self.services.explain(subject).await.unwrap_or_default().iter().map(entry));
        }
        let begins = entries.first().map(|e: &WhyEntry| e.wall_ms.saturating_sub(SAME_MOMENT_MS));
        for ip in balancer.iter().flat_map(|b| &b.virtual_ips) {
            entries.extend(self.journaled(Journaled::Address(ip.address), incident.clone(), None).await);
        }
        entries.extend(self.journaled(Journaled::Name(subject), incident, begins).await);
        entries.sort_by_key(|e| e.wall_ms);
        let now = match (instance, service, &balancer) {
            (Some(i), _, _) => now_of(i),
            (_, Some(s), _) => match &s.standby {
                Some(standby) => of_group(standby),
                None => format!("{} of {} ready", s.ready, s.desired),
            },
            (_, _, Some(b)) => {
                let addresses = self.virtual_ips(b);
                let told = addresses.iter().map(|seen| format!("\n  {}: {}", seen.address, now_of_address(seen)));
                format!("in front of {}{}", b.service, told.collect::<String>())
            }
            _ => String::new(),
        };
        let next =
            instance.filter(|i| !matches!(i.state, "ready" | "standby")).map(|i| format!("holdfast logs {}", i.id));
        Ok(Why { subject: name.to_owned(), now, entries, next })
    }

    /// What happened before this agent's memory begins.
    async fn journaled(&self, of: Journaled<'_>, incident: Option<String>, until: Option<u64>) -> Vec<WhyEntry> {
        let (subject, service) = match of {
            Journaled::Address(address) => (Some(format!("vip/{address}")), None),
            Journaled::Name(name) if name.parse::<InstanceId>().is_ok() => (Some(format!("instance/{name}")), None),
            Journaled::Name(name) => (None, Some(name.to_owned())),
        };
        let query = journal::EventQuery {
            subject,
            service,
            incident,
            until_wall_ms: until,
            limit: 40,
            ..journal::EventQuery::default()
        };
        let rows = self.journal.events(query).await.unwrap_or_default();
        let told = |row: journal::Row| {
            let mut inputs = row.event.inputs;
            let mut take = |name: &str| {
                let at = inputs.iter().position(|(n, _)| n == name)?;
                Some(inputs.remove(at).1)
            };
            let phase = take(holdfast_observe::incident::STAGE).filter(|s| s != "neutral");
            let incarnation = take("incarnation");
            let _ = take("incident");
            WhyEntry {
                wall_ms: row.event.wall_ms,
                subject: self::subject(&row.event.subject),
                incarnation,
                from: row.event.from,
                to: row.event.to,
                reason: row.event.reason,
                inputs,
                phase,
            }
        };
        rows.into_iter().map(told).collect()
    }

    pub(crate) async fn incidents(&self, query: &IncidentQuery) -> Result<Vec<api::Incident>, Failure> {
        let failed = |e: journal::Error| Failure::new(e.code(), "cannot read the journal").because_of(&e);
        if let Some(id) = &query.id {
            let found = self.journal.incident(id).await.map_err(failed)?;
            return Ok(found.map(incident).into_iter().collect());
        }
        let limit = query.limit.map_or(INCIDENTS_MAX, |n| u32::try_from(n).unwrap_or(INCIDENTS_MAX));
        let found = self.journal.incidents(Asked { limit: INCIDENTS_MAX, ..Asked::default() }).await.map_err(failed)?;
        let since = query.since_boot_ns.unwrap_or(0);
        let covers =
            |asked: &str, name: &str| asked == name || name.parse::<InstanceId>().is_ok_and(|id| *id.service == *asked);
        let about = |r: &Record| match &query.subject {
            None => true,
            Some(asked) => covers(asked, &subject(&r.subject)) || r.subjects.iter().any(|s| covers(asked, &subject(s))),
        };
        let in_time = |r: &Record| since == 0 || (r.detected.boot_ns >= since && clock::same_boot(&r.detected.boot_id));
        Ok(found.into_iter().filter(|r| about(r) && in_time(r)).take(limit as usize).map(incident).collect())
    }

    pub(crate) async fn metrics(&self) -> (&'static str, String) {
        self.metrics.encode()
    }
}

/// Whose events are read.
enum Journaled<'a> {
    Name(&'a str),
    Address(std::net::IpAddr),
}

fn now_of_address(seen: &status::VirtualIp) -> String {
    let mut text = seen.state.replace('_', " ");
    if let Some(interface) = &seen.interface {
        text.push_str(&format!(" on {interface}"));
    }
    let left = |ms: u64| human(std::time::Duration::from_millis(ms));
    for (what, value) in [
        ("owner", seen.owner.clone()),
        ("lease left", seen.lease_left_ms.map(left)),
        ("kernel lets go in", seen.kernel_left_ms.map(left)),
    ] {
        if let Some(value) = value {
            text.push_str(&format!(", {what} {value}"));
        }
    }
    if let Some(reason) = &seen.reason {
        text.push_str(&format!("\n  {reason}"));
    }
    text
}

pub(super) fn service(s: &ServiceStatus, now: Timestamp) -> Service {
    Service {
        desired: s.desired,
        ready: s.ready,
        instances: s.instances.iter().map(|i| instance(i, now)).collect(),
        kind: if s.job { "job" } else { "service" }.into(),
        updated: u32::try_from(s.instances.iter().filter(|i| !i.outdated).count()).unwrap_or(u32::MAX),
        min_available: s.min_available,
        reason: s.instances.iter().find_map(|i| i.held).map(held),
        next: None,
        standby: s.standby.as_ref().map(|standby| redundancy(standby, now)),
    }
}

fn redundancy(s: &StandbyStatus, now: Timestamp) -> status::Standby {
    let takeover = |t: &Takeover| status::Takeover {
        from: t.from.to_string(),
        to: t.to.to_string(),
        planned: t.planned,
        ago_ms: millis(now.since(t.at)),
        rto_ms: millis(t.rto),
        rpo_ms: t.rpo.map(millis),
    };
    status::Standby {
        tier: s.tier.to_owned(),
        active: s.active.as_ref().map(ToString::to_string),
        token: s.token.map(|token| token.to_string()),
        takeover: s.takeover.as_ref().map(takeover),
        rto_ms: s.rto.map(millis),
        rpo_ms: s.rpo.map(millis),
        trouble: s.trouble.clone(),
    }
}

fn instance(i: &InstanceStatus, now: Timestamp) -> Instance {
    let crash_loop =
        if i.crash_loop { format!("crash loop, {} failures in a row: ", i.failures) } else { String::new() };
    Instance {
        id: i.id.to_string(),
        state: state(i.state),
        pid: i.pid,
        endpoint: i.endpoint.map(|addr| addr.to_string()),
        restarts: i.restarts,
        incarnation: (i.incarnation.generation > 0).then(|| i.incarnation.to_string()),
        since_ms: millis(now.since(i.since)),
        reason: Some(format!("{crash_loop}{}", i.reason)).filter(|r| !r.is_empty()),
        next: i.next_start.map(|at| format!("{crash_loop}starts again in {}", human(now.until(at)))),
        last_exit: i.last_exit.as_ref().map(exit),
        paused: i.held == Some("paused"),
        node: None,
        role: i.role.map(ToOwned::to_owned),
        unable: i.able.filter(|_| i.state != "ready").and_then(Result::err).map(|why| why.reason().to_owned()),
        data_age_ms: i.data_age.map(millis),
        dry_start: i.dry_start.map(|(_, passed)| passed),
    }
}

fn held(why: &'static str) -> String {
    match why {
        "common_cause" => "all instances fail together: a common cause, restarting them would help nobody".into(),
        "max_unavailable" => "waits: as many as max_unavailable are out already".into(),
        "min_available" => "waits: fewer than min_available would be left".into(),
        "paused" => "paused: nothing is done".into(),
        other => other.into(),
    }
}

fn exit(exit: &Exit) -> String {
    match (exit.out_of_memory, exit.signal, exit.code) {
        (true, _, _) => "out of memory".into(),
        (_, Some(signal), _) => format!("killed by {}", signal_name(signal)),
        (_, _, Some(code)) => format!("exit code {code}"),
        _ => "unknown".into(),
    }
}

/// `db-2 is active (hot standby, token 1.17); last failover 240 ms (declared 2 s)`.
fn of_group(s: &StandbyStatus) -> String {
    let mut text = match (&s.active, s.token) {
        (Some(active), Some(token)) => format!("{active} holds the lease ({} standby, token {token})", s.tier),
        _ => format!("nobody is active ({} standby)", s.tier),
    };
    let declared = |limit: Option<Duration>| limit.map_or(String::new(), |d| format!(" (declared {})", human(d)));
    if let Some(t) = &s.takeover {
        let what = if t.planned { "switchover" } else { "failover" };
        text.push_str(&format!("; last {what} {} -> {}: rto {}{}", t.from, t.to, human(t.rto), declared(s.rto)));
        if let Some(rpo) = t.rpo {
            text.push_str(&format!(", rpo {}{}", human(rpo), declared(s.rpo)));
        }
    }
    if let Some(trouble) = &s.trouble {
        text.push_str(&format!("; {trouble}"));
    }
    text
}

fn now_of(i: &InstanceStatus) -> String {
    let mut text = state(i.state).name().to_owned();
    let now = clock::now();
    text.push_str(&format!(" for {}", human(now.since(i.since))));
    if let Some(pid) = i.pid {
        text.push_str(&format!(", pid {pid}"));
    }
    if let Some(role) = i.role {
        text.push_str(&format!(", role {role}"));
    }
    if let Some(age) = i.data_age {
        text.push_str(&format!(", data {} old", human(age)));
    }
    if i.restarts > 0 {
        text.push_str(&format!(", {} restarts", i.restarts));
    }
    if let Some(last) = &i.last_exit {
        text.push_str(&format!(", last end: {}", exit(last)));
    }
    if let Some(why) = i.held {
        text.push_str(&format!("\n  {}", held(why)));
    }
    text
}

fn entry(e: &Entry) -> WhyEntry {
    let age = clock::now().since(e.at);
    WhyEntry {
        wall_ms: clock::wall_ms().saturating_sub(millis(age)),
        subject: e.subject.to_string(),
        incarnation: e.incarnation.map(|i| i.to_string()),
        from: e.transition.from.to_owned(),
        to: e.transition.to.to_owned(),
        reason: e.transition.reason.to_string(),
        inputs: e.transition.inputs.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect(),
        phase: e.incident.map(|(_, phase)| phase.name().to_owned()),
    }
}

fn incident(r: Record) -> api::Incident {
    let ready = r.ready.as_ref().map(|t| t.boot_ns);
    api::Incident {
        id: r.short_id(),
        subject: subject(&r.subject),
        detected_boot_ns: r.detected.boot_ns,
        decided_boot_ns: r.decided.as_ref().map(|t| t.boot_ns),
        acted_boot_ns: r.acted.as_ref().map(|t| t.boot_ns),
        ready_boot_ns: ready,
        wall_ms: r.detected.wall_ms,
        key: r.key,
        cause: r.cause,
        outcome: r.outcome,
        failed_requests: r.failed_requests,
        faults: r.faults,
        actions: r.actions,
        subjects: r.subjects.iter().map(|s| subject(s)).collect(),
    }
}

/// `instance/web-2` is `web-2` to people.
fn subject(stored: &str) -> String {
    stored.split_once('/').map_or(stored, |(_, name)| name).to_owned()
}

fn identity(pid: i32) -> Option<api::Process> {
    process::identity(pid).map(|id| api::Process { pid: id.pid, start_ticks: id.start_ticks })
}
