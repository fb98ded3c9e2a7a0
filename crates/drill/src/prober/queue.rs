//! An independent client of a queue: sends numbered probes at a fixed rate, open-loop like [`super::Prober`], and follows
//! each until it is done. Where no worker takes them it receives and deletes them itself; where one does, what the
//! stand-ins wrote down when they began and ended is the evidence.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_host::process::Identity;
use holdfast_policy::Timestamp;
use holdfast_sqs::Signer;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::sqs::Sqs;
use super::{Counts, End, Record};
use crate::stand_in::{Line, Probe};

mod ledger;

pub use ledger::Kept;
use ledger::Ledger;

/// Receives that wait at the same time, where no worker takes the probes.
const CONSUMERS: usize = 4;
/// A probe that was handed out to a client of a plane that died is handed out again after this.
const VISIBILITY_S: u32 = 2;
const WAIT_S: u32 = 1;
const MESSAGES_MAX: u32 = 10;
/// After a receive that failed.
const PAUSE: Duration = Duration::from_millis(20);
const TICK: Duration = Duration::from_millis(20);
/// Without an answer a receive is given up: longer than it may wait.
const RECEIVE_LIMIT: Duration = Duration::from_secs(5);
/// At the end, for what is confirmed and not done.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
/// How long the stand-in works on an ordinary probe.
const WORK_MS: u64 = 100;
/// Probes without an answer at the same time; one due beyond it counts as failed without being sent.
const OUTSTANDING_MAX: u64 = 1_000;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) listen: std::net::SocketAddr,
    pub(crate) account: String,
    pub(crate) signer: Option<Arc<Signer>>,
    pub(crate) queue: String,
    pub(crate) rate: u32,
    pub(crate) limit: Duration,
    /// A worker takes them: its dead letters, and the file that its stand-ins write.
    pub(crate) worker: Option<(String, PathBuf)>,
}

/// A prober under way.
#[derive(Debug)]
pub(crate) struct QueueProber {
    shared: Arc<Shared>,
    victims: mpsc::UnboundedSender<Probe>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop_sending: AtomicBool,
    stop: AtomicBool,
    ledger: Mutex<Ledger>,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueProber {
    pub(crate) fn start(plan: Plan) -> std::io::Result<QueueProber> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared::default());
        let for_thread = shared.clone();
        let (victims, wanted) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("queue-prober".into())
            .spawn(move || runtime.block_on(drive(plan, for_thread, wanted)))?;
        Ok(QueueProber { shared, victims, thread: Some(thread) })
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shared.ledger().counts()
    }

    /// Probes that came through to their end.
    pub(crate) fn done(&self) -> u64 {
        self.shared.ledger().done()
    }

    /// Sends probes that can be struck while their stand-ins work, which the first time is so long.
    pub(crate) fn send_victims(&self, many: u32, work: Duration) {
        let work_ms = holdfast_policy::time::millis(work);
        for _ in 0..many {
            self.victims.send(Probe { id: 0, work_ms, again_ms: WORK_MS, crash: false }).ok();
        }
    }

    /// Sends a probe that its stand-in dies of, each time.
    pub(crate) fn send_poison(&self) {
        self.victims.send(Probe { id: 0, work_ms: WORK_MS, again_ms: WORK_MS, crash: true }).ok();
    }

    /// Processes that work on them now, once all have begun.
    pub(crate) fn victims(&self, many: u32) -> Option<Vec<Identity>> {
        let found = self.shared.ledger().at_work_on_struck();
        (found.len() >= many as usize).then_some(found)
    }

    /// Nothing that was confirmed some time ago is still to be done.
    pub(crate) fn is_calm(&self, now: Timestamp, slack: Duration) -> bool {
        self.shared.ledger().is_calm(now, slack)
    }

    /// Sends no more, waits for what is confirmed; the sends in the order in which they were due, and what became of them.
    pub(crate) fn finish(mut self) -> (Vec<Record>, Kept) {
        self.shared.stop_sending.store(true, Ordering::Relaxed);
        let last = clock::now() + SETTLE_LIMIT;
        while clock::now() < last && !self.shared.ledger().is_calm(clock::now(), Duration::ZERO) {
            std::thread::sleep(TICK);
        }
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the prober's thread failed; its figures are incomplete");
        }
        let mut ledger = self.shared.ledger();
        (ledger.take_records(), ledger.kept())
    }
}

