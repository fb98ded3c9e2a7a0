//! When a child that ended is started again. Runs in the shim, so that it works without the agent.
//!
//! The rule (defaults): the first restart comes at once, the next after 1 s, then doubling to 60 s with 20 %
//! jitter. The count is forgotten after the child was ready for max(60 s, 10 x the current delay). A service is
//! never given up silently: by default there is no attempt limit, and a crash loop is a visible state.

use std::collections::VecDeque;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::rng::Rng;
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum When {
    #[default]
    Always,
    OnFailure,
    Never,
}

/// `[service.NAME] restart`.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub when: When,
    pub backoff: Backoff,
    /// Ready for this long, and for ten times the current delay, forgets earlier failures.
    pub reset: Duration,
    /// Restarts allowed within `window`; `None` is without limit.
    pub attempts: Option<u32>,
    pub window: Duration,
    /// Exit codes that count as success (0 is always one).
    pub success_codes: Vec<i32>,
    /// Exit codes after which it is started again whatever `when` says.
    pub restart_codes: Vec<i32>,
    /// Exit codes after which it is never started again, whatever `when` says.
    pub stop_codes: Vec<i32>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            when: When::Always,
            backoff: Backoff { base: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(60), jitter: 0.2 },
            reset: Duration::from_secs(60),
            attempts: None,
            window: Duration::from_secs(600),
            success_codes: Vec::new(),
            restart_codes: Vec::new(),
            stop_codes: Vec::new(),
        }
    }
}

/// Failures in a row from which on it is called a crash loop and somebody is told.
pub const CRASH_LOOP_FAILURES: u32 = 3;

/// A child that nobody ever called ready, but that lived this many times longer than the reset rule asks for, counts
/// as having been ready: the agent that tells readiness may have been dead all the while.
const UNTOLD_READY_FACTOR: u32 = 10;

/// Even a back-off declared as zero does not spin a core.
pub const DELAY_MIN: Duration = Duration::from_millis(10);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
    /// It could not be started at all (program missing, directory unreadable).
    NotStarted,
    /// Killed with its keeper; nobody knows.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Start { at: Timestamp },
    Completed,
    Failed,
}

/// What follows an exit, and what it was decided from.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub next: Next,
    pub failure: bool,
    pub reason: String,
    pub inputs: Vec<(&'static str, String)>,
}

/// The restart rule for one instance. `handle_*` in, [`Decision`] out; the caller keeps the clock.
#[derive(Clone, Debug)]
pub struct Machine {
    policy: Policy,
    /// A job: success completes it whatever `when` says.
    oneshot: bool,
    rng: Rng,
    /// Restarts since the last reset; gives the delay.
    streak: u32,
    /// Failures since the last reset.
    failures: u32,
    delay: Duration,
    started: Option<Timestamp>,
    ready: Option<Timestamp>,
    /// Times of restarts within the window, only kept when attempts are limited.
    restarts: VecDeque<Timestamp>,
    exhausted: bool,
}

