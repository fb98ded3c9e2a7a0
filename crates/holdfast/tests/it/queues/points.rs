//! The plane dies at each write and each sync of its files, before it and after it; and a sync that fails.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use holdfast_policy::rng::Rng;

use super::killed::{Ledger, consume, judge, produce};
use super::plane::{Media, On, Plane, Point, Record, drain};
use super::*;
use crate::proof::{Evidence, size};
use crate::tiny::boot_ns;

/// Kills at each point, in the lane and as the promise states it.
const KILLS: (usize, usize) = (2, 100);
const SEED: u64 = 4;
/// One that comes late enough to fall into a commit under load, and soon enough to come at all.
const WRITES_MAX: u64 = 150;
const SYNCS_MAX: u64 = 8;
const END_WRITES_MAX: u64 = 5;
/// Both queues hold dead letters of the other one's source, and are moved to and fro.
const MOVED: usize = 200;
const GROUPS: usize = 3;

fn points() -> Vec<Point> {
    let mut all = Vec::new();
    for on in [On::Wal, On::Main] {
        for is_sync in [false, true] {
            all.extend([false, true].map(|is_done| Point { on, is_sync, is_done }));
        }
    }
    all
}

fn create(sqs: &mut Sqs, name: &str, attributes: &Value) {
    sqs.ok("CreateQueue", &json!({ "QueueName": name, "Attributes": attributes }));
}

/// Until it is done: what came of an attempt without an answer is unknown, and all that is asked here may come twice.
fn insist(sqs: &mut Sqs, stop: &AtomicBool, action: &str, body: &Value) -> Option<Value> {
    while !stop.load(Ordering::SeqCst) {
        match sqs.ask(action, body) {
            Ok(answer) => return Some(answer),
            Err(Failed::Refused(text)) => panic!("{action}: {text}"),
            Err(Failed::Unknown) => wait_a_moment(),
        }
    }
    None
}

/// What is known of one group of a FIFO queue.
#[derive(Default)]
struct Group {
    confirmed: usize,
    /// Deletes that were asked for: they may have been done.
    deleting: BTreeSet<usize>,
    /// All below were asked to be deleted.
    begun: usize,
    /// Deletes that were confirmed.
    deleted: BTreeSet<usize>,
    /// Against the order, or handed out after its delete was confirmed.
    faults: Vec<String>,
}

impl Group {
    fn delete(&mut self, n: usize) {
        self.deleting.insert(n);
        while self.deleting.contains(&self.begun) {
            self.begun += 1;
        }
    }
}

type Groups = Arc<Mutex<Vec<Group>>>;

fn send_in_order(port: u16, group: usize, groups: &Groups, stop: &AtomicBool) {
    let mut sqs = Sqs::new(port);
    let url = sqs.url("orders.fifo");
    for n in 0.. {
        let body = format!("{group}-{n}");
        let ask = json!({ "QueueUrl": url, "MessageBody": body, "MessageGroupId": group.to_string(),
            "MessageDeduplicationId": body });
        if insist(&mut sqs, stop, "SendMessage", &ask).is_none() {
            return;
        }
        groups.lock().expect("no panic")[group].confirmed = n + 1;
    }
}

fn receive_in_order(port: u16, groups: &Groups, stop: &AtomicBool) {
    let mut sqs = Sqs::new(port);
    let url = sqs.url("orders.fifo");
    let ask = json!({ "QueueUrl": url, "MaxNumberOfMessages": 5, "WaitTimeSeconds": 1, "VisibilityTimeout": 3 });
    while let Some(received) = insist(&mut sqs, stop, "ReceiveMessage", &ask) {
        let messages = received["Messages"].as_array().cloned().unwrap_or_default();
        let known: Vec<(usize, usize, Value)> = messages
            .iter()
            .map(|message| {
                let (group, n) = message["Body"].as_str().and_then(|b| b.split_once('-')).expect("our body");
                (group.parse().expect("ours"), n.parse().expect("ours"), message["ReceiptHandle"].clone())
            })
            .collect();
        note_order(&known, &mut groups.lock().expect("no panic"));
        for (group, n, receipt) in known {
            groups.lock().expect("no panic")[group].delete(n);
            let ask = json!({ "QueueUrl": url, "ReceiptHandle": receipt });
            if sqs.ask("DeleteMessage", &ask).is_ok() {
                groups.lock().expect("no panic")[group].deleted.insert(n);
            }
        }
    }
}

