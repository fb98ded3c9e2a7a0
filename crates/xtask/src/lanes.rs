//! The lanes: `test` is what every change passes; `prove` is the same with full counts and benchmarks;
//! `soak` and `sim` go on for as long as they are told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::steps::Lane;
use crate::{bench, examples, install, licences, process, references, results, tidy};

/// A cold build of everything on two cores takes minutes; twice that is a hang.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// The tests take some 25 minutes on two cores, five of them the false alarms of one machine, and some more where the clients of queues
/// are fetched for the first time; much more is a hang.
const TEST_LIMIT: Duration = Duration::from_secs(45 * 60);

pub(crate) fn test(root: &Path) -> Result<()> {
    install::ensure(install::TESTS)?;
    let mut lane = Lane::new()?;
    checks(root, &mut lane);
    lane.run("build", cargo(root, &["test", "--workspace", "--no-run", "--locked"]), BUILD_LIMIT);
    lane.step("references", || references::fresh(root));
    lane.step("examples", || examples::check(root, &process::target_dir(root).join("debug/holdfast")));
    lane.tests("test", cargo(root, &["test", "--workspace", "--locked", "--no-fail-fast"]), TEST_LIMIT);
    lane.close()
}

/// Counts and durations as the promises state them instead of the shorter ones of the test lane.
const PROVE: &str = "HOLDFAST_PROVE";

/// Where seeds of simulations and properties begin, and how many there are.
const SEED: &str = "HOLDFAST_SEED";
const SEEDS: &str = "HOLDFAST_SEEDS";

/// Full counts take hours.
const PROVE_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// From the file for the result.
type MakeOptions = fn(PathBuf) -> bench::Options;

/// The benchmarks among the names that `prove` takes; all others are names of tests.
const BENCHES: [(&str, MakeOptions); 2] = [("balancer", bench::Options::balancer), ("tasks", bench::Options::tasks)];

/// Serial, full counts, on an otherwise idle machine; writes what it measured into `docs/benchmarks.md`. With `only`, the tests
/// whose names contain one of these, and their sections.
pub(crate) fn prove(root: &Path, only: &[String]) -> Result<()> {
    install::ensure(install::TESTS)?;
    let folder = process::target_dir(root).join("results");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut lane = Lane::new()?;
    if only.is_empty() {
        checks(root, &mut lane);
    }
    let is_bench = |name: &&String| BENCHES.iter().any(|(bench, _)| bench == name);
    let (benches, names): (Vec<_>, Vec<_>) = only.iter().partition(is_bench);
    if only.is_empty() || !names.is_empty() {
        let mut tests = cargo(root, &["test", "--workspace", "--locked", "--no-fail-fast", "--", "--test-threads=1"]);
        tests.args(names).env(PROVE, "1").env(results::FOLDER, &folder);
        lane.tests("test, full counts", tests, PROVE_LIMIT);
    }
    for (name, options) in BENCHES {
        if only.is_empty() || benches.iter().any(|bench| *bench == name) {
            let options = options(folder.join(format!("{name}.json")));
            lane.step(&format!("bench {name}"), || bench::measure(root, &options).map(|_| ()));
        }
    }
    lane.step("publish", || {
        let count = results::publish(root, &folder, &stamp(root))?;
        println!("{count} sections of docs/benchmarks.md written");
        Ok(())
    });
    lane.close()
}

/// Full counts again and again, each round with other seeds, until the time is over or something fails.
pub(crate) fn soak(root: &Path, minutes: u64) -> Result<()> {
    install::ensure(install::TESTS)?;
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    let mut round = 0;
    while Instant::now() < until {
        round += 1;
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        println!("\nround {round}, {SEED}={seed}");
        let mut lane = Lane::new()?;
        let mut tests = cargo(root, &["test", "--workspace", "--locked", "--", "--test-threads=1"]);
        tests.env(PROVE, "1").env(SEED, seed.to_string());
        lane.tests(&format!("round {round}"), tests, PROVE_LIMIT);
        lane.close().inspect_err(|_| println!("repeat it with HOLDFAST_PROVE=1 {SEED}={seed}"))?;
    }
    Ok(())
}

/// The simulator alone, over many seeds: of one machine, or of several.
pub(crate) fn sim(root: &Path, seeds: u64, seed: Option<u64>, town: bool) -> Result<()> {
    let mut tests = cargo(root, &["test", "--package", "holdfast-sim", "--locked", "--"]);
    tests.args(if town { &["town::"][..] } else { &["--skip", "town::"][..] });
    tests.env(SEEDS, seeds.to_string());
    if let Some(seed) = seed {
        tests.env(SEED, seed.to_string());
    }
    let mut lane = Lane::new()?;
    lane.tests(&format!("{seeds} seeds"), tests, PROVE_LIMIT);
    lane.close()
}

/// Which code was measured, and when.
fn stamp(root: &Path) -> String {
    let git = Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root).output();
    let commit = git.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    let date = date.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    format!("Measured {date} at commit {commit}.")
}

/// What needs no running program.
fn checks(root: &Path, lane: &mut Lane) {
    lane.step("tidy", || tidy::run(root));
    match component(root, "fmt") {
        true => lane.run("format", cargo(root, &["fmt", "--all", "--check"]), BUILD_LIMIT),
        false => lane.skip("format", "rustfmt is not installed (rustup component add rustfmt)"),
    }
    match component(root, "clippy") {
        true => lane.run(
            "clippy",
            cargo(root, &["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"]),
            BUILD_LIMIT,
        ),
        false => lane.skip("clippy", "clippy is not installed (rustup component add clippy)"),
    }
    let mut doc = cargo(root, &["doc", "--workspace", "--no-deps", "--locked", "--quiet", "--document-private-items"]);
    // Private items are documented too, so that links to them are right.
    doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    lane.run("docs", doc, BUILD_LIMIT);
    lane.step("licences", || licences::check(root));
    // Takes many minutes to build, so that only a machine that has it already runs it.
    if component(root, "deny") {
        lane.run("cargo deny", cargo(root, &["deny", "--locked", "check"]), BUILD_LIMIT);
    }
}

/// Whether a cargo subcommand answers; asking rustup first installs what the toolchain file allows.
fn component(root: &Path, name: &str) -> bool {
    let answers = || cargo(root, &[name, "--version"]).output().is_ok_and(|out| out.status.success());
    if answers() {
        return true;
    }
    let part = match name {
        "fmt" => "rustfmt",
        "clippy" => "clippy",
        _ => return false,
    };
    println!("installing the {part} component");
    let added = Command::new("rustup").args(["component", "add", part]).current_dir(root).status();
    added.is_ok_and(|status| status.success()) && answers()
}

pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root);
    // Set by the `cargo run` around us; they would make the inner cargo rebuild what it has.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}
