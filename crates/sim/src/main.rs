//! `holdfast-sim [--town] [--seeds N] [--from SEED] [--steps N]`: runs seeds and prints those that broke an invariant.
//! `--town` runs several machines for one simulated hour each, `--without RULE` without one of their safety rules.

use std::time::Instant;

use anyhow::{Context, bail};
use holdfast_sim::{Rules, STEPS, TownRules, run, run_town};

struct Options {
    seeds: u64,
    from: u64,
    steps: u64,
    town: bool,
    rules: TownRules,
}

fn main() -> anyhow::Result<()> {
    let mut options = Options { seeds: 200, from: 0, steps: STEPS, town: false, rules: TownRules::ALL };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        if name == "--town" {
            options.town = true;
            continue;
        }
        let value = args.next().with_context(|| format!("{name} needs a value"))?;
        if name == "--without" {
            let mut all = TownRules::WITHOUT.into_iter().chain(TownRules::WITHOUT_MORE);
            let rule = all.find(|(rule, _)| *rule == value);
            options.rules = rule.with_context(|| format!("there is no rule `{value}`"))?.1;
            continue;
        }
        let number = value.parse().with_context(|| format!("{value} is not a number"))?;
        match name.as_str() {
            "--seeds" => options.seeds = number,
            "--from" => options.from = number,
            "--steps" => options.steps = number,
            _ => bail!("unknown argument {name}; there are --town, --without, --seeds, --from and --steps"),
        }
    }
    let began = Instant::now();
    let mut failed = 0;
    for seed in options.from..options.from + options.seeds {
        let (violation, tail) = one(seed, &options);
        if let Some(violation) = violation {
            failed += 1;
            println!("seed {seed}: {violation}");
            if failed == 1 {
                tail.iter().for_each(|line| println!("    {line}"));
            }
        }
    }
    let Options { seeds, from, steps, .. } = options;
    let spent = began.elapsed().as_secs_f64();
    println!("{seeds} seeds from {from} on in {spent:.1} s: {failed} broke an invariant");
    if failed > 0 {
        bail!("repeat one with --seeds 1 --from SEED --steps {steps}");
    }
    Ok(())
}

fn one(seed: u64, options: &Options) -> (Option<String>, Vec<String>) {
    if options.town {
        let report = run_town(seed, options.rules);
        return (report.violation, report.tail);
    }
    let report = run(seed, Rules::ALL, options.steps);
    (report.violation, report.tail)
}
