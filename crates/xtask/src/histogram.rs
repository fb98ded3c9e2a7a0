//! Latencies of a run of any length in bounded memory.

use std::collections::BTreeMap;

/// Values keep this many leading bits, rounded up: an error of at most 0.8 %.
const BITS: u32 = 8;

#[derive(Default)]
pub(crate) struct Histogram {
    buckets: BTreeMap<u64, u64>,
    pub(crate) count: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn add(&mut self, value: u64) {
        *self.buckets.entry(round_up(value)).or_default() += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    pub(crate) fn merge(&mut self, other: Histogram) {
        for (bucket, count) in other.buckets {
            *self.buckets.entry(bucket).or_default() += count;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// The least value that a share `q` of all does not exceed; the greatest itself for 1. 0 when empty.
    pub(crate) fn quantile(&self, q: f64) -> u64 {
        let rank = (self.count as f64 * q).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += count;
            if seen >= rank {
                return (*bucket).min(self.max);
            }
        }
        self.max
    }
}

fn round_up(value: u64) -> u64 {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(BITS);
    let step = 1_u64 << shift;
    value.checked_next_multiple_of(step).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_a_percent() {
        let mut histogram = Histogram::default();
        let mut other = Histogram::default();
        for value in 1..=100_000 {
            if value % 3 == 0 { other.add(value) } else { histogram.add(value) }
        }
        histogram.merge(other);
        assert_eq!(histogram.count, 100_000);
        for (q, exact) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            let found = histogram.quantile(q) as f64;
            assert!(found >= exact && found <= exact * 1.009, "{q}: {found}");
        }
        assert_eq!(histogram.quantile(1.0), 100_000);
        assert!(histogram.buckets.len() < 1_500, "{}", histogram.buckets.len());
    }

    #[test]
    fn small_values_are_exact_and_none_is_zero() {
        assert_eq!(Histogram::default().quantile(0.99), 0);
        assert_eq!((round_up(0), round_up(200), round_up(256), round_up(257)), (0, 200, 256, 258));
        assert_eq!(round_up(u64::MAX), u64::MAX);
    }
}
