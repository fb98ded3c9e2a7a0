//! Faults that a balancer process makes itself, over its control socket.

use std::path::Path;

use holdfast_balancer::control::Client;
use holdfast_balancer::fault::{Fault, Kind};
use holdfast_drill::system::{Answer, Inject, PlaneFault, PlaneFaultKind, Unanswered};

pub(crate) struct PlaneControl;

impl Inject for PlaneControl {
    fn inject<'a>(&'a self, control: &'a Path, fault: &'a PlaneFault) -> Answer<'a, ()> {
        Box::pin(async move {
            let unanswered = |e: holdfast_balancer::Error| Unanswered::new("set a fault in a balancer process", e);
            let mut client = Client::connect(control).await.map_err(unanswered)?;
            client.fault(translate(fault)).await.map_err(unanswered)
        })
    }

    fn clear<'a>(&'a self, control: &'a Path, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            // A process that is gone has taken its faults with it.
            let Ok(mut client) = Client::connect(control).await else { return Ok(()) };
            client.clear_fault(id).await.map_err(|e| Unanswered::new("clear a fault in a balancer process", e))
        })
    }
}

fn translate(fault: &PlaneFault) -> Fault {
    Fault {
        id: fault.id.clone(),
        balancer: fault.balancer.clone(),
        instance: fault.instance.clone(),
        kind: match fault.kind {
            PlaneFaultKind::Latency(by) => Kind::LatencyMs(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
            PlaneFaultKind::Errors(status) => Kind::Error(status),
            PlaneFaultKind::Reset => Kind::Reset,
            PlaneFaultKind::NoAnswer => Kind::NoAnswer,
        },
        share: fault.share,
        until_boot_ns: fault.until_boot_ns,
    }
}
