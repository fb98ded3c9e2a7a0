//! The queue of a drill: opened before it, closed after it, and closed by the plane itself if nobody does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::Fault;
use holdfast_host::clock;
use holdfast_sqs::Signer;

use crate::aim::{Aim, Blow, Queued};
use crate::error::DrillError;
use crate::prober::queue::{Plan, QueueProber};
use crate::spec::Spec;
use crate::system::{Inject, Process, TasksOrder, within};

/// Looking, recovering and what the report takes; the plane removes the queue after it.
const BESIDES_HOLD: Duration = Duration::from_secs(240);
/// Programs that are to be struck have begun by then.
const VICTIMS_LIMIT: Duration = Duration::from_secs(15);
/// A program that is to be struck must still be there when the guard is; one that is killed does not work that long.
const WORK_KILLED: Duration = Duration::from_secs(10);
/// One that goes on afterwards ends soon.
const WORK_HUNG: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(5);
/// As the plane calls a drill's queues.
const PREFIX: &str = "_drill-";
const DEAD: &str = "-dead";
/// Of what the stand-ins write, in the directory of the plane's instance.
const EFFECTS: &str = "drill-";

/// How the prober gets into a plane whose file has keys.
#[derive(Clone, Debug)]
pub enum Access {
    /// The file has none: nobody signs.
    Open,
    Key(Arc<Signer>),
    /// Why none can be used.
    Barred(String),
}

/// A drill's queue, open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) control: PathBuf,
    pub(crate) id: String,
    pub(crate) order: TasksOrder,
}

impl Opened {
    pub(crate) async fn open(queue: &Queued, spec: &Spec, inject: &dyn Inject) -> Result<Opened, DrillError> {
        let until = clock::now() + spec.drill.hold + BESIDES_HOLD;
        let worker = queue.worker.as_ref().map(|(name, _)| name.clone());
        let order = TasksOrder { worker, full: false, until_boot_ns: until.as_nanos() };
        let id = clock::wall_ms().to_string();
        within("open a queue for the drill", inject.open(&queue.control, &id, &order)).await?;
        Ok(Opened { control: queue.control.clone(), id, order })
    }

    pub(crate) async fn close(&self, inject: &dyn Inject) {
        if let Err(error) = within("close the drill's queue", inject.close(&self.control, &self.id)).await {
            tracing::warn!(%error, "the plane of tasks closes it by itself in some minutes");
        }
    }

    pub(crate) fn prober(
        &self,
        aim: &Aim,
        queue: &Queued,
        spec: &Spec,
        access: &Access,
        limit: Duration,
    ) -> Result<QueueProber, DrillError> {
        let signer = match access {
            Access::Open => None,
            Access::Key(signer) => Some(signer.clone()),
            Access::Barred(because) => {
                return Err(DrillError::NoTarget { drill: spec.drill.name.clone(), because: because.clone() });
            }
        };
        let name = format!("{PREFIX}{}", self.id);
        // One a second for each place leaves most of the worker to its own messages.
        let rate = queue.worker.as_ref().map_or(spec.drill.rate, |(_, places)| spec.drill.rate.min(*places));
        let effects = self.control.join(format!("{EFFECTS}{}", self.id));
        let plan = Plan {
            listen: aim.probe,
            account: queue.account.clone(),
            signer,
            worker: queue.worker.as_ref().map(|_| (format!("{name}{DEAD}"), effects)),
            queue: name,
            rate,
            limit,
        };
        QueueProber::start(plan).map_err(DrillError::Prober)
    }
}

/// Programs are known only once they work on something: sends what they work on, and aims at them.
pub(crate) async fn aim_at_programs(aim: Aim, spec: &Spec, prober: &QueueProber) -> Result<Aim, DrillError> {
    let Blow::Victims(many) = aim.blow else { return Ok(aim) };
    let hangs = spec.drill.fault == Fault::WorkerHang;
    prober.send_victims(many, if hangs { WORK_HUNG } else { WORK_KILLED });
    let last = clock::now() + VICTIMS_LIMIT;
    let victims: Vec<Process> = loop {
        if let Some(victims) = prober.victims(many) {
            break victims;
        }
        if clock::now() >= last {
            let because = format!("{many} programs did not begin within {} s", VICTIMS_LIMIT.as_secs());
            return Err(DrillError::NoTarget { drill: spec.drill.name.clone(), because });
        }
        tokio::time::sleep(TICK).await;
    };
    let blow = if hangs { Blow::Stop(victims) } else { Blow::KillAll(victims) };
    Ok(Aim { blow, ..aim })
}
