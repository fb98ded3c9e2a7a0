//! Days and dates of the Gregorian calendar, extended without end in both directions.

pub(crate) const DAY_S: i64 = 86_400;
pub(crate) const DAY_MINUTES: i64 = 1_440;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Date {
    pub(crate) year: i64,
    /// 1 to 12.
    pub(crate) month: u32,
    /// 1 to 31.
    pub(crate) day: u32,
}

/// Days since 1970-01-01. After Howard Hinnant, "chrono-compatible low-level date algorithms": years begin in March, so that
/// the leap day is the last of its year.
pub(crate) fn days(date: Date) -> i64 {
    let year = if date.month <= 2 { date.year - 1 } else { date.year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let month = i64::from((date.month + 9) % 12);
    let of_year = (153 * month + 2) / 5 + i64::from(date.day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

pub(crate) fn date(days: i64) -> Date {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = (of_year - (153 * month + 2) / 5 + 1) as u32;
    let month = (if month < 10 { month + 3 } else { month - 9 }) as u32;
    Date { year: year + era * 400 + i64::from(month <= 2), month, day }
}

/// 0 is Sunday. 1970-01-01 was a Thursday.
pub(crate) fn weekday(days: i64) -> u32 {
    (days + 4).rem_euclid(7) as u32
}

pub(crate) fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// The first day of the month after the one of `date`.
pub(crate) fn next_month(date: Date) -> i64 {
    let (year, month) = if date.month == 12 { (date.year + 1, 1) } else { (date.year, date.month + 1) };
    days(Date { year, month, day: 1 })
}

/// Seconds since the epoch as RFC 3339 writes them, in UTC.
pub fn rfc3339(utc_s: i64) -> String {
    let Date { year, month, day } = date(utc_s.div_euclid(DAY_S));
    let second = utc_s.rem_euclid(DAY_S);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_each_others_inverse() {
        let mut before = date(-800_001);
        for n in -800_000..800_000 {
            let now = date(n);
            assert_eq!(days(now), n, "{now:?}");
            let follows = (now.year, now.month, now.day) > (before.year, before.month, before.day);
            assert!(follows && now.day <= 31 && (1..=12).contains(&now.month), "{before:?} {now:?}");
            before = now;
        }
    }

    #[test]
    fn known_days() {
        for (year, month, day, n, of_week) in
            [(1970, 1, 1, 0, 4), (2000, 2, 29, 11_016, 2), (2024, 2, 29, 19_782, 4), (1969, 12, 31, -1, 3)]
        {
            assert_eq!((days(Date { year, month, day }), weekday(n)), (n, of_week));
        }
        assert_eq!(rfc3339(1_711_846_800), "2024-03-31T01:00:00Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
    }
}
