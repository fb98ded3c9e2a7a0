//! A time zone as data: which offset from UTC holds when.

use super::posix::Rule;

/// Before every transition, and far enough from the end of `i64` to add offsets.
pub(crate) const BEGINNING: i64 = i64::MIN / 4;
pub(crate) const END: i64 = i64::MAX / 4;

/// Local times that come twice are at most one day apart: the largest jump known is that of a day (Samoa 2011).
const REPEAT_S: i64 = 2 * 86_400;

/// From `utc_from_s` on local time is UTC plus `offset_s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub utc_from_s: i64,
    pub offset_s: i32,
}

/// The shell reads it with [`Zone::from_tzif`]; tests write it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Before the first change.
    first_offset_s: i32,
    /// Rising, and each with another offset than the one before.
    changes: Vec<Change>,
    /// For the time after the last change.
    rule: Option<Rule>,
}

/// A stretch of time with one offset. Two that touch may have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) from_s: i64,
    pub(crate) until_s: i64,
    pub(crate) offset_s: i32,
}

impl Zone {
    pub fn utc() -> Zone {
        Zone::fixed(0)
    }

    pub fn fixed(offset_s: i32) -> Zone {
        Zone::new(offset_s, Vec::new(), None)
    }

    /// `changes` in any order; of two at the same second the later in the list holds.
    pub(crate) fn new(first_offset_s: i32, mut changes: Vec<Change>, rule: Option<Rule>) -> Zone {
        changes.sort_by_key(|c| c.utc_from_s);
        let mut kept: Vec<Change> = Vec::with_capacity(changes.len());
        for change in changes {
            if kept.last().is_some_and(|last| last.utc_from_s == change.utc_from_s) {
                kept.pop();
            }
            let before = kept.last().map_or(first_offset_s, |last| last.offset_s);
            if before != change.offset_s {
                kept.push(change);
            }
        }
        Zone { first_offset_s, changes: kept, rule }
    }

    /// A zone from its changes alone.
    pub fn from_changes(first_offset_s: i32, changes: Vec<Change>) -> Zone {
        Zone::new(first_offset_s, changes, None)
    }

    /// Seconds that local time is ahead of UTC.
    pub fn offset_at(&self, utc_s: i64) -> i32 {
        self.segment(utc_s).offset_s
    }

    pub(crate) fn segment(&self, utc_s: i64) -> Segment {
        let after = self.changes.partition_point(|c| c.utc_from_s <= utc_s);
        let last = after.checked_sub(1).map(|n| self.changes[n]);
        let from_s = last.map_or(BEGINNING, |c| c.utc_from_s);
        if let (Some(rule), true) = (&self.rule, after == self.changes.len()) {
            let found = rule.segment(utc_s);
            return Segment { from_s: found.from_s.max(from_s), ..found };
        }
        let until_s = self.changes.get(after).map_or(END, |c| c.utc_from_s);
        Segment { from_s, until_s, offset_s: last.map_or(self.first_offset_s, |c| c.offset_s) }
    }

    /// The end of the local times that were already seen when `segment` begins: what lies below came before.
    pub(crate) fn seen_before(&self, segment: Segment) -> i64 {
        let (mut seen, mut at) = (BEGINNING, segment.from_s);
        while at > BEGINNING && at > segment.from_s - REPEAT_S {
            let before = self.segment(at - 1);
            seen = seen.max(at + i64::from(before.offset_s));
            at = before.from_s;
        }
        seen
    }
}