fn note_order(received: &[(usize, usize, Value)], groups: &mut [Group]) {
    let mut before: Vec<(usize, usize)> = Vec::new();
    for (group, n, _) in received {
        let known = &mut groups[*group];
        if known.deleted.contains(n) {
            known.faults.push(format!("{group} {n} was handed out after it was deleted"));
        }
        let is_over = |earlier: &usize| known.deleting.contains(earlier) || before.contains(&(*group, *earlier));
        if let Some(skipped) = (known.begun..*n).find(|earlier| !is_over(earlier)) {
            known.faults.push(format!("{group} {n} was handed out before {skipped}"));
        }
        before.push((*group, *n));
    }
}

/// Messages go from one queue to the other and back for as long as it lasts.
fn move_to_and_fro(port: u16, stop: &AtomicBool) {
    let mut sqs = Sqs::new(port);
    let arn = |name: &str| format!("arn:aws:sqs:us-east-1:000000000000:{name}");
    for (from, to) in [("here", "there"), ("there", "here")].into_iter().cycle() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        // One that runs already is as good.
        drop(sqs.ask("StartMessageMoveTask", &json!({ "SourceArn": arn(from), "DestinationArn": arn(to) })));
        wait_a_moment();
    }
}

/// Each is filled and purged, so that its rows are swept while the plane dies.
fn purge(port: u16, purged: &Mutex<Vec<String>>, stop: &AtomicBool) {
    let mut sqs = Sqs::new(port);
    for n in 0.. {
        let name = format!("waste-{n}");
        let url = sqs.url(&name);
        let entries: Vec<Value> = (0..10).map(|i| json!({ "Id": i.to_string(), "MessageBody": "x" })).collect();
        for (action, ask) in [
            ("CreateQueue", json!({ "QueueName": name })),
            ("SendMessageBatch", json!({ "QueueUrl": url, "Entries": entries })),
        ] {
            if insist(&mut sqs, stop, action, &ask).is_none() {
                return;
            }
        }
        // A second one within a minute is refused, so that an unknown outcome cannot be asked for again.
        if sqs.ask("PurgeQueue", &json!({ "QueueUrl": url })).is_ok() {
            purged.lock().expect("no panic").push(name);
        }
    }
}

fn prepare(sqs: &mut Sqs) {
    create(sqs, "q", &json!({}));
    create(sqs, "orders.fifo", &json!({ "FifoQueue": "true" }));
    create(sqs, "here", &json!({}));
    create(sqs, "there", &json!({}));
    for dead in ["here", "there"] {
        let policy = json!({ "deadLetterTargetArn": format!("arn:aws:sqs:us-east-1:000000000000:{dead}"), "maxReceiveCount": 3 });
        create(sqs, &format!("source-of-{dead}"), &json!({ "RedrivePolicy": policy.to_string() }));
    }
    let url = sqs.url("here");
    for n in 0..MOVED {
        sqs.ok("SendMessage", &json!({ "QueueUrl": url, "MessageBody": n.to_string() }));
    }
}

