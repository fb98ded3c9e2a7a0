//! A pattern of cron: five fields, read once into bit sets.
//!
//! The language is that of `crontab(5)`: lists, ranges, steps, names of months and days, 7 for Sunday, and `@hourly` and its
//! like. When day of month and day of week are both restricted, a day that fits either counts; a field that begins with `*`
//! is not restricted. `@reboot`, `L`, `W` and `#` are refused.

use super::civil::{self, DAY_MINUTES, DAY_S};
use super::zone::{BEGINNING, Segment, Zone};

/// Longer than any list somebody writes by hand.
pub const CRON_BYTES_MAX: usize = 256;

/// How far the next firing may lie ahead: 29 February comes once in eight years around 2100.
const SEARCH_S: i64 = 12 * 366 * DAY_S;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Day of month and day of week are both restricted: one of them is enough.
    either: bool,
    /// Minute or hour begins with `*`: it is meant as an interval and follows real time over changes of the clock.
    real_time: bool,
}

struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    names: &'static [&'static str],
    /// Value of the first name.
    first: u32,
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field { name: "minute", low: 0, high: 59, names: &[], first: 0 },
    Field { name: "hour", low: 0, high: 23, names: &[], first: 0 },
    Field { name: "day of month", low: 1, high: 31, names: &[], first: 0 },
    Field { name: "month", low: 1, high: 12, names: MONTHS, first: 1 },
    Field { name: "day of week", low: 0, high: 7, names: WEEKDAYS, first: 0 },
];

/// The longest February has 29 days.
const MONTH_DAYS_MAX: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl Cron {
    /// The error says which field is wrong, and why.
    pub fn parse(text: &str) -> Result<Cron, String> {
        if text.len() > CRON_BYTES_MAX {
            return Err(format!("the pattern has {} bytes, at most {CRON_BYTES_MAX}", text.len()));
        }
        let text = match text.trim() {
            word if word.starts_with('@') => nickname(word)?,
            other => other,
        };
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let Ok(parts) = <[&str; 5]>::try_from(parts) else {
            let found = text.split_ascii_whitespace().count();
            return Err(format!("a pattern has five fields (minute hour day month weekday), this one has {found}"));
        };
        let mut sets = [0; 5];
        for ((set, part), field) in sets.iter_mut().zip(parts).zip(&FIELDS) {
            *set = field.parse(part)?;
        }
        let [minutes, hours, days, months, weekdays] = sets;
        let restricted = |n: usize| !parts[n].starts_with('*');
        let weekdays = (weekdays | weekdays >> 7) & 0x7f;
        let (either, real_time) = (restricted(2) && restricted(4), !restricted(0) || !restricted(1));
        let cron = Cron { minutes, hours, days, months, weekdays, either, real_time };
        if !either && !cron.has_a_day() {
            return Err(format!("`{text}` never fires: no such month has such a day"));
        }
        Ok(cron)
    }

    fn has_a_day(&self) -> bool {
        let months = (1..=12).filter(|m| self.months >> m & 1 == 1);
        months.into_iter().any(|m| self.days & ((2 << MONTH_DAYS_MAX[m - 1]) - 1) != 0)
    }

    /// The first firing later than `after_s`, in seconds UTC. `None` when there is none within twelve years.
    pub fn next_after(&self, zone: &Zone, after_s: i64) -> Option<i64> {
        let horizon = after_s.saturating_add(SEARCH_S);
        let mut segment = zone.segment(after_s);
        loop {
            if let Some(at) = self.first_in(zone, segment, after_s, horizon) {
                return Some(at);
            }
            if segment.until_s >= horizon {
                return None;
            }
            segment = zone.segment(segment.until_s);
        }
    }

    fn first_in(&self, zone: &Zone, segment: Segment, after_s: i64, horizon: i64) -> Option<i64> {
        let offset = i64::from(segment.offset_s);
        let seen = if self.real_time { BEGINNING } else { zone.seen_before(segment) };
        let opens = segment.from_s + offset;
        let in_gap = !self.real_time && seen > BEGINNING && segment.from_s > after_s;
        if in_gap && self.next_local(seen, opens).is_some() {
            return Some(segment.from_s);
        }
        let from = (segment.from_s.max(after_s + 1) + offset).max(seen);
        let until = segment.until_s.min(horizon) + offset;
        self.next_local(from, until).map(|local| local - offset)
    }

    /// The first match in local seconds `from..until`.
    fn next_local(&self, from: i64, until: i64) -> Option<i64> {
        let first = from.div_euclid(60) + i64::from(from.rem_euclid(60) != 0);
        let (mut day, mut minute) = (first.div_euclid(DAY_MINUTES), first.rem_euclid(DAY_MINUTES));
        while day * DAY_S < until {
            let date = civil::date(day);
            if self.months >> date.month & 1 == 0 {
                (day, minute) = (civil::next_month(date), 0);
                continue;
            }
            let found = if self.fits(date.day, civil::weekday(day)) { self.minute_from(minute) } else { None };
            if let Some(found) = found {
                let at = day * DAY_S + found * 60;
                return (at < until).then_some(at);
            }
            (day, minute) = (day + 1, 0);
        }
        None
    }

    fn fits(&self, day: u32, weekday: u32) -> bool {
        let (day, weekday) = (self.days >> day & 1 == 1, self.weekdays >> weekday & 1 == 1);
        if self.either { day || weekday } else { day && weekday }
    }

    /// The first minute of a day that fits, from `minute` on.
    fn minute_from(&self, minute: i64) -> Option<i64> {
        let (hour, rest) = (minute / 60, minute % 60);
        if self.hours >> hour & 1 == 1 && self.minutes >> rest != 0 {
            return Some(minute + i64::from((self.minutes >> rest).trailing_zeros()));
        }
        let later = self.hours >> (hour + 1);
        let hour = hour + 1 + i64::from(later.trailing_zeros());
        (later != 0).then(|| hour * 60 + i64::from(self.minutes.trailing_zeros()))
    }

    /// It follows real time over changes of the clock: see [`super`].
    pub fn is_interval(&self) -> bool {
        self.real_time
    }

    /// Local minute of a day that fits; for tests that walk.
    #[cfg(test)]
    pub(crate) fn matches(&self, local_s: i64) -> bool {
        let day = local_s.div_euclid(DAY_S);
        let (date, minute) = (civil::date(day), local_s.rem_euclid(DAY_S) / 60);
        let time = self.hours >> (minute / 60) & 1 == 1 && self.minutes >> (minute % 60) & 1 == 1;
        local_s % 60 == 0 && time && self.months >> date.month & 1 == 1 && self.fits(date.day, civil::weekday(day))
    }
}

