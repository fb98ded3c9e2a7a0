//! Commands on the edges, `sync`, and dry starts.

use std::time::Duration;

use holdfast_policy::backoff::Backoff;
use holdfast_policy::standby::State;
use holdfast_policy::{Timestamp, Transition};

use super::super::Supervisor;
use super::super::action::{Action, Edge, Job};
use super::super::definition::Definition;
use super::super::event::{ShimPhase, ShimState};
use super::super::history::Mark;
use super::super::instance::{Instance, Then, Why};
use super::Running;

/// Between tries of a command that fails: what it talks to may be down for long.
const AGAIN: Backoff =
    Backoff { base: Duration::from_millis(500), factor: 2.0, max: Duration::from_secs(30), jitter: 0.2 };
/// A dry start that has not become ready by then has failed.
const DRY_TIME: Duration = Duration::from_secs(300);
/// The output of a failed command is told up to here.
const DETAIL_CHARS: usize = 200;

impl Supervisor {
    /// `Some(true)` when the command has succeeded under the present token, or there is none to run; `Some(false)`
    /// right after a failure, and while it waits for the next try.
    pub(crate) fn run_edge(
        &mut self,
        now: Timestamp,
        i: &mut Instance,
        definition: &Definition,
        edge: Edge,
        argv: Option<Vec<String>>,
    ) -> Option<bool> {
        let Some(argv) = argv else { return Some(true) };
        if i.member.trying.replace(edge) != Some(edge) {
            (i.member.tries, i.member.job_after) = (0, now);
        }
        match i.member.job.take() {
            Some(Running { edge: of, ended: Some((true, _)), .. }) if of == edge => {
                (i.member.tries, i.member.trouble) = (0, None);
                return Some(true);
            }
            Some(Running { edge: of, ended: Some((false, detail)), name, .. }) if of == edge => {
                self.edge_failed(now, i, edge, &name, &detail);
                return Some(false);
            }
            Some(running) if running.edge == edge => {
                i.member.job = Some(running);
                return None;
            }
            _ => {}
        }
        if now < i.member.job_after {
            self.wake_at(i.member.job_after);
            return Some(false);
        }
        let token = i.member.machine.token();
        let name = match edge.is_repeated() {
            true => format!("{}-{}-{}", i.id, edge.name(), now.as_nanos()),
            false => format!("{}-{}-{}-{}", i.id, edge.name(), token.unwrap_or_default(), i.member.tries),
        };
        self.order_job(i, definition, edge, name.clone(), argv);
        i.member.job = Some(Running { edge, name, since: now, ended: None });
        None
    }

    fn edge_failed(&mut self, now: Timestamp, i: &mut Instance, edge: Edge, name: &str, detail: &str) {
        let wait = AGAIN.delay(i.member.tries, &mut self.rng);
        i.member.tries = i.member.tries.saturating_add(1);
        i.member.job_after = now + wait;
        let text = format!("`{}` failed: {detail}", edge.name());
        let transition = Transition::new(i.member.machine.state().name(), "held", text.clone())
            .with("job", name)
            .with("tries", i.member.tries)
            .with("wait_ms", wait.as_millis());
        i.member.trouble = Some(text);
        self.tell(now, i, transition, Mark::NONE);
        self.wake_at(i.member.job_after);
    }

    fn order_job(&mut self, i: &Instance, definition: &Definition, edge: Edge, name: String, argv: Vec<String>) {
        let Some(standby) = definition.standby() else { return };
        let known = i.running.clone().or_else(|| self.services.get(&i.id.service).cloned());
        let Some(definition) = known.or_else(|| i.member.volume_of.clone()) else { return };
        self.act(Action::Job(Job {
            instance: i.id.clone(),
            edge,
            name,
            argv,
            timeout: if edge == Edge::Restore { standby.restore_timeout } else { standby.timeout },
            definition,
            port: i.record.port,
            token: i.member.machine.token(),
            fence: i.member.owed.join(","),
        }));
    }