impl Machine {
    pub fn new(policy: Policy, oneshot: bool, rng: Rng) -> Machine {
        Machine {
            policy,
            oneshot,
            rng,
            streak: 0,
            failures: 0,
            delay: Duration::ZERO,
            started: None,
            ready: None,
            restarts: VecDeque::new(),
            exhausted: false,
        }
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn crash_looping(&self) -> bool {
        self.failures >= CRASH_LOOP_FAILURES
    }

    /// The attempts of the window are used up; only [`Machine::forget`] starts it again.
    pub fn exhausted(&self) -> bool {
        self.exhausted
    }

    /// Somebody asked for a start: earlier failures no longer count.
    pub fn forget(&mut self) {
        self.streak = 0;
        self.failures = 0;
        self.delay = Duration::ZERO;
        self.exhausted = false;
        self.restarts.clear();
    }

    pub fn handle_started(&mut self, now: Timestamp) {
        self.started = Some(now);
        self.ready = None;
    }

    pub fn handle_ready(&mut self, now: Timestamp) {
        self.ready.get_or_insert(now);
    }

    /// When the failures counted so far are forgotten if the child goes on as it does; `None` when there are none.
    pub fn forgets_at(&self) -> Option<Timestamp> {
        (self.streak > 0).then(|| self.stable_from()).flatten()
    }

    fn stable_from(&self) -> Option<Timestamp> {
        let needed = self.policy.reset.max(self.delay * 10);
        self.ready.map(|at| at + needed).or_else(|| self.started.map(|at| at + needed * UNTOLD_READY_FACTOR))
    }

    /// Forgets failures when the child has been well for long enough; `true` when it did.
    pub fn handle_time(&mut self, now: Timestamp) -> bool {
        let due = self.forgets_at().is_some_and(|at| now >= at);
        if due {
            self.forget();
        }
        due
    }

    pub fn handle_exit(&mut self, now: Timestamp, ended: Ended) -> Decision {
        self.handle_time(now);
        let lived = self.started.take().map(|at| now.since(at));
        self.ready = None;
        let success = matches!(ended, Ended::Code(code) if code == 0 || self.policy.success_codes.contains(&code));
        if !success {
            self.failures = self.failures.saturating_add(1);
        }
        let (next, reason) = self.judge(now, ended, success);
        let mut inputs = vec![("exit", format!("{ended:?}")), ("failures", self.failures.to_string())];
        inputs.extend(lived.map(|d| ("lived_ms", d.as_millis().to_string())));
        if let Next::Start { at } = next {
            inputs.push(("delay_ms", at.since(now).as_millis().to_string()));
        }
        Decision { next, failure: !success, reason, inputs }
    }

    fn judge(&mut self, now: Timestamp, ended: Ended, success: bool) -> (Next, String) {
        let done = if success { Next::Completed } else { Next::Failed };
        let (stop, again) = match ended {
            Ended::Code(code) => (self.policy.stop_codes.contains(&code), self.policy.restart_codes.contains(&code)),
            _ => (false, false),
        };
        if stop {
            return (done, "the exit code is one after which it is not started again".into());
        }
        let wanted = again
            || match self.policy.when {
                _ if self.oneshot && success => false,
                When::Always => true,
                When::OnFailure => !success,
                When::Never => false,
            };
        match wanted {
            false if self.oneshot && success => (done, "the job is done".into()),
            false => (done, "the restart policy does not start it again".into()),
            true => self.schedule(now, ended),
        }
    }

    fn schedule(&mut self, now: Timestamp, ended: Ended) -> (Next, String) {
        if let Some(limit) = self.policy.attempts {
            while self.restarts.front().is_some_and(|at| now.since(*at) > self.policy.window) {
                self.restarts.pop_front();
            }
            if self.restarts.len() as u64 >= u64::from(limit) {
                self.exhausted = true;
                let window = self.policy.window.as_secs();
                return (Next::Failed, format!("{limit} restarts within {window} s are used up"));
            }
            self.restarts.push_back(now);
        }
        // The first restart comes at once: most exits are singular. One that could not even start would not start now.
        let at_once = self.streak == 0 && ended != Ended::NotStarted;
        self.delay = if at_once { Duration::ZERO } else { self.delay_of(ended) };
        self.streak = self.streak.saturating_add(1);
        let reason = match self.delay {
            Duration::ZERO => "starts again at once".into(),
            delay if self.crash_looping() => format!("crash loop: starts again in {:.1} s", delay.as_secs_f64()),
            delay => format!("starts again in {:.1} s", delay.as_secs_f64()),
        };
        (Next::Start { at: now + self.delay }, reason)
    }

    fn delay_of(&mut self, ended: Ended) -> Duration {
        let step = if ended == Ended::NotStarted { self.streak } else { self.streak.saturating_sub(1) };
        self.policy.backoff.delay(step, &mut self.rng).max(DELAY_MIN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::rng::Rng;

    use super::*;

    fn machine(policy: Policy) -> Machine {
        let backoff = Backoff { jitter: 0.0, ..policy.backoff };
        Machine::new(Policy { backoff, ..policy }, false, Rng::from_seed(1))
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    /// Exits with `ended` right after each start; the delays in seconds until it gives up or `n` restarts.
    fn delays(m: &mut Machine, n: usize, ended: Ended) -> Vec<u64> {
        let mut now = at(100);
        let mut got = Vec::new();
        while got.len() < n {
            m.handle_started(now);
            match m.handle_exit(now, ended).next {
                Next::Start { at } => {
                    got.push(at.since(now).as_secs());
                    now = at;
                }
                _ => break,
            }
        }
        got
    }

    #[test]
    fn the_first_restart_comes_at_once_then_delays_double_to_the_cap() {
        let mut m = machine(Policy::default());
        assert_eq!(delays(&mut m, 9, Ended::Signal(9)), [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(m.crash_looping());
        let mut m = machine(Policy::default());
        assert_eq!(delays(&mut m, 4, Ended::NotStarted), [1, 2, 4, 8]);
        let mut m = machine(Policy::default());
        assert_eq!(delays(&mut m, 3, Ended::Code(0)), [0, 1, 2], "a success that ends at once must not spin either");
        assert!(!m.crash_looping());
    }

    #[test]
    fn which_exits_are_followed_by_a_start() {
        let codes =
            Policy { success_codes: vec![7], restart_codes: vec![5], stop_codes: vec![64], ..Policy::default() };
        for (when, ended, starts) in [
            (When::Always, Ended::Code(0), true),
            (When::Always, Ended::Code(64), false),
            (When::OnFailure, Ended::Code(0), false),
            (When::OnFailure, Ended::Code(7), false),
            (When::OnFailure, Ended::Code(1), true),
            (When::OnFailure, Ended::Signal(15), true),
            (When::OnFailure, Ended::Unknown, true),
            (When::OnFailure, Ended::Code(64), false),
            (When::Never, Ended::Code(1), false),
            (When::Never, Ended::Code(5), true),
            (When::Never, Ended::NotStarted, false),
        ] {
            let mut m = machine(Policy { when, ..codes.clone() });
            m.handle_started(at(1));
            let decision = m.handle_exit(at(2), ended);
            assert_eq!(matches!(decision.next, Next::Start { .. }), starts, "{when:?} {ended:?}");
        }
    }

    #[test]
    fn a_job_is_done_after_success_and_tried_again_after_failure() {
        let mut m = Machine::new(Policy::default(), true, Rng::from_seed(1));
        m.handle_started(at(1));
        assert!(matches!(m.handle_exit(at(2), Ended::Code(1)).next, Next::Start { .. }));
        m.handle_started(at(3));
        assert_eq!(m.handle_exit(at(4), Ended::Code(0)).next, Next::Completed);
    }

    #[test]
    fn ready_for_long_enough_forgets_failures() {
        let mut m = machine(Policy::default());
        delays(&mut m, 5, Ended::Signal(6));
        m.handle_started(at(1000));
        m.handle_ready(at(1001));
        assert_eq!(m.forgets_at(), Some(at(1081)), "ten times the delay of 8 s");
        assert!(!m.handle_time(at(1080)) && m.crash_looping());
        assert!(m.handle_time(at(1081)) && !m.crash_looping());
        assert_eq!(m.handle_exit(at(1082), Ended::Signal(6)).next, Next::Start { at: at(1082) });
    }

    #[test]
    fn alive_but_not_ready_forgets_nothing() {
        let mut m = machine(Policy::default());
        delays(&mut m, 5, Ended::Signal(6));
        m.handle_started(at(1000));
        assert!(matches!(m.handle_exit(at(1500), Ended::Signal(6)).next, Next::Start { at: t } if t > at(1500)));
    }

    #[test]
    fn attempts_are_counted_within_the_window() {
        let policy = Policy { attempts: Some(3), window: Duration::from_secs(100), ..Policy::default() };
        let mut m = machine(policy.clone());
        assert_eq!(delays(&mut m, 10, Ended::Code(1)), [0, 1, 2]);
        assert!(m.exhausted());
        m.forget();
        assert!(!m.exhausted());
        let mut m = machine(policy);
        for i in 0..20 {
            m.handle_started(at(i * 60));
            assert!(matches!(m.handle_exit(at(i * 60 + 1), Ended::Code(1)).next, Next::Start { .. }), "run {i}");
        }
    }

    proptest! {
        /// Whatever happens, delays stay within the cap and its jitter, and starts never lie in the past.
        #[test]
        fn delays_stay_bounded(seed: u64, lives in proptest::collection::vec((0u64..200_000, any::<bool>(), 0i32..3), 1..60)) {
            let policy = Policy::default();
            let longest = policy.backoff.max.mul_f64(1.0 + policy.backoff.jitter);
            let mut m = Machine::new(policy, false, Rng::from_seed(seed));
            let mut now = at(1);
            for (lived_ms, ready, code) in lives {
                m.handle_started(now);
                if ready {
                    m.handle_ready(now);
                }
                now = now + Duration::from_millis(lived_ms);
                match m.handle_exit(now, Ended::Code(code)).next {
                    Next::Start { at } => {
                        prop_assert!(at >= now && at.since(now) <= longest);
                        now = at;
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}
