//! The life of an attempt: ready, a slot, handed over, its answer, and whether another follows.

use super::definition::Kind;
use super::run::{Run, Unit};
use super::state::{Halt, Halting, Running};
use super::{
    Action, Event, Job, Key, Operation, Outcome, POLL_EVERY, Phase, RETRY_DELAY_MIN, RunPhase, STOP_LIMIT, STUCK_AFTER,
    Start, Value, Work,
};
use crate::rng::Rng;
use crate::{Timestamp, Transition};

/// What an answer means for the attempts after it.
struct Failure {
    error: String,
    retry: bool,
    /// `None` leaves open what earlier attempts left open.
    doubt: Option<bool>,
}

impl Run {
    /// Gives what is ready a place, by priority, as far as the run's concurrency and the width of each step allow.
    pub(crate) fn start_ready(&mut self, now: Timestamp, rng: &mut Rng) {
        let active = |run: &Run, unit: &Unit| matches!(run.call(*unit).phase, Phase::Asking | Phase::Running(_));
        let taken = self.live().iter().filter(|unit| active(self, unit) && !self.work(**unit).is_passive()).count();
        let mut free = (self.definition.concurrency.max(1) as usize).saturating_sub(taken);
        for n in 0..self.graph.by_priority.len() {
            let step = self.graph.by_priority[n];
            let mut units = self.live_in(step);
            if self.state.phase == RunPhase::RollingBack {
                units.reverse();
            }
            let width = self.step(step).each.as_ref().map_or(1, |each| each.width as usize);
            let mut room = width.saturating_sub(units.iter().filter(|unit| active(self, unit)).count());
            for unit in units {
                let passive = self.work(unit).is_passive();
                if self.call(unit).phase == Phase::Ready && room > 0 && (passive || free > 0) {
                    room -= 1;
                    free -= usize::from(!passive);
                    self.start(now, unit, rng);
                }
            }
        }
    }

    fn start(&mut self, now: Timestamp, unit: Unit, rng: &mut Rng) {
        self.call_mut(unit).attempt += 1;
        let pool = self.step(unit.step).pool.clone().filter(|_| !self.work(unit).is_internal());
        let Some(pool) = pool else { return self.hand_over(now, unit, false, rng) };
        self.set_call(unit, Phase::Asking, format!("needs a slot of pool {pool}"));
        self.actions.push_back(Action::AcquireSlot { key: self.key(unit), pool, priority: self.priority(unit) });
    }

    /// An undo goes before everything else: what it gives back, others wait for.
    pub(crate) fn priority(&self, unit: Unit) -> i32 {
        match unit.operation {
            Operation::Undo => 100,
            Operation::Do => self.step(unit.step).priority.unwrap_or(self.definition.priority),
        }
    }

    fn hand_over(&mut self, now: Timestamp, unit: Unit, slot: bool, rng: &mut Rng) {
        let job = match self.job(unit) {
            Ok(job) => job,
            Err(why) => {
                self.free(unit, slot);
                let failure = Failure { error: format!("cannot be filled in: {why}"), retry: false, doubt: None };
                return self.failed(now, unit, failure, rng);
            }
        };
        let work = self.work(unit);
        let wake = if let Work::Sleep(duration) = work { Some(now + *duration) } else { None };
        let started = (!work.is_taken_up_later()).then_some(now);
        let call = self.call_mut(unit);
        call.ran += 1;
        call.began.get_or_insert(now);
        self.state.started = true;
        let running = Running { slot, started, heard: now, wake, poll: None, halt: None };
        self.set_call(unit, Phase::Running(running), format!("attempt {}", self.call(unit).attempt));
        match job {
            Some(job) => self.push_job(unit, job, false),
            None => self.take_signal(now, unit, rng),
        }
    }

    /// Asks for an attempt that was handed over before; what filled it in then is still there.
    pub(crate) fn push_again(&mut self, unit: Unit) {
        if let Ok(Some(job)) = self.job(unit) {
            self.push_job(unit, job, true);
        }
    }

    fn push_job(&mut self, unit: Unit, job: Job, again: bool) {
        let limits = self.limits(unit);
        let output = self.item(unit).output.clone().filter(|_| unit.operation == Operation::Undo);
        let (key, priority) = (self.key(unit), self.priority(unit));
        let (run_limit, heartbeat) = (limits.run, limits.heartbeat);
        let start = Start { key, job, again, priority, run_limit, heartbeat, output };
        self.actions.push_back(Action::Start(Box::new(start)));
    }

    /// The unit whose latest attempt `key` is, if it is still under way.
    fn current(&self, key: &Key) -> Option<Unit> {
        let unit = self.named(key)?;
        let call = self.call(unit);
        (call.attempt == key.attempt && matches!(call.phase, Phase::Running(_) | Phase::Asking)).then_some(unit)
    }

