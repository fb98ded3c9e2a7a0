//! How long a change of an endpoint takes from the machine that decides it to the balancers of the others.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast_host::clock;
use holdfast_policy::Timestamp;
use serde_json::Value;

use crate::proof::{self, Evidence};
use crate::town::{BALANCERS, PORT, Town, binary, name};

/// As promised, for the median.
const WITHIN: Duration = Duration::from_millis(100);

const FOLLOWED: usize = 2;

impl Town {
    /// One instance on the machine without a balancer, which says that it is ready as long as a file is not there.
    fn mark(&self) -> (PathBuf, String) {
        let unready = self.lab.dir().join("unready");
        let origin = binary().with_file_name("examples").join("origin");
        let text = format!(
            "[service.mark]\ncommand = [\"{}\", \"{{port}}\", \"{{host}}\"]\non = {{ node = \"{}\" }}\n\
             env = {{ ORIGIN_UNREADY = \"{}\" }}\nready = {{ http = \"/healthz\", every = \"100ms\" }}\n\
             [balancer.mark]\nlisten = \"0.0.0.0:{}\"\nservice = \"mark\"\non = {{ node = [\"node1\", \"node2\"] }}\n",
            origin.display(),
            name(FOLLOWED),
            unready.display(),
            PORT + 1
        );
        (unready, text)
    }

    /// Whether the instance takes requests, as each balancer process of a machine has it in force.
    fn in_force(&self, n: usize) -> Vec<Option<bool>> {
        let one = |plane: u32| -> Option<bool> {
            let file = self.data(n).join(format!("run/_balancer-{plane}/snapshot.json"));
            let text = std::fs::read_to_string(file).ok()?;
            // Written in place: the rest is filled with blanks or what was there before.
            let snapshot: Value = serde_json::Deserializer::from_str(&text).into_iter().next()?.ok()?;
            let balancers = snapshot["balancers"].as_array()?;
            let mark = balancers.iter().find(|b| b["name"] == "mark")?;
            Some(mark["endpoints"].as_array()?.iter().any(|e| e["state"] == "ready"))
        };
        (1..=2).map(one).collect()
    }
}

/// When each balancer machine had it in force, and when it was decided.
struct Change {
    decided: Timestamp,
    seen: Vec<Timestamp>,
}

fn follow(town: &Town, ready: bool, act: impl FnOnce()) -> Change {
    let before = clock::now();
    act();
    let mut seen = vec![None; BALANCERS];
    let deadline = Instant::now() + Duration::from_secs(30);
    while seen.iter().any(Option::is_none) {
        for (n, seen) in seen.iter_mut().enumerate().filter(|(_, seen)| seen.is_none()) {
            if town.in_force(n).iter().all(|now| *now == Some(ready)) {
                *seen = Some(clock::now());
            }
        }
        assert!(Instant::now() < deadline, "ready = {ready} did not reach all balancers: {seen:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    let to = if ready { "ready" } else { "not_ready" };
    let mut decided = None;
    town.wait("the journal to tell it", || {
        let told = town.journal(FOLLOWED).into_iter().rev();
        let mut told = told.filter(|t| t.subject == "instance/mark-1" && t.to == to);
        decided = told.next().map(|t| Timestamp::from_nanos(t.boot_ns)).filter(|at| *at >= before);
        decided.is_some()
    });
    Change { decided: decided.expect("waited for"), seen: seen.into_iter().flatten().collect() }
}

#[test]
fn what_changes_on_one_machine_is_in_force_in_the_balancers_of_the_others() {
    let mut evidence = Evidence::new("lab", "what_changes_on_one_machine_is_in_force_in_the_balancers_of_the_others");
    let Some(town) = Town::ready() else { return };
    let (unready, text) = town.mark();
    town.write(&(town.web(3) + &text));
    town.ok(0, &["up", "-d"]);
    town.wait("the balancers to have it", || (0..BALANCERS).all(|n| town.in_force(n).iter().all(|r| *r == Some(true))));
    let mut times = Vec::new();
    for _ in 0..proof::size(15, 200) {
        let gone = follow(&town, false, || std::fs::write(&unready, "").expect("write"));
        let back = follow(&town, true, || std::fs::remove_file(&unready).expect("remove"));
        for change in [gone, back] {
            times.extend(change.seen.into_iter().map(|at| at.since(change.decided)));
        }
    }
    times.sort();
    let of = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize];
    println!(
        "{} changes in force elsewhere after: median {:?}, p90 {:?}, max {:?}",
        times.len(),
        of(0.5),
        of(0.9),
        of(1.0)
    );
    evidence.condition("changes", times.len());
    evidence.figure(
        "an endpoint's change in force in the balancers of other machines, median",
        "< 100 ms",
        format!("{:?}", of(0.5)),
    );
    evidence.figure("the same, p90 and max", "-", format!("{:?}, {:?}", of(0.9), of(1.0)));
    evidence.tell();
    if proof::proving() {
        assert!(of(0.5) < WITHIN, "{:?}", of(0.5));
    }
}
