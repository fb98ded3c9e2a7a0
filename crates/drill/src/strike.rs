//! Carrying out a blow: what undoes it first, onto the disk, then the blow.

use std::time::Duration;

use holdfast_host::{clock, process};
use holdfast_policy::Timestamp;

use crate::aim::{Aim, Blow};
use crate::error::DrillError;
use crate::prober::queue::QueueProber;
use crate::queued::Opened;
use crate::session::{self, SIGKILL};
use crate::spec::Spec;
use crate::system::{Inject, PlaneFault, Process, Status, TasksOrder, within};
use crate::undo::{Journal, Undo};

/// Runs killed in a crash loop: the back-off must have grown visibly.
pub(crate) const CRASHES: u32 = 4;
/// A balancer process drops a fault by itself this long after the drill should have.
const PLANE_GRACE: Duration = Duration::from_secs(2);

/// The undo of each part, on disk when this returns.
pub(crate) fn intend(aim: &Aim, spec: &Spec, journal: &Journal, queue: Option<&Opened>) -> Result<(), DrillError> {
    match &aim.blow {
        Blow::Stop(leaders) => {
            for leader in leaders {
                journal.intend(Undo::Continue { leader: *leader, boot_id: clock::boot_id().to_owned() })?;
            }
        }
        Blow::Spoil { controls, .. } => {
            for control in controls {
                journal.intend(Undo::Clear { control: control.clone(), fault: fault_id(spec) })?;
            }
        }
        Blow::Fill => {
            if let Some(Opened { control, id, order }) = queue {
                let until_boot_ns = order.until_boot_ns;
                journal.intend(Undo::Room { control: control.clone(), drill: id.clone(), until_boot_ns })?;
            }
        }
        Blow::Kill(_) | Blow::KillAll(_) | Blow::KillAgain(..) | Blow::Burn { .. } => {}
        // A message is sent; what becomes of it is the queue's business.
        Blow::Victims(_) | Blow::Poison => {}
    }
    Ok(())
}

fn fault_id(spec: &Spec) -> String {
    format!("drill-{}", spec.drill.name)
}

/// Strikes; returns when, taken just before.
pub(crate) async fn strike(
    aim: &Aim,
    spec: &Spec,
    inject: &dyn Inject,
    queue: Option<(&Opened, &QueueProber)>,
) -> Result<Timestamp, DrillError> {
    let injected = clock::now();
    let failed =
        |because: String| DrillError::Inject { fault: spec.drill.fault.name(), target: aim.target.clone(), because };
    match &aim.blow {
        Blow::Kill(victim) | Blow::KillAgain(_, victim) => {
            let hit = process::signal(*victim, SIGKILL).map_err(|e| failed(e.to_string()))?;
            if !hit {
                return Err(failed(format!("process {} had gone before", victim.pid)));
            }
        }
        Blow::Stop(leaders) => {
            if !leaders.iter().any(|leader| process::is_alive(*leader)) {
                return Err(failed("its processes had gone before".into()));
            }
            let leaders = leaders.clone();
            let stop = move || leaders.into_iter().try_for_each(session::stop);
            let stopped = tokio::task::spawn_blocking(stop).await;
            stopped.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        }
        Blow::Spoil { controls, instance, kind } => {
            let fault = PlaneFault {
                id: fault_id(spec),
                balancer: aim.balancer.clone(),
                instance: Some(instance.to_string()),
                kind: *kind,
                share: spec.drill.share,
                until_boot_ns: (injected + spec.drill.hold + PLANE_GRACE).as_nanos(),
            };
            for control in controls {
                within("set a fault", inject.inject(control, &fault)).await.map_err(|e| failed(e.to_string()))?;
            }
        }
        Blow::KillAll(victims) => {
            for victim in victims {
                let hit = process::signal(*victim, SIGKILL).map_err(|e| failed(e.to_string()))?;
                if !hit {
                    return Err(failed(format!("process {} had gone before", victim.pid)));
                }
            }
        }
        Blow::Poison => queue.into_iter().for_each(|(_, prober)| prober.send_poison()),
        Blow::Victims(many) => return Err(failed(format!("{many} programs were to be struck and none was chosen"))),
        Blow::Fill => {
            let Some((opened, _)) = queue else { return Err(failed("no queue was opened".into())) };
            let order = TasksOrder { full: true, ..opened.order.clone() };
            let filled = inject.open(&opened.control, &opened.id, &order);
            within("fill the disk", filled).await.map_err(|e| failed(e.to_string()))?;
        }
        Blow::Burn { addr, path } => {
            crate::burn::start(*addr, path, spec.drill.hold).map_err(|e| failed(e.to_string()))?
        }
    }
    Ok(injected)
}

/// A crash loop goes on: kills the new run of the instance, once it is there. Returns when.
pub(crate) fn strike_again(aim: &Aim, killed: &mut Vec<Process>, status: &Status) -> Option<Timestamp> {
    let Blow::KillAgain(id, _) = &aim.blow else { return None };
    let now_running = status.instance(id)?.process?;
    if killed.len() >= CRASHES as usize || killed.contains(&now_running) {
        return None;
    }
    let at = clock::now();
    let hit = process::signal(now_running, SIGKILL).unwrap_or(false);
    hit.then(|| {
        killed.push(now_running);
        at
    })
}