    /// The unit that `key` speaks of, in the present round.
    pub(crate) fn named(&self, key: &Key) -> Option<Unit> {
        let step = self.step_number(&key.step).filter(|_| key.run == self.state.run)?;
        let state = &self.state.steps[step];
        let known = state.round == key.round && (key.item as usize) < state.items.len();
        known.then_some(Unit { step, item: key.item, operation: key.operation })
    }

    pub(crate) fn stale(&mut self, key: &Key, what: &str) {
        self.note(Transition::new("stale", "ignored", format!("{what} of an attempt that is over")).with("key", key));
    }

    pub(crate) fn slot_granted(&mut self, now: Timestamp, key: &Key, rng: &mut Rng) {
        match self.current(key) {
            Some(unit) if self.call(unit).phase == Phase::Asking => self.hand_over(now, unit, true, rng),
            Some(_) => self.stale(key, "a second grant"),
            None => {
                // Nobody waits for it any more: a slot that is kept here would be lost.
                let pool = self.step_number(&key.step).and_then(|step| self.step(step).pool.clone());
                self.actions.extend(pool.map(|pool| Action::ReleaseSlot { key: key.clone(), pool }));
                self.stale(key, "a slot");
            }
        }
    }

    pub(crate) fn heard(&mut self, now: Timestamp, key: &Key, what: &str) {
        let running = self.current(key).and_then(|unit| match &mut self.call_mut(unit).phase {
            Phase::Running(running) => Some(running),
            _ => None,
        });
        match running {
            Some(running) => {
                running.heard = now;
                running.started.get_or_insert(now);
            }
            None => self.stale(key, what),
        }
    }

    pub(crate) fn ended(&mut self, now: Timestamp, key: &Key, outcome: Outcome, rng: &mut Rng) {
        match self.current(key).filter(|unit| self.call(*unit).phase != Phase::Asking) {
            Some(unit) => self.conclude(now, unit, outcome, rng),
            None if self.came_late(now, key, &outcome) => {}
            None => self.stale(key, "the end"),
        }
    }

    pub(crate) fn conclude(&mut self, now: Timestamp, unit: Unit, outcome: Outcome, rng: &mut Rng) {
        let Phase::Running(mut running) = self.call(unit).phase else { return };
        let (error, retry, doubt) = match outcome {
            Outcome::StillRunning => {
                running.started.get_or_insert(now);
                (running.heard, running.poll) = (now, running.halt.is_none().then_some(now + POLL_EVERY));
                self.call_mut(unit).phase = Phase::Running(running);
                return;
            }
            Outcome::Success { output } => {
                self.free(unit, running.slot);
                return self.succeeded(now, unit, output);
            }
            Outcome::Retryable { error } => (error, true, None),
            Outcome::Terminal { error } | Outcome::Business { error } => (error, false, Some(false)),
            Outcome::Unknown { error } => (error, true, Some(true)),
        };
        self.free(unit, running.slot);
        let failure = match running.halt {
            None => Failure { error, retry, doubt },
            Some(Halting { why, .. }) => {
                let last = matches!(why, Halt::WaitLimit | Halt::TotalLimit);
                Failure { error: format!("{}: {error}", why.reason()), retry: retry && !last, doubt }
            }
        };
        self.failed(now, unit, failure, rng);
    }

    fn succeeded(&mut self, now: Timestamp, unit: Unit, output: Value) {
        let call = self.call_mut(unit);
        (call.doubt, call.paged, call.error) = (false, false, None);
        self.set_call(unit, Phase::Done, "it succeeded".into());
        let item = self.item_mut(unit);
        match unit.operation {
            Operation::Do => item.output = Some(output),
            Operation::Undo if std::mem::take(&mut item.undo_again) => {
                self.undo_anew(now, unit, "its action came late".into());
            }
            Operation::Undo => {}
        }
    }

    fn failed(&mut self, now: Timestamp, unit: Unit, failure: Failure, rng: &mut Rng) {
        let Failure { error, retry, doubt } = failure;
        let call = self.call_mut(unit);
        call.failures = call.failures.saturating_add(1);
        call.doubt = doubt.unwrap_or(call.doubt);
        call.error = Some(error.clone());
        let failures = call.failures;
        let over = self.state.phase != RunPhase::Running;
        if unit.operation == Operation::Undo || (!over && self.is_endless(unit)) {
            return self.try_without_end(now, unit, &error, rng);
        }
        if over {
            return self.set_call(unit, Phase::Cancelled, error);
        }
        let allowed = failures < self.step(unit.step).retry.attempts && !self.has_failed(unit.step);
        if retry && allowed && !self.awaits_pivot(unit) {
            return self.try_again(now, unit, error, rng);
        }
        let state = &mut self.state.steps[unit.step];
        state.failed += 1;
        state.error.get_or_insert_with(|| error.clone());
        self.set_call(unit, Phase::Failed, error);
    }

    /// What must not fail: steps after the pivot, and the pivot while it may have committed.
    pub(crate) fn is_endless(&self, unit: Unit) -> bool {
        match self.definition.kind(self.step(unit.step)) {
            Some(Kind::Retriable) => true,
            Some(Kind::Pivot) => self.call(unit).doubt,
            Some(Kind::Compensable) | None => false,
        }
    }

