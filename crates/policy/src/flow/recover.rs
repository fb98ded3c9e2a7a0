//! After a restart: the actions whose results are not known, again.

use super::run::{Run, Unit};
use super::state::{Phase, Running, StepPhase};
use super::{Action, RunPhase};
use crate::Timestamp;

impl Run {
    /// To be called once for a run that was stored; store it again before its actions are carried out. Attempts keep their number
    /// and key. Silence while nobody listened is not counted as silence.
    pub fn recover(&mut self, now: Timestamp) {
        let now = now.max(self.state.seen);
        self.state.seen = now;
        self.state.version += 1;
        self.actions.clear();
        if self.state.phase.is_over() {
            return self.tell_end();
        }
        for unit in self.live() {
            match self.call(unit).phase {
                Phase::Asking => self.ask_again(unit, false),
                Phase::Running(running) => self.resume_attempt(now, unit, running),
                _ => {}
            }
            if self.call(unit).paged {
                self.page_stuck(unit);
            }
        }
        for step in 0..self.state.steps.len() {
            if self.state.steps[step].phase == StepPhase::Blocked {
                self.page_blocked(step);
            }
        }
        if self.state.overdue && self.state.phase == RunPhase::Running {
            self.page_overdue();
        }
    }

    fn ask_again(&mut self, unit: Unit, held: bool) {
        let Some(pool) = self.step(unit.step).pool.clone() else { return };
        let (key, priority) = (self.key(unit), self.priority(unit));
        self.actions.push_back(match held {
            true => Action::HoldSlot { key, pool },
            false => Action::AcquireSlot { key, pool, priority },
        });
    }

    fn resume_attempt(&mut self, now: Timestamp, unit: Unit, running: Running) {
        self.call_mut(unit).phase = Phase::Running(Running { heard: now, poll: None, ..running });
        if running.slot {
            self.ask_again(unit, true);
        }
        match running.halt {
            Some(halt) => self.actions.push_back(Action::Stop { key: self.key(unit), why: halt.why }),
            None => self.push_again(unit),
        }
    }
}
