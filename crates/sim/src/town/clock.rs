//! A machine's clock: true time, at its own pace, from its boot on.

use std::time::Duration;

use holdfast_policy::Timestamp;

/// Fastest and slowest clocks, in millionths: ten times what a bad crystal does.
pub(super) const DRIFT_PPM: u64 = 5_000;
const MILLION: i64 = 1_000_000;
/// Beyond it a time means never.
const FAR: u64 = 1 << 61;

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    booted: Timestamp,
    /// What it showed then.
    base: Timestamp,
    pub(super) ppm: i64,
}

impl Clock {
    pub(super) fn new(booted: Timestamp, base: Duration, ppm: i64) -> Clock {
        Clock { booted, base: Timestamp::ZERO + base, ppm }
    }

    pub(super) fn local(&self, now: Timestamp) -> Timestamp {
        let passed = i64::try_from(now.as_nanos().saturating_sub(self.booted.as_nanos())).unwrap_or(i64::MAX);
        let pace = MILLION + self.ppm;
        let shown = passed / MILLION * pace + passed % MILLION * pace / MILLION;
        Timestamp::from_nanos(self.base.as_nanos() + shown.unsigned_abs())
    }

    /// The first true time at which it shows `local`.
    pub(super) fn when(&self, local: Timestamp) -> Timestamp {
        if local.as_nanos() > FAR {
            return Timestamp::NEVER;
        }
        let left = i64::try_from(local.as_nanos().saturating_sub(self.base.as_nanos())).unwrap_or(i64::MAX);
        let pace = MILLION + self.ppm;
        let passed = left / pace * MILLION + left % pace * MILLION / pace + 2;
        Timestamp::from_nanos(self.booted.as_nanos() + passed.unsigned_abs())
    }

    /// How long a time on it takes.
    pub(super) fn lasts(&self, time: Duration) -> Duration {
        time.mul_f64(1e6 / (1e6 + self.ppm as f64))
    }
}