    /// A rollback waits for this pivot: one that says that it failed is not tried again.
    fn awaits_pivot(&self, unit: Unit) -> bool {
        self.state.pending.is_some() && self.definition.kind(self.step(unit.step)) == Some(Kind::Pivot)
    }

    fn try_again(&mut self, now: Timestamp, unit: Unit, error: String, rng: &mut Rng) {
        let before = self.call(unit).failures.saturating_sub(1);
        let delay = self.step(unit.step).retry.backoff.delay(before, rng).max(RETRY_DELAY_MIN);
        self.set_call(unit, Phase::Retrying { at: now + delay }, error);
    }

    fn try_without_end(&mut self, now: Timestamp, unit: Unit, error: &str, rng: &mut Rng) {
        self.try_again(now, unit, error.to_owned(), rng);
        let call = self.call_mut(unit);
        if call.failures >= STUCK_AFTER && !call.paged {
            call.paged = true;
            self.page_stuck(unit);
        }
    }

    pub(crate) fn page_stuck(&mut self, unit: Unit) {
        let call = self.call(unit);
        let error = call.error.as_deref().unwrap_or("no reason is known");
        let why = format!("failed {} times and is tried again: {error}", call.failures);
        self.actions.push_back(Action::Page { key: Some(self.key(unit)), why });
    }

    /// The slot of an attempt that is over, however it ended.
    pub(crate) fn free(&mut self, unit: Unit, slot: bool) {
        let pool = self.step(unit.step).pool.clone().filter(|_| slot);
        self.actions.extend(pool.map(|pool| Action::ReleaseSlot { key: self.key(unit), pool }));
    }

    /// Ends what is live: at once what was not handed over, by asking for its end what was.
    pub(crate) fn halt(&mut self, now: Timestamp, unit: Unit, why: Halt, rng: &mut Rng) {
        let Phase::Running(mut running) = self.call(unit).phase else { return self.withdraw(unit, why) };
        if running.halt.is_some() {
            return;
        }
        // A run below this one ends by itself, however long its own rollback takes.
        let until = (!matches!(self.work(unit), Work::Run { .. })).then_some(now + STOP_LIMIT);
        running.halt = Some(Halting { why, until });
        running.poll = None;
        self.call_mut(unit).phase = Phase::Running(running);
        self.changed = true;
        if self.work(unit).is_internal() {
            return self.conclude(now, unit, Outcome::Retryable { error: "nothing came".into() }, rng);
        }
        self.actions.push_back(Action::Stop { key: self.key(unit), why });
    }

    pub(crate) fn withdraw(&mut self, unit: Unit, why: Halt) {
        self.free(unit, self.call(unit).phase == Phase::Asking);
        self.set_call(unit, Phase::Cancelled, why.reason().into());
    }

    /// A limit passed: the attempt is ended, or, when there is none, the call fails for good.
    pub(crate) fn exceed(&mut self, now: Timestamp, unit: Unit, why: Halt, rng: &mut Rng) {
        if matches!(self.call(unit).phase, Phase::Running(_)) {
            return self.halt(now, unit, why, rng);
        }
        self.free(unit, self.call(unit).phase == Phase::Asking);
        self.failed(now, unit, Failure { error: why.reason().into(), retry: false, doubt: None }, rng);
    }

    pub(crate) fn signal(&mut self, now: Timestamp, id: String, name: String, data: Value, rng: &mut Rng) {
        let seen = &mut self.state.signals_seen;
        let known: usize = self.state.signals.values().map(|queue| queue.len()).sum();
        let refused = match () {
            () if seen.contains(&id) => Some("this signal came before"),
            () if known >= super::SIGNALS_MAX => Some("too many signals wait"),
            () if self.state.phase.is_over() => Some("the run is over"),
            () => None,
        };
        if let Some(why) = refused {
            return self.note(Transition::new("signal", "ignored", why).with("name", name).with("id", id));
        }
        if seen.len() == super::SIGNALS_SEEN_MAX {
            seen.pop_front();
        }
        seen.push_back(id);
        self.state.signals.entry(name).or_default().push_back(data);
        for unit in self.live() {
            self.take_signal(now, unit, rng);
        }
    }

    /// For a step that waits for one that is there.
    fn take_signal(&mut self, now: Timestamp, unit: Unit, rng: &mut Rng) {
        let Work::Wait { signal } = self.work(unit) else { return };
        let signal = signal.clone();
        if !matches!(self.call(unit).phase, Phase::Running(_)) {
            return;
        }
        let Some(queue) = self.state.signals.get_mut(&signal) else { return };
        let Some(output) = queue.pop_front() else { return };
        if queue.is_empty() {
            self.state.signals.remove(&signal);
        }
        self.conclude(now, unit, Outcome::Success { output }, rng);
    }
}

impl Event {
    /// The end of the attempt `key`.
    pub fn ended(key: &Key, outcome: Outcome) -> Event {
        Event::Ended { key: key.clone(), outcome }
    }
}