#[test]
fn nothing_is_lost_or_out_of_order_wherever_the_plane_dies() {
    let mut plane = Plane::new();
    plane.start_and_wait();
    let port = plane.port;
    let mut sqs = Sqs::new(port);
    prepare(&mut sqs);
    let (ledger, groups, purged): (Arc<Ledger>, Groups, Arc<Mutex<Vec<String>>>) =
        (Arc::default(), Arc::new(Mutex::new((0..GROUPS).map(|_| Group::default()).collect())), Arc::default());
    let (stop_sending, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut senders = Vec::new();
    for who in 0..2 {
        let (ledger, stop) = (ledger.clone(), stop_sending.clone());
        senders.push(std::thread::spawn(move || produce(port, who, &ledger, &stop)));
    }
    for group in 0..GROUPS {
        let (groups, stop) = (groups.clone(), stop_sending.clone());
        senders.push(std::thread::spawn(move || send_in_order(port, group, &groups, &stop)));
    }
    let (stopping, list) = (stop_sending.clone(), purged.clone());
    senders.push(std::thread::spawn(move || move_to_and_fro(port, &stopping)));
    let stopping = stop_sending.clone();
    senders.push(std::thread::spawn(move || purge(port, &list, &stopping)));
    let mut receivers = Vec::new();
    for _ in 0..2 {
        let (ledger, groups, stops) = (ledger.clone(), groups.clone(), [stop.clone(), stop.clone()]);
        let [one, two] = stops;
        receivers.push(std::thread::spawn(move || consume(port, &ledger, &one)));
        receivers.push(std::thread::spawn(move || receive_in_order(port, &groups, &two)));
    }

    let (kills, longest) = die_at_every_point(&mut plane, &ledger);
    stop_sending.store(true, Ordering::SeqCst);
    senders.into_iter().for_each(|thread| thread.join().expect("no panic"));
    // Its connection was to a plane that is dead.
    let mut sqs = Sqs::new(port);
    wait_until_empty(&mut sqs, &["q", "orders.fifo"]);
    stop.store(true, Ordering::SeqCst);
    receivers.into_iter().for_each(|thread| thread.join().expect("no panic"));

    let groups = groups.lock().expect("no panic");
    let sent: usize = groups.iter().map(|group| group.confirmed).sum();
    let faults: Vec<&String> = groups.iter().flat_map(|group| &group.faults).collect();
    let purged = purged.lock().expect("no panic");
    let mut evidence = Evidence::new("tasks-faults", "nothing_is_lost_or_out_of_order_wherever_the_plane_dies");
    evidence.figure("deaths of the plane, 100 at each of 8 points", 800, kills);
    evidence.figure("messages of groups, and against their order", 0, format!("{} of {sent}", faults.len()));
    evidence.tell();
    println!("{kills} deaths, {sent} messages of groups, {} queues purged", purged.len());
    assert!(faults.is_empty(), "{faults:?}");
    assert!(sent > 100 && !purged.is_empty(), "there was work");
    for (number, group) in groups.iter().enumerate() {
        let lost: Vec<usize> = (0..group.confirmed).filter(|n| !group.deleting.contains(n)).collect();
        assert!(lost.is_empty(), "group {number} lost {lost:?}");
    }
    wait_until_moved(&mut sqs);
    for name in purged.iter() {
        assert_eq!(drain(&mut sqs, name), Vec::<String>::new(), "{name} was purged");
    }
    judge(&ledger, kills, longest);
}

fn die_at_every_point(plane: &mut Plane, ledger: &Ledger) -> (usize, Duration) {
    let mut rng = Rng::from_seed(SEED);
    let (mut kills, mut longest) = (0, Duration::ZERO);
    for _ in 0..size(KILLS.0, KILLS.1) {
        for point in points() {
            while !dies_at(plane, ledger, point, &mut rng) {
                plane.start_and_wait();
            }
            kills += 1;
            let died = Instant::now();
            plane.start_and_wait();
            longest = longest.max(died.elapsed());
        }
    }
    (kills, longest)
}

/// Whether it did: at the end of a process there may be less to write than was thought.
fn dies_at(plane: &mut Plane, ledger: &Ledger, point: Point, rng: &mut Rng) -> bool {
    wait_for_work(plane, ledger, 100);
    let most = match (point.on, point.is_sync) {
        (On::Wal, false) => WRITES_MAX,
        (On::Wal, true) => SYNCS_MAX,
        // Written by checkpoints, and the one at the end of a process is sure to come.
        (On::Main, false) => END_WRITES_MAX,
        (On::Main, true) => 1,
    };
    plane.kill_at(point, 1 + rng.below(most) as i64);
    if point.on == On::Main {
        plane.ask_to_end();
    }
    let ended = plane.wait_for_its_end();
    plane.disarm();
    !ended.success()
}

fn wait_for_work(plane: &mut Plane, ledger: &Ledger, more: usize) {
    let before = ledger.received.load(Ordering::SeqCst);
    let deadline = Instant::now() + crate::site::PATIENCE;
    while ledger.received.load(Ordering::SeqCst) < before + more {
        assert!(plane.ended().is_none(), "the plane ended by itself: {}", plane.said());
        assert!(Instant::now() < deadline, "there is no work: {}", plane.said());
        wait_a_moment();
    }
}

/// Visible, in flight and delayed.
fn count(sqs: &mut Sqs, name: &str) -> usize {
    let url = sqs.url(name);
    let answer = sqs.ok("GetQueueAttributes", &json!({ "QueueUrl": url, "AttributeNames": ["All"] }));
    let number = |kind: &str| {
        let text = answer["Attributes"][format!("ApproximateNumberOfMessages{kind}")].as_str().unwrap_or("0");
        text.parse::<usize>().expect("a number")
    };
    number("") + number("NotVisible") + number("Delayed")
}

fn wait_until_empty(sqs: &mut Sqs, names: &[&str]) {
    let deadline = Instant::now() + crate::site::PATIENCE;
    while let Some(full) = names.iter().find(|name| count(sqs, name) > 0) {
        assert!(Instant::now() < deadline, "{full} does not become empty");
        wait_a_moment();
    }
}

/// Each of them is in one of the two queues, once.
fn wait_until_moved(sqs: &mut Sqs) {
    let deadline = Instant::now() + crate::site::PATIENCE;
    for queue in ["here", "there"] {
        let arn = format!("arn:aws:sqs:us-east-1:000000000000:{queue}");
        let ask = json!({ "SourceArn": arn, "MaxResults": 1 });
        while sqs.ok("ListMessageMoveTasks", &ask)["Results"][0]["Status"] == "RUNNING" {
            assert!(Instant::now() < deadline, "the move from {queue} does not end");
            wait_a_moment();
        }
    }
    assert_eq!(count(sqs, "here") + count(sqs, "there"), MOVED, "as the counters say");
    let mut found: Vec<usize> = Vec::new();
    for queue in ["here", "there"] {
        found.extend(drain(sqs, queue).iter().map(|body| body.parse::<usize>().expect("ours")));
    }
    found.sort_unstable();
    assert_eq!(found, (0..MOVED).collect::<Vec<_>>(), "each once");
}

/// Whether the power goes at that moment or not: what was confirmed had been synced.
#[test]
fn a_sync_that_fails_ends_the_plane_and_nothing_is_confirmed_after_it() {
    let mut plane = Plane::new();
    plane.record();
    plane.start_and_wait();
    let port = plane.port;
    let mut sqs = Sqs::new(port);
    create(&mut sqs, "q", &json!({}));
    let (ledger, stop) = (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)));
    let threads: Vec<_> = (0..4)
        .map(|who| {
            let (ledger, stop) = (ledger.clone(), stop.clone());
            std::thread::spawn(move || produce(port, who, &ledger, &stop))
        })
        .collect();
    let confirmed = || ledger.confirmed.lock().expect("no panic").len();
    let deadline = Instant::now() + crate::site::PATIENCE;
    while confirmed() < 500 {
        assert!(Instant::now() < deadline, "nothing is confirmed");
        wait_a_moment();
    }
    plane.let_syncs_fail(true);
    let ended = plane.wait_for_its_end();
    let took = Duration::from_nanos(boot_ns() - plane.failed_at());
    println!("ended with {ended}, {took:?} after the first sync that failed");
    assert!(!ended.success() && took < Duration::from_secs(1), "{ended}, {took:?}");
    let known = ledger.confirmed.lock().expect("no panic").clone();

    // What a disk holds that got nothing of what was not synced.
    let record = Record::read(&plane.recorded());
    let Media { main, wal } = record.power_cut(record.bytes(), || false);
    let mut other = Plane::with_files(&main, &wal);
    other.start_and_wait();
    let found: BTreeSet<String> = drain(&mut Sqs::new(other.port), "q").into_iter().collect();
    assert_eq!(known.difference(&found).next(), None, "confirmed, and not on the disk");

    // The disk is well again: the clients go on by themselves.
    plane.let_syncs_fail(false);
    plane.start_and_wait();
    let before = confirmed();
    while confirmed() < before + 100 {
        assert!(Instant::now() < deadline + crate::site::PATIENCE, "nothing is confirmed any more");
        wait_a_moment();
    }
    stop.store(true, Ordering::SeqCst);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let found: BTreeSet<String> = drain(&mut Sqs::new(plane.port), "q").into_iter().collect();
    assert_eq!(ledger.confirmed.lock().expect("no panic").difference(&found).next(), None);
}
