//! What became of each probe, as clients and programs saw it.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_host::process::Identity;
use holdfast_policy::Timestamp;
use serde::Serialize;

use super::super::summary::quantile;
use super::super::{Counts, Record, millis};
use crate::stand_in::Line;

/// Probes that are followed; later ones are only counted.
const FATES_MAX: usize = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    fates: BTreeMap<u64, Fate>,
    records: Vec<Record>,
    counts: Counts,
}

#[derive(Clone, Debug, Default)]
struct Fate {
    due: Timestamp,
    /// The fault was meant for it.
    struck: bool,
    confirmed: bool,
    /// Times that it was handed out, or that a stand-in began.
    begun: u32,
    /// When the second of them was.
    again: Option<Timestamp>,
    at_work: Option<Identity>,
    done: u32,
    /// A delete of it had no answer.
    perhaps_done: bool,
    settled: Option<Timestamp>,
    buried: bool,
}

/// What became of the probes of a queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Kept {
    pub confirmed: u64,
    pub done: u64,
    /// Confirmed and not done, or found among the dead letters without having been struck.
    pub lost: u64,
    pub twice: u64,
    /// Handed out more than once: what was in flight when something died, and what was struck.
    pub again: u64,
    /// What was struck and is in the dead letters.
    pub dead_letters: u64,
    /// From due to done, of those that were not struck.
    pub done_p50_ms: f64,
    pub done_p99_ms: f64,
    pub done_max_ms: f64,
    /// Of those that were struck: when the first was tried again, and when the last was over.
    #[serde(skip)]
    pub(crate) struck_again: Option<Timestamp>,
    #[serde(skip)]
    pub(crate) struck_settled: Option<Timestamp>,
}

impl Ledger {
    /// Returns how many are without an answer.
    pub(super) fn begin(&mut self, id: u64, due: Timestamp, struck: bool) -> u64 {
        self.counts.outstanding += 1;
        if self.fates.len() < FATES_MAX {
            self.fates.insert(id, Fate { due, struck, ..Fate::default() });
        }
        self.counts.outstanding
    }

    pub(super) fn sent(&mut self, id: u64, record: Record) {
        let good = record.end.is_good();
        self.counts.outstanding -= 1;
        self.counts.finished += 1;
        self.counts.failed += u64::from(!good);
        if self.records.len() < FATES_MAX {
            self.records.push(record);
        }
        if let Some(fate) = self.fates.get_mut(&id) {
            fate.confirmed = good;
        }
    }

    pub(super) fn handed(&mut self, id: u64) {
        let Some(fate) = self.fates.get_mut(&id) else { return };
        // After a delete that was confirmed it must never come again.
        if fate.done > 0 {
            fate.done += 1;
        }
        fate.begun += 1;
    }

    pub(super) fn deleted(&mut self, id: u64, known: bool, now: Timestamp) {
        let Some(fate) = self.fates.get_mut(&id) else { return };
        fate.perhaps_done = true;
        if known {
            fate.done = fate.done.max(1);
        }
        fate.settled.get_or_insert(now);
    }

    pub(super) fn buried(&mut self, id: u64, now: Timestamp) {
        let Some(fate) = self.fates.get_mut(&id) else { return };
        fate.buried = true;
        fate.at_work = None;
        fate.settled.get_or_insert(now);
    }

    pub(super) fn saw(&mut self, line: &Line) {
        let Some(fate) = self.fates.get_mut(&line.id) else { return };
        if line.ended {
            fate.done += 1;
            fate.at_work = None;
            fate.settled.get_or_insert(line.at);
            return;
        }
        fate.begun += 1;
        if fate.begun == 2 {
            fate.again = Some(line.at);
        }
        fate.at_work = Some(line.process);
    }

