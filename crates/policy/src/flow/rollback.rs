//! Backward: when a saga goes back, in which order it undoes, and what may come after.

use super::definition::Kind;
use super::run::{Run, Unit};
use super::state::{StepPhase, StepState};
use super::{Action, Halt, Key, Operation, Outcome, Phase, RunPhase};
use crate::rng::Rng;
use crate::{Timestamp, Transition};

impl Run {
    /// Of the pivot, when there is one.
    fn pivot(&self) -> Option<usize> {
        self.definition.steps.iter().position(|step| self.definition.kind(step) == Some(Kind::Pivot))
    }

    /// The pivot has committed, or, without one, the last step that can be undone.
    pub(crate) fn is_past_pivot(&self) -> bool {
        let phase = |n: usize| self.state.steps[n].phase;
        if let Some(pivot) = self.pivot() {
            return phase(pivot) == StepPhase::Done;
        }
        let mut steps = self.definition.steps.iter().enumerate();
        let over = |n: usize| matches!(phase(n), StepPhase::Done | StepPhase::Skipped);
        steps.all(|(n, step)| self.definition.kind(step) != Some(Kind::Compensable) || over(n))
    }

    /// The pivot is under way, or ended without an answer.
    fn pivot_may_commit(&self) -> bool {
        let item = self.pivot().and_then(|pivot| self.state.steps[pivot].items.first());
        item.is_some_and(|item| {
            let undecided = !matches!(item.action.phase, Phase::Done | Phase::Failed);
            matches!(item.action.phase, Phase::Running(_)) || (undecided && item.action.doubt)
        })
    }

    /// Begins the rollback that is due, if one is.
    pub(crate) fn goes_back(&mut self, now: Timestamp, rng: &mut Rng) -> bool {
        let failed = self.state.steps.iter().position(|step| step.phase == StepPhase::Failed);
        if let Some(failed) = failed {
            let error = self.state.steps[failed].error.as_deref().unwrap_or_default();
            let again = self.state.pending.is_none();
            let cause = self.state.pending.clone();
            let cause = cause.unwrap_or_else(|| format!("step {}: {error}", self.step(failed).name));
            self.begin_rollback(now, cause, again, rng);
            return true;
        }
        if self.is_past_pivot() {
            if let Some(cause) = self.state.pending.take() {
                let says = format!("too late to go back: the pivot has committed ({cause})");
                self.note(Transition::new("running", "running", says).with("run", &self.state.run));
            }
            return false;
        }
        let cause = self.state.pending.clone().filter(|_| !self.pivot_may_commit());
        let goes = cause.is_some();
        cause.into_iter().for_each(|cause| self.begin_rollback(now, cause, false, rng));
        goes
    }

    /// A person or a limit wants it to go back. `false` when it is too late.
    pub(crate) fn request_rollback(&mut self, now: Timestamp, cause: String, rng: &mut Rng) -> bool {
        if self.is_past_pivot() {
            return false;
        }
        if self.pivot_may_commit() {
            let says = format!("{cause}; goes back if the pivot did not commit");
            self.note(Transition::new("running", "running", says).with("run", &self.state.run));
            self.state.pending.get_or_insert(cause);
        } else {
            self.begin_rollback(now, cause, false, rng);
        }
        true
    }

    fn begin_rollback(&mut self, now: Timestamp, cause: String, again: bool, rng: &mut Rng) {
        self.state.cause = Some(cause.clone());
        (self.state.again, self.state.pending) = (again, None);
        self.set_run(RunPhase::RollingBack, cause);
        self.live().into_iter().for_each(|unit| self.halt(now, unit, Halt::Rollback, rng));
        for step in 0..self.state.steps.len() {
            if matches!(self.state.steps[step].phase, StepPhase::Waiting | StepPhase::Blocked) {
                self.set_step(step, StepPhase::Cancelled, "it was not begun".into());
            }
        }
    }

    /// A step is undone when all that came after it is; steps that do not depend on each other are undone side by side.
    pub(crate) fn unwind(&mut self, now: Timestamp, rng: &mut Rng) {
        let mut settled = vec![false; self.state.steps.len()];
        for n in (0..self.graph.order.len()).rev() {
            let step = self.graph.order[n];
            let turn = self.graph.before[step].iter().all(|later| settled[*later]);
            settled[step] = turn && self.unwind_step(now, step);
        }
        if settled.iter().all(|settled| *settled) {
            self.finish_rollback(now);
        } else if !self.state.paused {
            self.start_ready(now, rng);
        }
    }

