//! When a workflow is due: patterns of cron in a time zone, what was missed, and what overlaps.
//!
//! Everything is counted in seconds UTC. A *firing* is the nominal instant of a pattern; the *watermark* is the last firing
//! that was decided about, and nothing at or below it is ever produced again, whatever the clock does. A schedule that is new
//! or changed begins with the watermark at the present.
//!
//! Changes of local time. A pattern with a fixed minute and hour (`30 2 * * *`) means a time on the wall: when that time is
//! left out, it fires once, in the first instant after the gap, and when it comes twice, it fires the first time only. A pattern
//! whose minute or hour begins with `*` (`*/5 * * * *`, `0 * * * *`) means an interval: it follows real time, fires in both
//! passes of an hour that comes twice, and has nothing to make up for an hour that does not exist.

mod civil;
mod clock;
mod cron;
mod overlap;
mod posix;
#[cfg(test)]
mod tests;
mod tzif;
mod zone;

use std::collections::VecDeque;

pub use civil::rfc3339;
pub use clock::{Clock, JUMP_S, Look};
pub use cron::{CRON_BYTES_MAX, Cron};
pub use overlap::{Overlap, Verdict, overlap};
pub use tzif::{TZIF_BYTES_MAX, TzifError};
pub use zone::{Change, Zone};

/// A firing that is seen this late still counts as on time. It is below a minute, so that even of `* * * * *` one at most is.
pub const ON_TIME_S: i64 = 59;

/// Missed firings are counted up to here, so that a machine that was off for a year answers at once.
pub const MISSED_COUNT_MAX: u32 = 1_000;

/// First stretch that is searched backwards from the present; doubled until enough was found.
const LOOK_BACK_S: i64 = 3_600;

/// What happens to firings that nobody was there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Missed {
    None,
    /// The newest one.
    #[default]
    Latest,
    /// The newest ones, at most so many.
    All {
        max: u32,
    },
}

/// `[workflow.NAME] schedule`, `timezone`, `missed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub patterns: Vec<Cron>,
    pub zone: Zone,
    pub missed: Missed,
}

/// What is due, in seconds UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Rising, all above the old watermark and none in the future.
    pub firings: Vec<i64>,
    /// Firings that were due and will not happen; at most [`MISSED_COUNT_MAX`] are counted.
    pub dropped: u32,
    /// To be stored together with the runs that the firings begin.
    pub watermark_s: i64,
    /// When to ask again; `None` when nothing comes within twelve years.
    pub next_s: Option<i64>,
}

impl Schedule {
    /// The first firing of any pattern later than `after_s`.
    pub fn next_after(&self, after_s: i64) -> Option<i64> {
        self.patterns.iter().filter_map(|cron| cron.next_after(&self.zone, after_s)).min()
    }

    /// What is due at `now_s`. A clock that went back behind the watermark makes nothing due.
    pub fn due(&self, watermark_s: i64, now_s: i64) -> Due {
        let newest = self.newest(watermark_s, now_s, self.wanted());
        let on_time = |at: &i64| now_s.saturating_sub(*at) <= ON_TIME_S;
        let watermark = newest.back().copied().unwrap_or(watermark_s);
        let firings: Vec<i64> = match self.missed {
            Missed::None => newest.into_iter().filter(on_time).collect(),
            Missed::Latest | Missed::All { .. } => newest.into_iter().collect(),
        };
        let fired = u32::try_from(firings.len()).unwrap_or(u32::MAX);
        let dropped = self.count(watermark_s, now_s).saturating_sub(fired);
        Due { firings, dropped, watermark_s: watermark, next_s: self.next_after(now_s.max(watermark)) }
    }

    fn wanted(&self) -> usize {
        match self.missed {
            Missed::None | Missed::Latest => 1,
            Missed::All { max } => max.max(1) as usize,
        }
    }

    /// The newest firings in `(after_s, now_s]`, at most `max`. The stretch doubles, so that the work is in proportion to `max`
    /// and not to the length of the outage.
    fn newest(&self, after_s: i64, now_s: i64, max: usize) -> VecDeque<i64> {
        let mut back = LOOK_BACK_S;
        loop {
            let from = now_s.saturating_sub(back).max(after_s);
            let mut found = VecDeque::with_capacity(max.min(MISSED_COUNT_MAX as usize) + 1);
            for at in self.firings(from, now_s) {
                found.push_back(at);
                if found.len() > max {
                    found.pop_front();
                }
            }
            if found.len() == max || from <= after_s {
                return found;
            }
            back = back.saturating_mul(2);
        }
    }

    fn count(&self, after_s: i64, now_s: i64) -> u32 {
        self.firings(after_s, now_s).take(MISSED_COUNT_MAX as usize).count() as u32
    }

    fn firings(&self, after_s: i64, until_s: i64) -> impl Iterator<Item = i64> {
        let next = move |after: i64| self.next_after(after).filter(|at| *at <= until_s);
        let first = if after_s < until_s { next(after_s) } else { None };
        std::iter::successors(first, move |at| next(*at))
    }
}
