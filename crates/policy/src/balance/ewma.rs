//! Peak-sensitive moving average of answer times (after Finagle's and linkerd's peak EWMA).
//!
//! A slow answer counts at once and fades; fast answers only slowly talk it down. Silence while
//! requests wait counts as an answer that is at least that slow: without it, an endpoint that falls silent would fade into the
//! fastest of all.

use std::time::Duration;

use crate::time::Timestamp;

/// Time in which a peak fades to 37 %. Short, because with two endpoints a long memory starves one of them
/// for half a minute after a single hiccup.
pub const DECAY: Duration = Duration::from_secs(1);

/// What a failure counts as, so that an endpoint that fails fast does not attract requests.
pub const FAILURE_PENALTY: Duration = Duration::from_secs(5);

/// From here on silence counts. Shorter ones are everyday, and the observer sees a wait up to a tick of 10 ms after its end.
pub const SILENCE_MIN: Duration = Duration::from_millis(50);

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

    /// `silence`: for how long requests have waited while none was answered. One long poll beside answered requests is none.
    pub fn cost(&self, now: Timestamp, in_flight: u32, silence: Duration) -> f64 {
        let silent = if silence >= SILENCE_MIN { silence.as_nanos() as f64 } else { 0.0 };
        self.value(now).max(silent) * (f64::from(in_flight) + 1.0)
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
        let cost = |e: PeakEwma| e.cost(Timestamp::from_millis(11), 0, Duration::ZERO);
        assert!(cost(fails) > cost(slow));
    }

    #[test]
    fn an_endpoint_that_falls_silent_does_not_become_the_fastest() {
        let (mut silent, mut busy) = (PeakEwma::default(), PeakEwma::default());
        let at = Timestamp::from_millis;
        silent.observe(at(0), Duration::from_millis(2));
        for ms in [1_000, 2_000, 3_000, 4_000, 5_000] {
            busy.observe(at(ms), Duration::from_millis(20));
            let silence = at(ms).since(at(10));
            assert!(
                silent.cost(at(ms), 1, Duration::ZERO) < busy.cost(at(ms), 8, Duration::ZERO),
                "by its answers alone"
            );
            assert!(silent.cost(at(ms), 1, silence) > busy.cost(at(ms), 8, Duration::ZERO), "{ms}");
        }
        assert_eq!(
            silent.cost(at(10), 1, SILENCE_MIN / 2),
            silent.cost(at(10), 1, Duration::ZERO),
            "everyday waits are no silence"
        );
    }
}
