//! Forward: which steps may begin, how fan-outs spread, when steps and the run are over.

use std::sync::Arc;

use super::definition::{Definition, Items, Kind, Step, Trigger};
use super::render::View;
use super::run::Run;
use super::state::{Item, StepPhase};
use super::{Action, Call, Halt, Phase, RunPhase, Value};
use crate::Timestamp;
use crate::rng::Rng;

impl Trigger {
    /// `phases` are those of all steps it comes after, and all are over.
    fn verdict(self, phases: &[StepPhase]) -> bool {
        let ok = phases.iter().filter(|p| **p == StepPhase::Done).count();
        let failed = phases.iter().filter(|p| matches!(p, StepPhase::Failed | StepPhase::Cancelled)).count();
        match self {
            Trigger::AllOk => ok == phases.len(),
            Trigger::AllDone => true,
            Trigger::AnyFailed => failed > 0,
            Trigger::AnyOk => ok > 0,
            Trigger::AllFailed => failed > 0 && failed == phases.len(),
            Trigger::NoneFailed => failed == 0,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Trigger::AllOk => "all-ok",
            Trigger::AllDone => "all-done",
            Trigger::AnyFailed => "any-failed",
            Trigger::AnyOk => "any-ok",
            Trigger::AllFailed => "all-failed",
            Trigger::NoneFailed => "none-failed",
        }
    }
}

impl Run {
    pub(crate) fn advance(&mut self, now: Timestamp, rng: &mut Rng) {
        let definition = Arc::clone(&self.definition);
        for n in 0..self.graph.order.len() {
            let step = self.graph.order[n];
            match self.state.steps[step].phase {
                StepPhase::Waiting => self.consider(now, &definition, step),
                StepPhase::Open => self.tend(now, &definition.steps[step], step),
                _ => {}
            }
            // What comes after it is not judged: the rollback cancels it.
            if definition.is_saga() && self.state.steps[step].phase == StepPhase::Failed {
                break;
            }
        }
        if definition.is_saga() && self.goes_back(now, rng) {
            return;
        }
        if self.state.steps.iter().all(|step| step.phase.is_over()) {
            self.finish(now);
        } else if !self.state.paused {
            self.start_ready(now, rng);
        }
    }

    /// Whether a step that waits may begin, is skipped, or cannot be.
    fn consider(&mut self, now: Timestamp, definition: &Definition, number: usize) {
        let phases: Vec<StepPhase> = self.graph.after[number].iter().map(|n| self.state.steps[*n].phase).collect();
        if !phases.iter().all(|phase| phase.is_over()) {
            return;
        }
        let step = &definition.steps[number];
        if !step.trigger.verdict(&phases) {
            let reason = format!("what it comes after did not end as {} asks", step.trigger.name());
            return self.set_step(number, StepPhase::Skipped, reason);
        }
        match self.wanted(step, number) {
            Ok(None) => self.set_step(number, StepPhase::Skipped, "its condition is false".into()),
            Ok(Some(values)) => {
                self.state.steps[number].values = values;
                self.set_step(number, StepPhase::Open, "what it comes after is over".into());
                self.revive(now, number);
            }
            Err(why) => self.cannot_open(definition, number, why),
        }
    }

    /// `None` when its condition is false; else the values of its fan-out, if it is one.
    fn wanted(&self, step: &Step, number: usize) -> Result<Option<Option<Vec<Value>>>, String> {
        let view = View::of_step(self, number);
        if let Some(when) = &step.when
            && !when.is_true(&view).map_err(|why| format!("condition: {why}"))?
        {
            return Ok(None);
        }
        let Some(each) = &step.each else { return Ok(Some(None)) };
        let values = match &each.items {
            Items::List(list) => list.iter().map(|template| template.value(&view)).collect::<Result<_, _>>(),
            Items::From(template) => template.value(&view).and_then(|value| match value {
                Value::List(values) => Ok(values),
                other => Err(super::expr::ExprError { at: 0, what: format!("this is {}, not a list", other.kind()) }),
            }),
        };
        let values: Vec<Value> = values.map_err(|why| format!("for_each: {why}"))?;
        if values.len() > each.items_max as usize {
            return Err(format!("for_each: {} items, at most {}", values.len(), each.items_max));
        }
        Ok(Some(Some(values)))
    }

