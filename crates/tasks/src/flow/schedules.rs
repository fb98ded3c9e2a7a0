//! Runs that begin by the clock: each firing of a schedule becomes a run once, whatever dies and whatever the clock does.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::flow::Event;
use holdfast_policy::schedule::{Clock, Cron, Look, Schedule, Verdict, rfc3339};

use super::declared::Workflow;
use super::stored::NewRun;
use super::{Flows, lock, zone};
use crate::error::{Error, Result};

/// Firings are whole minutes; a run begins at most this much later.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Schedules {
    clock: Mutex<Watched>,
    known: Mutex<BTreeMap<String, Known>>,
}

#[derive(Default)]
struct Watched {
    clock: Clock,
    off_s: i64,
}

/// A schedule as it is followed.
#[derive(Clone)]
struct Known {
    pattern: String,
    schedule: Schedule,
    watermark_s: i64,
    next_s: Option<i64>,
}

/// As people see it.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) workflow: String,
    pub(crate) watermark: String,
    pub(crate) next: Option<String>,
}

/// `None` for a workflow that is begun by hand only.
pub(super) fn schedule(workflow: &Workflow) -> Result<Option<Schedule>> {
    if workflow.schedule.is_empty() {
        return Ok(None);
    }
    let bad = |reason: String| workflow.bad(reason);
    let patterns = workflow.schedule.iter().map(|text| Cron::parse(text).map_err(bad)).collect::<Result<_>>()?;
    Ok(Some(Schedule { patterns, zone: zone::read(&workflow.timezone).map_err(bad)?, missed: workflow.missed() }))
}

impl Flows {
    pub(super) async fn keep_schedules(&self) {
        // Each is told once, not each second.
        let mut said: BTreeMap<String, String> = BTreeMap::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let wall_s = i64::try_from(clock::wall_ms() / 1000).unwrap_or(i64::MAX);
            if self.clock_is_off(wall_s) {
                continue;
            }
            let definition = self.0.ground.definition.borrow().clone();
            lock(&self.0.schedules.known).retain(|name, _| definition.workflows.contains_key(name));
            for workflow in definition.workflows.values().filter(|workflow| !workflow.schedule.is_empty()) {
                match self.fire_due(workflow, wall_s).await {
                    Ok(()) => drop(said.remove(&workflow.name)),
                    Err(error) => {
                        let (code, name, text) = (error.code(), workflow.name.clone(), error.to_string());
                        if said.insert(name.clone(), text.clone()).as_ref() != Some(&text) {
                            tracing::error!(code, error = text, workflow = name, "a schedule is not followed");
                        }
                    }
                }
            }
        }
    }

    fn clock_is_off(&self, wall_s: i64) -> bool {
        let mut watched = lock(&self.0.schedules.clock);
        match watched.clock.look(clock::now(), wall_s) {
            Look::Steady => {}
            Look::Jumped { by_s } => {
                watched.off_s = by_s;
                tracing::warn!(
                    code = "HF0829",
                    by_s,
                    "the clock was set: schedules pause until `holdfast runs schedules resume`, or until it is back"
                );
            }
            Look::Paused { by_s } => watched.off_s = by_s,
            Look::Returned => {
                watched.off_s = 0;
                tracing::info!("the clock is back where it was: schedules go on");
            }
        }
        watched.clock.is_paused()
    }

    /// How far the clock is off, while schedules pause.
    pub(crate) fn paused_by_clock(&self) -> Option<i64> {
        let watched = lock(&self.0.schedules.clock);
        watched.clock.is_paused().then_some(watched.off_s)
    }

    /// The clock is right as it is.
    pub(crate) fn resume_schedules(&self) {
        let mut watched = lock(&self.0.schedules.clock);
        watched.clock.resume();
        watched.off_s = 0;
    }

    pub(crate) fn planned(&self) -> Vec<Planned> {
        let known = lock(&self.0.schedules.known);
        let planned = |(name, known): (&String, &Known)| Planned {
            workflow: name.clone(),
            watermark: rfc3339(known.watermark_s),
            next: known.next_s.map(rfc3339),
        };
        known.iter().map(planned).collect()
    }

    /// Everything of one schedule that is due at `now_s`.
    pub(super) async fn fire_due(&self, workflow: &Workflow, now_s: i64) -> Result<()> {
        let Some(mut known) = self.known_schedule(workflow, now_s).await? else { return Ok(()) };
        if known.next_s.is_none_or(|next| next > now_s) {
            return Ok(());
        }
        let due = known.schedule.due(known.watermark_s, now_s);
        if due.dropped > 0 {
            tracing::warn!(workflow = workflow.name, missed = due.dropped, "firings of a schedule were missed");
        }
        for at in due.firings {
            match self.fire(workflow, at).await {
                Ok(()) => {}
                // It would be refused again; the next one may not be.
                Err(error @ (Error::Parameters { .. } | Error::Workflow { .. } | Error::TooManyRuns { .. })) => {
                    tracing::error!(code = error.code(), %error, workflow = workflow.name, "a scheduled run does not begin");
                    self.0.ground.desk.store.move_watermark(&workflow.name, at).await?;
                }
                Err(error) => return Err(error),
            }
            known.watermark_s = at;
            lock(&self.0.schedules.known).insert(workflow.name.clone(), known.clone());
        }
        if due.watermark_s > known.watermark_s {
            self.0.ground.desk.store.move_watermark(&workflow.name, due.watermark_s).await?;
            known.watermark_s = due.watermark_s;
        }
        known.next_s = due.next_s;
        lock(&self.0.schedules.known).insert(workflow.name.clone(), known);
        Ok(())
    }

    async fn known_schedule(&self, workflow: &Workflow, now_s: i64) -> Result<Option<Known>> {
        let pattern = format!("{} {}", workflow.schedule.join("; "), workflow.timezone);
        let known = lock(&self.0.schedules.known).get(&workflow.name).cloned();
        if let Some(known) =
            known.filter(|known| known.pattern == pattern && known.schedule.missed == workflow.missed())
        {
            return Ok(Some(known));
        }
        let Some(schedule) = schedule(workflow)? else { return Ok(None) };
        let watermark_s = self.0.ground.desk.store.watermark(&workflow.name, &pattern, now_s).await?;
        let known = Known { next_s: schedule.next_after(watermark_s), pattern, schedule, watermark_s };
        lock(&self.0.schedules.known).insert(workflow.name.clone(), known.clone());
        Ok(Some(known))
    }

    async fn fire(&self, workflow: &Workflow, at: i64) -> Result<()> {
        let pinned = self.in_force(&workflow.name)?;
        let parameters = BTreeMap::new();
        let accepted = pinned.machine.accept(&parameters);
        accepted.map_err(|reason| Error::Parameters { workflow: workflow.name.clone(), reason })?;
        let new = NewRun { pinned, parameters, key: None, parent: None, nominal: Some(at), held: false };
        let fate = self.0.ground.desk.store.fire(new, at, workflow.overlap()).await?;
        let nominal = rfc3339(at);
        if fate.verdict == Verdict::Skip {
            tracing::info!(workflow = workflow.name, nominal, "a firing is skipped: an earlier run is not over");
        }
        if let Some(run) = &fate.run {
            tracing::info!(workflow = workflow.name, nominal, run, "a schedule begins a run");
            self.begin_leading(run).await?;
        }
        for other in &fate.others {
            let by = format!("the schedule, for {nominal}");
            if let Err(error) = self.tell(other, Event::Cancel { by }).await {
                tracing::warn!(run = other, %error, "an earlier run is not cancelled, the next one waits for it");
            }
        }
        Ok(())
    }
}
