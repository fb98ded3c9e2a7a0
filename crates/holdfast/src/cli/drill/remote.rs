//! The running system as the agent's API tells it, in the words of the drill.

use std::str::FromStr;

use holdfast_drill::system::{
    Answer, Balancer, Incident, Instance, Plane, Process, ReadyBy, Rotation, Service, Status, System, Tasks, Unanswered,
};
use holdfast_policy::{InstanceId, Timestamp};

use crate::api;
use crate::client::Client;

pub(super) struct Remote {
    client: Client,
}

impl Remote {
    pub(super) fn new(client: Client) -> Self {
        Remote { client }
    }
}

impl System for Remote {
    fn status(&self) -> Answer<'_, Status> {
        Box::pin(async move {
            let system: api::System =
                self.client.get("/v1/system").await.map_err(|e| Unanswered::new("read the status", e))?;
            status(system).ok_or_else(|| Unanswered::new("read the status", "it names something unreadable"))
        })
    }

    fn incidents<'a>(&'a self, subject: &'a str, since: Timestamp) -> Answer<'a, Vec<Incident>> {
        Box::pin(async move {
            let path = format!("/v1/incidents?subject={subject}&since_boot_ns={}", since.as_nanos());
            let found: Vec<api::Incident> =
                self.client.get(&path).await.map_err(|e| Unanswered::new("read the incidents", e))?;
            Ok(found.into_iter().map(incident).collect())
        })
    }
}

fn incident(found: api::Incident) -> Incident {
    let at = Timestamp::from_nanos;
    Incident {
        id: found.id,
        subject: found.subject,
        detected: at(found.detected_boot_ns),
        decided: found.decided_boot_ns.map(at),
        acted: found.acted_boot_ns.map(at),
        ready: found.ready_boot_ns.map(at),
    }
}

fn status(system: api::System) -> Option<Status> {
    Some(Status {
        agent: system.agent.map(process),
        services: system.services.into_iter().map(service).collect::<Option<_>>()?,
        balancers: system.balancers.into_iter().map(balancer).collect::<Option<_>>()?,
        planes: system.planes.into_iter().map(plane).collect::<Option<_>>()?,
        tasks: system.tasks.and_then(tasks),
        open_incidents: system.open_incidents,
        pauses: system.pauses,
    })
}

fn process(p: api::Process) -> Process {
    Process { pid: p.pid, start_ticks: p.start_ticks }
}

fn service(s: api::SystemService) -> Option<Service> {
    Some(Service {
        name: s.name,
        desired: s.desired,
        min_available: s.min_available,
        after: s.after,
        instances: s.instances.into_iter().map(instance).collect::<Option<_>>()?,
    })
}

fn instance(i: api::SystemInstance) -> Option<Instance> {
    Some(Instance {
        id: InstanceId::from_str(&i.id).ok()?,
        incarnation: i.incarnation.parse().ok()?,
        state: i.state,
        process: i.process.map(process),
        shim: i.shim.map(process),
        endpoint: i.endpoint,
        ready_by: match i.ready_http {
            Some((path, low, high)) => ReadyBy::Http { path, status: (low, high) },
            None => ReadyBy::Tcp,
        },
        session_dir: Some(i.dir),
    })
}

fn balancer(b: api::SystemBalancer) -> Option<Balancer> {
    let rotation = |(id, in_rotation, since): (String, bool, Option<u64>)| {
        Some(Rotation {
            instance: InstanceId::from_str(&id).ok()?,
            in_rotation,
            since: since.map(Timestamp::from_nanos),
        })
    };
    Some(Balancer {
        name: b.name,
        service: b.service,
        listen: b.listen,
        endpoints: b.endpoints.into_iter().map(rotation).collect::<Option<_>>()?,
    })
}

fn plane(p: api::SystemPlane) -> Option<Plane> {
    Some(Plane {
        id: InstanceId::from_str(&p.id).ok()?,
        incarnation: p.incarnation.parse().ok()?,
        ready: p.ready,
        process: process(p.process),
        control: p.dir,
    })
}

fn tasks(t: api::SystemTasks) -> Option<Tasks> {
    Some(Tasks { plane: plane(t.plane)?, listen: t.listen, account: t.account, workers: t.workers })
}