    /// `true` when nothing of it is left to undo.
    fn unwind_step(&mut self, now: Timestamp, step: usize) -> bool {
        let state = &self.state.steps[step];
        match state.phase {
            StepPhase::Undoing => {}
            StepPhase::Undone | StepPhase::Skipped | StepPhase::Cancelled => return state.live.is_empty(),
            // Its own attempts come to an end first.
            _ if !state.live.is_empty() => return false,
            phase if self.step(step).undo.is_none() || !state.may_have_run() => {
                if phase == StepPhase::Open {
                    self.set_step(step, StepPhase::Cancelled, "there is nothing to undo".into());
                }
                return true;
            }
            _ => {
                self.state.steps[step].undo_left = state.items.len() as u32;
                self.set_step(step, StepPhase::Undoing, "all that came after it is undone".into());
            }
        }
        self.widen_undo(now, step);
        let state = &self.state.steps[step];
        if state.undo_left > 0 || !state.live.is_empty() {
            return false;
        }
        self.set_step(step, StepPhase::Undone, "all of it is undone".into());
        true
    }

    /// The last child first; those that were never handed over are passed by.
    fn widen_undo(&mut self, now: Timestamp, step: usize) {
        let room = self.step(step).each.as_ref().map_or(1, |each| each.width as usize);
        let state = &mut self.state.steps[step];
        while state.undo_left > 0 && state.live.len() < room {
            state.undo_left -= 1;
            let item = &mut state.items[state.undo_left as usize];
            if item.action.ran > 0 {
                (item.undo.phase, item.undo.ready) = (Phase::Ready, now);
                state.live.insert(state.undo_left);
                self.changed = true;
            }
        }
    }

    pub(crate) fn undo_anew(&mut self, now: Timestamp, unit: Unit, reason: String) {
        let call = self.call_mut(unit);
        (call.failures, call.ready) = (0, now);
        self.set_call(unit, Phase::Ready, reason);
        if self.state.steps[unit.step].phase == StepPhase::Undone {
            self.set_step(unit.step, StepPhase::Undoing, "an action came late".into());
        }
    }

    fn finish_rollback(&mut self, now: Timestamp) {
        if self.state.again && self.state.rounds_again < self.definition.rounds {
            let at = now + self.definition.round_delay;
            return self.set_run(RunPhase::BetweenRounds { at }, "all is undone; the saga runs again".into());
        }
        self.end(now, RunPhase::RolledBack, "all is undone".into());
    }

    /// The whole saga anew. What is done in it has new keys, because the barriers remember those that were undone.
    pub(crate) fn next_round(&mut self) {
        self.state.rounds_again += 1;
        self.state.round += 1;
        let round = self.state.round;
        self.state.steps.iter_mut().for_each(|step| *step = StepState::fresh(round));
        self.set_run(RunPhase::Running, format!("round {round}"));
    }

    /// An action that was given up succeeded after all. It is recorded, and undone after it is known.
    pub(crate) fn came_late(&mut self, now: Timestamp, key: &Key, outcome: &Outcome) -> bool {
        let Outcome::Success { output } = outcome else { return false };
        let Some(unit) = self.named(key).filter(|unit| unit.operation == Operation::Do) else { return false };
        let back =
            matches!(self.state.phase, RunPhase::RollingBack | RunPhase::BetweenRounds { .. } | RunPhase::RolledBack);
        let call = self.call(unit);
        let live = call.phase.is_live();
        let tried = key.attempt > 0 && key.attempt <= call.attempt && call.ran > 0;
        if !back || !tried || call.phase == Phase::Done {
            return false;
        }
        self.item_mut(unit).output.get_or_insert(output.clone());
        if !live {
            self.set_call(unit, Phase::Done, "it succeeded after the rollback had begun".into());
        }
        self.undo_late(now, key, unit);
        true
    }

    fn undo_late(&mut self, now: Timestamp, key: &Key, unit: Unit) {
        if self.step(unit.step).undo.is_none() {
            return;
        }
        let undo = Unit { operation: Operation::Undo, ..unit };
        match self.call(undo).phase {
            Phase::Running(_) => self.item_mut(unit).undo_again = true,
            Phase::Done | Phase::Skipped if self.state.phase == RunPhase::RolledBack => {
                let why = "it succeeded after the run was rolled back: unless its barrier refused it, undo it by hand";
                self.actions.push_back(Action::Page { key: Some(key.clone()), why: why.into() });
            }
            Phase::Done | Phase::Skipped => {
                self.undo_anew(now, undo, "its action came late".into());
                if self.state.phase != RunPhase::RollingBack {
                    self.set_run(RunPhase::RollingBack, "an action came late".into());
                }
            }
            _ => {}
        }
    }
}
