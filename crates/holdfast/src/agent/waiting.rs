//! The balancers' shared table, as the hung-or-busy watcher sees it.

use std::sync::Arc;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::InstanceId;
use holdfast_policy::balance::Verdict as Told;
use holdfast_policy::hung::Verdict;
use holdfast_services::Waiting;

use super::planes::Planes;

/// A request that has waited for so long makes its instance worth a look; looking is cheap and harms nobody.
const OWED_AFTER: Duration = Duration::from_millis(100);

pub(super) struct Watch {
    planes: Arc<Planes>,
}

impl Watch {
    pub(super) fn new(planes: Arc<Planes>) -> Self {
        Watch { planes }
    }
}

impl Waiting for Watch {
    fn waiting(&self) -> Vec<InstanceId> {
        let now = clock::now();
        // A dead agent's verdicts must not outlive it: the table takes them only with a fresh heartbeat.
        self.planes.beat();
        let table = &self.planes.table;
        let owes = |slot: u16| table.silent_for(slot, now).is_some_and(|silence| silence > OWED_AFTER);
        self.planes.placed().into_iter().filter(|(_, slot)| owes(*slot)).map(|(id, _)| id).collect()
    }

    fn tell(&self, instance: &InstanceId, verdict: Verdict) {
        let Some((_, slot)) = self.planes.placed().into_iter().find(|(id, _)| id == instance) else { return };
        self.planes.table.set_verdict(
            slot,
            match verdict {
                Verdict::Unknown => Told::Ok,
                Verdict::Stopped => Told::Stopped,
                Verdict::Quiet => Told::NoProgress,
                Verdict::Busy => Told::Busy,
            },
        );
    }
}
