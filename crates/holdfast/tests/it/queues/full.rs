//! A full disk: what is sent is refused, what is acknowledged is taken, and it goes on by itself.

use crate::disk::SmallDisk;

use super::*;

#[test]
fn with_a_full_disk_sends_are_refused_and_acknowledgements_taken() {
    let port = free_port();
    let site = Site::new(&format!("[tasks]\nlisten = \"127.0.0.1:{port}\"\n[queue.q]\n"));
    // The site is dropped first: it stops what runs on the disk.
    let (Some(disk), site) = (SmallDisk::mount(&site.data()), site) else { return };
    site.up();
    let mut sqs = Sqs::new(port);
    let url = sqs.url("q");
    let body = "x".repeat(100_000);
    let send = |sqs: &mut Sqs, body: &str| sqs.ask("SendMessage", &json!({ "QueueUrl": url, "MessageBody": body }));
    let mut confirmed = 0;
    for _ in 0..20 {
        send(&mut sqs, &body).expect("there is room");
        confirmed += 1;
    }
    let ask = json!({ "QueueUrl": url, "MaxNumberOfMessages": 10, "VisibilityTimeout": 600 });
    let held = sqs.ok("ReceiveMessage", &ask)["Messages"].as_array().cloned().unwrap_or_default();
    assert_eq!(held.len(), 10);
    let before = site.pid("_tasks-1");
    disk.fill();
    site.wait_for("a send to be refused", || match send(&mut sqs, &body) {
        Err(Failed::Refused(text)) => {
            assert!(text.contains("Throttled"), "{text}");
            true
        }
        Err(Failed::Unknown) => panic!("the plane must say no, not vanish"),
        Ok(_) => {
            confirmed += 1;
            disk.fill();
            false
        }
    });
    for message in &held {
        sqs.ok("DeleteMessage", &json!({ "QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"] }));
        confirmed -= 1;
    }
    disk.empty();
    let freed = Instant::now();
    site.wait_for("sends to be taken again", || send(&mut sqs, "small").is_ok());
    confirmed += 1;
    println!("sends were taken again {:?} after there was space", freed.elapsed());
    assert_eq!(site.pid("_tasks-1"), before, "without a restart");
    let q = queue(&site, "q");
    assert_eq!(
        q["visible"].as_u64().unwrap_or(0) + q["in_flight"].as_u64().unwrap_or(0),
        confirmed,
        "nothing was lost"
    );
}
