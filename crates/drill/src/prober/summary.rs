//! What the clients felt: percentiles from the intended send, and the outage they saw.

use std::time::Duration;

use holdfast_policy::Timestamp;
use serde::Serialize;

use super::Record;

/// Good answers in a row after which the clients' outage counts as over.
const GOOD_IN_A_ROW: usize = 10;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub requests: u64,
    pub failed: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    /// Of the requests that failed, in boot time: when the first and the last of them were due.
    pub first_failure_boot_ns: Option<u64>,
    pub last_failure_boot_ns: Option<u64>,
    /// First failed to the first of ten good in a row; absent when none failed or it never ended.
    pub outage_ms: Option<f64>,
    /// How late the prober itself sent, at worst: its own share in the latencies.
    pub sent_late_ms: f64,
}

/// `records` in the order in which they were due.
pub fn summarize(records: &[Record]) -> Summary {
    let mut latencies: Vec<Duration> = records.iter().map(Record::latency).collect();
    latencies.sort_unstable();
    let failures = || records.iter().filter(|r| !r.end.is_good());
    Summary {
        requests: records.len() as u64,
        failed: failures().count() as u64,
        p50_ms: millis(quantile(&latencies, 0.5)),
        p99_ms: millis(quantile(&latencies, 0.99)),
        p999_ms: millis(quantile(&latencies, 0.999)),
        max_ms: millis(latencies.last().copied().unwrap_or_default()),
        first_failure_boot_ns: failures().next().map(|r| r.intended.as_nanos()),
        last_failure_boot_ns: failures().next_back().map(|r| r.intended.as_nanos()),
        outage_ms: outage(records).map(millis),
        sent_late_ms: millis(records.iter().map(|r| r.sent.since(r.intended)).max().unwrap_or_default()),
    }
}

/// Nearest rank: the smallest value that at least this share of all does not exceed.
pub(super) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn outage(records: &[Record]) -> Option<Duration> {
    let first = records.iter().position(|r| !r.end.is_good())?;
    let down: Timestamp = records.get(first)?.intended;
    let after = records.get(first..)?;
    let back = after.windows(GOOD_IN_A_ROW).find(|run| run.iter().all(|r| r.end.is_good()))?;
    Some(back.first()?.done.since(down))
}

pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::super::End;
    use super::*;

    fn record(due_ms: u64, took_ms: u64, end: End) -> Record {
        let intended = Timestamp::from_millis(due_ms);
        Record { intended, sent: intended, done: Timestamp::from_millis(due_ms + took_ms), end }
    }

    #[test]
    fn nothing_asked_gives_zeros_not_a_panic() {
        assert_eq!(summarize(&[]), Summary::default());
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let records: Vec<Record> = (1..=100).map(|n| record(n * 10, n, End::Status(200))).collect();
        let summary = summarize(&records);
        assert_eq!((summary.p50_ms, summary.p99_ms, summary.p999_ms, summary.max_ms), (50.0, 99.0, 100.0, 100.0));
        assert_eq!((summary.requests, summary.failed, summary.outage_ms), (100, 0, None));
    }

    #[test]
    fn an_outage_ends_with_the_first_of_ten_good_in_a_row() {
        let mut records: Vec<Record> = (0..50).map(|n| record(n * 10, 1, End::Status(200))).collect();
        for failed in [5, 6, 12] {
            records[failed].end = End::Lost;
        }
        let summary = summarize(&records);
        assert_eq!(summary.failed, 3);
        assert_eq!(summary.first_failure_boot_ns, Some(50_000_000));
        assert_eq!(summary.last_failure_boot_ns, Some(120_000_000));
        // Due at 50 ms; the tenth-good run begins with the request due at 130 ms, answered at 131 ms.
        assert_eq!(summary.outage_ms, Some(81.0));
    }

    #[test]
    fn an_outage_without_an_end_has_no_length() {
        let records: Vec<Record> =
            (0..15).map(|n| record(n, 1, if n == 8 { End::TimedOut } else { End::Status(200) })).collect();
        assert_eq!(summarize(&records).outage_ms, None);
    }

    #[test]
    fn a_server_error_fails_and_a_client_error_does_not() {
        assert!(End::Status(404).is_good());
        assert!(!End::Status(500).is_good());
        assert!(!End::WrongBody.is_good());
    }
}
