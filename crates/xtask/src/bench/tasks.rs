//! `bench tasks`: the queues of holdfast, RabbitMQ, and two job queues on PostgreSQL, each doing the same with the same
//! messages, in turn, each alone on the machine: the servers on the first half of the CPUs, the clients on the other.
//!
//! Every program confirms only what is on the disk. Beside them stands what the disk and SQLite allow without any of it.

mod amqp;
mod case;
mod cost;
mod holdfast;
mod limit;
mod peers;
mod postgres;
mod rabbitmq;
mod report;
mod server;
mod sqs;
mod waiting;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::case::{CASES, Case, Count, Run, Work};
use self::holdfast::Holdfast;
use self::peers::Peers;
use self::postgres::Postgres;
use self::rabbitmq::RabbitMq;
use self::report::Results;
use self::server::Folder;
use super::machine::Cores;
use super::{Options, machine, spread};
use crate::{install, lanes, process, steps};

/// Once for each start of a program: connections, compilers of bytecode, caches.
const WARM_UP: Duration = Duration::from_secs(2);
const WARM_UP_CASE: Case = Case { work: Work::Life, in_flight: 256 };

/// What `bench tasks` can be told beyond the options of every benchmark.
#[derive(Args, Clone, Default)]
pub(crate) struct Choice {
    /// tasks: only these programs
    #[arg(long, value_enum)]
    only: Vec<Name>,
    /// tasks: this program holdfast instead of the one that the checkout gives
    #[arg(long)]
    binary: Option<PathBuf>,
    /// tasks: also holdfast with 1,000,000 messages waiting
    #[arg(long)]
    pub(crate) waiting: bool,
    /// tasks: also the memory that 5,000,000 messages of 1 KiB take: 10 GB of disk, many minutes
    #[arg(long)]
    pub(crate) large: bool,
}

impl Choice {
    pub(crate) fn everything() -> Choice {
        Choice { waiting: true, large: true, ..Choice::default() }
    }

    fn has(&self, name: Name) -> bool {
        self.only.is_empty() || self.only.contains(&name)
    }

    fn needs_holdfast(&self) -> bool {
        self.has(Name::Holdfast) || self.waiting || self.large
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Name {
    Holdfast,
    #[value(name = "rabbitmq")]
    RabbitMq,
    PgBoss,
    PgBossBatches,
    GraphileWorker,
    GraphileWorkerBatches,
}

impl Name {
    const PEERS: [Name; 5] =
        [Name::RabbitMq, Name::PgBoss, Name::PgBossBatches, Name::GraphileWorker, Name::GraphileWorkerBatches];

    const ALL: [Name; 6] = [
        Name::Holdfast,
        Name::RabbitMq,
        Name::PgBoss,
        Name::PgBossBatches,
        Name::GraphileWorker,
        Name::GraphileWorkerBatches,
    ];

    fn text(self) -> &'static str {
        match self {
            Name::Holdfast => "holdfast",
            Name::RabbitMq => "RabbitMQ",
            Name::PgBoss => "pg-boss",
            Name::PgBossBatches => "pg-boss in batches of 10",
            Name::GraphileWorker => "graphile-worker",
            Name::GraphileWorkerBatches => "graphile-worker added by 10",
        }
    }

    fn start(self, place: &Place<'_>) -> Result<Box<dyn Program>> {
        const PG_BOSS: &str = "pg-boss.mjs";
        const GRAPHILE_WORKER: &str = "graphile-worker.mjs";
        Ok(match self {
            Name::Holdfast => Box::new(Holdfast::start(place)?),
            Name::RabbitMq => Box::new(RabbitMq::start(place)?),
            Name::PgBoss => Box::new(Postgres::start(place, PG_BOSS, false)?),
            Name::PgBossBatches => Box::new(Postgres::start(place, PG_BOSS, true)?),
            Name::GraphileWorker => Box::new(Postgres::start(place, GRAPHILE_WORKER, false)?),
            Name::GraphileWorkerBatches => Box::new(Postgres::start(place, GRAPHILE_WORKER, true)?),
        })
    }
}

/// A program under load. It ends, with its files, when the value does.
trait Program {
    /// Goes on for `length`, with nothing in the way that an earlier measurement left.
    fn drive(&mut self, case: Case, length: Duration, stop: &AtomicBool) -> Result<Count>;

    /// What works here, or names it, is the server.
    fn dir(&self) -> &Path;

    /// The process whose CPU time is the client's.
    fn client(&self) -> u32 {
        std::process::id()
    }
}

/// Where programs run, and what they are started from.
struct Place<'a> {
    base: &'a Path,
    cores: &'a Cores,
    binary: &'a PathBuf,
    peers: &'a Peers,
    stop: &'a AtomicBool,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<Value> {
    install::ensure(install::BENCH_TASKS)?;
    let stop = steps::on_interrupt()?;
    let (binary, limit) = build(root, options, &stop)?;
    let peers = peers::ensure(root, &stop)?;
    let base = Folder::create(&std::env::temp_dir(), &format!("holdfast-bench-tasks-{}", std::process::id()))?;
    let cores = Cores::split()?;
    let place = Place { base: base.path(), cores: &cores, binary: &binary, peers: &peers, stop: &stop };
    let conditions = conditions(&place)?;
    pin_to(&cores.load)?;
    let length = Duration::from_secs(options.seconds);
    let results = rounds(&place, options, &limit, length)?;
    results.print(std::thread::available_parallelism()?.get().saturating_sub(cores.proxy_count).max(1));
    let mut rows = results.rows();
    if options.tasks.waiting {
        rows.extend(waiting::many(&place, options.repetitions, length)?);
    }
    if options.tasks.large {
        rows.extend(waiting::large(&place, length)?);
    }
    rows.push(["conditions".into(), "-".into(), conditions.join("; ")]);
    println!(
        "(median, least and greatest of {} rounds of {} s; {})",
        options.repetitions,
        options.seconds,
        conditions.join("; ")
    );
    Ok(json!({
        "schema_version": 1,
        "bench": "tasks",
        "section": "tasks",
        "rounds": options.repetitions,
        "seconds": options.seconds,
        "optimised": !options.dev,
        "conditions": conditions,
        "cases": results.json(),
        "rows": rows,
    }))
}