    pub(crate) fn on_job_ended(&mut self, now: Timestamp, i: &mut Instance, name: &str, ok: bool, detail: String) {
        let detail: String = detail.chars().take(DETAIL_CHARS).collect();
        self.dirty = true;
        if let Some(job) = i.member.job.as_mut().filter(|job| job.name == name) {
            job.ended = Some((ok, detail));
            return;
        }
        let Some(sync) = i.member.syncing.take_if(|s| s.name == name) else { return };
        let every = i.running.as_ref().or_else(|| self.services.get(&i.id.service)).cloned();
        let every = every.and_then(|d| d.standby().map(|s| s.sync_every)).unwrap_or(DRY_TIME);
        if ok {
            i.member.sync_failures = 0;
            i.member.sync_after = now + every;
            // What came after its begin may be missing.
            i.record.synced = Some(sync.since);
            return self.act(Action::Persist(i.record.clone()));
        }
        let wait = AGAIN.delay(i.member.sync_failures, &mut self.rng).min(every);
        i.member.sync_failures = i.member.sync_failures.saturating_add(1);
        i.member.sync_after = now + wait;
        if i.member.sync_failures == 1 {
            let transition = Transition::new(i.shown, i.shown, format!("`sync` failed: {detail}"));
            self.tell(now, i, transition, Mark::NONE);
        }
    }

    /// Runs `sync` when it is due and somebody is active to take the data from.
    pub(crate) fn keep_synced(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition) {
        let Some(argv) = definition.standby().and_then(|s| s.sync.clone()) else { return };
        let active = self.groups.get(&i.id.service).and_then(|g| g.holder.as_ref()).is_some_and(|h| h.member != i.id);
        if i.member.syncing.is_some() || !active || self.wanted(&i.id).is_none() || self.paused(&i.id).is_some() {
            return;
        }
        if now < i.member.sync_after {
            return self.wake_at(i.member.sync_after);
        }
        let name = format!("{}-sync-{}", i.id, now.as_nanos());
        self.order_job(i, definition, Edge::Sync, name.clone(), argv);
        i.member.syncing = Some(Running { edge: Edge::Sync, name, since: now, ended: None });
    }

    /// Whether a leaving active member still has its `demote` to run.
    pub(crate) fn demoting(&mut self, now: Timestamp, i: &mut Instance, why: Why) -> bool {
        let Some(definition) = i.running.clone().filter(|_| why == Why::Switchover && !i.member.demoted) else {
            return false;
        };
        if i.member.machine.state() != State::Draining || !i.child_runs() {
            return false;
        }
        let argv = definition.standby().and_then(|s| s.demote.clone());
        // Its program is ended whatever the command says.
        i.member.demoted = self.run_edge(now, i, &definition, Edge::Demote, argv).is_some();
        !i.member.demoted
    }

    /// Whether the absent member is to be launched for a trial.
    pub(crate) fn dry_start_due(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition) -> bool {
        let Some(every) = definition.standby().and_then(|s| s.dry_start) else { return false };
        let at = *i.member.dry_after.get_or_insert(now + every);
        let group = self.groups.get(&i.id.service);
        let active = group.and_then(|g| g.holder.as_ref()).is_some_and(|h| h.member != i.id);
        i.member.dry = now >= at && active && self.paused(&i.id).is_none() && now >= i.launch_after;
        if i.member.dry {
            i.member.dry_after = Some(now + every);
        } else {
            self.wake_at(at.max(now + Duration::from_millis(1)));
        }
        i.member.dry
    }

    /// Ends a trial that has shown what it can, or that is in the way of a takeover.
    pub(crate) fn watch_dry_start(&mut self, now: Timestamp, i: &mut Instance, state: &ShimState) {
        let ready = i.life.ready.state() == holdfast_policy::health::Readiness::Ready;
        let needed = self.groups.get(&i.id.service).is_none_or(|g| g.holder.is_none());
        let until = i.life.seen + DRY_TIME;
        let died = !matches!(state.phase, ShimPhase::Running | ShimPhase::Starting);
        if !(ready || needed || died || now >= until) {
            return self.wake_at(until);
        }
        if ready || !needed {
            i.member.dry_result = Some((now, ready));
            let text = if ready { "the dry start succeeded" } else { "the dry start failed" };
            let took = now.since(state.since).as_millis();
            let transition =
                Transition::new("dry", if ready { "passed" } else { "failed" }, text).with("took_ms", took);
            self.tell(now, i, transition, Mark::NONE);
        }
        i.member.dry = false;
        self.begin_leave(now, i, Why::DryDone, Then::End);
    }
}
