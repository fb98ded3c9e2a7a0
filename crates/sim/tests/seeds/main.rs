//! Seeds: a few in the test lane, all of them with `HOLDFAST_PROVE=1`. `HOLDFAST_SEEDS` and `HOLDFAST_SEED` choose others.

mod scenarios;
mod town;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;

use holdfast_sim::{Report, Rules, STEPS, run, run_standby};

/// A rule that is missing must be noticed within so many seeds.
const SEEDS_TO_NOTICE: u64 = 1000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn prove() -> bool {
    std::env::var_os("HOLDFAST_PROVE").is_some_and(|v| v == "1")
}

fn seeds() -> Range<u64> {
    let from = number("HOLDFAST_SEED").unwrap_or(0);
    let count = number("HOLDFAST_SEEDS").unwrap_or(if prove() { 20_000 } else { 150 });
    from..from + count
}

fn describe(report: &Report) -> String {
    let violation = report.violation.clone().unwrap_or_default();
    format!("seed {}: {violation}\n{}", report.seed, report.tail.join("\n"))
}

/// Rows for the section `simulation` of docs/benchmarks.md, in the folder of `HOLDFAST_RESULTS` if there is one. Both
/// tests that measure add to one file.
fn keep(rows: &[[String; 3]]) {
    static ONE: Mutex<()> = Mutex::new(());
    let Some(folder) = std::env::var_os("HOLDFAST_RESULTS").map(PathBuf::from) else { return };
    let _one = ONE.lock();
    let file = folder.join("simulation.json");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let mut value: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|_| serde_json::json!({ "section": "simulation", "rows": [] }));
    if let Some(kept) = value["rows"].as_array_mut() {
        kept.extend(rows.iter().map(|row| serde_json::json!(row)));
    }
    std::fs::write(&file, value.to_string()).expect("the folder of results is writable");
}

#[test]
fn no_seed_breaks_an_invariant() {
    let (mut events, mut requests, mut retries) = (0, 0, 0);
    let (mut broken, mut first) = (0, None);
    for seed in seeds() {
        let report = run(seed, Rules::ALL, STEPS);
        assert!(report.events > 100, "seed {seed} did nothing: {} events", report.events);
        events += report.events;
        requests += report.requests;
        retries += report.retries;
        broken += u64::from(report.violation.is_some());
        first = first.or(report.violation.is_some().then_some(report));
    }
    let all = seeds();
    let told = format!("{broken} of {}, from seed {} on", all.end - all.start, all.start);
    println!("broke an invariant: {told}; {events} events, {requests} requests, {retries} retries");
    keep(&[
        ["all rules on: seeds that broke an invariant".into(), "0".into(), told],
        [
            "events of the Supervisor; requests of clients; retries".into(),
            "-".into(),
            format!("{events}; {requests}; {retries}"),
        ],
    ]);
    assert!(first.is_none(), "{}", describe(&first.expect("just looked")));
    assert!(retries > 0 && requests > retries, "{requests} requests, {retries} retries");
}

#[test]
fn no_seed_makes_two_members_active() {
    let mut events = 0;
    let mut first = None;
    let mut broken = 0;
    for seed in seeds() {
        let report = run_standby(seed, Rules::ALL, STEPS);
        assert!(report.events > 100, "seed {seed} did nothing: {} events", report.events);
        events += report.events;
        broken += u64::from(report.violation.is_some());
        first = first.or(report.violation.is_some().then_some(report));
    }
    let all = seeds();
    let told = format!("{broken} of {}, from seed {} on; {events} events", all.end - all.start, all.start);
    println!("redundant service, broke an invariant: {told}");
    keep(&[["redundant service, all rules on: seeds that broke an invariant".into(), "0".into(), told]]);
    assert!(first.is_none(), "{}", describe(&first.expect("just looked")));
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 77, 1234] {
        assert_eq!(run(seed, Rules::ALL, STEPS), run(seed, Rules::ALL, STEPS));
    }
}

/// The simulator is worth something only if it notices a rule that is missing.
#[test]
fn each_rule_is_missed() {
    let ordinary: fn(u64, Rules, u64) -> Report = run;
    let redundant: fn(u64, Rules, u64) -> Report = run_standby;
    let all = Rules::WITHOUT.into_iter().map(|rule| (rule, ordinary));
    let all = all.chain(Rules::WITHOUT_OF_STANDBY.into_iter().map(|rule| (rule, redundant)));
    let mut unnoticed = Vec::new();
    for ((name, rules), run) in all {
        let notices = |seed| Some(run(seed, rules, STEPS)).filter(|r| r.violation.is_some());
        let mut found = (0..SEEDS_TO_NOTICE).filter_map(notices);
        let told = match found.next() {
            None => {
                unnoticed.push(name);
                "not noticed".to_owned()
            }
            Some(report) => {
                println!("without the {name}: {}", describe(&report).lines().next().unwrap_or_default());
                let seeds = format!("after {} seeds", report.seed + 1);
                match prove() {
                    true => format!("{seeds}; by {} of {SEEDS_TO_NOTICE}", 1 + found.count()),
                    false => seeds,
                }
            }
        };
        keep(&[[format!("without the {name}: noticed"), format!("within {SEEDS_TO_NOTICE} seeds"), told]]);
    }
    assert!(unnoticed.is_empty(), "no seed of {SEEDS_TO_NOTICE} broke an invariant without: {unnoticed:?}");
}

/// Without the budget it is the retries that are noticed, and nothing else changes: clients do not touch the host.
#[test]
fn without_the_retry_budget_it_is_retries_that_are_too_many() {
    let rules = Rules { retry_budget: false, ..Rules::ALL };
    let found: Vec<String> = (0..50).filter_map(|seed| run(seed, rules, STEPS).violation).collect();
    assert!(!found.is_empty());
    assert!(found.iter().all(|what| what.contains("retried at once")), "{found:#?}");
}
