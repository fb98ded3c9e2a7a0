//! Measurements against other programs, with the conditions they were taken under.

mod balancer;
mod machine;
mod rivals;
mod spread;
mod tasks;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::Value;

#[derive(Args, Clone)]
pub(crate) struct Options {
    #[arg(value_enum)]
    name: Name,
    /// Rounds; each measures every program once
    #[arg(long, default_value_t = 5)]
    pub(crate) repetitions: usize,
    /// Length of one measurement
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Keep-alive connections of the load generator
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: u32,
    /// Write the result there too
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Measure an unoptimised build, to try the harness out
    #[arg(long)]
    pub(crate) dev: bool,
    #[command(flatten)]
    tasks: tasks::Choice,
}

impl Options {
    /// As the prove lane measures.
    pub(crate) fn balancer(json: PathBuf) -> Options {
        let tasks = tasks::Choice::default();
        Options {
            name: Name::Balancer,
            repetitions: 5,
            seconds: 10,
            connections: 64,
            json: Some(json),
            dev: false,
            tasks,
        }
    }

    /// As the prove lane measures; takes some 30 minutes.
    pub(crate) fn tasks(json: PathBuf) -> Options {
        let tasks = tasks::Choice::everything();
        Options { name: Name::Tasks, seconds: 5, tasks, ..Options::balancer(json) }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// holdfast, HAProxy and nginx in front of the same three backends
    Balancer,
    /// Queues of holdfast, RabbitMQ, pg-boss and graphile-worker, each confirming what is on the disk
    Tasks,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    measure(root, options).map(|_| ())
}

/// Measures, prints, writes the file if asked to, and hands the result on.
pub(crate) fn measure(root: &Path, options: &Options) -> Result<Value> {
    let result = match options.name {
        Name::Balancer => balancer::run(root, options)?,
        Name::Tasks => tasks::run(root, options)?,
    };
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&result)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(result)
}
