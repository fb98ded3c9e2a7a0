//! One drill from the look beforehand to the report.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_config::Fault;
use holdfast_host::clock;
use holdfast_policy::Timestamp;
use holdfast_policy::drill::{Facts, refusals};

use crate::aim::Aim;
use crate::error::DrillError;
use crate::guard::Guard;
use crate::prober::{Counts, Plan, Prober};
use crate::queued::{self, Access, Opened};
use crate::record::Record;
use crate::report::{Forecast, Report, Reports};
use crate::spec::{Spec, blast, is_blow};
use crate::strike;
use crate::system::{Inject, Status, System, Unanswered, within};
use crate::undo::{DrillLock, Journal};
use crate::watcher::Watcher;
use crate::witness::Witness;

mod forecast;
mod observe;
mod verdict;

/// The probe stream must be clean for this long before anything is broken.
const LOOK_BEFORE: Duration = Duration::from_secs(2);
/// At most this long until all is well again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// The guard undoes this long after the runner should have.
const GUARD_GRACE: Duration = Duration::from_secs(5);
/// A request that waits longer than the fault is held and this much more is a failure.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);

/// What a runner works with; the binary fills it.
pub struct Setup {
    pub system: Arc<dyn System>,
    pub inject: Arc<dyn Inject>,
    /// `drill/` in the data directory.
    pub dir: PathBuf,
    /// Command of the guard, such as `[holdfast, __guard]`; the directory is added as the last argument.
    pub guard: Vec<OsString>,
    /// To queues.
    pub access: Access,
    /// Set by Ctrl-C: the drill is undone and ended.
    pub interrupted: Arc<AtomicBool>,
    /// Called some times a second, for live display.
    pub progress: Box<dyn Fn(&Progress) + Send + Sync>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Is all well?
    Looking,
    Struck,
    /// Undone, or a single blow: waiting until all is well again.
    Recovering,
    Over,
}

#[derive(Clone, Debug)]
pub struct Progress {
    pub drill: String,
    pub target: String,
    pub phase: Phase,
    /// Until the phase ends; an upper bound while recovering.
    pub left: Duration,
    /// Since the probe stream began.
    pub counts: Counts,
}

pub struct Runner {
    setup: Setup,
    node: String,
}

/// Everything of one drill under way.
struct Scene<'a> {
    spec: &'a Spec,
    aim: Aim,
    before: Status,
    prober: Witness,
    /// Where a queue is probed.
    opened: Option<&'a Opened>,
    journal: Journal,
}

impl Runner {
    pub fn new(setup: Setup) -> Runner {
        Runner { setup, node: String::new() }
    }

    /// The node's name in the events that drills leave for the journal.
    pub fn on_node(self, node: impl Into<String>) -> Runner {
        Runner { node: node.into(), ..self }
    }

    /// All of `specs`, one after the other. One that is refused or cannot be aimed is reported and the next one run;
    /// Ctrl-C ends the row. Fails only when no drill can be run at all.
    pub async fn run_all(&self, specs: &[Spec]) -> Result<Reports, DrillError> {
        let mut reports = Reports::default();
        for spec in specs {
            if self.interrupted() {
                break;
            }
            let report = match self.run(spec).await {
                Ok(report) => report,
                Err(DrillError::Refused { reasons, .. }) => Report::refused(spec, &reasons),
                Err(DrillError::Interrupted { .. }) => break,
                Err(e @ (DrillError::NoTarget { .. } | DrillError::System(_) | DrillError::Inject { .. })) => {
                    Report::not_run(spec, &e)
                }
                Err(e) => return Err(e),
            };
            reports.drills.push(report);
        }
        Ok(reports)
    }

    /// What `spec` would hit; does nothing.
    pub async fn dry_run(&self, spec: &Spec) -> Result<Forecast, DrillError> {
        let status = self.status().await?;
        let aim = Aim::take(&spec.drill, &status)?;
        let reasons = refusals(blast(spec.drill.fault), &aim.facts(&status), false);
        Ok(forecast::forecast(spec, &aim, &status, &reasons))
    }

    pub async fn run(&self, spec: &Spec) -> Result<Report, DrillError> {
        let lock = DrillLock::take(&self.setup.dir)?;
        let _lock = lock.ok_or_else(|| DrillError::AnotherRunning { lock: DrillLock::path(&self.setup.dir) })?;
        let journal = Journal::of(&self.setup.dir);
        // What an earlier drill left behind, its guard killed with it.
        journal.undo_all(&*self.setup.inject, "next drill").await?;
        let status = self.status().await?;
        let aim = Aim::take(&spec.drill, &status)?;
        self.refuse(spec, &aim.facts(&status), false)?;
        let opened = match &aim.queue {
            Some(queue) => Some(Opened::open(queue, spec, &*self.setup.inject).await?),
            None => None,
        };
        let report = self.look_and_strike(spec, aim, journal, opened.as_ref()).await;
        if let Some(opened) = &opened {
            opened.close(&*self.setup.inject).await;
        }
        report
    }