    /// After the pivot nothing may fail: there a person must decide.
    fn cannot_open(&mut self, definition: &Definition, number: usize, why: String) {
        let step = &definition.steps[number];
        self.state.steps[number].error = Some(why.clone());
        if definition.kind(step) == Some(Kind::Retriable) {
            self.set_step(number, StepPhase::Blocked, why);
            return self.page_blocked(number);
        }
        self.set_step(number, StepPhase::Failed, why);
    }

    pub(crate) fn page_blocked(&mut self, number: usize) {
        let error = self.state.steps[number].error.as_deref().unwrap_or_default();
        let why = format!("step {} cannot begin: {error}", self.step(number).name);
        self.actions.push_back(Action::Page { key: None, why });
    }

    /// So many of its children failed that it has.
    pub(crate) fn has_failed(&self, number: usize) -> bool {
        let allowed = self.step(number).each.as_ref().map_or(0, |each| each.allow_failed);
        self.state.steps[number].failed > allowed
    }

    /// Begins children as there is room, and closes the step when the last one is over.
    fn tend(&mut self, now: Timestamp, step: &Step, number: usize) {
        let failed = self.has_failed(number);
        if failed {
            let waiting = self.live_in(number).into_iter();
            let waiting: Vec<_> = waiting.filter(|u| !matches!(self.call(*u).phase, Phase::Running(_))).collect();
            waiting.into_iter().for_each(|unit| self.withdraw(unit, Halt::Cancelled));
        } else if !self.state.paused {
            self.widen(now, step, number);
        }
        let state = &self.state.steps[number];
        if !state.live.is_empty() || (!failed && state.items.len() < state.width()) {
            return;
        }
        if failed {
            let error = state.error.clone().unwrap_or_default();
            return self.set_step(number, StepPhase::Failed, error);
        }
        let mut outputs = state.items.iter().map(|item| item.output.clone().unwrap_or_default());
        let output = match step.each {
            Some(_) => Value::List(outputs.collect()),
            None => outputs.next_back().unwrap_or_default(),
        };
        self.state.steps[number].output = Some(output);
        self.set_step(number, StepPhase::Done, "all of it is done".into());
    }

    fn widen(&mut self, now: Timestamp, step: &Step, number: usize) {
        let room = step.each.as_ref().map_or(1, |each| each.width as usize);
        let state = &mut self.state.steps[number];
        while state.live.len() < room && state.items.len() < state.width() {
            let action = Call { phase: Phase::Ready, ready: now, ..Call::default() };
            state.live.insert(state.items.len() as u32);
            state.items.push(Item { action, ..Item::default() });
            self.changed = true;
        }
    }

    fn finish(&mut self, now: Timestamp) {
        let failed = self.state.steps.iter().position(|s| matches!(s.phase, StepPhase::Failed | StepPhase::Cancelled));
        let Some(failed) = failed else {
            self.state.cause = None;
            return self.end(now, RunPhase::Succeeded, "every step is over and none failed".into());
        };
        let error = self.state.steps[failed].error.as_deref().unwrap_or("it was cancelled");
        let cause = format!("step {}: {error}", self.step(failed).name);
        self.state.cause = Some(cause.clone());
        self.end(now, RunPhase::Failed, cause);
    }

    /// Ends everything that is under way; then the run is over.
    pub(crate) fn begin_stopping(&mut self, now: Timestamp, timed_out: bool, cause: String, rng: &mut Rng) {
        self.state.cause = Some(cause.clone());
        self.state.paused = false;
        self.set_run(RunPhase::Stopping { timed_out }, cause);
        self.live().into_iter().for_each(|unit| self.halt(now, unit, Halt::Cancelled, rng));
    }

    pub(crate) fn wind_down(&mut self, now: Timestamp, timed_out: bool) {
        for step in 0..self.state.steps.len() {
            let state = &self.state.steps[step];
            if !state.phase.is_over() && state.live.is_empty() {
                self.set_step(step, StepPhase::Cancelled, "the run ends".into());
            }
        }
        if self.state.steps.iter().all(|step| step.phase.is_over()) {
            let phase = if timed_out { RunPhase::Failed } else { RunPhase::Cancelled };
            self.end(now, phase, "nothing is under way any more".into());
        }
    }
}
