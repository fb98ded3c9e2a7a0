//! `holdfast run` and `holdfast runs …`: workflows begun, watched, and helped on.

mod gantt;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use holdfast_tasks::control::flow::{
    By, Operate, Retry, RunDetail, RunInfo, Schedules, Signal, StepInfo, Submit, SubmitDone, TryInfo,
};

use super::{Common, print_json, print_text};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::terminal::{Style, human, table, width};

/// Between two looks at a run that is waited for.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct RunOptions {
    workflow: String,
    /// A parameter, for example day=2026-11-26
    #[arg(short, long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// Begun once for each key, however often this is run
    #[arg(long = "idempotency-key", value_name = "KEY")]
    idempotency: Option<String>,
    /// Return when the run is over, with an error unless it succeeded
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The latest runs
    List {
        /// Of one workflow
        workflow: Option<String>,
        /// Only those that are, for example, running, failed or stuck
        #[arg(long)]
        status: Option<String>,
        /// So many
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: u32,
    },
    /// Steps of a run, their attempts, and when they ran
    Show {
        run: String,
        /// Write the times of the steps as a picture
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// What a step printed
    Logs {
        run: String,
        step: String,
        /// Place in a fan-out, from 0
        #[arg(long)]
        item: Option<u32>,
        /// Number of the attempt; the latest when left out
        #[arg(long)]
        attempt: Option<u32>,
        /// Of the undo
        #[arg(long)]
        undo: bool,
    },
    /// End a run; a saga is rolled back
    Cancel { run: String },
    /// Begin no step of a run until it is resumed
    Pause { run: String },
    /// End a pause
    Resume { run: String },
    /// Run again what failed, in a run that is over; or try a step of one that is not at once
    Retry {
        run: String,
        /// Of a run that is not over: this step, which waits for its next try
        #[arg(long, conflicts_with_all = ["from", "params"])]
        step: Option<String>,
        /// Its place in a fan-out, from 0
        #[arg(long, default_value_t = 0, requires = "step")]
        item: u32,
        /// From this step on, even when it succeeded
        #[arg(long, value_name = "STEP")]
        from: Vec<String>,
        /// Other parameters; all of them
        #[arg(short, long = "param", value_name = "NAME=VALUE")]
        params: Vec<String>,
    },
    /// Give a run the signal that a step waits for
    Signal {
        run: String,
        signal: String,
        /// JSON, or a text; output of the step that waits
        #[arg(long)]
        data: Option<String>,
        /// The same id again is the same signal
        #[arg(long)]
        id: Option<String>,
    },
    /// Go on without a step that does not succeed
    Skip(StepOptions),
    /// A step is known to have happened
    Done {
        #[command(flatten)]
        step: StepOptions,
        /// Its output: JSON, or a text
        #[arg(long)]
        output: Option<String>,
    },
    /// A step is known not to have happened, and not to
    Fail(StepOptions),
    /// When workflows are due
    Schedules {
        #[command(subcommand)]
        command: Option<ScheduleCommand>,
    },
}

#[derive(Debug, Args)]
pub(super) struct StepOptions {
    run: String,
    step: String,
    /// Place in a fan-out, from 0
    #[arg(long, default_value_t = 0)]
    item: u32,
    /// Why; kept with the run
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum ScheduleCommand {
    /// The clock is right as it is: go on after it was set
    Resume,
}

pub(super) async fn begin(common: &Common, options: RunOptions) -> Result<Exit, Failure> {
    let client = common.client()?;
    let submit =
        Submit { workflow: options.workflow, parameters: parameters(&options.params)?, key: options.idempotency };
    let done: SubmitDone = client.post("/v1/tasks/runs", &submit).await?;
    if options.wait {
        return wait(common, &client, &done.run).await;
    }
    let text = if done.duplicate { "was begun before" } else { "is begun" };
    said(common, &done, &format!("{} {text}: holdfast runs show {}\n", done.run, done.run))
}

fn parameters(given: &[String]) -> Result<BTreeMap<String, serde_json::Value>, Failure> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Failure::new("HF0827", format!("`{text}` is not NAME=VALUE"))
                .hint("for example -p day=2026-11-26")
                .exit(Exit::Usage)
        })?;
        Ok((name.to_owned(), serde_json::Value::String(value.to_owned())))
    };
    given.iter().map(pair).collect()
}

async fn wait(common: &Common, client: &Client, run: &str) -> Result<Exit, Failure> {
    let mut pause = LOOK_FIRST;
    let detail = loop {
        let detail: RunDetail = client.get(&path(run, "")).await?;
        if detail.run.over {
            break detail;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LOOK_MAX);
    };
    said(common, &detail, &told(&detail, Style::stdout()))?;
    Ok(if detail.run.status == "succeeded" { Exit::Ok } else { Exit::Failed })
}

