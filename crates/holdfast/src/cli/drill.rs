//! `holdfast drill`: runs in this process, outside the agent, because it must outlive what it kills.

mod access;
mod inject;
mod remote;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use holdfast_drill::{Access, DrillError, Phase, Progress as Step, Runner, Setup, Spec, spec, table};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use self::inject::PlaneControl;
use self::remote::Remote;
use super::{Common, check, print_json, print_text};
use crate::failure::{Exit, Failure};
use crate::terminal::{Progress, Style};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// A drill of the file, or FAULT-SERVICE such as kill-web
    name: Option<String>,
    /// Every drill of the file; without any, each fault that applies
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// Say what would be hit and do nothing
    #[arg(long)]
    dry_run: bool,
    /// List what can be drilled
    #[arg(long, conflicts_with_all = ["name", "all"])]
    list: bool,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<Exit, Failure> {
    let config = check::load(common)?.config;
    if options.list || (options.name.is_none() && !options.all) {
        return list(common, options, &spec::names(&config));
    }
    let specs = match &options.name {
        Some(name) => vec![spec::named(&config, name).ok_or_else(|| unknown(name))?],
        None => spec::catalogue(&config),
    };
    let interrupted = watch_signals()?;
    let runner =
        Runner::new(setup(common, access::of(&config), interrupted.clone())?).on_node(config.node.name.clone());
    if options.dry_run {
        return forecast(common, &runner, &specs).await;
    }
    let reports = match specs.as_slice() {
        // A single one that is refused is an error with its reasons, not a line of a table.
        [spec] => holdfast_drill::Reports { drills: vec![runner.run(spec).await.map_err(|e| refused(&e))?] },
        specs => runner.run_all(specs).await.map_err(|e| refused(&e))?,
    };
    if common.json {
        print_json(&reports)?;
    } else {
        print_text(&table::render(&reports, Style::stdout().is_colored()));
    }
    if interrupted.load(Ordering::Relaxed) {
        return Ok(Exit::Interrupted);
    }
    Ok(match reports.exit_code() {
        0 => Exit::Ok,
        5 => Exit::Refused,
        _ => Exit::Failed,
    })
}

/// Hidden subcommand: undoes a drill whose runner died.
pub(super) fn guard(dir: &Path) -> Result<Exit, Failure> {
    holdfast_drill::guard::run(dir, &PlaneControl).map_err(|e| refused(&e))?;
    Ok(Exit::Ok)
}

/// Hidden subcommand: stands in for a worker's program in a drill.
pub(super) fn probe(file: &Path) -> Result<Exit, Failure> {
    let receives = std::env::var("HOLDFAST_RECEIVES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    holdfast_drill::stand_in::run(file, receives)
        .map_err(|e| Failure::new("HF0603", "this is no message of a drill").because(e))?;
    Ok(Exit::Ok)
}

fn setup(common: &Common, access: Access, interrupted: Arc<AtomicBool>) -> Result<Setup, Failure> {
    let exe =
        std::env::current_exe().map_err(|e| Failure::new("HF0604", "cannot find the running binary").because(e))?;
    let layout = common.layout()?;
    let progress = std::sync::Mutex::new(Progress::new(common.json));
    Ok(Setup {
        system: Arc::new(Remote::new(common.client()?)),
        inject: Arc::new(PlaneControl),
        dir: layout.drill_dir(),
        guard: vec![exe.into_os_string(), "__guard".into()],
        access,
        interrupted,
        progress: Box::new(move |step| {
            if let Ok(mut line) = progress.lock() {
                show(&mut line, step);
            }
        }),
    })
}

fn show(line: &mut Progress, step: &Step) {
    let phase = match step.phase {
        Phase::Looking => "looking whether all is well",
        Phase::Struck => "struck",
        Phase::Recovering => "recovering",
        Phase::Over => return line.clear(),
    };
    line.show(&format!(
        "{} on {}: {phase}, {:.0}s; {} requests, {} failed",
        step.drill,
        step.target,
        step.left.as_secs_f64().ceil(),
        step.counts.finished,
        step.counts.failed
    ));
}

/// Ctrl-C undoes the drill and ends; so does SIGTERM and a lost terminal.
fn watch_signals() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut stream = signal(kind).map_err(|e| Failure::new("HF0701", "cannot take signals").because(e))?;
        let flag = flag.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                flag.store(true, Ordering::Relaxed);
            }
        });
    }
    Ok(flag)
}

async fn forecast(common: &Common, runner: &Runner, specs: &[Spec]) -> Result<Exit, Failure> {
    let mut forecasts = Vec::new();
    for spec in specs {
        forecasts.push(runner.dry_run(spec).await.map_err(|e| refused(&e))?);
    }
    if common.json {
        print_json(&serde_json::json!({ "drills": forecasts }))?;
    } else {
        let texts: Vec<String> = forecasts.iter().map(table::render_forecast).collect();
        print_text(&texts.join("\n"));
    }
    Ok(Exit::Ok)
}

fn list(common: &Common, options: &Options, names: &[String]) -> Result<Exit, Failure> {
    if common.json {
        print_json(&serde_json::json!({ "names": names }))?;
    } else {
        let mut text = names.join("\n");
        text.push_str("\n\nholdfast drill NAME runs one, holdfast drill --all runs them all;\n");
        text.push_str("with --dry-run they say what they would do, and do nothing\n");
        print_text(&text);
    }
    Ok(if options.list { Exit::Ok } else { Exit::Usage })
}

fn unknown(name: &str) -> Failure {
    Failure::new("HF0603", format!("there is no drill `{name}`")).hint("holdfast drill --list").exit(Exit::Usage)
}

fn refused(error: &DrillError) -> Failure {
    let exit = match error.exit_code() {
        5 => Exit::Refused,
        130 => Exit::Interrupted,
        _ => Exit::Failed,
    };
    let failure = Failure::new(error.code(), error.to_string()).exit(exit);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
