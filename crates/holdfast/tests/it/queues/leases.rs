//! All programs of a worker are killed at once, half of them with their shims: their messages come to others in time.

use std::collections::BTreeMap;

use super::*;
use crate::proof::{Evidence, size};

const LEASED: (usize, usize) = (30, 100);
/// With a lease of 15 s, of which a living program renews the half it has left.
const AGAIN_MAX: Duration = Duration::from_secs(17);

/// Receives by message, as the programs themselves wrote it down.
fn receives(site: &Site) -> BTreeMap<String, Vec<u32>> {
    let text = std::fs::read_to_string(site.path().join("seen")).unwrap_or_default();
    let mut all: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (message, receive) in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.split_once(' ')) {
        all.entry(message.to_owned()).or_default().push(receive.parse().expect("a number"));
    }
    all
}

#[test]
fn what_killed_programs_held_runs_again_within_its_lease() {
    let leased = size(LEASED.0, LEASED.1);
    let port = free_port();
    let site = Site::new(&format!(
        "[tasks]\nlisten = \"127.0.0.1:{port}\"\n\
         [queue.mail]\nretry = {{ base = \"100ms\", factor = 2.0, max = \"1s\", jitter = 0.0 }}\n\
         [worker.mailer]\nqueue = \"mail\"\nconcurrency = {leased}\nlease = \"15s\"\ninput = \"env\"\n\
         shell = \"echo words of $HOLDFAST_MESSAGE in $HOLDFAST_RECEIVES; \
         echo $HOLDFAST_MESSAGE $HOLDFAST_RECEIVES >> {{dir}}/seen; [ $HOLDFAST_RECEIVES != 1 ] || exec sleep 987\"\n"
    ));
    site.up();
    let mut sqs = Sqs::new(port);
    let url = sqs.url("mail");
    for n in 0..leased {
        sqs.ok("SendMessage", &json!({ "QueueUrl": url, "MessageBody": format!("m{n}") }));
    }
    site.wait_for("all of them to run", || receives(&site).len() == leased);
    let text_of = |part: &str| {
        let all = site.living().into_iter().filter(|(_, text)| text.contains("/work/") && text.contains(part));
        all.map(|(pid, _)| pid).collect::<Vec<_>>()
    };
    let programs: Vec<u32> = text_of("sleep 987 ");
    let shims: Vec<u32> = text_of(" __shim ");
    assert_eq!((programs.len(), shims.len() >= leased), (leased, true), "{} shims", shims.len());
    let killed = Instant::now();
    for pid in shims.iter().take(leased / 2).chain(&programs) {
        crate::tiny::signal(*pid, rustix::process::Signal::KILL);
    }
    site.wait_for("all of them to run again", || receives(&site).values().all(|receives| receives.len() == 2));
    let took = killed.elapsed();
    site.wait_for("all of them to be done", || {
        let q = queue(&site, "mail");
        q["visible"] == 0 && q["in_flight"] == 0 && q["delayed"] == 0
    });
    let mut evidence = Evidence::new("tasks-faults", "what_killed_programs_held_runs_again_within_its_lease");
    evidence.figure(
        "100 programs killed, half of them with their shims: the last runs again",
        "17 s",
        format!("{took:?}"),
    );
    evidence.tell();
    println!("{leased} programs killed, half of them with their shims: all ran again after {took:?}");
    assert!(took < AGAIN_MAX, "{took:?}");
    assert!(receives(&site).values().all(|receives| *receives == [1, 2]), "each once more: {:?}", receives(&site));
    let most = (2 * leased).to_string();
    let attempts = site.ok(&["worker", "attempts", "mailer", "--output", "--limit", &most]);
    let kept = (0..leased).filter(|n| attempts.contains(&format!("words of m{n} in 1"))).count();
    assert_eq!(kept, leased, "what the dead ones printed is kept:\n{attempts}");
}
