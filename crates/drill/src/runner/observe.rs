//! While the fault acts and until all is well again: look, count, stop if it goes too far, undo in time.

use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::Timestamp;
use holdfast_policy::drill::{Blast, Bounds, Seen, Stop, stop};

use super::{GUARD_GRACE, Phase, RECOVERY_LIMIT, Runner, Scene, TICK, deadline};
use crate::aim::Blow;
use crate::guard::Guard;
use crate::prober::Counts;
use crate::spec::blast;
use crate::strike;
use crate::system::{Process, Status};

/// All must be well, and no request fail, for this long.
const STEADY_FOR: Duration = Duration::from_secs(1);
/// Half of all answers failing is more than the loss of one of two instances explains.
const FAILED_SHARE_MAX: f64 = 0.5;
const FAILED_REQUESTS_MIN: u64 = 50;
/// After a blow the system is asked often, to see when it leaves the rotation; then seldom, to disturb little.
const CLOSE_LOOK: Duration = Duration::from_secs(2);
const TICK_CALM: Duration = Duration::from_millis(60);
/// An operator who pressed Ctrl-C is kept no longer than this; everything is undone by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was seen.
pub(super) struct Course {
    pub(super) injected: Timestamp,
    /// The last kill of a crash loop, else the injection.
    pub(super) last_blow: Timestamp,
    pub(super) rotated_out: Option<Timestamp>,
    /// When all was well again and stayed so.
    pub(super) steady_since: Option<Timestamp>,
    pub(super) undone: bool,
    pub(super) stopped: Option<Stop>,
    pub(super) after: Option<Status>,
}

pub(super) struct Observation<'a> {
    runner: &'a Runner,
    scene: &'a Scene<'a>,
    guard: Option<Guard>,
    held_until: Timestamp,
    deadline: Timestamp,
    at_injection: Counts,
    killed: Vec<Process>,
    failed_last: (u64, Timestamp),
    seen: Course,
}

impl<'a> Observation<'a> {
    pub(super) fn start(
        runner: &'a Runner,
        scene: &'a Scene<'a>,
        guard: Guard,
        injected: Timestamp,
        held: Duration,
    ) -> Self {
        let at_injection = scene.prober.counts();
        let killed = match &scene.aim.blow {
            Blow::Kill(victim) | Blow::KillAgain(_, victim) => vec![*victim],
            Blow::KillAll(victims) => victims.clone(),
            _ => Vec::new(),
        };
        Observation {
            runner,
            scene,
            guard: Some(guard),
            held_until: injected + held,
            deadline: deadline(scene.spec, injected, held),
            at_injection,
            killed,
            failed_last: (at_injection.failed, injected),
            seen: Course {
                injected,
                last_blow: injected,
                rotated_out: None,
                steady_since: None,
                undone: false,
                stopped: None,
                after: None,
            },
        }
    }

    pub(super) async fn watch(mut self) -> Course {
        loop {
            let status = self.ask().await;
            let now = clock::now();
            if let Some(status) = &status {
                self.note_rotation(status, now);
                if let Some(at) = strike::strike_again(&self.scene.aim, &mut self.killed, status) {
                    self.seen.last_blow = at;
                }
            }
            self.seen.stopped = self.should_stop(status.as_ref(), now);
            if (now >= self.held_until || self.seen.stopped.is_some()) && self.guard.is_some() {
                self.undo().await;
            }
            self.tell(now);
            if self.seen.stopped.is_some() {
                // Undone; whether it is well again is still told, within the usual time.
                return self.settle().await;
            }
            if self.guard.is_none() && self.is_steady(status.as_ref(), now) {
                self.seen.after = status;
                return self.seen;
            }
            let calm = now.since(self.seen.last_blow) >= CLOSE_LOOK;
            tokio::time::sleep(if calm { TICK_CALM } else { TICK }).await;
        }
    }

    async fn settle(mut self) -> Course {
        let patience = if self.seen.stopped == Some(Stop::Interrupted) { PATIENCE } else { RECOVERY_LIMIT };
        let last = clock::now() + patience;
        let hopeless = self.seen.stopped == Some(Stop::TimeLimit);
        loop {
            let status = self.ask().await;
            let now = clock::now();
            let steady = self.is_steady(status.as_ref(), now);
            if steady || hopeless || now >= last {
                self.seen.steady_since = self.seen.steady_since.filter(|_| steady);
                self.seen.after = status;
                return self.seen;
            }
            self.tell(now);
            tokio::time::sleep(TICK_CALM).await;
        }
    }

    /// `None` while nobody answers: the agent may be the one that was killed.
    async fn ask(&self) -> Option<Status> {
        self.runner.status().await.ok()
    }

