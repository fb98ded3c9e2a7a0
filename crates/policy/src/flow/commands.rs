//! What people and limits tell a run: cancel, pause, resume, rerun, and the verbs for what is stuck.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::Kind;
use super::run::{Run, Unit};
use super::state::{AUDIT_MAX, Audit, StepPhase, StepState};
use super::{Action, Operation, Phase, RunPhase, Value, Verb};
use crate::rng::Rng;
use crate::{Timestamp, Transition};

impl Run {
    pub(crate) fn cancel(&mut self, now: Timestamp, by: &str, rng: &mut Rng) {
        let cause = format!("cancelled by {by}");
        let refused = match self.state.phase {
            RunPhase::Queued => {
                self.state.cause = Some(cause.clone());
                self.end(now, RunPhase::Cancelled, cause);
                None
            }
            RunPhase::Running if self.definition.is_saga() => {
                self.state.paused = false;
                let too_late = Some("the pivot has committed: the run only goes forward");
                too_late.filter(|_| !self.request_rollback(now, cause, rng))
            }
            RunPhase::Running => {
                self.begin_stopping(now, false, cause, rng);
                None
            }
            RunPhase::BetweenRounds { .. } => {
                self.end(now, RunPhase::RolledBack, cause);
                None
            }
            RunPhase::RollingBack => Some("a rollback is not cancelled"),
            RunPhase::Stopping { .. } => Some("it ends already"),
            _ => Some("the run is over"),
        };
        self.written(now, by, "cancel".into(), "", refused);
    }

    pub(crate) fn time_out(&mut self, now: Timestamp, why: &str, rng: &mut Rng) {
        match self.state.phase {
            RunPhase::Running if self.definition.is_saga() => {
                if !self.request_rollback(now, why.into(), rng) {
                    self.state.overdue = true;
                    self.page_overdue();
                }
            }
            RunPhase::Running => self.begin_stopping(now, true, why.into(), rng),
            RunPhase::BetweenRounds { .. } => self.end(now, RunPhase::RolledBack, why.into()),
            _ => {
                self.state.cause = Some(why.into());
                self.end(now, RunPhase::Failed, why.into());
            }
        }
    }

    pub(crate) fn page_overdue(&mut self) {
        let why = "the time limit of the run has passed, and the pivot has committed: it goes on".into();
        self.actions.push_back(Action::Page { key: None, why });
    }

    /// What is under way goes on to its end; nothing new is handed over, and slots that are asked for are given back.
    /// The time limit of the run goes on.
    pub(crate) fn pause(&mut self, by: &str) {
        let over = self.state.phase.is_over() || matches!(self.state.phase, RunPhase::Stopping { .. });
        self.written(self.state.seen, by, "pause".into(), "", over.then_some("the run is over, or ends"));
        if over || self.state.paused {
            return;
        }
        self.state.paused = true;
        for unit in self.live() {
            if self.call(unit).phase == Phase::Asking {
                self.free(unit, true);
                self.set_call(unit, Phase::Ready, "the run is paused".into());
            }
        }
    }

    /// Time spent in the pause does not count as waiting.
    pub(crate) fn resume(&mut self, now: Timestamp, by: &str) {
        let refused = (!self.state.paused).then_some("the run is not paused");
        self.written(now, by, "resume".into(), "", refused);
        if refused.is_none() {
            self.state.paused = false;
            for unit in self.live() {
                self.call_mut(unit).ready = now;
            }
        }
    }

    pub(crate) fn operate(&mut self, now: Timestamp, at: (&str, u32), verb: Verb, who: (&str, &str)) {
        let what = format!("{} {} item {}", verb.name(), at.0, at.1);
        let refused = self.try_operate(now, at, verb, who.1).err();
        self.written(now, who.0, what, who.1, refused);
    }

