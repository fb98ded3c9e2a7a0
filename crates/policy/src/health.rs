//! What a row of probe results means.
//!
//! An explicit "not ready" is an answer and is obeyed at once; silence is only evidence, so it takes `fall` misses
//! in a row and then makes a suspect, never a verdict. A probe whose prober was itself late says nothing.
//! Liveness counts misses of any sort, because it leads to a restart; an instance that burns CPU while it does
//! not answer is busy, and gets [`busy_patience`] before that.

use std::time::Duration;

use crate::Timestamp;

/// Changes after `rise` passes or `fall` misses in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub rise: u32,
    pub fall: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { rise: 1, fall: 3 }
    }
}

/// One probe result, as far as health is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Pass,
    /// It answered, and said no.
    Refused,
    /// No answer: timeout or connect error.
    Miss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Readiness {
    /// Not judged yet in this life.
    #[default]
    Unknown,
    Ready,
    Refused,
    Suspect,
}

/// Readiness of one incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ReadyCounter {
    state: Readiness,
    passes: u32,
    misses: u32,
}

impl ReadyCounter {
    pub fn state(&self) -> Readiness {
        self.state
    }

    pub fn misses(&self) -> u32 {
        self.misses
    }

    /// The new state when this result changed it.
    pub fn record(&mut self, limits: Thresholds, sign: Sign) -> Option<Readiness> {
        let before = self.state;
        match sign {
            Sign::Pass => {
                self.misses = 0;
                self.passes = self.passes.saturating_add(1);
                if self.passes >= limits.rise {
                    self.state = Readiness::Ready;
                }
            }
            Sign::Refused => {
                self.passes = 0;
                self.misses = 0;
                self.state = Readiness::Refused;
            }
            Sign::Miss => {
                self.passes = 0;
                self.misses = self.misses.saturating_add(1);
                if self.misses >= limits.fall && self.state == Readiness::Ready {
                    self.state = Readiness::Suspect;
                }
            }
        }
        (self.state != before).then_some(self.state)
    }

    /// Better evidence than misses: the process was seen stopped, or without progress while requests wait.
    pub fn suspect(&mut self) -> bool {
        let ready = self.state == Readiness::Ready;
        if ready {
            self.passes = 0;
            self.state = Readiness::Suspect;
        }
        ready
    }
}

/// Shortest time for which a busy instance may stay silent: a long report is not a hang.
const BUSY_PATIENCE_MIN: Duration = Duration::from_secs(60);
/// A busy instance is given this many times the silence that a quiet one is.
const BUSY_PATIENCE_FACTOR: u32 = 10;

/// Silence after which liveness fails although the instance makes progress: it may be an endless loop.
pub fn busy_patience(every: Duration, fall: u32) -> Duration {
    (every * fall.saturating_mul(BUSY_PATIENCE_FACTOR)).max(BUSY_PATIENCE_MIN)
}

/// Passes remembered as evidence about others; more than fit between two probes of any of them.
const PASSES_KEPT: usize = 4;

/// Liveness of one incarnation. Times of probes are those of their sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LiveCounter {
    misses: u32,
    /// When the result of the first miss in a row was known.
    first_miss: Option<Timestamp>,
    /// When the last missed probe was sent.
    last_miss_sent: Option<Timestamp>,
    passes: [Option<Timestamp>; PASSES_KEPT],
    busy: bool,
}

impl LiveCounter {
    pub fn pass(&mut self, sent: Timestamp) {
        let mut passes = self.passes;
        passes.rotate_right(1);
        passes[0] = Some(sent);
        *self = LiveCounter { passes, ..LiveCounter::default() };
    }

    /// `busy`: the instance used CPU while this probe waited.
    pub fn miss(&mut self, now: Timestamp, sent: Timestamp, busy: bool) {
        self.misses = self.misses.saturating_add(1);
        self.first_miss.get_or_insert(now);
        self.last_miss_sent = Some(sent);
        self.busy = busy;
    }

    pub fn misses(&self) -> u32 {
        self.misses
    }

    pub fn busy(&self) -> bool {
        self.busy
    }

    pub fn first_miss(&self) -> Option<Timestamp> {
        self.first_miss
    }