fn nickname(word: &str) -> Result<&'static str, String> {
    Ok(match word {
        "@hourly" => "0 * * * *",
        "@daily" | "@midnight" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        _ => return Err(format!("`{word}` is none of @hourly, @daily, @weekly, @monthly, @yearly")),
    })
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |set, part| Ok(set | self.part(part)?))
    }

    fn part(&self, part: &str) -> Result<u64, String> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step)?)),
            None => (part, None),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (self.low, self.star_high()),
            Some((low, high)) => (self.value(low)?, self.value(high)?),
            None if step.is_some() => return Err(format!("{}: a step needs `*` or a range: `{part}`", self.name)),
            None => (self.value(range)?, self.value(range)?),
        };
        if low > high {
            return Err(format!("{}: the range `{range}` runs backwards", self.name));
        }
        let values = (low..=high).step_by(step.unwrap_or(1) as usize);
        Ok(values.fold(0, |set, value| set | 1 << value))
    }

    /// Sunday is not counted twice by `*/2`.
    fn star_high(&self) -> u32 {
        if self.high == 7 { 6 } else { self.high }
    }

    fn step(&self, text: &str) -> Result<u32, String> {
        match number(text) {
            Some(step) if step > 0 && step <= self.high => Ok(step),
            _ => Err(format!("{}: the step `{text}` is not a number from 1 to {}", self.name, self.high)),
        }
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let value = named.map(|n| n as u32 + self.first).or_else(|| number(text));
        match value {
            Some(value) if (self.low..=self.high).contains(&value) => Ok(value),
            _ => {
                let (low, high) = (self.low, self.high);
                let or = if self.names.is_empty() { "" } else { " or a name of three letters" };
                Err(format!("{}: `{text}` is not a number from {low} to {high}{or}", self.name))
            }
        }
    }
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
