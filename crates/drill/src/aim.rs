//! From a drill and the system as it is to exactly what will be struck. Pure: a dry run prints this, a run
//! carries it out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use holdfast_config::{Drill, Fault};
use holdfast_policy::InstanceId;
use holdfast_policy::drill::{Blast, Facts};

use crate::error::DrillError;
use crate::spec::blast;
use crate::system::{Balancer, Instance, PlaneFaultKind, Process, ReadyBy, Service, Status, Tasks};

/// What the errors fault answers with.
pub(crate) const ERROR_STATUS: u16 = 503;

#[derive(Clone, Debug)]
pub(crate) struct Aim {
    pub(crate) blow: Blow,
    /// As reports name it: `web-2`, `api`, `_balancer-1`, `_agent-1`.
    pub(crate) target: String,
    /// The service that is struck, where one is.
    pub(crate) service: Option<String>,
    /// Subjects whose incidents belong to this drill.
    pub(crate) subjects: Vec<String>,
    /// Instances that are struck.
    pub(crate) struck: Vec<InstanceId>,
    /// Empty where a queue is probed.
    pub(crate) balancer: String,
    pub(crate) probe: SocketAddr,
    /// Where a queue is probed.
    pub(crate) queue: Option<Queued>,
    pub(crate) watch: Option<(SocketAddr, ReadyBy)>,
}

/// The plane of tasks that is probed.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) control: PathBuf,
    pub(crate) account: String,
    /// Whose places the probes take, and how many there are.
    pub(crate) worker: Option<(String, u32)>,
}

/// The blow itself.
#[derive(Clone, Debug)]
pub(crate) enum Blow {
    Kill(Process),
    /// Programs that work on probes.
    KillAll(Vec<Process>),
    /// So many programs that work on probes, once they do.
    Victims(u32),
    /// A probe that its program dies of.
    Poison,
    /// The plane of tasks refuses what a full disk would.
    Fill,
    /// Each new run of the instance as well.
    KillAgain(InstanceId, Process),
    Stop(Vec<Process>),
    Burn {
        addr: SocketAddr,
        path: String,
    },
    Spoil {
        controls: Vec<PathBuf>,
        instance: InstanceId,
        kind: PlaneFaultKind,
    },
}

impl Aim {
    pub(crate) fn take(drill: &Drill, status: &Status) -> Result<Aim, DrillError> {
        let scene = Scene { drill, status };
        match blast(drill.fault) {
            Blast::Instance => scene.at_instance(),
            Blast::Service => scene.at_service(),
            Blast::Plane => scene.at_plane(),
            Blast::Control => scene.at_agent(),
            Blast::Tasks => scene.at_tasks(),
            Blast::Program | Blast::Place => scene.at_worker(),
        }
    }

    /// As events name it.
    pub(crate) fn subject(&self) -> String {
        let kind = if self.struck.len() > 1 { "service" } else { "instance" };
        format!("{kind}/{}", self.target)
    }

    /// What the rules of starting must know; the probe counts are added by who probed.
    pub(crate) fn facts(&self, status: &Status) -> Facts {
        if self.queue.is_some() {
            return self.facts_of_queue(status);
        }
        let target = self.service.as_deref().and_then(|name| status.service(name));
        let is_other = |s: &&Service| Some(s.name.as_str()) != self.service.as_deref();
        let behind = status.balancer(&self.balancer).map(|b| b.service.as_str());
        let concerns = |subject: &&String| {
            let name = subject.rsplit('/').next().unwrap_or_default();
            let service = name.parse::<InstanceId>().ok().map(|id| id.service);
            let of_service = |wanted: &str| name == wanted || service.as_deref() == Some(wanted);
            self.subjects.iter().any(|s| s == name)
                || self.service.as_deref().is_some_and(of_service)
                || behind.is_some_and(of_service)
                || of_service(&self.balancer)
                || of_service("_balancer")
                || of_service("_agent")
        };
        Facts {
            desired: target.map_or(0, |s| s.desired),
            ready: target.map_or(0, Service::ready),
            min_available: target.map_or(0, |s| s.min_available),
            struck: 1,
            not_ready_elsewhere: status
                .services
                .iter()
                .filter(is_other)
                .filter(|s| !s.is_complete())
                .map(|s| s.name.clone())
                .collect(),
            open_incidents: status.open_incidents.iter().filter(concerns).cloned().collect(),
            pauses: status.pauses.clone(),
            planes: u32::try_from(status.planes.iter().filter(|p| p.ready).count()).unwrap_or(u32::MAX),
            probes: 0,
            probes_failed: 0,
        }
    }

