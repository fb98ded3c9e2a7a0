//! Availability from minute rows, and what is left of the error budget.
//!
//! Where requests are counted (at the balancer) availability is 1 - failed/total; a fallback answer is degraded,
//! not failed. Where none are, it is ready seconds over observed seconds. Time that nobody observed is unknown:
//! it is shown and left out of the ratio, because guessing either way would be a lie.

/// What one minute, or any sum of minutes, saw of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests answered as they should be.
    pub good: u64,
    /// Requests that failed at the balancer.
    pub failed: u64,
    /// Requests answered by a fallback.
    pub degraded: u64,
    /// Seconds in which at least the declared minimum was ready.
    pub ready_seconds: u64,
    /// Seconds observed as not ready.
    pub down_seconds: u64,
    /// Seconds that nobody observed.
    pub unknown_seconds: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.good += other.good;
        self.failed += other.failed;
        self.degraded += other.degraded;
        self.ready_seconds += other.ready_seconds;
        self.down_seconds += other.down_seconds;
        self.unknown_seconds += other.unknown_seconds;
    }

    pub fn requests(&self) -> u64 {
        self.good + self.failed + self.degraded
    }

    pub fn observed_seconds(&self) -> u64 {
        self.ready_seconds + self.down_seconds
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    Requests,
    ReadySeconds,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Availability {
    pub basis: Basis,
    /// 0..=1. `None` when nothing was observed.
    pub ratio: Option<f64>,
    /// Share of requests answered by a fallback, 0..=1.
    pub degraded: f64,
    pub unknown_seconds: u64,
    pub budget: Option<Budget>,
}

/// The failures that a declared target allows in the window, in requests or seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    pub target: f64,
    pub allowed: f64,
    pub spent: f64,
    /// Share left, at most 1; negative when overspent.
    pub left: f64,
}

/// `window_seconds` is the whole window; minutes without a row are unknown, except before `known_since_seconds`
/// (the age of the service's oldest row), when there was nothing to observe.
pub fn judge(
    tally: &Tally,
    window_seconds: u64,
    known_since_seconds: u64,
    balanced: bool,
    target: Option<f64>,
) -> Availability {
    let expected = window_seconds.min(known_since_seconds);
    let missing = expected.saturating_sub(tally.observed_seconds() + tally.unknown_seconds);
    let (basis, bad, total) = match balanced {
        true => (Basis::Requests, tally.failed, tally.requests()),
        false => (Basis::ReadySeconds, tally.down_seconds, tally.observed_seconds()),
    };
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    Availability {
        basis,
        ratio: (total > 0).then(|| 1.0 - share(bad, total)),
        degraded: share(tally.degraded, tally.requests()),
        unknown_seconds: tally.unknown_seconds + missing,
        budget: target.map(|target| budget(target, bad, total)),
    }
}

fn budget(target: f64, bad: u64, total: u64) -> Budget {
    let allowed = (1.0 - target).max(0.0) * total as f64;
    let spent = bad as f64;
    let left = match (allowed > 0.0, bad) {
        (true, _) => (1.0 - spent / allowed).min(1.0),
        (false, 0) => 1.0,
        (false, _) => -1.0,
    };
    Budget { target, allowed, spent, left }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    #[test]
    fn behind_a_balancer_requests_decide_and_fallbacks_are_not_failures() {
        let tally = Tally { good: 989, failed: 1, degraded: 10, ready_seconds: HOUR, ..Tally::default() };
        let got = judge(&tally, HOUR, HOUR, true, Some(0.998));
        assert_eq!(got.ratio, Some(0.999));
        assert_eq!(got.degraded, 0.01);
        let budget = got.budget.unwrap();
        assert!((budget.allowed - 2.0).abs() < 1e-9 && (budget.left - 0.5).abs() < 1e-9, "{budget:?}");
    }

    #[test]
    fn without_one_ready_seconds_decide() {
        let tally = Tally { ready_seconds: 3240, down_seconds: 360, ..Tally::default() };
        let got = judge(&tally, HOUR, HOUR, false, None);
        assert_eq!((got.basis, got.ratio), (Basis::ReadySeconds, Some(0.9)));
    }

    #[test]
    fn unobserved_time_is_unknown_and_not_in_the_ratio() {
        let tally = Tally { ready_seconds: 1800, ..Tally::default() };
        let got = judge(&tally, HOUR, 30 * 24 * HOUR, false, None);
        assert_eq!((got.ratio, got.unknown_seconds), (Some(1.0), 1800));
        let young = judge(&tally, HOUR, 1800, false, None);
        assert_eq!(young.unknown_seconds, 0, "nothing was there to observe before it existed");
        assert_eq!(judge(&Tally::default(), HOUR, HOUR, true, None).ratio, None);
    }

    #[test]
    fn an_overspent_budget_is_negative_and_a_perfect_target_allows_nothing() {
        let tally = Tally { good: 90, failed: 10, ..Tally::default() };
        assert!((judge(&tally, HOUR, HOUR, true, Some(0.95)).budget.unwrap().left + 1.0).abs() < 1e-9);
        assert_eq!(judge(&tally, HOUR, HOUR, true, Some(1.0)).budget.unwrap().left, -1.0);
        let clean = Tally { good: 90, ..Tally::default() };
        assert_eq!(judge(&clean, HOUR, HOUR, true, Some(1.0)).budget.unwrap().left, 1.0);
    }
}
