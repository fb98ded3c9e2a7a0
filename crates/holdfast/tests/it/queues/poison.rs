//! One message in a thousand kills whoever works on it, while fifty are worked on at a time.

use super::*;
use crate::proof::{Evidence, size};

const MESSAGES: (usize, usize) = (150, 1_000);
const PREFETCH: usize = 50;

#[test]
fn only_the_poison_is_buried_and_nobody_else_is_charged() {
    let port = free_port();
    let site = Site::new(&format!(
        "[tasks]\nlisten = \"127.0.0.1:{port}\"\n\
         [queue.mail]\ndead_letter = {{ queue = \"dead\", receives = 10 }}\n\
         retry = {{ base = \"100ms\", factor = 2.0, max = \"1s\", jitter = 0.0 }}\n[queue.dead]\n\
         [worker.mailer]\nqueue = \"mail\"\nconcurrency = {PREFETCH}\ninput = \"env\"\n\
         shell = \"echo $HOLDFAST_MESSAGE $HOLDFAST_RECEIVES >> {{dir}}/seen; \
         case $HOLDFAST_MESSAGE in poison) kill -KILL $$ ;; esac; sleep 0.2\"\n"
    ));
    site.up();
    let mut sqs = Sqs::new(port);
    let url = sqs.url("mail");
    let messages = size(MESSAGES.0, MESSAGES.1);
    let bodies: Vec<String> =
        (0..messages).map(|n| if n == messages / 2 { "poison".into() } else { format!("m{n}") }).collect();
    for batch in bodies.chunks(10) {
        let entry = |(n, body): (usize, &String)| json!({ "Id": n.to_string(), "MessageBody": body });
        let entries: Vec<Value> = batch.iter().enumerate().map(entry).collect();
        let sent = sqs.ok("SendMessageBatch", &json!({ "QueueUrl": url, "Entries": entries }));
        assert_eq!(sent["Successful"].as_array().map(Vec::len), Some(batch.len()));
    }
    let begun = Instant::now();
    let is_over = || {
        let q = queue(&site, "mail");
        q["visible"] == 0 && q["in_flight"] == 0 && q["delayed"] == 0
    };
    // Many programs on two cores: far more than the patience of one condition.
    while begun.elapsed() < Duration::from_secs(300) && !is_over() {
        wait_a_moment();
    }
    site.wait_for("all of it to be over", is_over);
    let text = std::fs::read_to_string(site.path().join("seen")).expect("they ran");
    let innocents: Vec<&str> = text.lines().filter(|line| !line.starts_with("poison ")).collect();
    let charged: Vec<&&str> = innocents.iter().filter(|line| !line.ends_with(" 1")).collect();
    let poison: Vec<&str> = text.lines().filter(|line| line.starts_with("poison ")).collect();
    let mut evidence = Evidence::new("tasks-faults", "only_the_poison_is_buried_and_nobody_else_is_charged");
    evidence.figure("messages charged for a neighbour's crash, of 999", 0, charged.len());
    evidence.tell();
    println!("{messages} messages in {:?}, the poison {} times", begun.elapsed(), poison.len());
    assert!(charged.is_empty(), "{charged:?}");
    assert_eq!(innocents.len(), messages - 1, "each ran once");
    assert_eq!(poison, ["poison 1", "poison 2", "poison 3"]);
    assert_eq!(queue(&site, "dead")["visible"], 1);
    let dead = site.ok(&["queue", "peek", "dead"]);
    assert!(dead.contains("(poison): killed by SIGKILL") && dead.contains("poison"), "{dead}");
}