pub(super) async fn run(common: &Common, command: Command) -> Result<Exit, Failure> {
    let client = common.client()?;
    match command {
        Command::List { workflow, status, limit } => list(common, &client, workflow, status, limit).await,
        Command::Show { run, svg } => show(common, &client, &run, svg).await,
        Command::Logs { run, step, item, attempt, undo } => {
            logs(common, &client, &run, &step, (item, attempt, undo)).await
        }
        Command::Cancel { run } => tell(common, &client, &run, "cancel", "is told to end").await,
        Command::Pause { run } => tell(common, &client, &run, "pause", "begins no more steps").await,
        Command::Resume { run } => tell(common, &client, &run, "resume", "goes on").await,
        Command::Retry { run, step: Some(step), item, .. } => {
            operate(common, &client, StepOptions { run, step, item, reason: String::new() }, "retry", None).await
        }
        Command::Retry { run, from, params, .. } => {
            let parameters = if params.is_empty() { None } else { Some(parameters(&params)?) };
            let () = client.post(&path(&run, "/retry"), &Retry { from, parameters, by: by() }).await?;
            said(common, &(), &format!("{run} runs again\n"))
        }
        Command::Signal { run, signal, data, id } => {
            let data = data.map(|text| json(&text)).unwrap_or_default();
            let id = id.unwrap_or_else(fresh_id);
            let () = client.post(&path(&run, "/signal"), &Signal { name: signal.clone(), data, id }).await?;
            said(common, &(), &format!("{run} has the signal {signal}\n"))
        }
        Command::Skip(step) => operate(common, &client, step, "skip", None).await,
        Command::Done { step, output } => operate(common, &client, step, "done", output).await,
        Command::Fail(step) => operate(common, &client, step, "failed", None).await,
        Command::Schedules { command: None } => schedules(common, &client).await,
        Command::Schedules { command: Some(ScheduleCommand::Resume) } => {
            let () = client.post("/v1/tasks/schedules/resume", &()).await?;
            said(common, &(), "schedules go on\n")
        }
    }
}

fn path(run: &str, rest: &str) -> String {
    format!("/v1/tasks/runs/{run}{rest}")
}

/// Whose word it was, for the audit.
fn by() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_else(|| "somebody".into())
}

/// A signal that is given twice by hand is two signals.
fn fresh_id() -> String {
    format!("{}-{}", holdfast_host::clock::wall_ms(), std::process::id())
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.to_owned()))
}

fn said(common: &Common, value: &impl serde::Serialize, text: &str) -> Result<Exit, Failure> {
    match common.json {
        true => print_json(value)?,
        false => print_text(text),
    }
    Ok(Exit::Ok)
}

async fn tell(common: &Common, client: &Client, run: &str, verb: &str, text: &str) -> Result<Exit, Failure> {
    let () = client.post(&path(run, &format!("/{verb}")), &By { by: by() }).await?;
    said(common, &(), &format!("{run} {text}\n"))
}

async fn operate(
    common: &Common,
    client: &Client,
    options: StepOptions,
    verb: &str,
    output: Option<String>,
) -> Result<Exit, Failure> {
    let StepOptions { run, step, item, reason } = options;
    let output = output.map(|text| json(&text)).unwrap_or_default();
    let wish = Operate { step: step.clone(), item, verb: verb.to_owned(), output, reason, by: by() };
    let () = client.post(&path(&run, "/operate"), &wish).await?;
    said(common, &(), &format!("{run}: {verb} {step}\n"))
}

async fn list(
    common: &Common,
    client: &Client,
    workflow: Option<String>,
    status: Option<String>,
    limit: u32,
) -> Result<Exit, Failure> {
    let mut query = format!("/v1/tasks/runs?many={limit}");
    query.extend(workflow.map(|workflow| format!("&workflow={workflow}")));
    query.extend(status.map(|status| format!("&status={status}")));
    let runs: Vec<RunInfo> = client.get(&query).await?;
    if common.json {
        print_json(&runs)?;
        return Ok(Exit::Ok);
    }
    if runs.is_empty() {
        print_text("no runs: write [workflow.NAME] into the file, then holdfast run NAME\n");
        return Ok(Exit::Ok);
    }
    let style = Style::stdout();
    let names = ["RUN", "STATUS", "BEGAN", "TOOK", "WHY"];
    let mut rows = vec![names.iter().map(|n| style.dim(n)).collect::<Vec<_>>()];
    let now = holdfast_host::clock::wall_ms();
    for run in runs {
        let took = run.ended_wall_ms.unwrap_or(now).saturating_sub(run.created_wall_ms);
        rows.push(vec![
            run.id,
            colored(&run.status, style),
            format!("{} ago", human(Duration::from_millis(now.saturating_sub(run.created_wall_ms)))),
            human(Duration::from_millis(took)),
            run.error.unwrap_or_default().lines().next().unwrap_or_default().to_owned(),
        ]);
    }
    print_text(&table(&rows, width()));
    Ok(Exit::Ok)
}