    async fn look_and_strike(
        &self,
        spec: &Spec,
        aim: Aim,
        journal: Journal,
        opened: Option<&Opened>,
    ) -> Result<Report, DrillError> {
        let mut scene = self.look(spec, aim, journal, opened).await?;
        if let Some(prober) = scene.prober.queue() {
            scene.aim = queued::aim_at_programs(scene.aim, spec, prober).await?;
        }
        self.carry_out(scene).await
    }

    /// Nothing is touched here: is all well, and do clients get answers?
    async fn look<'a>(
        &self,
        spec: &'a Spec,
        aim: Aim,
        journal: Journal,
        opened: Option<&'a Opened>,
    ) -> Result<Scene<'a>, DrillError> {
        let prober = self.witness(spec, &aim, opened)?;
        let until = clock::now() + LOOK_BEFORE;
        while clock::now() < until && !self.interrupted() {
            self.tell(spec, &aim, Phase::Looking, clock::now().until(until), prober.counts());
            tokio::time::sleep(TICK).await;
        }
        if self.interrupted() {
            return Err(DrillError::Interrupted { drill: spec.drill.name.clone() });
        }
        let before = self.status().await?;
        let aim = Aim::take(&spec.drill, &before)?;
        let (probes, probes_failed) = (prober.answered(), prober.counts().failed);
        self.refuse(spec, &Facts { probes, probes_failed, ..aim.facts(&before) }, true)?;
        Ok(Scene { spec, aim, before, prober, opened, journal })
    }

    fn witness(&self, spec: &Spec, aim: &Aim, opened: Option<&Opened>) -> Result<Witness, DrillError> {
        let Plan { limit, .. } = plan(spec, aim);
        match (opened, &aim.queue) {
            (Some(opened), Some(queue)) => {
                opened.prober(aim, queue, spec, &self.setup.access, limit).map(Witness::Queue)
            }
            _ => Prober::start(plan(spec, aim)).map(Witness::Balancer).map_err(DrillError::Prober),
        }
    }

    fn refuse(&self, spec: &Spec, facts: &Facts, probed: bool) -> Result<(), DrillError> {
        let reasons = refusals(blast(spec.drill.fault), facts, probed);
        match reasons.is_empty() {
            true => Ok(()),
            false => Err(DrillError::Refused { drill: spec.drill.name.clone(), reasons }),
        }
    }

    async fn carry_out(&self, scene: Scene<'_>) -> Result<Report, DrillError> {
        let Scene { spec, aim, journal, opened, .. } = &scene;
        let held = if is_blow(spec.drill.fault) { Duration::ZERO } else { spec.drill.hold };
        let mut record = Record::open(&self.setup.dir, &self.node, &spec.drill.name, aim);
        let guard = Guard::start(&self.setup.guard, &self.setup.dir, clock::now() + held + GUARD_GRACE)?;
        strike::intend(aim, spec, journal, *opened)?;
        let watcher = self.watch(aim).await;
        let struck = strike::strike(aim, spec, &*self.setup.inject, opened.zip(scene.prober.queue())).await;
        let injected = match struck {
            Ok(injected) => injected,
            Err(e) => {
                journal.undo_all(&*self.setup.inject, "runner").await?;
                guard.release().await;
                return Err(e);
            }
        };
        record.note("steady", "struck", spec.drill.fault.name());
        let seen = observe::Observation::start(self, &scene, guard, injected, held).watch().await;
        let report = self.report(scene, watcher, seen).await?;
        record.note("struck", if report.passed { "passed" } else { "failed" }, &report.why_not.join("; "));
        record.keep(&report);
        Ok(report)
    }

    /// Started before the blow and left one attempt to see it well.
    async fn watch(&self, aim: &Aim) -> Option<Watcher> {
        let (addr, by) = aim.watch.clone()?;
        let watcher = match Watcher::start(addr, by) {
            Ok(watcher) => watcher,
            Err(e) => {
                tracing::warn!(error = %e, "no outside watcher; the report goes without its times");
                return None;
            }
        };
        let last = clock::now() + Duration::from_millis(500);
        while watcher.seen().attempts == 0 && clock::now() < last {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Some(watcher)
    }

    async fn status(&self) -> Result<Status, Unanswered> {
        within("read the status", self.setup.system.status()).await
    }

    fn interrupted(&self) -> bool {
        self.setup.interrupted.load(Ordering::Relaxed)
    }

    fn tell(&self, spec: &Spec, aim: &Aim, phase: Phase, left: Duration, counts: Counts) {
        let (drill, target) = (spec.drill.name.clone(), aim.target.clone());
        (self.setup.progress)(&Progress { drill, target, phase, left, counts });
    }
}

fn plan(spec: &Spec, aim: &Aim) -> Plan {
    Plan {
        target: aim.probe,
        host: aim.probe.to_string(),
        path: spec.drill.path.clone(),
        rate: spec.drill.rate,
        limit: REQUEST_LIMIT.max(spec.drill.hold + Duration::from_secs(5)),
        body_hash: None,
    }
}

fn deadline(spec: &Spec, injected: Timestamp, held: Duration) -> Timestamp {
    let asked = spec.goals.recover.unwrap_or_default() * 2;
    // The back-off of a crash loop grows, and its incident closes only after a stable time.
    let own = if spec.drill.fault == Fault::CrashLoop { RECOVERY_LIMIT * 3 } else { RECOVERY_LIMIT };
    injected + held + own.max(asked)
}
