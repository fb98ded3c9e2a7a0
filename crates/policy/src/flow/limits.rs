//! Time limits: one list of deadlines, from which both the next wake-up and what passed are read.

use super::definition::{Limits, RUN_LIMIT};
use super::run::{Run, Unit};
use super::state::{Halt, Phase, RunPhase};
use super::{Operation, Outcome, UNDO_RUN_LIMIT, Value};
use crate::Timestamp;
use crate::rng::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Retry,
    Wake,
    Poll,
    GiveUp,
    Wait,
    Run,
    Heartbeat,
    Total,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RunDue {
    NextRound,
    NotStarted,
    TimedOut,
}

impl Run {
    /// When to send [`super::Event::Time`] at the latest. `None` waits for an event from outside.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let units = self.live().into_iter().filter_map(|unit| self.due(unit)).map(|(at, _)| at);
        units.chain(self.run_due().map(|(at, _)| at)).min()
    }

    /// Of one attempt. What is tried without end has no limit over all its attempts, but each of them ends.
    pub(crate) fn limits(&self, unit: Unit) -> Limits {
        let limits = self.step(unit.step).limits;
        let default = if unit.operation == Operation::Undo { UNDO_RUN_LIMIT } else { RUN_LIMIT };
        let run = Some(limits.run.unwrap_or(default));
        match unit.operation == Operation::Undo || self.is_endless(unit) {
            true => Limits { run, heartbeat: limits.heartbeat, wait: None, total: None },
            false => Limits { run, ..limits },
        }
    }

    fn due(&self, unit: Unit) -> Option<(Timestamp, Due)> {
        let (call, limits) = (self.call(unit), self.limits(unit));
        let after = |from: Option<Timestamp>, limit: Option<_>, due| Some((from? + limit?, due));
        let total = after(call.began, limits.total, Due::Total);
        let wait = after(Some(call.ready), limits.wait, Due::Wait);
        let all = match call.phase {
            Phase::Ready | Phase::Asking if !self.state.paused => [wait, total, None, None, None],
            Phase::Retrying { at } if !self.state.paused => [Some((at, Due::Retry)), total, None, None, None],
            Phase::Running(running) => match (running.halt, running.started) {
                (Some(halt), _) => [halt.until.map(|at| (at, Due::GiveUp)), None, None, None, None],
                (None, None) => [wait, total, running.poll.map(|at| (at, Due::Poll)), None, None],
                (None, started) => [
                    running.wake.map(|at| (at, Due::Wake)),
                    running.poll.map(|at| (at, Due::Poll)),
                    after(started, limits.run, Due::Run),
                    after(Some(running.heard), limits.heartbeat, Due::Heartbeat),
                    total,
                ],
            },
            _ => return None,
        };
        all.into_iter().flatten().min()
    }

    fn run_due(&self) -> Option<(Timestamp, RunDue)> {
        let state = &self.state;
        let timeout = (state.began + self.definition.timeout.unwrap_or(RUN_LIMIT), RunDue::TimedOut);
        let wait = self.definition.wait.filter(|_| !state.started && !state.paused);
        let wait = wait.map(|limit| (state.began + limit, RunDue::NotStarted));
        match state.phase {
            RunPhase::Queued | RunPhase::Running if !state.overdue && state.pending.is_none() => {
                Some(wait.map_or(timeout, |wait| wait.min(timeout)))
            }
            RunPhase::BetweenRounds { at } if !state.paused => Some(timeout.min((at, RunDue::NextRound))),
            RunPhase::BetweenRounds { .. } => Some(timeout),
            _ => None,
        }
    }

    /// Everything whose time has come.
    pub(crate) fn expire(&mut self, now: Timestamp, rng: &mut Rng) {
        for unit in self.live() {
            while let Some((at, due)) = self.due(unit)
                && at <= now
            {
                self.pass(now, unit, due, rng);
            }
        }
        while let Some((at, due)) = self.run_due()
            && at <= now
        {
            match due {
                RunDue::NextRound => self.next_round(),
                RunDue::NotStarted => self.time_out(now, "no step was started within the limit of the run", rng),
                RunDue::TimedOut => self.time_out(now, "the time limit of the run has passed", rng),
            }
        }
    }

    fn pass(&mut self, now: Timestamp, unit: Unit, due: Due, rng: &mut Rng) {
        match due {
            Due::Retry => {
                self.call_mut(unit).ready = now;
                self.set_call(unit, Phase::Ready, "its back-off is over".into());
            }
            Due::Wake => self.conclude(now, unit, Outcome::Success { output: Value::Null }, rng),
            Due::Poll => {
                if let Phase::Running(running) = &mut self.call_mut(unit).phase {
                    running.poll = None;
                }
                self.push_again(unit);
            }
            Due::GiveUp => self.conclude(now, unit, Outcome::Unknown { error: "it does not answer".into() }, rng),
            Due::Wait => self.exceed(now, unit, Halt::WaitLimit, rng),
            Due::Run => self.exceed(now, unit, Halt::RunLimit, rng),
            Due::Heartbeat => self.exceed(now, unit, Halt::Heartbeat, rng),
            Due::Total => self.exceed(now, unit, Halt::TotalLimit, rng),
        }
    }
}
