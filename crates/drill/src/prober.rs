//! An independent client that asks through the balancer at a fixed rate.
//!
//! It runs on a thread of its own with its own runtime, so that nothing the drill does can hold it up. The rate
//! is open-loop: request n is due at `start + n / rate` whether or not earlier ones were answered, and every
//! latency counts from that due time, so a stall of the server costs each request that it should have
//! delayed, not just the one that happened to be waiting.
//!
//! Connections are those of an ordinary client: a keep-alive pool of eight or more, used in turn so that every
//! balancer process has its share, and every tenth request on a connection of
//! its own that is closed afterwards, so that both kinds meet the fault.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::Timestamp;
use tokio::sync::mpsc;

mod client;
pub mod queue;
mod sqs;
mod summary;

pub use client::fnv1a;
pub(crate) use summary::millis;
pub use summary::{Summary, summarize};

/// One request in this many uses a new connection.
pub const FRESH_EVERY: u64 = 10;
/// Requests without an answer at the same time; one due beyond it counts as failed without being sent.
const OUTSTANDING_MAX: u64 = 10_000;
/// Records kept: 50 requests a second for a day, or 2,000 for half an hour. Later ones are only counted.
const RECORDS_MAX: usize = 4_000_000;
/// Sleeps longer than this are cut, so that a stop is noticed.
const TICK: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
pub struct Plan {
    pub target: SocketAddr,
    /// Value of the Host header.
    pub host: String,
    pub path: String,
    /// Requests per second, at least 1.
    pub rate: u32,
    /// An answer later than this is a failure.
    pub limit: Duration,
    /// FNV-1a of the body that every answer must carry.
    pub body_hash: Option<u64>,
}

/// One request, in boot time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    pub intended: Timestamp,
    /// When it was handed to a connection; equal to `done` when it never was.
    pub sent: Timestamp,
    pub done: Timestamp,
    pub end: End,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Status(u16),
    /// Status fine, body not the expected one.
    WrongBody,
    /// Said no, with this status.
    Refused(u16),
    NotConnected,
    /// The connection was lost before the answer was whole.
    Lost,
    TimedOut,
    /// Too many were outstanding.
    NotSent,
}

impl End {
    /// Every status below 500 is the service's own business: the balancer did its work.
    pub fn is_good(self) -> bool {
        matches!(self, End::Status(status) if status < 500)
    }
}

impl Record {
    /// From the time it was due.
    pub fn latency(&self) -> Duration {
        self.done.since(self.intended)
    }
}

/// A prober under way.
#[derive(Debug)]
pub struct Prober {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    finished: AtomicU64,
    failed: AtomicU64,
    outstanding: AtomicU64,
    records: Mutex<Vec<Record>>,
}

/// Live counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    pub finished: u64,
    pub failed: u64,
    pub outstanding: u64,
}

impl Prober {
    pub fn start(plan: Plan) -> std::io::Result<Prober> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("prober".into())
            .spawn(move || runtime.block_on(drive(plan, for_thread)))?;
        Ok(Prober { shared, thread: Some(thread) })
    }

    pub fn counts(&self) -> Counts {
        Counts {
            finished: self.shared.finished.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            outstanding: self.shared.outstanding.load(Ordering::Relaxed),
        }
    }

    /// Sends no more, waits for what is outstanding (at most the limit of one request), returns all records in
    /// the order in which they were due.
    pub fn finish(mut self) -> Vec<Record> {
        self.join();
        let mut records = std::mem::take(&mut *self.shared.records.lock().unwrap_or_else(PoisonError::into_inner));
        records.sort_by_key(|r| r.intended);
        records
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the prober's thread failed; its figures are incomplete");
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

async fn drive(plan: Plan, shared: Arc<Shared>) {
    let (done, mut finished) = mpsc::unbounded_channel::<Record>();
    let client = client::Client::new(&plan);
    let outstanding_max = (u64::from(plan.rate) * plan.limit.as_secs().max(1) * 2).min(OUTSTANDING_MAX);
    let start = clock::now();
    let mut next = 0u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let due = due_at(start, next, plan.rate);
        let now = clock::now();
        if now < due {
            // The runtime's timer counts in whole milliseconds; what it sleeps too long is in the latency.
            tokio::select! {
                () = tokio::time::sleep(now.until(due).min(TICK)) => {}
                Some(record) = finished.recv() => shared.keep(record),
            }
            continue;
        }
        if shared.outstanding.load(Ordering::Relaxed) >= outstanding_max {
            shared.outstanding.fetch_add(1, Ordering::Relaxed);
            shared.keep(Record { intended: due, sent: now, done: now, end: End::NotSent });
        } else {
            shared.outstanding.fetch_add(1, Ordering::Relaxed);
            let (client, done) = (Arc::clone(&client), done.clone());
            let fresh = next % FRESH_EVERY == FRESH_EVERY - 1;
            tokio::spawn(async move {
                let record = client.ask(due, fresh).await;
                done.send(record).ok();
            });
        }
        next += 1;
        while let Ok(record) = finished.try_recv() {
            shared.keep(record);
        }
    }
    drop(done);
    let last = tokio::time::Instant::now() + plan.limit + TICK;
    while let Ok(Some(record)) = tokio::time::timeout_at(last, finished.recv()).await {
        shared.keep(record);
    }
}

fn due_at(start: Timestamp, n: u64, rate: u32) -> Timestamp {
    let nanos = u128::from(n) * 1_000_000_000 / u128::from(rate.max(1));
    start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Shared {
    fn keep(&self, record: Record) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
        self.finished.fetch_add(1, Ordering::Relaxed);
        if !record.end.is_good() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() < RECORDS_MAX {
            records.push(record);
        }
    }
}

#[cfg(test)]
mod tests;
