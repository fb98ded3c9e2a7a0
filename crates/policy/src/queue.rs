//! What becomes of a message: handed out, tried again later, buried among the dead letters, or set aside.
//!
//! Receives, reported failures and crashes of workers are counted apart. A message that nobody worked on is charged
//! nothing but its receive; one that kills whoever touches it has a lower limit of its own.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::rng::Rng;
use crate::time::Timestamp;

/// Of one queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// It has dead letters: a message goes there instead of being received more often.
    pub receives_max: Option<u32>,
    /// Workers that may die of one message.
    pub crashes_max: u32,
    /// Between tries; `None` makes a message visible at once.
    pub retry: Option<Backoff>,
}

/// What has happened to a message so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub receives: u32,
    pub failures: u32,
    pub crashes: u32,
}

/// Why a message is among the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Received as often as the queue allows.
    Receives,
    /// Its worker said so.
    Refused,
    /// It killed workers.
    Poison,
}

impl Reason {
    pub fn word(self) -> &'static str {
        match self {
            Reason::Receives => "receives",
            Reason::Refused => "refused",
            Reason::Poison => "poison",
        }
    }
}

/// What a worker reports of a message that it did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It could not be done now.
    Retry,
    /// It can never be done.
    Dead,
    /// The worker died of it.
    Crashed,
}

/// What an answer by HTTP means for a request that was kept while its service was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Done,
    /// The service has understood and does not want it: asked again it would say the same.
    Refused,
    /// Not now (RFC 9110 section 15, RFC 8470, RFC 6585).
    NotNow,
}

pub fn answered(status: u16) -> Answered {
    match status {
        200..=399 => Answered::Done,
        408 | 425 | 429 => Answered::NotNow,
        400..=499 => Answered::Refused,
        _ => Answered::NotNow,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Again(Duration),
    Bury(Reason),
    /// It must not be tried again and there are no dead letters: kept aside until a person decides.
    Quarantine,
}

/// How many messages may be handed out now, at a rate: a bucket that holds what one second brings.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// A second.
    rate: u32,
    tokens: f64,
    at: Timestamp,
}

impl Bucket {
    pub fn new(rate: u32, now: Timestamp) -> Bucket {
        Bucket { rate, tokens: f64::from(rate), at: now }
    }

    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Takes at most `want`; what is not used is given back by [`Bucket::give_back`].
    pub fn take(&mut self, want: u32, now: Timestamp) -> u32 {
        let brought = now.since(self.at).as_secs_f64() * f64::from(self.rate);
        self.tokens = (self.tokens + brought).min(f64::from(self.rate));
        self.at = now;
        let taken = want.min(self.tokens as u32);
        self.tokens -= f64::from(taken);
        taken
    }

    pub fn give_back(&mut self, many: u32) {
        self.tokens = (self.tokens + f64::from(many)).min(f64::from(self.rate));
    }

    /// Until one more may be handed out.
    pub fn wait(&self) -> Duration {
        let missing = (1.0 - self.tokens).max(0.0);
        Duration::from_secs_f64(missing / f64::from(self.rate.max(1)))
    }
}

/// How many messages of a queue are worked on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crew {
    pub min: u32,
    pub max: u32,
    /// One more for every so many that wait.
    pub backlog: u32,
    /// One more when the oldest waits longer.
    pub age: Duration,
}

impl Crew {
    pub fn fixed(size: u32) -> Crew {
        Crew { min: size, max: size, backlog: 1, age: Duration::MAX }
    }

    /// With `now` at work, `waiting` messages and the oldest of them as old as that. It shrinks by letting attempts end.
    pub fn size(&self, now: u32, waiting: u64, oldest: Duration) -> u32 {
        let by_backlog = u32::try_from(waiting.div_ceil(u64::from(self.backlog.max(1)))).unwrap_or(u32::MAX);
        let by_age = if waiting > 0 && oldest > self.age { now.saturating_add(1) } else { 0 };
        by_backlog.max(by_age).clamp(self.min, self.max.max(self.min))
    }
}

