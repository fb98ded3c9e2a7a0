//! A new or returned endpoint gets a growing share of the requests it would otherwise get.

use std::time::Duration;

use crate::time::Timestamp;

/// Share at the very start, so that there is traffic to learn from.
pub const FLOOR: f64 = 0.1;

/// Linear from [`FLOOR`] to 1 over `window`; a zero window is no ramp.
pub fn share(now: Timestamp, since: Timestamp, window: Duration) -> f64 {
    if window.is_zero() {
        return 1.0;
    }
    (now.since(since).as_secs_f64() / window.as_secs_f64()).clamp(FLOOR, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_linearly_and_stays_at_one() {
        let window = Duration::from_secs(10);
        let at = |ms| share(Timestamp::from_millis(ms), Timestamp::ZERO, window);
        assert_eq!([at(0), at(5_000), at(10_000), at(99_000)], [FLOOR, 0.5, 1.0, 1.0]);
        assert_eq!(share(Timestamp::ZERO, Timestamp::ZERO, Duration::ZERO), 1.0);
    }
}