    fn note_rotation(&mut self, status: &Status, now: Timestamp) {
        let Some(balancer) = status.balancer(&self.scene.aim.balancer) else { return };
        let struck = |id| self.scene.aim.struck.contains(id);
        let out = balancer.endpoints.iter().find(|e| struck(&e.instance) && !e.in_rotation);
        if let Some(rotation) = out {
            let since = rotation.since.filter(|at| *at >= self.seen.injected).unwrap_or(now);
            self.seen.rotated_out.get_or_insert(since);
        }
    }

    fn should_stop(&mut self, status: Option<&Status>, now: Timestamp) -> Option<Stop> {
        let counts = self.scene.prober.counts();
        let guarded = self.guard.as_mut().is_none_or(Guard::is_watching);
        let (share, lost_max) = match blast(self.scene.spec.drill.fault) {
            Blast::Instance => (FAILED_SHARE_MAX, 1),
            Blast::Plane => (FAILED_SHARE_MAX, 0),
            // A new agent counts instances as ready once it has adopted them; the clients are the better witness.
            Blast::Control => (FAILED_SHARE_MAX, u32::MAX),
            // The whole service and what needs it may go: that is the point.
            Blast::Service => (1.0, u32::MAX),
            // Clients of a queue keep what is not confirmed.
            Blast::Tasks | Blast::Program | Blast::Place => (1.0, u32::MAX),
        };
        let bounds =
            Bounds { failed_share_max: share, requests_min: FAILED_REQUESTS_MIN, lost_max, deadline: self.deadline };
        let seen = Seen {
            finished: counts.finished - self.at_injection.finished,
            failed: counts.failed - self.at_injection.failed,
            lost: status.map_or(0, Status::lost),
            interrupted: self.runner.interrupted(),
            guarded,
        };
        stop(&bounds, now, &seen)
    }

    async fn undo(&mut self) {
        let journal = &self.scene.journal;
        let undone = journal.undo_all(&*self.runner.setup.inject, "runner").await;
        self.seen.undone = undone.is_ok_and(|u| u.failed.is_empty());
        // A guard whose work is not done is left to do it; it ends by itself.
        let Some(guard) = self.guard.take() else { return };
        if !self.seen.undone {
            drop(guard);
            tokio::time::sleep(GUARD_GRACE).await;
            self.seen.undone = journal.pending().is_ok_and(|p| p.is_empty());
            return;
        }
        guard.release().await;
        if let Err(e) = journal.remove() {
            tracing::warn!(error = %e, "the undo journal stays; its entries are all done");
        }
    }

    /// True once all has been well, and no request has failed, for long enough.
    fn is_steady(&mut self, status: Option<&Status>, now: Timestamp) -> bool {
        let failed = self.scene.prober.counts().failed;
        if failed != self.failed_last.0 {
            self.failed_last = (failed, now);
        }
        if !status.is_some_and(|s| self.is_well(s)) || !self.scene.prober.is_calm(now, STEADY_FOR) {
            self.seen.steady_since = None;
            return false;
        }
        let since = *self.seen.steady_since.get_or_insert(now);
        now.since(since.max(self.failed_last.1)) >= STEADY_FOR
    }

    fn is_well(&self, status: &Status) -> bool {
        let Scene { aim, before, .. } = self.scene;
        let mut processes = status
            .services
            .iter()
            .flat_map(|s| &s.instances)
            .flat_map(|i| [i.process, i.shim])
            .chain(status.planes.iter().map(|p| Some(p.process)))
            .chain([status.agent, status.tasks.as_ref().map(|t| t.plane.process)])
            .flatten();
        let struck_are_replaced = processes.all(|p| !self.killed.contains(&p));
        let goes_on = matches!(aim.blow, Blow::KillAgain(..)) && self.seen.stopped.is_none();
        let crashes_done = !goes_on || self.killed.len() >= strike::CRASHES as usize;
        let planes = |s: &Status| s.planes.iter().filter(|p| p.ready).count();
        let rotation = status.balancer(&aim.balancer).map_or(&[][..], |b| &b.endpoints);
        let struck_are_back = rotation.iter().filter(|e| aim.struck.contains(&e.instance)).all(|e| e.in_rotation);
        let facts = aim.facts(status);
        // A drill of queues is judged by queues: services have drills of their own.
        let services = aim.queue.is_some() || status.lost() == 0;
        let tasks = |s: &Status| s.tasks.as_ref().is_some_and(|t| t.plane.ready);
        struck_are_replaced
            && crashes_done
            && tasks(status) >= tasks(before)
            && struck_are_back
            && services
            && status.agent.is_some()
            && planes(status) >= planes(before)
            && facts.open_incidents.is_empty()
    }

    fn tell(&self, now: Timestamp) {
        let (phase, until) = match self.guard {
            Some(_) => (Phase::Struck, self.held_until),
            None => (Phase::Recovering, self.deadline),
        };
        let Scene { spec, aim, prober, .. } = self.scene;
        self.runner.tell(spec, aim, phase, now.until(until), prober.counts());
    }
}