/// Whether a message that is due may be received once more.
pub fn due(limits: &Limits, record: Record) -> Option<Reason> {
    limits.receives_max.filter(|max| record.receives >= *max).map(|_| Reason::Receives)
}

/// `record` counts the report already.
pub fn reported(limits: &Limits, record: Record, report: Report, rng: &mut Rng) -> Next {
    let over = |reason| match limits.receives_max {
        Some(_) => Next::Bury(reason),
        None => Next::Quarantine,
    };
    match report {
        Report::Dead => over(Reason::Refused),
        Report::Crashed if record.crashes >= limits.crashes_max => over(Reason::Poison),
        Report::Retry | Report::Crashed => match due(limits, record) {
            Some(reason) => Next::Bury(reason),
            None => {
                Next::Again(limits.retry.map_or(Duration::ZERO, |b| b.delay(record.failures.saturating_sub(1), rng)))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(receives_max: Option<u32>) -> Limits {
        let retry = Backoff { base: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(60), jitter: 0.0 };
        Limits { receives_max, crashes_max: 3, retry: Some(retry) }
    }

    #[test]
    fn what_a_report_leads_to() {
        let rng = &mut Rng::from_seed(1);
        let s = Duration::from_secs;
        let cases = [
            ((1, 1, 0), Report::Retry, Some(5), Next::Again(s(1))),
            ((3, 3, 0), Report::Retry, Some(5), Next::Again(s(4))),
            ((5, 5, 0), Report::Retry, Some(5), Next::Bury(Reason::Receives)),
            ((900, 900, 0), Report::Retry, None, Next::Again(s(60))),
            ((1, 1, 0), Report::Dead, Some(5), Next::Bury(Reason::Refused)),
            ((1, 1, 0), Report::Dead, None, Next::Quarantine),
            ((2, 2, 2), Report::Crashed, Some(5), Next::Again(s(2))),
            ((3, 3, 3), Report::Crashed, Some(5), Next::Bury(Reason::Poison)),
            ((3, 3, 3), Report::Crashed, None, Next::Quarantine),
        ];
        for ((receives, failures, crashes), report, max, want) in cases {
            let record = Record { receives, failures, crashes };
            assert_eq!(reported(&limits(max), record, report, rng), want, "{record:?} {report:?} {max:?}");
        }
    }

    #[test]
    fn only_receives_charge_a_message_that_nobody_worked_on() {
        let record = Record { receives: 4, ..Record::default() };
        assert_eq!(due(&limits(Some(5)), record), None);
        assert_eq!(due(&limits(Some(4)), record), Some(Reason::Receives));
        assert_eq!(due(&limits(None), Record { receives: u32::MAX, ..Record::default() }), None);
    }

    #[test]
    fn a_rate_is_kept_over_any_second() {
        let start = Timestamp::from_millis(1_000);
        let mut bucket = Bucket::new(10, start);
        assert_eq!(bucket.take(100, start), 10, "what one second brings is there at the beginning");
        assert_eq!(bucket.take(1, start), 0);
        assert_eq!(bucket.wait(), Duration::from_millis(100));
        assert_eq!(bucket.take(5, start + Duration::from_millis(250)), 2);
        bucket.give_back(2);
        assert_eq!(bucket.take(5, start + Duration::from_millis(250)), 2);
        assert_eq!(bucket.take(100, start + Duration::from_secs(3600)), 10, "no more is saved up");
    }

    #[test]
    fn a_crew_grows_with_what_waits() {
        let crew = Crew { min: 0, max: 5, backlog: 100, age: Duration::from_secs(30) };
        let s = Duration::from_secs;
        for (now, waiting, oldest, want) in [
            (0, 0, s(0), 0),
            (0, 1, s(1), 1),
            (1, 250, s(1), 3),
            (1, 5, s(31), 2),
            (5, 5, s(31), 5),
            (0, 10_000, s(1), 5),
        ] {
            assert_eq!(crew.size(now, waiting, oldest), want, "{now} {waiting} {oldest:?}");
        }
        assert_eq!(Crew::fixed(4).size(0, 0, s(0)), 4);
    }
}
