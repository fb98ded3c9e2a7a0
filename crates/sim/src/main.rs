//! `holdfast-sim [--seeds N] [--from SEED] [--steps N]`: runs seeds and prints those that broke an invariant.

use anyhow::{Context, bail};
use holdfast_sim::{Rules, STEPS, run};

fn main() -> anyhow::Result<()> {
    let (mut seeds, mut from, mut steps) = (200, 0, STEPS);
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().with_context(|| format!("{name} needs a number"))?;
        let number = value.parse().with_context(|| format!("{value} is not a number"))?;
        match name.as_str() {
            "--seeds" => seeds = number,
            "--from" => from = number,
            "--steps" => steps = number,
            _ => bail!("unknown argument {name}; there are --seeds, --from and --steps"),
        }
    }
    let mut failed = 0;
    for seed in from..from + seeds {
        let report = run(seed, Rules::ALL, steps);
        if let Some(violation) = report.violation {
            failed += 1;
            println!("seed {seed}: {violation}");
            if failed == 1 {
                report.tail.iter().for_each(|line| println!("    {line}"));
            }
        }
    }
    println!("{seeds} seeds from {from} on, {steps} faults each: {failed} broke an invariant");
    if failed > 0 {
        bail!("repeat one with --seeds 1 --from SEED --steps {steps}");
    }
    Ok(())
}
