//! What was confirmed is there, whatever is killed: the checker knows only what clients were told.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::*;

/// Kills of the plane in the lane, and as the promise states it.
const KILLS: (u64, u64) = (8, 200);
const PRODUCERS: usize = 4;
const CONSUMERS: usize = 4;
const BATCH: usize = 10;

/// What clients know after the run.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) confirmed: Mutex<BTreeSet<String>>,
    /// Asked for, and never answered.
    unknown: Mutex<BTreeSet<String>>,
    /// How often each body was deleted with an answer.
    finished: Mutex<BTreeMap<String, usize>>,
    /// Bodies that were handed out.
    seen: Mutex<BTreeSet<String>>,
    /// Messages handed out, also again.
    pub(super) received: AtomicUsize,
}

pub(super) fn produce(port: u16, who: usize, ledger: &Ledger, stop: &AtomicBool) {
    let mut sqs = Sqs::new(port);
    let url = sqs.url("q");
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let bodies: Vec<String> = (0..BATCH).map(|i| format!("{who}-{n}-{i}")).collect();
        let entries: Vec<Value> =
            bodies.iter().enumerate().map(|(i, body)| json!({ "Id": i.to_string(), "MessageBody": body })).collect();
        match sqs.ask("SendMessageBatch", &json!({ "QueueUrl": url, "Entries": entries })) {
            Ok(answer) => {
                let taken = answer["Successful"].as_array().cloned().unwrap_or_default();
                let mut confirmed = ledger.confirmed.lock().expect("no panic");
                for entry in taken {
                    let at: usize = entry["Id"].as_str().and_then(|id| id.parse().ok()).expect("our id");
                    confirmed.insert(bodies[at].clone());
                }
            }
            Err(_) => {
                ledger.unknown.lock().expect("no panic").extend(bodies);
                wait_a_moment();
            }
        }
    }
}

pub(super) fn consume(port: u16, ledger: &Ledger, stop: &AtomicBool) {
    let mut sqs = Sqs::new(port);
    let url = sqs.url("q");
    while !stop.load(Ordering::SeqCst) {
        let ask =
            json!({ "QueueUrl": url, "MaxNumberOfMessages": BATCH, "WaitTimeSeconds": 1, "VisibilityTimeout": 3 });
        let Ok(received) = sqs.ask("ReceiveMessage", &ask) else {
            wait_a_moment();
            continue;
        };
        let messages = received["Messages"].as_array().cloned().unwrap_or_default();
        if messages.is_empty() {
            continue;
        }
        ledger.received.fetch_add(messages.len(), Ordering::SeqCst);
        let bodies = messages.iter().filter_map(|m| m["Body"].as_str()).map(str::to_owned);
        ledger.seen.lock().expect("no panic").extend(bodies);
        let entries: Vec<Value> = messages
            .iter()
            .enumerate()
            .map(|(i, m)| json!({ "Id": i.to_string(), "ReceiptHandle": m["ReceiptHandle"] }))
            .collect();
        if let Ok(answer) = sqs.ask("DeleteMessageBatch", &json!({ "QueueUrl": url, "Entries": entries })) {
            let mut finished = ledger.finished.lock().expect("no panic");
            for entry in answer["Successful"].as_array().into_iter().flatten() {
                let at: usize = entry["Id"].as_str().and_then(|id| id.parse().ok()).expect("our id");
                let body = messages[at]["Body"].as_str().expect("a body").to_owned();
                *finished.entry(body).or_default() += 1;
            }
        }
    }
}

/// Clients that send and receive until they are told to end.
pub(super) struct Traffic {
    pub(super) ledger: Arc<Ledger>,
    stop_producing: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Traffic {
    /// Spread over these addresses.
    pub(super) fn start(ports: &[u16]) -> Traffic {
        let mut traffic = Traffic {
            ledger: Arc::default(),
            stop_producing: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for who in 0..PRODUCERS {
            let (ledger, stop, port) =
                (traffic.ledger.clone(), traffic.stop_producing.clone(), ports[who % ports.len()]);
            traffic.threads.push(std::thread::spawn(move || produce(port, who, &ledger, &stop)));
        }
        for who in 0..CONSUMERS {
            let (ledger, stop, port) = (traffic.ledger.clone(), traffic.stop.clone(), ports[who % ports.len()]);
            traffic.threads.push(std::thread::spawn(move || consume(port, &ledger, &stop)));
        }
        traffic
    }

    /// Messages handed out so far.
    pub(super) fn received(&self) -> usize {
        self.ledger.received.load(Ordering::SeqCst)
    }

    pub(super) fn stop_sending(&self) {
        self.stop_producing.store(true, Ordering::SeqCst);
    }

    pub(super) fn end(&mut self) {
        self.stop_producing.store(true, Ordering::SeqCst);
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|t| t.join().expect("no panic"));
    }

    pub(super) fn judge(&self, longest: Duration, breaks: usize) {
        judge(&self.ledger, breaks, longest);
    }
}

#[test]
fn nothing_confirmed_is_lost_when_the_plane_is_killed_again_and_again() {
    let port = free_port();
    let site = Site::new(&format!("[tasks]\nlisten = \"127.0.0.1:{port}\"\n[queue.q]\n"));
    site.up();
    let mut traffic = Traffic::start(&[port]);
    let mut longest = Duration::ZERO;
    for _ in 0..crate::proof::size(KILLS.0, KILLS.1) {
        let before = traffic.received();
        site.wait_for("work between two kills", || traffic.received() > before + 200);
        let killed = Instant::now();
        kill(site.pid("_tasks-1"), "KILL");
        let after = traffic.received();
        site.wait_for("the next process to work", || traffic.received() > after + BATCH * CONSUMERS);
        longest = longest.max(killed.elapsed());
    }
    traffic.stop_sending();
    site.wait_for("the queue to be empty", || {
        let q = queue(&site, "q");
        q["visible"] == 0 && q["in_flight"] == 0 && q["delayed"] == 0
    });
    traffic.end();
    traffic.judge(longest, usize::try_from(crate::proof::size(KILLS.0, KILLS.1)).expect("small"));
}

/// After so many kills, the longest of which took so long to be at work again.
pub(super) fn judge(ledger: &Ledger, kills: usize, longest: Duration) {
    let confirmed = ledger.confirmed.lock().expect("no panic");
    let unknown = ledger.unknown.lock().expect("no panic");
    let finished = ledger.finished.lock().expect("no panic");
    // A delete whose answer was lost has taken its message; it must have been handed out, which the checker saw.
    let missing = confirmed.iter().filter(|body| !finished.contains_key(*body)).count();
    let lost = confirmed.difference(&ledger.seen.lock().expect("no panic")).count();
    let strange = finished.keys().filter(|b| !confirmed.contains(*b) && !unknown.contains(*b)).count();
    let twice: usize = finished.values().map(|n| n - 1).sum();
    println!(
        "confirmed {}, unanswered {}, finished {}, finished twice {twice}, deleted without an answer {missing}, \
         longest from a kill to work again {longest:?}",
        confirmed.len(),
        unknown.len(),
        finished.len()
    );
    assert_eq!(lost, 0, "confirmed, and never handed out");
    assert_eq!(strange, 0, "nobody sent these");
    assert!(confirmed.len() > 1_000, "there was work");
    // Each kill can swallow the answers of the deletes that were under way, and no more.
    let in_flight = CONSUMERS * BATCH * kills;
    assert!(missing <= in_flight, "{missing} confirmed messages were never seen to be finished");
    assert!(twice <= in_flight, "{twice} were handed out twice, {in_flight} were in flight at the kills");
}
