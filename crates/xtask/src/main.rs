//! All automation of the repository: `cargo xtask test` is what CI runs, `cargo xtask demo` is the shop.

mod backend;
mod bare;
mod bench;
mod demo;
mod etcd;
mod examples;
mod histogram;
mod install;
mod lab;
mod lanes;
mod licences;
mod load;
mod picture;
mod process;
mod references;
mod results;
mod steps;
mod tidy;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
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
    /// Full counts and benchmarks, one after the other; writes docs/benchmarks.md
    Prove {
        /// Only tests whose names contain one of these, or `balancer` or `tasks` for a benchmark; their sections are written anew
        only: Vec<String>,
    },
    /// Full counts again and again with fresh seeds
    Soak {
        #[arg(long, default_value_t = 60)]
        minutes: u64,
    },
    /// The simulator over many seeds
    Sim {
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// Begin with this one, to repeat a failure
        #[arg(long)]
        seed: Option<u64>,
        /// Several machines, one simulated hour a seed, instead of one machine
        #[arg(long)]
        town: bool,
    },
    /// Write the references that are printed from the program
    Gen(references::Options),
    /// The README's commands in a fresh Debian 12 root with an empty cargo home; needs root
    Bare(bare::Options),
    /// The shop of examples/shop: started, under traffic, drilled, shown
    Demo(demo::Options),
    /// A cluster of machines on this one, from network namespaces, with real etcd, until Ctrl-C; needs root
    Lab(lab::Options),
    /// Measure against other programs on this machine
    Bench(bench::Options),
    /// Fetch etcd of later Debian releases into ~/.cache/holdfast/etcd, where tests find them
    Etcd,
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
            if !error.is::<steps::Shown>() {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let root = root()?;
    match task {
        Task::Test => lanes::test(&root),
        Task::Prove { only } => lanes::prove(&root, &only),
        Task::Soak { minutes } => lanes::soak(&root, minutes),
        Task::Sim { seeds, seed, town } => lanes::sim(&root, seeds, seed, town),
        Task::Gen(options) => references::run(&root, &options),
        Task::Bare(options) => bare::run(&root, &options),
        Task::Demo(options) => demo::run(&root, &options),
        Task::Lab(options) => lab::run(&root, &options),
        Task::Bench(options) => bench::run(&root, &options),
        Task::Etcd => etcd::fetch(),
        Task::Tidy => tidy::run(&root),
        Task::Load(options) => load::run(options),
        Task::Backend(options) => backend::run(options),
    }
}

/// The workspace root: two folders above this crate's manifest, as the cargo that runs this says. What it was built with may
/// be another checkout: they can share a target directory.
fn root() -> Result<PathBuf> {
    let crate_dir = std::env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
    let root = Path::new(&crate_dir).ancestors().nth(2).context("crates/xtask is not two folders deep")?;
    Ok(root.to_path_buf())
}
