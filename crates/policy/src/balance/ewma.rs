//! Peak-sensitive moving average of answer times (after Finagle's and linkerd's peak EWMA).
//!
//! A slow answer counts at once and fades; fast answers only slowly talk it down.

use std::time::Duration;

use crate::time::Timestamp;

/// Time in which a peak fades to 37 %. Short, because with two endpoints a long memory starves one of them
/// for half a minute after a single hiccup.
pub const DECAY: Duration = Duration::from_secs(1);

/// What a failure counts as, so that an endpoint that fails fast does not attract requests.
pub const FAILURE_PENALTY: Duration = Duration::from_secs(5);

/// Below this, differences are noise of the machine and not of the endpoint.
const FLOOR_NS: f64 = 100_000.0;

#[derive(Clone, Copy, Debug, Default)]
pub struct PeakEwma {
    nanos: f64,
    at: Timestamp,
}

impl PeakEwma {
    pub fn observe(&mut self, now: Timestamp, took: Duration) {
        let sample = took.as_nanos() as f64;
        let old = self.faded(now, sample);
        self.nanos = old.max(sample);
        self.at = now;
    }

    pub fn fail(&mut self, now: Timestamp) {
        self.observe(now, FAILURE_PENALTY);
    }

    /// Nanoseconds, never below the noise of the machine.
    pub fn value(&self, now: Timestamp) -> f64 {
        self.faded(now, 0.0).max(FLOOR_NS)
    }

    pub fn cost(&self, now: Timestamp, in_flight: u32) -> f64 {
        self.value(now) * (f64::from(in_flight) + 1.0)
    }

    fn faded(&self, now: Timestamp, towards: f64) -> f64 {
        let elapsed = now.since(self.at).as_nanos() as f64;
        // (1 + x/8)^-8 stands in for exp(-x): monotonic, 1 at 0, 0.39 at 1, below 1/600 at 10, and without a call
        // into libm per request. A quadratic stand-in kept a failure's penalty above fast peers for a minute.
        let eighth = 1.0 + elapsed / DECAY.as_nanos() as f64 / 8.0;
        let square = eighth * eighth;
        let fourth = square * square;
        let keep = 1.0 / (fourth * fourth);
        towards + (self.nanos - towards) * keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let mut e = PeakEwma::default();
        let at = Timestamp::from_millis;
        e.observe(at(0), Duration::from_millis(2));
        e.observe(at(1), Duration::from_millis(50));
        assert!(e.value(at(1)) >= 50e6);
        e.observe(at(500), Duration::from_millis(2));
        assert!(e.value(at(500)) > 20e6, "one fast answer does not hide the peak");
        assert!(e.value(at(20_000)) < 1e6);
    }

    #[test]
    fn a_fast_failure_costs_more_than_a_slow_success() {
        let (mut fails, mut slow) = (PeakEwma::default(), PeakEwma::default());
        fails.fail(Timestamp::from_millis(10));
        slow.observe(Timestamp::from_millis(10), Duration::from_secs(2));
        assert!(fails.value(Timestamp::from_millis(15_000)) < 2e6, "forgotten within a quarter of a minute");
        assert!(fails.cost(Timestamp::from_millis(11), 0) > slow.cost(Timestamp::from_millis(11), 0));
    }
}
