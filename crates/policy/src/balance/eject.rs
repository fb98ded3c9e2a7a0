//! Passive ejection: an endpoint that fails in a row leaves rotation for a while and comes back on trial.
//!
//! closed --failures--> out (1 s x 2^n, at most 60 s, 20 % jitter) --time--> probing --successes--> closed, ramping
//! A failure while probing sends it out again, for longer. The last usable endpoint is never ejected.

use std::time::Duration;

use crate::rng::Rng;
use crate::time::Timestamp;

/// Successes that end the trial.
pub const PROBES: u32 = 3;

/// A trial without result for so long admits more probes: a hung probe must not keep the endpoint out.
pub const PROBING_MAX: Duration = Duration::from_secs(10);

/// Share by which an ejection may be longer or shorter, so that processes and endpoints do not return in step.
const JITTER: f64 = 0.2;

/// Earlier ejections are forgotten after this many times the last one without a failure: an endpoint that serves for
/// as long as it was out has paid. (With ten times, faults minutes apart added up to a minute's ejection each.)
const FORGET_FACTOR: u32 = 1;

#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub enabled: bool,
    /// Connect or transport failures in a row.
    pub failures: u32,
    /// 502, 503, 504 in a row.
    pub gateway_errors: u32,
    pub base: Duration,
    pub max: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            enabled: true,
            failures: 3,
            gateway_errors: 5,
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Success,
    /// Closed, reset, timed out.
    Transport,
    /// A fresh connection was refused: nobody listens, so one is proof enough.
    Refused,
    /// 502, 503 or 504 from the endpoint.
    Gateway,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    In,
    Out,
    Probing,
}

/// State of one endpoint, kept by incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ejection {
    /// Transport failures in a row.
    pub failures: u32,
    pub gateway_errors: u32,
    /// Ejections that are not forgotten.
    pub count: u32,
    /// Successes of the present trial.
    pub passed: u32,
    pub until: Timestamp,
    /// End of the last trial: the ramp counts from here.
    pub returned: Timestamp,
    /// First failure of the present row.
    pub failing_since: Timestamp,
}

impl Ejection {
    pub fn phase(&self, now: Timestamp) -> Phase {
        match self {
            _ if now < self.until => Phase::Out,
            e if e.count > 0 && e.passed < PROBES => Phase::Probing,
            _ => Phase::In,
        }
    }

    /// Returns true when this signal ejects. `others` counts the other usable endpoints.
    pub fn observe(&mut self, now: Timestamp, signal: Signal, rules: &Rules, others: u32, rng: &mut Rng) -> bool {
        if signal == Signal::Success {
            self.succeed(now, rules);
            return false;
        }
        if self.failures == 0 && self.gateway_errors == 0 {
            self.failing_since = now;
        }
        match signal {
            Signal::Gateway => self.gateway_errors = self.gateway_errors.saturating_add(1),
            _ => self.failures = self.failures.saturating_add(1),
        }
        let due = match self.phase(now) {
            // What was in flight when it was ejected adds nothing.
            Phase::Out => false,
            Phase::Probing => true,
            Phase::In => {
                signal == Signal::Refused
                    || self.failures >= rules.failures
                    || self.gateway_errors >= rules.gateway_errors
            }
        };
        if !(rules.enabled && due && others > 0) {
            return false;
        }
        self.eject(now, rules, rng);
        true
    }

    fn eject(&mut self, now: Timestamp, rules: &Rules, rng: &mut Rng) {
        let nominal = rules.base.saturating_mul(1 << self.count.min(16)).min(rules.max);
        self.until = now + rng.jitter(nominal, JITTER);
        self.count = self.count.saturating_add(1);
        self.passed = 0;
        self.failures = 0;
        self.gateway_errors = 0;
    }

    fn succeed(&mut self, now: Timestamp, rules: &Rules) {
        self.failures = 0;
        self.gateway_errors = 0;
        match self.phase(now) {
            Phase::Probing => {
                self.passed += 1;
                if self.passed >= PROBES {
                    self.returned = now;
                }
            }
            Phase::In if self.count > 0 => {
                let last = rules.base.saturating_mul(1 << (self.count - 1).min(16)).min(rules.max);
                if now.since(self.until) > last.saturating_mul(FORGET_FACTOR) {
                    self.count = 0;
                }
            }
            // An answer to a request sent before the ejection proves nothing about new ones.
            _ => {}
        }
    }

    /// Whether one more probe may start while `in_flight` requests are there.
    pub fn admits(&self, now: Timestamp, in_flight: u32) -> bool {
        in_flight <= self.passed || now.since(self.until) > PROBING_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules::default()
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn three_failures_in_a_row_eject_but_not_with_a_success_between() {
        let mut rng = Rng::from_seed(1);
        let mut e = Ejection::default();
        let signals = [Signal::Transport, Signal::Transport, Signal::Success, Signal::Transport, Signal::Transport];
        assert!(!signals.iter().any(|s| e.observe(at(1), *s, &rules(), 1, &mut rng)));
        assert!(e.observe(at(2), Signal::Transport, &rules(), 1, &mut rng));
        assert_eq!(e.phase(at(3)), Phase::Out);
        assert_eq!(e.phase(at(1_300)), Phase::Probing);
    }

    #[test]
    fn one_refused_connection_is_enough_and_the_last_one_stays() {
        let mut rng = Rng::from_seed(1);
        let mut e = Ejection::default();
        assert!(!e.observe(at(1), Signal::Refused, &rules(), 0, &mut rng));
        assert_eq!(e.phase(at(1)), Phase::In);
        assert!(e.observe(at(1), Signal::Refused, &rules(), 1, &mut rng));
    }

    #[test]
    fn the_trial_ends_after_its_probes_and_a_failure_doubles_the_time_out() {
        let mut rng = Rng::from_seed(1);
        let mut e = Ejection::default();
        e.observe(at(0), Signal::Refused, &rules(), 1, &mut rng);
        let first = at(0).until(e.until);
        let back = e.until;
        assert!(e.admits(back, 0) && !e.admits(back, 1));
        assert!(e.observe(back, Signal::Transport, &rules(), 1, &mut rng), "one failure on trial is enough");
        assert!(back.until(e.until) > first.mul_f64(1.3));
        let back = e.until;
        for _ in 0..PROBES {
            assert_eq!(e.phase(back), Phase::Probing);
            e.observe(back, Signal::Success, &rules(), 1, &mut rng);
        }
        assert_eq!((e.phase(back), e.returned), (Phase::In, back));
        e.observe(back + Duration::from_secs(60), Signal::Success, &rules(), 1, &mut rng);
        assert_eq!(e.count, 0, "forgotten");
    }

    proptest::proptest! {
        #[test]
        fn the_time_out_never_exceeds_its_cap_and_the_last_one_is_never_ejected(
            steps in proptest::collection::vec((0u8..4, 0u32..3, 0u64..5_000), 1..300), seed in 0u64..1000,
        ) {
            let mut rng = Rng::from_seed(seed);
            let mut e = Ejection::default();
            let mut now = 0;
            for (kind, others, wait) in steps {
                now += wait;
                let signal = [Signal::Success, Signal::Transport, Signal::Refused, Signal::Gateway][usize::from(kind)];
                let before = e.until;
                let ejected = e.observe(at(now), signal, &rules(), others, &mut rng);
                assert!(!ejected || others > 0);
                assert!(!ejected || before <= at(now), "never ejected twice at the same time");
                assert!(at(now).until(e.until) <= Duration::from_secs(72));
            }
        }
    }
}
