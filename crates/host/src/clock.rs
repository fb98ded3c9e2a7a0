//! The clocks of this machine. Decisions see boot time only; wall time is for people and calendars.

use std::sync::OnceLock;

use holdfast_policy::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME`: does not jump, counts suspended time, the same for every process of this boot.
pub fn now() -> Timestamp {
    let t = clock_gettime(ClockId::Boottime);
    Timestamp::from_nanos(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

/// Milliseconds since 1970, for records that people read. It may jump in both directions.
pub fn wall_ms() -> u64 {
    let t = clock_gettime(ClockId::Realtime);
    t.tv_sec.max(0) as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
}

/// Tells this boot from every other one: stored boot times and process ids mean nothing across boots.
/// Empty where `/proc` is not mounted; an empty id never equals a stored one (see [`same_boot`]).
pub fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
    })
}

/// Whether a record with `stored` was written during the present boot.
pub fn same_boot(stored: &str) -> bool {
    !stored.is_empty() && stored == boot_id()
}

/// `2026-11-23T18:05:09.042Z` from milliseconds since 1970 (days to date after Hinnant's civil_from_days).
pub fn utc_text(wall_ms: u64) -> [u8; 24] {
    let (days, ms_of_day) = (wall_ms / 86_400_000, wall_ms % 86_400_000);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let mut out = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for i in (at..at + width).rev() {
            out[i] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, ms_of_day / 3_600_000);
    put(14, 2, ms_of_day / 60_000 % 60);
    put(17, 2, ms_of_day / 1000 % 60);
    put(20, 3, ms_of_day % 1000);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_text_knows_leap_years_and_month_ends() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
            (1_767_225_599_500, "2025-12-31T23:59:59.500Z"),
        ] {
            assert_eq!(std::str::from_utf8(&utc_text(ms)).unwrap(), text);
        }
    }

    #[test]
    fn an_unknown_boot_is_never_this_one() {
        assert!(same_boot(boot_id()));
        assert!(!same_boot(""));
        assert!(!same_boot("another"));
    }
}
