//! The rule after the table of a TZif file: a `TZ` string of POSIX such as `CET-1CEST,M3.5.0,M10.5.0/3`.

use super::civil::{self, DAY_S, Date};
use super::zone::{BEGINNING, END, Segment};

/// RFC 9636 lets the time of a change be up to a week before or after its day.
const RULE_HOURS_MAX: i64 = 167;
/// POSIX: an offset is at most a day.
const OFFSET_HOURS_MAX: i64 = 24;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    standard_s: i32,
    saving: Option<Saving>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Saving {
    offset_s: i32,
    begins: Edge,
    ends: Edge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edge {
    day: Day,
    /// Local seconds from the midnight of the day.
    time_s: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Day {
    /// 1 to 365; 29 February is never counted.
    Julian(i64),
    /// 0 to 365.
    Zero(i64),
    /// `week` 5 is the last one.
    Week { month: u32, week: i64, weekday: i64 },
}

impl Rule {
    /// The whole of `text`; `None` when it is not such a string.
    pub(crate) fn parse(text: &str) -> Option<Rule> {
        let mut left = Cursor(text.as_bytes());
        left.name()?;
        let standard_s = i32::try_from(-left.time(OFFSET_HOURS_MAX)?).ok()?;
        let saving = if left.0.is_empty() { None } else { Some(left.saving(standard_s)?) };
        left.0.is_empty().then_some(Rule { standard_s, saving })
    }

    pub(crate) fn segment(&self, utc_s: i64) -> Segment {
        let Some(saving) = &self.saving else {
            return Segment { from_s: BEGINNING, until_s: END, offset_s: self.standard_s };
        };
        let year = civil::date(utc_s.div_euclid(DAY_S)).year;
        // Saving time sorts last where it begins in the second in which it ends: that is how all-year saving time is written.
        let mut edges: Vec<(i64, bool)> = (year - 1..=year + 1)
            .flat_map(|year| {
                let begins = saving.begins.utc(year, self.standard_s);
                [(begins, true), (saving.ends.utc(year, saving.offset_s), false)]
            })
            .collect();
        edges.sort_unstable();
        let after = edges.partition_point(|(at, _)| *at <= utc_s);
        let (from_s, saves) = after.checked_sub(1).map_or((BEGINNING, false), |n| edges[n]);
        let until_s = edges.get(after).map_or(END, |(at, _)| *at);
        Segment { from_s, until_s, offset_s: if saves { saving.offset_s } else { self.standard_s } }
    }
}

impl Edge {
    fn utc(self, year: i64, offset_s: i32) -> i64 {
        self.day.of(year) * DAY_S + self.time_s - i64::from(offset_s)
    }
}

impl Day {
    fn of(self, year: i64) -> i64 {
        let january = civil::days(Date { year, month: 1, day: 1 });
        match self {
            Day::Julian(n) => january + n - 1 + i64::from(n >= 60 && civil::is_leap(year)),
            Day::Zero(n) => january + n,
            Day::Week { month, week, weekday } => {
                let date = Date { year, month, day: 1 };
                let first = civil::days(date);
                let ahead = (weekday - i64::from(civil::weekday(first))).rem_euclid(7);
                let day = first + ahead + (week - 1) * 7;
                if day >= civil::next_month(date) { day - 7 } else { day }
            }
        }
    }
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        self.0 = &self.0[usize::from(found)..];
        found
    }

    /// Three letters or more, or anything between angle brackets.
    fn name(&mut self) -> Option<()> {
        let len = match self.eat(b'<') {
            true => self.0.iter().position(|b| *b == b'>')?,
            false => self.0.iter().take_while(|b| b.is_ascii_alphabetic()).count(),
        };
        self.0 = &self.0[len..];
        self.eat(b'>');
        (len >= 3).then_some(())
    }

    fn number(&mut self) -> Option<i64> {
        let len = self.0.iter().take(4).take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(len);
        self.0 = rest;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// `[+-]hh[:mm[:ss]]` in seconds.
    fn time(&mut self, hours_max: i64) -> Option<i64> {
        let sign = if self.eat(b'-') { -1 } else { 1 };
        if sign == 1 {
            self.eat(b'+');
        }
        let hours = self.number()?;
        let minutes = if self.eat(b':') { self.number()? } else { 0 };
        let seconds = if self.eat(b':') { self.number()? } else { 0 };
        let fits = hours <= hours_max && minutes < 60 && seconds < 60;
        fits.then_some(sign * (hours * 3600 + minutes * 60 + seconds))
    }

    fn saving(&mut self, standard_s: i32) -> Option<Saving> {
        self.name()?;
        let offset_s = match self.0.first() {
            Some(b',') => standard_s + 3600,
            _ => i32::try_from(-self.time(OFFSET_HOURS_MAX)?).ok()?,
        };
        Some(Saving { offset_s, begins: self.edge()?, ends: self.edge()? })
    }

    fn edge(&mut self) -> Option<Edge> {
        if !self.eat(b',') {
            return None;
        }
        let day = self.day()?;
        let time_s = if self.eat(b'/') { self.time(RULE_HOURS_MAX)? } else { 2 * 3600 };
        Some(Edge { day, time_s })
    }

    fn day(&mut self) -> Option<Day> {
        if self.eat(b'J') {
            return self.number().filter(|n| (1..=365).contains(n)).map(Day::Julian);
        }
        if !self.eat(b'M') {
            return self.number().filter(|n| *n <= 365).map(Day::Zero);
        }
        let month = u32::try_from(self.number()?).ok()?;
        let week = self.eat(b'.').then(|| self.number())??;
        let weekday = self.eat(b'.').then(|| self.number())??;
        let fits = (1..=12).contains(&month) && (1..=5).contains(&week) && weekday <= 6;
        fits.then_some(Day::Week { month, week, weekday })
    }
}
