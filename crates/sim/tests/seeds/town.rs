//! Several machines: 200 simulated hours in the test lane, 5,000 with `HOLDFAST_PROVE=1`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use holdfast_sim::{TownReport, TownRules, run_town};

use super::{SEEDS_TO_NOTICE, keep, number, prove};

/// Lines of the trace that a failure prints.
const TRACE: usize = 150;

fn describe(report: &TownReport) -> String {
    let violation = report.violation.clone().unwrap_or_default();
    let from = report.tail.len().saturating_sub(TRACE);
    format!("seed {}: {violation}\n{}", report.seed, report.tail[from..].join("\n"))
}

/// Every seed by one of the processor's cores; what each gives does not depend on that.
fn all(seeds: std::ops::Range<u64>, rules: TownRules) -> Vec<TownReport> {
    let (next, found) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let mut report = run_town(seed, rules);
                    if report.violation.is_none() {
                        report.tail.clear();
                    }
                    found.lock().unwrap_or_else(PoisonError::into_inner).push(report);
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|report| report.seed);
    found
}

#[test]
fn no_simulated_hour_of_several_machines_breaks_an_invariant() {
    let from = number("HOLDFAST_SEED").unwrap_or(0);
    let count = number("HOLDFAST_SEEDS").unwrap_or(if prove() { 5_000 } else { 200 });
    let began = Instant::now();
    let reports = all(from..from + count, TownRules::ALL);
    let spent = began.elapsed().as_secs_f64();
    let sum = |of: fn(&TownReport) -> u64| reports.iter().map(of).sum::<u64>();
    let broken: Vec<&TownReport> = reports.iter().filter(|r| r.violation.is_some()).collect();
    let told = format!("{} of {count}, from seed {from} on; {} events", broken.len(), sum(|r| r.events));
    println!("several machines, broke an invariant: {told}; {:.2} s a seed", spent / count.max(1) as f64);
    keep(&[["several machines, one simulated hour, all rules on: broke an invariant".into(), "0".into(), told]]);
    if let Some(first) = broken.first() {
        panic!("{}", describe(first));
    }
    // An hour in which nothing happens proves nothing.
    for (what, found) in [
        ("machines lost", sum(|r| r.stats.losses)),
        ("takeovers", sum(|r| r.stats.takeovers)),
        ("late writes refused", sum(|r| r.stats.refused)),
        ("announcements", sum(|r| r.stats.announced)),
    ] {
        println!("{what}: {found}");
        assert!(found >= count, "{what}: {found} in {count} hours");
    }
}

#[test]
fn an_hour_of_several_machines_repeats_itself() {
    for seed in [5, 1234] {
        assert_eq!(run_town(seed, TownRules::ALL), run_town(seed, TownRules::ALL));
    }
}

/// With the full counts also how many seeds notice it, of so many.
const SEEDS_COUNTED: u64 = 100;

#[test]
fn each_rule_between_machines_is_missed() {
    let mut unnoticed = Vec::new();
    for (name, rules) in TownRules::WITHOUT {
        let found = (0..SEEDS_TO_NOTICE).map(|seed| run_town(seed, rules)).find(|r| r.violation.is_some());
        let told = match found {
            None => {
                unnoticed.push(name);
                "not noticed".to_owned()
            }
            Some(report) => {
                println!("without the {name}: {}", describe(&report).lines().next().unwrap_or_default());
                let seeds = format!("after {} seeds", report.seed + 1);
                let counted = |_| {
                    let noticed = all(0..SEEDS_COUNTED, rules).iter().filter(|r| r.violation.is_some()).count();
                    format!("{seeds}; by {noticed} of {SEEDS_COUNTED}")
                };
                prove().then_some(()).map_or_else(|| seeds.clone(), counted)
            }
        };
        keep(&[[
            format!("several machines, without the {name}: noticed"),
            format!("within {SEEDS_TO_NOTICE} seeds"),
            told,
        ]]);
    }
    assert!(unnoticed.is_empty(), "no seed of {SEEDS_TO_NOTICE} broke an invariant without: {unnoticed:?}");
}
