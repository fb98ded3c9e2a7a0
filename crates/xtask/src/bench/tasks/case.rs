//! What is measured: the work done with each message, how many are on their way at once, and what came of it.

use std::time::Duration;

/// As issue and documentation state it: an ordinary message is small.
pub(super) const BODY_BYTES: usize = 256;

/// SQS takes this many messages in one request; peers that have batches get the same ones.
pub(super) const BATCH: u32 = 10;

/// Steps of a workflow will be a third kind; programs say by `None` what they cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Each message is confirmed to be on the disk.
    Sends,
    /// Sent, received and deleted, each confirmed where the program confirms it.
    Life,
}

/// A closed loop: never more than `in_flight` messages are between the begin of their sending and their confirmation, or
/// their deletion; as soon as one is through, the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) work: Work,
    pub(super) in_flight: u32,
}

/// Whole lives first: what sends leave behind lies in no one's way then.
pub(super) const CASES: [Case; 4] = [
    Case { work: Work::Life, in_flight: 1_024 },
    Case { work: Work::Life, in_flight: 64 },
    Case { work: Work::Sends, in_flight: 1_024 },
    Case { work: Work::Sends, in_flight: 64 },
];

impl Case {
    /// At 1,024 in flight twice the best peer is wanted, at 64 as much as the best.
    pub(super) fn ratio_wanted(self) -> f64 {
        if self.in_flight >= 1_024 { 2.0 } else { 1.0 }
    }

    pub(super) fn text(self) -> String {
        let work = match self.work {
            Work::Sends => "sends",
            Work::Life => "whole life",
        };
        format!("{work}, {} in flight", grouped(u64::from(self.in_flight)))
    }

    /// Sizes of the batches that are on their way at once.
    pub(super) fn batches(self) -> Vec<u32> {
        let mut sizes = vec![BATCH; (self.in_flight / BATCH) as usize];
        if !self.in_flight.is_multiple_of(BATCH) {
            sizes.push(self.in_flight % BATCH);
        }
        sizes
    }
}

/// Messages that were through, and the time from the first begin to the last end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    pub(super) messages: u64,
    pub(super) took: Duration,
}

/// One measurement with its costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) rate: f64,
    /// Seconds of CPU for 1,000 messages.
    pub(super) server_cpu: f64,
    pub(super) client_cpu: f64,
    /// Cores that were busy meanwhile.
    pub(super) server_busy: f64,
    pub(super) client_busy: f64,
}

impl Run {
    pub(super) fn of(count: Count, server: Duration, client: Duration) -> Run {
        let seconds = count.took.as_secs_f64();
        let thousands = count.messages as f64 / 1_000.0;
        Run {
            rate: count.messages as f64 / seconds,
            server_cpu: server.as_secs_f64() / thousands,
            client_cpu: client.as_secs_f64() / thousands,
            server_busy: server.as_secs_f64() / seconds,
            client_busy: client.as_secs_f64() / seconds,
        }
    }
}

/// `12,345`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A body of [`BODY_BYTES`] that is no other's in this run: nothing can be stored once for many.
pub(super) fn body(number: u64) -> String {
    const PATTERN: &str = "0123456789abcdef";
    let mut text = String::with_capacity(BODY_BYTES);
    text += &format!("{number:016x}");
    while text.len() < BODY_BYTES {
        text += PATTERN;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_as_many_as_are_in_flight() {
        for case in CASES {
            assert_eq!(case.batches().iter().sum::<u32>(), case.in_flight);
        }
        assert_eq!(Case { work: Work::Life, in_flight: 64 }.batches(), [10, 10, 10, 10, 10, 10, 4]);
        assert_eq!(Case { work: Work::Sends, in_flight: 20 }.batches(), [10, 10]);
    }

    #[test]
    fn a_run_is_counted_by_the_thousand() {
        let count = Count { messages: 20_000, took: Duration::from_secs(4) };
        let run = Run::of(count, Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!((run.rate, run.server_cpu, run.client_cpu), (5_000.0, 0.1, 0.05));
        assert_eq!((run.server_busy, run.client_busy), (0.5, 0.25));
    }

    #[test]
    fn numbers_and_bodies() {
        assert_eq!(
            (grouped(7), grouped(64_000), grouped(1_234_567)),
            ("7".into(), "64,000".into(), "1,234,567".into())
        );
        assert_eq!(body(1).len(), BODY_BYTES);
        assert_ne!(body(1), body(2));
        assert!(body(3).bytes().all(|b| b.is_ascii_alphanumeric()));
    }
}