impl Drop for QueueProber {
    fn drop(&mut self) {
        self.shared.stop_sending.store(true, Ordering::Relaxed);
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

async fn drive(plan: Plan, shared: Arc<Shared>, mut wanted: mpsc::UnboundedReceiver<Probe>) {
    let sqs = Arc::new(Sqs::new(plan.listen, plan.account.clone(), plan.signer.clone()));
    match &plan.worker {
        None => {
            for _ in 0..CONSUMERS {
                tokio::spawn(consume(sqs.clone(), plan.queue.clone(), shared.clone(), false));
            }
        }
        Some((dead, effects)) => {
            tokio::spawn(consume(sqs.clone(), dead.clone(), shared.clone(), true));
            tokio::spawn(follow(effects.clone(), shared.clone()));
        }
    }
    let start = clock::now();
    let (mut sent, mut next) = (0u64, 0u64);
    while !shared.stop.load(Ordering::Relaxed) {
        let due = super::due_at(start, sent, plan.rate);
        let now = clock::now();
        let ends = shared.stop_sending.load(Ordering::Relaxed);
        let (probe, due, struck) = match wanted.try_recv() {
            Ok(probe) => (probe, now, true),
            Err(_) if ends || now < due => {
                let pause = if ends { TICK } else { now.until(due).min(TICK) };
                tokio::time::sleep(pause).await;
                continue;
            }
            Err(_) => {
                sent += 1;
                (Probe { id: 0, work_ms: WORK_MS, again_ms: WORK_MS, crash: false }, due, false)
            }
        };
        let probe = Probe { id: next, ..probe };
        next += 1;
        if shared.ledger().begin(probe.id, due, struck) > OUTSTANDING_MAX {
            shared.ledger().sent(probe.id, Record { intended: due, sent: now, done: now, end: End::NotSent });
            continue;
        }
        tokio::spawn(send(sqs.clone(), plan.queue.clone(), plan.limit, shared.clone(), probe, due));
    }
}

async fn send(sqs: Arc<Sqs>, queue: String, limit: Duration, shared: Arc<Shared>, probe: Probe, due: Timestamp) {
    let body = json!({ "QueueUrl": sqs.url(&queue), "MessageBody": json!(probe).to_string() });
    let sent = clock::now();
    let answer = tokio::time::timeout(limit, sqs.ask("SendMessage", &body)).await;
    let end = match answer {
        Ok(Ok(_)) => End::Status(200),
        Ok(Err(end)) => end,
        Err(_) => End::TimedOut,
    };
    shared.ledger().sent(probe.id, Record { intended: due, sent, done: clock::now(), end });
}

/// Receives and deletes; `buries` says that these are dead letters.
async fn consume(sqs: Arc<Sqs>, queue: String, shared: Arc<Shared>, buries: bool) {
    let url = sqs.url(&queue);
    let ask = json!({
        "QueueUrl": url, "MaxNumberOfMessages": MESSAGES_MAX, "WaitTimeSeconds": WAIT_S, "VisibilityTimeout": VISIBILITY_S,
    });
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok(Ok(answer)) = tokio::time::timeout(RECEIVE_LIMIT, sqs.ask("ReceiveMessage", &ask)).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        for message in answer["Messages"].as_array().into_iter().flatten() {
            take(&sqs, &url, message, &shared, buries).await;
        }
    }
}

async fn take(sqs: &Sqs, url: &str, message: &Value, shared: &Shared, buries: bool) {
    let probe = message["Body"].as_str().and_then(|body| serde_json::from_str::<Probe>(body).ok());
    let Some(Probe { id, .. }) = probe else { return };
    if buries {
        shared.ledger().buried(id, clock::now());
    } else {
        shared.ledger().handed(id);
    }
    let delete = json!({ "QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"] });
    let answer = tokio::time::timeout(RECEIVE_LIMIT, sqs.ask("DeleteMessage", &delete)).await;
    let known = match answer {
        Ok(Ok(_)) => true,
        Ok(Err(End::Refused(_) | End::NotConnected | End::NotSent)) => return,
        // It may have been deleted: then it never comes again.
        Ok(Err(_)) | Err(_) => false,
    };
    if !buries {
        shared.ledger().deleted(id, known, clock::now());
    }
}

/// Reads what the stand-ins write, line by line.
async fn follow(file: PathBuf, shared: Arc<Shared>) {
    let mut read = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let text = std::fs::read(&file).unwrap_or_default();
        let fresh = text.get(read..).unwrap_or_default();
        let whole = fresh.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        for line in String::from_utf8_lossy(fresh.get(..whole).unwrap_or_default()).lines() {
            if let Some(line) = Line::parse(line) {
                shared.ledger().saw(&line);
            }
        }
        read += whole;
        tokio::time::sleep(TICK).await;
    }
}
