//! Dead letters are moved back while the plane is killed and the move is cancelled: each is in one queue, once.

use std::collections::BTreeSet;

use super::plane::drain;
use super::*;
use crate::proof::{Evidence, size};

/// The whole number at the rate that SQS allows would take 200 s: when proving most go at ten times that.
const MESSAGES: (usize, usize) = (2_000, 100_000);
const RATE: (u32, u32) = (500, 5_000);

fn visible(site: &Site, name: &str) -> usize {
    queue(site, name)["visible"].as_u64().unwrap_or(0) as usize
}

fn fill(port: u16, messages: usize) {
    std::thread::scope(|scope| {
        for who in 0..4 {
            scope.spawn(move || {
                let mut sqs = Sqs::new(port);
                let url = sqs.url("dead");
                let mine: Vec<usize> = (0..messages).filter(|n| n % 4 == who).collect();
                for batch in mine.chunks(10) {
                    let entry = |n: &usize| json!({ "Id": n.to_string(), "MessageBody": n.to_string() });
                    let entries: Vec<Value> = batch.iter().map(entry).collect();
                    let sent = sqs.ok("SendMessageBatch", &json!({ "QueueUrl": url, "Entries": entries }));
                    assert_eq!(sent["Successful"].as_array().map(Vec::len), Some(batch.len()));
                }
            });
        }
    });
}

/// And waits until the next one answers.
fn kill_plane(site: &Site) {
    let before = site.pid("_tasks-1");
    kill(before, "KILL");
    site.wait_for("the next plane", || {
        let is_another = site.instance("_tasks-1")["pid"].as_u64().is_some_and(|pid| pid != u64::from(before));
        is_another && site.run(&["queue", "list"]).code == 0
    });
}

#[test]
fn a_move_that_is_killed_cancelled_and_begun_again_doubles_and_loses_nothing() {
    let (messages, rate) = (size(MESSAGES.0, MESSAGES.1), size(RATE.0, RATE.1));
    let port = free_port();
    let site = Site::new(&format!(
        "[tasks]\nlisten = \"127.0.0.1:{port}\"\n\
         [queue.mail]\ndead_letter = {{ queue = \"dead\", receives = 3 }}\n[queue.dead]\n"
    ));
    site.up();
    fill(port, messages);
    let both = || (visible(&site, "dead"), visible(&site, "mail"));
    assert_eq!(both(), (messages, 0));
    let begin = |rate: u32| site.ok(&["queue", "redrive", "dead", "--to", "mail", "--rate", &rate.to_string()]);
    begin(rate);
    let begun = Instant::now();
    site.wait_for("some to be moved", || visible(&site, "mail") > messages / 10);
    kill_plane(&site);
    let after = visible(&site, "mail");
    site.wait_for("the move to go on by itself", || visible(&site, "mail") > after + messages / 10);
    let (left, moved) = both();
    let pace = moved as f64 / begun.elapsed().as_secs_f64();
    let mut sqs = Sqs::new(port);
    let arn = "arn:aws:sqs:us-east-1:000000000000:dead";
    let task = sqs.ok("ListMessageMoveTasks", &json!({ "SourceArn": arn }))["Results"][0].clone();
    let handle = task["TaskHandle"].as_str().unwrap_or_else(|| panic!("it runs: {task}")).to_owned();
    sqs.ok("CancelMessageMoveTask", &json!({ "TaskHandle": handle }));
    let (dead, mail) = both();
    assert_eq!(dead + mail, messages, "counters, after the cancel");
    kill_plane(&site);
    assert_eq!(both(), (dead, mail), "counters, of the next plane");
    println!("killed with {moved} moved and {left} left, cancelled with {mail} and {dead}; {pace:.0} a second");
    begin(size(5_000, 5_000));
    site.wait_for("the rest to be moved", || both() == (0, messages));
    let found = drain(&mut Sqs::new(port), "mail");
    let each: BTreeSet<usize> = found.iter().map(|body| body.parse::<usize>().expect("ours")).collect();
    let mut evidence =
        Evidence::new("tasks-faults", "a_move_that_is_killed_cancelled_and_begun_again_doubles_and_loses_nothing");
    evidence.figure(
        "100,000 dead letters moved: in the queue, and different",
        "100000, 100000",
        format!("{}, {}", found.len(), each.len()),
    );
    evidence.tell();
    assert_eq!((found.len(), each.len()), (messages, messages), "each once");
    assert!(pace < f64::from(rate) * 1.3, "not faster than it was told: {pace:.0} a second");
}
