//! All automation of the repository: `cargo xtask test` is what CI runs, `cargo xtask demo` is the shop.

mod backend;
mod bench;
mod demo;
mod install;
mod lanes;
mod load;
mod process;
mod steps;
mod tidy;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Automation of the holdfast repository")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that CI runs: format, lints, docs, house rules, all tests
    Test,
    /// The shop of examples/shop: started, under traffic, drilled, shown
    Demo(demo::Options),
    /// Measure against other programs on this machine
    Bench(bench::Options),
    /// The house rules alone
    Tidy,
    /// Send requests at a fixed rate and print what became of them
    Load(load::Options),
    /// A backend with known answers, for tests and measurements
    Backend(backend::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let root = root();
    match task {
        Task::Test => lanes::test(&root),
        Task::Demo(options) => demo::run(&root, &options),
        Task::Bench(options) => bench::run(&root, &options),
        Task::Tidy => tidy::run(&root),
        Task::Load(options) => load::run(options),
        Task::Backend(options) => backend::run(options),
    }
}

/// The workspace root: two folders above this crate's manifest.
fn root() -> PathBuf {
    let crate_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    crate_dir.ancestors().nth(2).map_or_else(|| crate_dir.clone(), PathBuf::from)
}
