//! What one core saw of one endpoint.

use std::time::Duration;

use holdfast_policy::Timestamp;

/// The last minute in steps of 10 s.
const WINDOWS: usize = 6;
const WINDOW: Duration = Duration::from_secs(10);

/// Quarter octaves from 16 us to over an hour.
const BUCKETS: usize = 112;
const FIRST_US: u64 = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) connect_failures: u64,
    pub(crate) transport_failures: u64,
    pub(crate) timeouts: u64,
    pub(crate) gateway_errors: u64,
    pub(crate) retries: u64,
    pub(crate) hedges: u64,
    pub(crate) moves: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Stats {
    pub(crate) totals: Totals,
    windows: [[u32; BUCKETS]; WINDOWS],
    /// Number of the window that was written last.
    last: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Stats { totals: Totals::default(), windows: [[0; BUCKETS]; WINDOWS], last: 0 }
    }
}

/// Answer times that may be added to those of other cores.
#[derive(Clone, Debug)]
pub(crate) struct Histogram([u64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Histogram([0; BUCKETS])
    }
}

impl Stats {
    pub(crate) fn observe(&mut self, now: Timestamp, took: Duration) {
        self.turn(now);
        let window = self.last as usize % WINDOWS;
        self.windows[window][bucket(took)] += 1;
    }

    fn turn(&mut self, now: Timestamp) {
        let number = now.as_nanos() / WINDOW.as_nanos() as u64;
        let passed = number.saturating_sub(self.last).min(WINDOWS as u64);
        for step in 0..passed {
            self.windows[(number - step) as usize % WINDOWS] = [0; BUCKETS];
        }
        self.last = self.last.max(number);
    }

    pub(crate) fn add_to(&mut self, now: Timestamp, histogram: &mut Histogram) {
        self.turn(now);
        for window in &self.windows {
            for (sum, count) in histogram.0.iter_mut().zip(window) {
                *sum += u64::from(*count);
            }
        }
    }
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Totals) {
        self.requests += other.requests;
        self.connect_failures += other.connect_failures;
        self.transport_failures += other.transport_failures;
        self.timeouts += other.timeouts;
        self.gateway_errors += other.gateway_errors;
        self.retries += other.retries;
        self.hedges += other.hedges;
        self.moves += other.moves;
    }
}

impl Histogram {
    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (sum, count) in self.0.iter_mut().zip(&other.0) {
            *sum += count;
        }
    }

    /// Upper bound of the bucket that holds the quantile, in microseconds; `None` without samples.
    pub(crate) fn quantile_us(&self, q: f64) -> Option<u64> {
        let total: u64 = self.0.iter().sum();
        let rank = ((total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.0.iter().enumerate() {
            seen += count;
            if seen >= rank && total > 0 {
                return Some(upper_us(index));
            }
        }
        None
    }
}

fn bucket(took: Duration) -> usize {
    let us = took.as_micros().min(u128::from(u64::MAX)) as u64;
    let scaled = us / (FIRST_US / 4);
    if scaled < 4 {
        return 0;
    }
    let octave = scaled.ilog2() - 2;
    let quarter = (scaled >> octave) - 4;
    (octave as usize * 4 + quarter as usize).min(BUCKETS - 1)
}

fn upper_us(bucket: usize) -> u64 {
    ((5 + bucket as u64 % 4) << (bucket / 4)) * (FIRST_US / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_quarter_octave() {
        let mut stats = Stats::default();
        let now = Timestamp::from_millis(1_000_000);
        for ms in 1..=1000 {
            stats.observe(now, Duration::from_millis(ms));
        }
        let mut h = Histogram::default();
        stats.add_to(now, &mut h);
        for (q, want) in [(0.5, 500_000.0), (0.99, 990_000.0)] {
            let got = h.quantile_us(q).unwrap() as f64;
            assert!(got >= want && got < want * 1.26, "{q}: {got}");
        }
        let mut later = Histogram::default();
        stats.add_to(now + Duration::from_secs(61), &mut later);
        assert_eq!(later.quantile_us(0.5), None, "older than a minute");
    }
}