    /// Whether this instance is a witness that the silence of `other` is the other's own: it passed a probe that was
    /// sent after the other had begun to miss, and the other missed one sent later still. Without the latter, the first
    /// to recover from a shared stall would be evidence against all that answer a moment later. Evidence older than two
    /// periods (`every`) says nothing about now: a stall may have come since. Nor does a miss that no later one followed in time,
    /// as when the prober was starved: the other may answer by now.
    pub fn witnesses(&self, other: &LiveCounter, now: Timestamp, every: Duration, timeout: Duration) -> bool {
        let (Some(from), Some(to)) = (other.first_miss, other.last_miss_sent) else { return false };
        if now.since(to) > every * 2 + timeout {
            return false;
        }
        let from = from.max(to - every * 2);
        self.passes.iter().flatten().any(|sent| *sent >= from && *sent <= to)
    }

    /// Whether liveness has failed as configured.
    pub fn failed(&self, now: Timestamp, every: Duration, fall: u32) -> bool {
        let Some(first) = self.first_miss else { return false };
        self.misses >= fall && (!self.busy || now.since(first) >= busy_patience(every, fall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(limits: Thresholds, signs: &str) -> String {
        let mut counter = ReadyCounter::default();
        signs
            .chars()
            .map(|c| {
                let sign = match c {
                    '+' => Sign::Pass,
                    'x' => Sign::Refused,
                    _ => Sign::Miss,
                };
                counter.record(limits, sign);
                match counter.state() {
                    Readiness::Unknown => '?',
                    Readiness::Ready => 'R',
                    Readiness::Refused => 'N',
                    Readiness::Suspect => 'S',
                }
            })
            .collect()
    }

    #[test]
    fn readiness_by_table() {
        let quick = Thresholds::default();
        let careful = Thresholds { rise: 2, fall: 2 };
        for (limits, signs, expected) in [
            (quick, "+", "R"),
            (quick, "--+", "??R"),
            (quick, "+--+---+", "RRRRRRSR"),
            (quick, "+x+", "RNR"),
            (quick, "+x---", "RNNNN"),
            (careful, "++--+-++", "?RRSSSSR"),
            (careful, "++x+x++", "?RNNNNR"),
        ] {
            assert_eq!(states(limits, signs), expected, "{signs}");
        }
    }

    #[test]
    fn only_a_ready_instance_becomes_suspect_on_sight() {
        let mut counter = ReadyCounter::default();
        assert!(!counter.suspect());
        counter.record(Thresholds::default(), Sign::Pass);
        assert!(counter.suspect());
        assert_eq!(counter.state(), Readiness::Suspect);
    }

    #[test]
    fn a_quiet_instance_fails_after_fall_and_a_busy_one_after_its_patience() {
        let every = Duration::from_secs(1);
        let mut live = LiveCounter::default();
        for second in 0..3 {
            live.miss(Timestamp::from_millis(second * 1000), Timestamp::ZERO, true);
        }
        assert!(!live.failed(Timestamp::from_millis(10_000), every, 3));
        assert!(live.failed(Timestamp::from_millis(60_000), every, 3));
        live.miss(Timestamp::from_millis(11_000), Timestamp::ZERO, false);
        assert!(live.failed(Timestamp::from_millis(11_000), every, 3));
        live.pass(Timestamp::from_millis(12_000));
        assert!(!live.failed(Timestamp::from_millis(99_000), every, 3));
    }

    #[test]
    fn the_first_to_recover_is_no_witness_against_those_who_answer_next() {
        let (at, second) = (Timestamp::from_millis, Duration::from_secs(1));
        let (mut silent, mut other) = (LiveCounter::default(), LiveCounter::default());
        let (every, timeout) = (second, Duration::from_millis(300));
        let witnesses =
            |other: &LiveCounter, silent: &LiveCounter, now| other.witnesses(silent, at(now), every, timeout);
        other.pass(at(900));
        silent.miss(at(1300), at(1000), false);
        silent.miss(at(2300), at(2000), false);
        assert!(!witnesses(&other, &silent, 2300), "it passed before the silence began");
        other.pass(at(2500));
        assert!(!witnesses(&other, &silent, 2500), "nothing was asked of the silent one since");
        silent.miss(at(3300), at(3000), false);
        assert!(witnesses(&other, &silent, 3300));
        other.pass(at(3100));
        assert!(witnesses(&other, &silent, 3300), "a later pass does not unmake the evidence");
        assert!(witnesses(&other, &silent, 5300), "the next miss may take two periods and its timeout");
        assert!(!witnesses(&other, &silent, 5301), "nothing is known of the silent one any more");
        silent.miss(at(6300), at(6000), false);
        assert!(!witnesses(&other, &silent, 6300), "it has fallen silent itself since");
    }
}