    fn try_operate(
        &mut self,
        now: Timestamp,
        (step, item): (&str, u32),
        verb: Verb,
        reason: &str,
    ) -> Result<(), &'static str> {
        if reason.trim().is_empty() && verb != Verb::Retry {
            return Err("a reason must be given");
        }
        if !matches!(self.state.phase, RunPhase::Running | RunPhase::RollingBack) {
            return Err("the run is not under way");
        }
        let step = self.step_number(step).ok_or("there is no such step")?;
        let state = &self.state.steps[step];
        if state.phase == StepPhase::Blocked {
            return self.unblock(step, verb, reason);
        }
        let back = self.state.phase == RunPhase::RollingBack;
        let operation = if back { Operation::Undo } else { Operation::Do };
        if item as usize >= state.items.len() {
            return Err("there is no such item, or it was not begun");
        }
        let unit = Unit { step, item, operation };
        match self.call(unit).phase {
            Phase::Retrying { .. } | Phase::Ready => self.overrule(now, unit, verb, reason),
            Phase::Running(_) | Phase::Asking => Err("an attempt is under way: wait for its end"),
            _ => Err("it is over, or was not begun"),
        }
    }

    fn overrule(&mut self, now: Timestamp, unit: Unit, verb: Verb, reason: &str) -> Result<(), &'static str> {
        let kind = self.definition.kind(self.step(unit.step));
        let action = unit.operation == Operation::Do;
        match verb {
            Verb::Skip if action && matches!(kind, Some(Kind::Compensable | Kind::Pivot)) => {
                return Err("a step before the pivot, and the pivot, are not skipped: cancel the run");
            }
            Verb::MarkFailed if !action || kind == Some(Kind::Retriable) => {
                return Err("an undo, or a step after the pivot, cannot fail");
            }
            _ => {}
        }
        let call = self.call_mut(unit);
        (call.failures, call.paged, call.ready) = (0, false, now);
        call.doubt &= verb == Verb::Retry;
        let reason = format!("{}: {reason}", verb.name());
        match verb {
            Verb::Retry => self.set_call(unit, Phase::Ready, reason),
            Verb::Skip => self.set_call(unit, Phase::Skipped, reason),
            Verb::MarkDone { output } => {
                if action {
                    self.item_mut(unit).output = Some(output);
                }
                self.set_call(unit, Phase::Done, reason);
            }
            Verb::MarkFailed => {
                let state = &mut self.state.steps[unit.step];
                state.failed += 1;
                state.error = Some(reason.clone());
                self.set_call(unit, Phase::Failed, reason);
            }
        }
        Ok(())
    }

    fn unblock(&mut self, step: usize, verb: Verb, reason: &str) -> Result<(), &'static str> {
        let reason = format!("{}: {reason}", verb.name());
        let (phase, output) = match verb {
            Verb::Retry => (StepPhase::Waiting, None),
            Verb::Skip => (StepPhase::Done, Some(Value::Null)),
            Verb::MarkDone { output } => (StepPhase::Done, Some(output)),
            Verb::MarkFailed => return Err("a step after the pivot cannot fail"),
        };
        (self.state.steps[step].output, self.state.steps[step].error) = (output, None);
        self.set_step(step, phase, reason);
        Ok(())
    }

    pub(crate) fn rerun(
        &mut self,
        now: Timestamp,
        from: &[String],
        parameters: Option<BTreeMap<String, Value>>,
        by: &str,
    ) {
        let edited = parameters.is_some();
        let accepted = parameters.map(|given| self.definition.accept(&given)).transpose();
        let chosen = accepted.and_then(|accepted| Ok((accepted, self.chosen(from)?)));
        let (parameters, chosen) = match chosen {
            Ok(chosen) => chosen,
            Err(why) => return self.written(now, by, "rerun".into(), "", Some(&why)),
        };
        self.state.parameters = parameters.unwrap_or_else(|| std::mem::take(&mut self.state.parameters));
        self.state.round += 1;
        let edited = edited || self.definition.is_saga();
        let anew = self.graph.downstream(&chosen);
        for step in &anew {
            self.reset(*step, edited || self.graph.after[*step].iter().any(|need| anew.contains(need)));
        }
        let state = &mut self.state;
        (state.began, state.ended, state.cause) = (now, None, None);
        (state.overdue, state.started, state.rounds_again) = (false, false, 0);
        self.set_run(RunPhase::Running, format!("run again by {by}"));
        self.written(now, by, "rerun".into(), "", None);
    }

    /// The steps to begin with; a saga that was rolled back runs again as a whole.
    fn chosen(&self, from: &[String]) -> Result<BTreeSet<usize>, String> {
        if !self.state.phase.is_over() {
            return Err("the run is not over".into());
        }
        if self.definition.is_saga() {
            let whole = self.state.phase == RunPhase::RolledBack && from.is_empty();
            let all = whole.then(|| (0..self.state.steps.len()).collect());
            return all.ok_or_else(|| "a saga runs again as a whole, after it was rolled back".into());
        }
        let number = |name: &String| self.step_number(name).ok_or_else(|| format!("there is no step `{name}`"));
        let mut chosen: BTreeSet<usize> = from.iter().map(number).collect::<Result<_, _>>()?;
        if from.is_empty() {
            let steps = self.state.steps.iter().enumerate();
            chosen.extend(
                steps.filter(|(_, s)| matches!(s.phase, StepPhase::Failed | StepPhase::Cancelled)).map(|s| s.0),
            );
        }
        if chosen.is_empty() { Err("no step failed or was cancelled".into()) } else { Ok(chosen) }
    }

    /// Work that may have happened goes on under its old key, so that a participant does not do it twice; what is done anew, or
    /// with another input, gets the new round.
    fn reset(&mut self, step: usize, new_input: bool) {
        let round = self.state.round;
        let state = &mut self.state.steps[step];
        let unknown = matches!(state.phase, StepPhase::Failed | StepPhase::Cancelled) && state.may_have_run();
        if new_input || !unknown {
            *state = StepState::fresh(round);
            return;
        }
        (state.phase, state.failed, state.error) = (StepPhase::Waiting, 0, None);
        for item in state.items.iter_mut().filter(|item| !matches!(item.action.phase, Phase::Done | Phase::Skipped)) {
            let call = &mut item.action;
            (call.phase, call.failures, call.began, call.error) = (Phase::Idle, 0, None, None);
        }
    }

    /// Items that a rerun kept and that are not done.
    pub(crate) fn revive(&mut self, now: Timestamp, step: usize) {
        let state = &mut self.state.steps[step];
        for (n, item) in state.items.iter_mut().enumerate().filter(|(_, item)| item.action.phase == Phase::Idle) {
            (item.action.phase, item.action.ready) = (Phase::Ready, now);
            state.live.insert(n as u32);
        }
    }

    fn written(&mut self, at: Timestamp, by: &str, what: String, reason: &str, refused: Option<&str>) {
        let to = if refused.is_some() { "refused" } else { "accepted" };
        let note = Transition::new("command", to, refused.unwrap_or("an operator asked for it").to_owned());
        self.note(note.with("what", &what).with("by", by).with("reason", reason).with("run", &self.state.run));
        if refused.is_none() {
            if self.state.audit.len() == AUDIT_MAX {
                self.state.audit.pop_front();
            }
            self.state.audit.push_back(Audit { at, by: by.into(), what, reason: reason.into() });
        }
    }
}
