//! Seeds: a few in the test lane, all of them with `HOLDFAST_PROVE=1`. `HOLDFAST_SEEDS` and `HOLDFAST_SEED` choose others.

use holdfast_sim::{Report, Rules, STEPS, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn prove() -> bool {
    std::env::var_os("HOLDFAST_PROVE").is_some_and(|v| v == "1")
}

fn seeds() -> std::ops::Range<u64> {
    let from = number("HOLDFAST_SEED").unwrap_or(0);
    let count = number("HOLDFAST_SEEDS").unwrap_or(if prove() { 20_000 } else { 150 });
    from..from + count
}

fn describe(report: &Report) -> String {
    let violation = report.violation.clone().unwrap_or_default();
    format!("seed {}: {violation}\n{}", report.seed, report.tail.join("\n"))
}

#[test]
fn no_seed_breaks_an_invariant() {
    for seed in seeds() {
        let report = run(seed, Rules::ALL, STEPS);
        assert!(report.violation.is_none(), "{}", describe(&report));
        assert!(report.events > 100, "seed {seed} did nothing: {} events", report.events);
    }
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 77, 1234] {
        assert_eq!(run(seed, Rules::ALL, STEPS), run(seed, Rules::ALL, STEPS));
    }
}

/// The simulator is worth something only if it notices a rule that is missing.
fn caught(name: &str, rules: Rules) {
    let found = (0..1000).map(|seed| run(seed, rules, STEPS)).find(|r| r.violation.is_some());
    let report = found.unwrap_or_else(|| panic!("without its rule `{name}` no seed of 1,000 broke an invariant"));
    println!("{name}: seed {}, {}", report.seed, report.violation.unwrap_or_default());
}

#[test]
fn the_incarnation_check_is_missed() {
    caught("incarnation_check", Rules { incarnation_check: false, ..Rules::ALL });
}

#[test]
fn the_absence_proof_is_missed() {
    caught("absence_proof", Rules { absence_proof: false, ..Rules::ALL });
}

#[test]
fn the_liveness_brake_is_missed() {
    caught("liveness_brake", Rules { liveness_brake: false, ..Rules::ALL });
}

#[test]
fn the_last_instance_rule_is_missed() {
    caught("last_instance_rule", Rules { last_instance_rule: false, ..Rules::ALL });
}

#[test]
fn the_restart_grant_is_missed() {
    caught("restart_grant", Rules { restart_grant: false, ..Rules::ALL });
}
