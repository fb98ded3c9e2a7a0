//! Seeded randomness, so that a seed reproduces a run.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, good enough for jitter and choice.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub const fn from_seed(seed: u64) -> Self {
        Rng(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0. The bias (multiply-shift) is below 2^-32 for bounds under 2^32.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `base` made longer or shorter by at most `share` of itself (0.2 = 20 %).
    pub fn jitter(&mut self, base: Duration, share: f64) -> Duration {
        base.mul_f64((1.0 + share * (2.0 * self.unit() - 1.0)).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_share() {
        let mut rng = Rng::from_seed(7);
        for _ in 0..10_000 {
            let d = rng.jitter(Duration::from_secs(10), 0.2);
            assert!(d >= Duration::from_secs(8) && d <= Duration::from_secs(12), "{d:?}");
            assert!(rng.below(3) < 3);
        }
    }
}
