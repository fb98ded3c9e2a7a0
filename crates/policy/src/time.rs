//! Boot time: the only clock that decisions see.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// As it is stored and sent; longer than 584 million years is the longest.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Nanoseconds of `CLOCK_BOOTTIME`; comparable only within one boot id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const ZERO: Timestamp = Timestamp(0);
    /// Later than every time that can be reached (584 years after boot).
    pub const NEVER: Timestamp = Timestamp(u64::MAX);

    pub const fn from_nanos(nanos: u64) -> Self {
        Timestamp(nanos)
    }

    pub const fn from_millis(millis: u64) -> Self {
        Timestamp(millis * 1_000_000)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Time since `earlier`; zero when `earlier` lies in the future.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The nearest multiple of `step` since boot.
    pub fn nearest(self, step: Duration) -> Timestamp {
        let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX).max(1);
        Timestamp(self.0.saturating_add(step / 2) / step * step)
    }

    /// Time left until `later`; zero when it has passed.
    pub fn until(self, later: Timestamp) -> Duration {
        later.since(self)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, rhs: Duration) -> Timestamp {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, rhs: Duration) -> Timestamp {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_sub(nanos))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000_000_000, self.0 / 1_000_000 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_goes_either_way_and_does_not_overflow() {
        let step = Duration::from_millis(100);
        for (from, to) in [(0, 0), (49, 0), (50, 100), (100, 100), (149, 100), (151, 200)] {
            assert_eq!(Timestamp::from_millis(from).nearest(step), Timestamp::from_millis(to), "{from}");
        }
        assert!(Timestamp::NEVER.nearest(step) > Timestamp::from_millis(u64::from(u32::MAX)));
        assert_eq!(Timestamp::from_millis(7).nearest(Duration::ZERO), Timestamp::from_millis(7));
    }
}
