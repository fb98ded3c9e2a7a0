//! The scenarios that a lab of real machines plays too, here from many seeds.

use holdfast_sim::scenario::Scenario;
use holdfast_sim::{TownRules, run_scenario};

use super::{number, prove};

/// Lines of the trace that a failure prints.
const TRACE: usize = 80;

#[test]
fn every_scenario_ends_as_it_should_from_any_seed() {
    let count = number("HOLDFAST_SEEDS").unwrap_or(if prove() { 500 } else { 20 });
    for scenario in Scenario::all().expect("they can be read") {
        for seed in 0..count {
            let report = run_scenario(seed, &scenario, TownRules::ALL);
            let from = report.tail.len().saturating_sub(TRACE);
            let trace = || report.tail[from..].join("\n");
            assert_eq!(report.violation, None, "{}, seed {seed}: {}\n{}", scenario.name, scenario.says, trace());
        }
        println!("{}: {}: {count} seeds", scenario.name, scenario.says);
    }
}

/// A scenario that nothing can fail shows nothing.
#[test]
fn a_scenario_notices_what_goes_wrong() {
    let all = Scenario::all().expect("they can be read");
    let named = |name: &str| all.iter().find(|s| s.name == name).cloned().expect("there is one");
    let violates =
        |scenario: &Scenario, rules| (0..50).any(|seed| run_scenario(seed, scenario, rules).violation.is_some());
    let without = |name: &str| TownRules::WITHOUT.into_iter().find(|(rule, _)| *rule == name).expect("a rule").1;
    assert!(violates(&named("pause"), without("token check")));
    let mut strict = named("power_off");
    strict.moves = false;
    assert!(violates(&strict, TownRules::ALL), "what was on a dead machine is moved");
}
