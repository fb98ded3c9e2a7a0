//! Exponential delay with a cap and jitter.

use std::time::Duration;

use crate::rng::Rng;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    pub base: Duration,
    pub factor: f64,
    pub max: Duration,
    /// Share of the delay by which it may be longer or shorter, 0..=1.
    pub jitter: f64,
}

impl Backoff {
    /// Delay before attempt `n`, counted from 0, without jitter.
    pub fn nominal(&self, n: u32) -> Duration {
        let exponent = i32::try_from(n.min(64)).unwrap_or(64);
        let seconds = self.base.as_secs_f64() * self.factor.powi(exponent);
        Duration::from_secs_f64(seconds.min(self.max.as_secs_f64()))
    }

    pub fn delay(&self, n: u32, rng: &mut Rng) -> Duration {
        rng.jitter(self.nominal(n), self.jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_cap() {
        let b = Backoff { base: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(60), jitter: 0.0 };
        let got: Vec<u64> = [0, 1, 2, 5, 6, 7, 4_000_000_000].iter().map(|n| b.nominal(*n).as_secs()).collect();
        assert_eq!(got, [1, 2, 4, 32, 60, 60, 60]);
    }
}