async fn show(common: &Common, client: &Client, run: &str, svg: Option<PathBuf>) -> Result<Exit, Failure> {
    let detail: RunDetail = client.get(&path(run, "")).await?;
    if let Some(file) = svg {
        std::fs::write(&file, gantt::svg(&detail))
            .map_err(|e| Failure::new("HF0827", format!("cannot write {}", file.display())).because(e))?;
        return said(common, &detail, &format!("{} is written\n", file.display()));
    }
    said(common, &detail, &told(&detail, Style::stdout()))
}

fn told(detail: &RunDetail, style: Style) -> String {
    let run = &detail.run;
    let took = run.ended_wall_ms.unwrap_or(detail.now_wall_ms).saturating_sub(run.created_wall_ms);
    let kind = if detail.saga { "saga" } else { "workflow" };
    let mut text = format!(
        "{} {}  {}  {kind} {}, {}\n",
        style.bold("●"),
        style.bold(&run.id),
        colored(&run.status, style),
        run.workflow,
        human(Duration::from_millis(took))
    );
    for (name, value) in &detail.parameters {
        text.push_str(&format!("  {} {value}\n", style.dim(&format!("{name} ="))));
    }
    for (name, what) in [("nominal", &run.nominal), ("begun by", &run.parent), ("because", &run.error)] {
        if let Some(what) = what {
            text.push_str(&format!("  {} {what}\n", style.dim(name)));
        }
    }
    let names = ["STEP", "STATUS", "TRIES", "TOOK", "WHY"];
    let mut rows = vec![names.iter().map(|n| style.dim(n)).collect::<Vec<_>>()];
    rows.extend(detail.steps.iter().map(|step| row(detail, step, style)));
    text.push('\n');
    text.push_str(&table(&rows, width()));
    text.push('\n');
    text.push_str(&gantt::bars(detail, width().min(gantt::WIDTH_MAX)));
    text
}

fn row(detail: &RunDetail, step: &StepInfo, style: Style) -> Vec<String> {
    let mine = || detail.attempts.iter().filter(|tried| tried.step == step.name);
    let began = mine().map(|tried| tried.began_wall_ms).min();
    let ended = mine().map(|tried| tried.ended_wall_ms.unwrap_or(detail.now_wall_ms)).max();
    let took = began.zip(ended).map(|(from, to)| human(Duration::from_millis(to.saturating_sub(from))));
    let mut why = step.error.clone().unwrap_or_default().lines().next().unwrap_or_default().to_owned();
    if let Some((all, done, failed)) = step.items {
        why = format!("{done} of {all} done, {failed} failed  {why}");
    }
    if let Some(at) = step.retry_wall_ms {
        let left = human(Duration::from_millis(at.saturating_sub(detail.now_wall_ms)));
        why = format!("next try in {left}  {why}");
    }
    vec![step.name.clone(), colored(&step.status, style), step.attempts.to_string(), took.unwrap_or_default(), why]
}

fn colored(status: &str, style: Style) -> String {
    match status {
        "succeeded" | "done" => style.green(status),
        "running" | "undoing" | "rolling-back" => style.cyan(status),
        "failed" | "stuck" => style.red(status),
        "waiting" | "queued" | "skipped" => style.dim(status),
        other => style.yellow(other),
    }
}

async fn logs(
    common: &Common,
    client: &Client,
    run: &str,
    step: &str,
    (item, attempt, undo): (Option<u32>, Option<u32>, bool),
) -> Result<Exit, Failure> {
    let operation = if undo { "undo" } else { "do" };
    let mut query = path(run, &format!("/log?step={step}&operation={operation}"));
    query.extend(item.map(|n| format!("&item={n}")));
    query.extend(attempt.map(|n| format!("&attempt={n}")));
    let tried: TryInfo = client.get(&query).await?;
    let mut text = tried.output.clone().unwrap_or_default();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    said(common, &tried, &text)
}

async fn schedules(common: &Common, client: &Client) -> Result<Exit, Failure> {
    let all: Schedules = client.get("/v1/tasks/schedules").await?;
    let style = Style::stdout();
    let mut text = String::new();
    if let Some(off) = all.clock_off_s {
        let word = style.red("the clock was set");
        text = format!("{word} by {off} s: nothing begins until `holdfast runs schedules resume`\n\n");
    }
    let names = ["WORKFLOW", "SCHEDULE", "ZONE", "LATEST", "NEXT"];
    let mut rows = vec![names.iter().map(|n| style.dim(n)).collect::<Vec<_>>()];
    for s in &all.schedules {
        let (latest, next) = (s.watermark.clone().unwrap_or_default(), s.next.clone().unwrap_or_default());
        rows.push(vec![s.workflow.clone(), s.patterns.join("; "), s.timezone.clone(), latest, next]);
    }
    match all.schedules.is_empty() {
        true => text.push_str("no workflow has a schedule\n"),
        false => text.push_str(&table(&rows, width())),
    }
    said(common, &all, &text)
}
