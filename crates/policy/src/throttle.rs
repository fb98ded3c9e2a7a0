//! How often strangers may try something: failures are counted for each caller and for all together.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use crate::Timestamp;

/// Failures are counted over this time.
pub const WINDOW: Duration = Duration::from_secs(60);
/// A person who mistypes; a token of 128 bits is out of reach anyway.
pub const CALLER_FAILURES_MAX: usize = 5;
/// Of all callers together: bounds what they can make us remember, compute and write down.
pub const ALL_FAILURES_MAX: usize = 60;

/// Who failed lately.
#[derive(Clone, Debug, Default)]
pub struct Throttle {
    failures: VecDeque<(IpAddr, Timestamp)>,
}

impl Throttle {
    pub fn may_try(&mut self, now: Timestamp, caller: IpAddr) -> bool {
        while self.failures.front().is_some_and(|(_, at)| now.since(*at) >= WINDOW) {
            self.failures.pop_front();
        }
        let own = self.failures.iter().filter(|(who, _)| *who == caller).count();
        own < CALLER_FAILURES_MAX && self.failures.len() < ALL_FAILURES_MAX
    }

    pub fn failed(&mut self, now: Timestamp, caller: IpAddr) {
        if self.failures.len() < ALL_FAILURES_MAX {
            self.failures.push_back((caller, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn who_fails_again_and_again_waits_and_others_do_not() {
        let mut throttle = Throttle::default();
        let start = Timestamp::from_nanos(1);
        for _ in 0..CALLER_FAILURES_MAX {
            assert!(throttle.may_try(start, caller(1)));
            throttle.failed(start, caller(1));
        }
        assert!(!throttle.may_try(start, caller(1)));
        assert!(throttle.may_try(start, caller(2)));
        assert!(!throttle.may_try(start + WINDOW - Duration::from_nanos(1), caller(1)));
        assert!(throttle.may_try(start + WINDOW, caller(1)));
    }

    #[test]
    fn many_callers_together_are_bounded() {
        let mut throttle = Throttle::default();
        let now = Timestamp::from_nanos(1);
        let mut tried = 0;
        for n in 0..200 {
            if throttle.may_try(now, caller(n)) {
                tried += 1;
                throttle.failed(now, caller(n));
            }
        }
        assert_eq!(tried, ALL_FAILURES_MAX);
        assert!(throttle.may_try(now + WINDOW, caller(201)));
    }

    #[test]
    fn success_is_not_limited() {
        let mut throttle = Throttle::default();
        assert!((0..1000).all(|n| throttle.may_try(Timestamp::from_nanos(n), caller(1))));
    }
}