    /// Services may be down: queues are there for that.
    fn facts_of_queue(&self, status: &Status) -> Facts {
        let ready = u32::from(status.tasks.as_ref().is_some_and(|t| t.plane.ready));
        let places = self.queue.as_ref().and_then(|q| q.worker.as_ref()).map_or(1, |(_, places)| *places);
        let of_plane = |subject: &&String| subject.rsplit('/').next().is_some_and(|name| name.starts_with("_tasks"));
        let agent = |subject: &&String| subject.ends_with("_agent-1");
        let struck = match &self.blow {
            Blow::Victims(many) => *many,
            Blow::Stop(all) => u32::try_from(all.len()).unwrap_or(u32::MAX),
            _ => 1,
        };
        Facts {
            desired: places,
            ready: places * ready,
            min_available: 1,
            struck,
            not_ready_elsewhere: Vec::new(),
            open_incidents: status.open_incidents.iter().filter(|s| of_plane(s) || agent(s)).cloned().collect(),
            pauses: status.pauses.clone(),
            planes: 1,
            probes: 0,
            probes_failed: 0,
        }
    }
}

struct Scene<'a> {
    drill: &'a Drill,
    status: &'a Status,
}

impl Scene<'_> {
    fn at_instance(&self) -> Result<Aim, DrillError> {
        let instance = self.instance()?;
        let service = instance.id.service.to_string();
        let balancer = self.balancer(&service)?;
        let blow = self.blow_on(instance)?;
        // A spoiled answer is spoiled in the balancer: the instance itself stays up, there is nothing to see at it.
        let watched = !matches!(blow, Blow::Spoil { .. });
        Ok(Aim {
            blow,
            target: instance.id.to_string(),
            service: Some(service),
            subjects: vec![instance.id.to_string()],
            struck: vec![instance.id.clone()],
            probe: self.probe_address(balancer)?,
            balancer: balancer.name.clone(),
            queue: None,
            watch: instance.endpoint.filter(|_| watched).map(|addr| (addr, instance.ready_by.clone())),
        })
    }

    fn blow_on(&self, instance: &Instance) -> Result<Blow, DrillError> {
        let process = instance.process.ok_or_else(|| self.no(format!("{} has no process", instance.id)));
        let shim = instance.shim.ok_or_else(|| self.no(format!("the shim of {} is not known", instance.id)));
        let kind = match self.drill.fault {
            Fault::Kill => return Ok(Blow::Kill(process?)),
            Fault::CrashLoop => return Ok(Blow::KillAgain(instance.id.clone(), process?)),
            Fault::ShimKill => return Ok(Blow::Kill(shim?)),
            Fault::Hang => return Ok(Blow::Stop(vec![process?])),
            Fault::Busy => {
                let addr = instance.endpoint.ok_or_else(|| self.no(format!("{} has no endpoint", instance.id)))?;
                let path = self.drill.busy_path.clone();
                let path = path.ok_or_else(|| self.no("it names no `busy_path` whose request burns CPU".into()))?;
                return Ok(Blow::Burn { addr, path });
            }
            Fault::Latency => PlaneFaultKind::Latency(self.drill.latency),
            Fault::Errors => PlaneFaultKind::Errors(ERROR_STATUS),
            Fault::Reset => PlaneFaultKind::Reset,
            _ => PlaneFaultKind::NoAnswer,
        };
        let controls: Vec<PathBuf> = self.status.planes.iter().map(|p| p.control.clone()).collect();
        if controls.is_empty() {
            return Err(self.no("no balancer process is known that could make the fault".into()));
        }
        Ok(Blow::Spoil { controls, instance: instance.id.clone(), kind })
    }

    fn at_service(&self) -> Result<Aim, DrillError> {
        let name = self.drill.target.as_deref().ok_or_else(|| self.no("it names no target service".into()))?;
        let service = self.status.service(name).ok_or_else(|| self.unknown(name))?;
        let processes: Vec<Process> = service.instances.iter().filter_map(|i| i.process).collect();
        if processes.is_empty() {
            return Err(self.no(format!("{name} has no process")));
        }
        let balancer = self.balancer(name)?;
        let first = service.instances.iter().find_map(|i| Some((i.endpoint?, i.ready_by.clone())));
        let ids = service.instances.iter().map(|i| i.id.clone());
        Ok(Aim {
            blow: Blow::Stop(processes),
            target: name.to_owned(),
            service: Some(name.to_owned()),
            subjects: ids.clone().map(|id| id.to_string()).chain([name.to_owned()]).collect(),
            struck: ids.collect(),
            probe: self.probe_address(balancer)?,
            balancer: balancer.name.clone(),
            queue: None,
            watch: first,
        })
    }

    fn at_plane(&self) -> Result<Aim, DrillError> {
        let wanted = self.drill.target.as_deref();
        let named = |p: &&crate::system::Plane| wanted == Some(p.id.to_string().as_str());
        let planes = &self.status.planes;
        let plane = planes.iter().find(named).or_else(|| planes.iter().rfind(|p| p.ready));
        let plane = plane.ok_or_else(|| self.no("no balancer process is known".into()))?;
        let blow = match self.drill.fault {
            Fault::BalancerHang => Blow::Stop(vec![plane.process]),
            _ => Blow::Kill(plane.process),
        };
        self.at_holdfast(plane.id.to_string(), blow)
    }

    fn at_agent(&self) -> Result<Aim, DrillError> {
        let agent = self.status.agent.ok_or_else(|| self.no("the agent's process is not known".into()))?;
        self.at_holdfast("_agent-1".to_owned(), Blow::Kill(agent))
    }

    fn tasks(&self) -> Result<&Tasks, DrillError> {
        self.status.tasks.as_ref().ok_or_else(|| self.no("the plane of tasks does not run here".into()))
    }

    fn at_tasks(&self) -> Result<Aim, DrillError> {
        let tasks = self.tasks()?;
        let blow = match self.drill.fault {
            Fault::TasksHang => Blow::Stop(vec![tasks.plane.process]),
            Fault::TasksDiskFull => Blow::Fill,
            _ => Blow::Kill(tasks.plane.process),
        };
        let target = tasks.plane.id.to_string();
        Ok(self.at_queue(tasks, blow, vec![target.clone()], target, None))
    }

    fn at_worker(&self) -> Result<Aim, DrillError> {
        let tasks = self.tasks()?;
        let name = self.drill.target.clone().ok_or_else(|| self.no("it names no worker".into()))?;
        let worker = tasks.workers.iter().find(|(known, _)| *known == name);
        let worker = worker.ok_or_else(|| self.no(format!("there is no worker `{name}` with programs")))?;
        let blow = match self.drill.fault {
            Fault::Poison => Blow::Poison,
            _ => Blow::Victims(self.drill.count),
        };
        Ok(self.at_queue(tasks, blow, Vec::new(), name, Some(worker.clone())))
    }

    fn at_queue(
        &self,
        tasks: &Tasks,
        blow: Blow,
        subjects: Vec<String>,
        target: String,
        worker: Option<(String, u32)>,
    ) -> Aim {
        Aim {
            blow,
            target,
            service: None,
            subjects,
            struck: Vec::new(),
            balancer: String::new(),
            probe: reachable(tasks.listen),
            queue: Some(Queued { control: tasks.plane.control.clone(), account: tasks.account.clone(), worker }),
            watch: None,
        }
    }

    /// A part of holdfast itself: no instance is struck, the clients are those of any balancer.
    fn at_holdfast(&self, target: String, blow: Blow) -> Result<Aim, DrillError> {
        let named = self.drill.target.as_deref().and_then(|name| self.status.balancer(name));
        let balancer = match (&self.drill.balancer, named) {
            (Some(name), _) => self.status.balancer(name).ok_or_else(|| self.unknown(name))?,
            (None, Some(balancer)) => balancer,
            (None, None) => self.status.balancers.first().ok_or_else(|| self.no("there is no balancer".into()))?,
        };
        Ok(Aim {
            blow,
            subjects: vec![target.clone()],
            target,
            service: None,
            struck: Vec::new(),
            probe: self.probe_address(balancer)?,
            balancer: balancer.name.clone(),
            queue: None,
            watch: None,
        })
    }

    /// The instance that is named, or the last ready one of the service that is named (itself or by its balancer).
    fn instance(&self) -> Result<&Instance, DrillError> {
        let status = self.status;
        let first = || status.balancers.first().map(|b| b.service.clone());
        let wanted = self.drill.target.clone().or_else(first).ok_or_else(|| self.no("it names no target".into()))?;
        let service = match status.balancer(&wanted) {
            Some(balancer) if status.service(&wanted).is_none() => balancer.service.as_str(),
            _ => wanted.as_str(),
        };
        if let Some(service) = status.service(service) {
            let ready = service.instances.iter().rfind(|i| i.is_ready());
            return ready.ok_or_else(|| self.no(format!("no instance of {wanted} is ready")));
        }
        let id: InstanceId = wanted.parse().map_err(|_| self.unknown(&wanted))?;
        status.instance(&id).ok_or_else(|| self.unknown(&wanted))
    }

    /// The balancer that is named, the first in front of the service, or the first in front of one that needs it.
    fn balancer(&self, service: &str) -> Result<&Balancer, DrillError> {
        if let Some(name) = &self.drill.balancer {
            return self.status.balancer(name).ok_or_else(|| self.unknown(name));
        }
        let all = &self.status.balancers;
        let direct = all.iter().find(|b| b.service == service);
        let found = direct.or_else(|| all.iter().find(|b| self.needs(&b.service, service, self.status.services.len())));
        found.ok_or_else(|| self.no(format!("no balancer leads to {service}, so no client would notice")))
    }

    /// Whether `user` comes after `service`, directly or through others; `depth` bounds the walk.
    fn needs(&self, user: &str, service: &str, depth: usize) -> bool {
        let after = self.status.service(user).map_or(&[][..], |s| &s.after);
        depth > 0 && after.iter().any(|name| name == service || self.needs(name, service, depth - 1))
    }

    fn probe_address(&self, balancer: &Balancer) -> Result<SocketAddr, DrillError> {
        let listen = balancer.listen.first().ok_or_else(|| self.no(format!("{} listens nowhere", balancer.name)))?;
        Ok(reachable(*listen))
    }

    fn unknown(&self, name: &str) -> DrillError {
        self.no(format!("there is no `{name}`"))
    }

    fn no(&self, because: String) -> DrillError {
        DrillError::NoTarget { drill: self.drill.name.clone(), because }
    }
}

/// A listener on all addresses is asked on this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests;