    pub(super) fn at_work_on_struck(&self) -> Vec<Identity> {
        self.fates.values().filter(|f| f.struck).filter_map(|f| f.at_work).collect()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn done(&self) -> u64 {
        self.fates.values().filter(|f| f.settled.is_some()).count() as u64
    }

    pub(super) fn is_calm(&self, now: Timestamp, slack: Duration) -> bool {
        let waits = |f: &&Fate| f.confirmed && f.settled.is_none();
        let old = |f: &Fate| f.struck || now.since(f.due) >= slack;
        !self.fates.values().filter(waits).any(old)
    }

    pub(super) fn take_records(&mut self) -> Vec<Record> {
        let mut records = std::mem::take(&mut self.records);
        records.sort_by_key(|r| r.intended);
        records
    }

    pub(super) fn kept(&self) -> Kept {
        let confirmed = || self.fates.values().filter(|f| f.confirmed);
        let struck = || confirmed().filter(|f| f.struck);
        let lost = |f: &&Fate| match f.buried {
            true => !f.struck,
            false => f.done == 0 && !f.perhaps_done,
        };
        let mut took: Vec<Duration> =
            confirmed().filter(|f| !f.struck).filter_map(|f| Some(f.settled?.since(f.due))).collect();
        took.sort_unstable();
        Kept {
            confirmed: confirmed().count() as u64,
            done: confirmed().filter(|f| f.done > 0 || f.perhaps_done).count() as u64,
            lost: confirmed().filter(lost).count() as u64,
            twice: self.fates.values().filter(|f| f.done > 1).count() as u64,
            again: confirmed().filter(|f| f.begun > 1).count() as u64,
            dead_letters: struck().filter(|f| f.buried).count() as u64,
            done_p50_ms: millis(quantile(&took, 0.5)),
            done_p99_ms: millis(quantile(&took, 0.99)),
            done_max_ms: millis(took.last().copied().unwrap_or_default()),
            struck_again: struck().filter_map(|f| f.again).min(),
            struck_settled: struck()
                .map(|f| f.settled)
                .collect::<Option<Vec<_>>>()
                .and_then(|all| all.into_iter().max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prober::End;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn sent(ledger: &mut Ledger, id: u64, struck: bool, end: End) {
        let due = at(id * 10);
        ledger.begin(id, due, struck);
        ledger.sent(id, Record { intended: due, sent: due, done: due, end });
    }

    #[test]
    fn each_fate_is_counted_as_what_it_is() {
        let mut ledger = Ledger::default();
        for id in 0..5 {
            sent(&mut ledger, id, false, End::Status(200));
        }
        sent(&mut ledger, 5, false, End::Lost);
        // Done; deleted without an answer; deleted and handed out again; buried without a cause; lost.
        for id in [0, 1, 2] {
            ledger.handed(id);
            ledger.deleted(id, id != 1, at(100));
        }
        ledger.handed(2);
        ledger.buried(3, at(100));
        assert!(!ledger.is_calm(at(200), Duration::from_millis(50)));
        let kept = ledger.kept();
        assert_eq!((kept.confirmed, kept.done, kept.lost, kept.twice, kept.again), (5, 3, 2, 1, 1));
        assert_eq!((kept.done_max_ms, kept.dead_letters), (100.0, 0));
        assert_eq!(ledger.counts(), Counts { finished: 6, failed: 1, outstanding: 0 });
    }

    #[test]
    fn what_was_in_flight_and_comes_again_is_not_done_twice() {
        let mut ledger = Ledger::default();
        sent(&mut ledger, 0, false, End::Status(200));
        ledger.handed(0);
        ledger.handed(0);
        ledger.deleted(0, true, at(20));
        assert_eq!((ledger.kept().twice, ledger.kept().again), (0, 1));
    }

    #[test]
    fn what_was_struck_is_told_by_its_next_try_and_its_end() {
        let mut ledger = Ledger::default();
        sent(&mut ledger, 0, true, End::Status(200));
        let process = Identity { pid: 7, start_ticks: 1 };
        let line = |at_ms, ended| Line { id: 0, process, ended, at: at(at_ms) };
        ledger.saw(&line(10, false));
        assert_eq!(ledger.at_work_on_struck(), [process]);
        ledger.saw(&line(50, false));
        assert!(!ledger.is_calm(at(51), Duration::from_secs(9)), "however young it is");
        ledger.saw(&line(90, true));
        let kept = ledger.kept();
        assert_eq!((kept.struck_again, kept.struck_settled), (Some(at(50)), Some(at(90))));
        assert_eq!((kept.lost, kept.twice, kept.done_max_ms), (0, 0, 0.0));
        ledger.saw(&line(95, true));
        assert_eq!(ledger.kept().twice, 1);
    }
}