/// holdfast, and the example that measures the limit.
fn build(root: &Path, options: &Options, stop: &AtomicBool) -> Result<(PathBuf, PathBuf)> {
    let (profile, flag): (&str, &[&str]) = if options.dev { ("debug", &[]) } else { ("release", &["--release"]) };
    let cargo = |what: &[&str]| {
        println!("building {} ({profile})", what[what.len() - 1]);
        let arguments = [&["build", "--locked", "--package"], what, flag].concat();
        process::run(lanes::cargo(root, &arguments), lanes::BUILD_LIMIT, stop)
    };
    if options.tasks.needs_holdfast() {
        if options.tasks.binary.is_none() {
            cargo(&["holdfast"])?;
        }
        cargo(&["holdfast-store", "--example", limit::EXAMPLE])?;
    }
    let out = process::target_dir(root).join(profile);
    let built = || out.join("holdfast");
    Ok((options.tasks.binary.clone().unwrap_or_else(built), out.join("examples").join(limit::EXAMPLE)))
}

/// Each program once a round, so that what the machine does meanwhile falls on all.
fn rounds(place: &Place<'_>, options: &Options, limit: &Path, length: Duration) -> Result<Results> {
    let mut results = Results::default();
    for round in 1..=options.repetitions {
        for name in Name::ALL.into_iter().filter(|name| options.tasks.has(*name)) {
            let mut program = name.start(place).with_context(|| format!("cannot start {}", name.text()))?;
            program.drive(WARM_UP_CASE, WARM_UP, place.stop).with_context(|| name.text())?;
            for case in CASES {
                let run = measure(program.as_mut(), case, length, place.stop)
                    .with_context(|| format!("{}: {}", name.text(), case.text()))?;
                println!("round {round}  {:<28} {:<30} {:>8.0} messages/s", name.text(), case.text(), run.rate);
                results.runs.entry((case, name)).or_default().push(run);
            }
        }
        if options.tasks.has(Name::Holdfast) {
            results.limits.push(limit::measure(place, limit, length)?);
        }
    }
    Ok(results)
}

fn measure(program: &mut dyn Program, case: Case, length: Duration, stop: &AtomicBool) -> Result<Run> {
    let dir = program.dir().to_owned();
    let before = (cost::cpu_in(&dir), cost::cpu_of(program.client()));
    let count = program.drive(case, length, stop)?;
    let after = (cost::cpu_in(&dir), cost::cpu_of(program.client()));
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    ensure!(count.messages > 0, "no message came through");
    Ok(Run::of(count, after.0.saturating_sub(before.0), after.1.saturating_sub(before.1)))
}

/// This process and the threads that it will have: they are the client of two programs.
fn pin_to(cores: &str) -> Result<()> {
    let mut command = Command::new("taskset");
    let status =
        command.args(["-cp", cores, &std::process::id().to_string()]).stdout(std::process::Stdio::null()).status();
    ensure!(status.context("cannot run taskset")?.success(), "cannot move this process to the CPUs {cores}");
    Ok(())
}

/// Where syncing costs nothing there is nothing to measure.
fn conditions(place: &Place<'_>) -> Result<Vec<String>> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default().trim().to_owned();
    let out = Command::new("stat").args(["-f", "-c", "%T"]).arg(place.base).output().context("cannot run stat")?;
    let file_system = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    ensure!(
        file_system != "tmpfs" && file_system != "ramfs",
        "{} is in memory; set TMPDIR to a directory on a disk",
        place.base.display()
    );
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let load = read("/proc/loadavg");
    let versions = [
        package("rabbitmq-server"),
        first_line(Command::new(postgres::binaries()?.join("postgres")).arg("--version")),
        peers::version(place.peers, "pg-boss"),
        peers::version(place.peers, "graphile-worker"),
        format!("node {}", first_line(Command::new(&place.peers.node).arg("--version"))),
    ];
    Ok(vec![
        model.trim_start_matches(['\t', ' ', ':']).to_owned(),
        format!(
            "{} CPUs: servers on {}, clients on {}",
            std::thread::available_parallelism()?,
            place.cores.proxies,
            place.cores.load
        ),
        format!("kernel {}", read("/proc/sys/kernel/osrelease")),
        format!("files on {file_system}"),
        format!("load average before {}", load.split(' ').next().unwrap_or_default()),
        versions.join(", "),
    ])
}

/// RabbitMQ has no command that says its version without starting a node.
fn package(name: &str) -> String {
    first_line(Command::new("dpkg-query").args(["-W", "-f", "${Package} ${Version}", name]))
}

fn first_line(command: &mut Command) -> String {
    let text = command.output().map(|out| out.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
}
