//! `holdfast worker …`: what workers are at, and how their attempts ended.

use std::time::Duration;

use clap::Subcommand;
use holdfast_tasks::control::{AttemptInfo, WorkerInfo};

use super::{Common, print_json, print_text};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::terminal::{Style, human, table, width};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Every worker: its queue, what it works on, what waits
    List,
    /// How the latest attempts of a worker ended
    Attempts {
        worker: String,
        /// So many
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: u32,
        /// With the end of what each printed
        #[arg(long)]
        output: bool,
    },
}

pub(super) async fn run(common: &Common, command: Command) -> Result<Exit, Failure> {
    let client = common.client()?;
    match command {
        Command::List => list(common, &client).await,
        Command::Attempts { worker, limit, output } => attempts(common, &client, &worker, limit, output).await,
    }
}

async fn list(common: &Common, client: &Client) -> Result<Exit, Failure> {
    let workers: Vec<WorkerInfo> = client.get("/v1/tasks/workers").await?;
    if common.json {
        print_json(&workers)?;
        return Ok(Exit::Ok);
    }
    if workers.is_empty() {
        print_text("no workers: write [worker.NAME] into the file\n");
        return Ok(Exit::Ok);
    }
    let style = Style::stdout();
    let names = ["WORKER", "QUEUE", "AT WORK", "AT MOST", "WAITING"];
    let mut rows = vec![names.iter().map(|n| style.dim(n)).collect::<Vec<_>>()];
    for w in workers {
        rows.push(vec![w.name, w.queue, w.at_work.to_string(), w.max.to_string(), w.visible.to_string()]);
    }
    print_text(&table(&rows, width()));
    Ok(Exit::Ok)
}

async fn attempts(common: &Common, client: &Client, worker: &str, limit: u32, output: bool) -> Result<Exit, Failure> {
    let attempts: Vec<AttemptInfo> = client.get(&format!("/v1/tasks/workers/{worker}/attempts?many={limit}")).await?;
    if common.json {
        print_json(&attempts)?;
        return Ok(Exit::Ok);
    }
    if attempts.is_empty() {
        print_text(&format!("no attempt of {worker} has ended yet\n"));
        return Ok(Exit::Ok);
    }
    let style = Style::stdout();
    if output {
        print_text(&attempts.iter().map(|a| told(a, style)).collect::<String>());
        return Ok(Exit::Ok);
    }
    let names = ["ENDED", "TOOK", "MESSAGE", "TRY", "OUTCOME", "WHY"];
    let mut rows = vec![names.iter().map(|n| style.dim(n)).collect::<Vec<_>>()];
    for a in &attempts {
        let why = a.output.lines().next().unwrap_or_default().to_owned();
        rows.push(vec![
            ago(a),
            human(Duration::from_millis(a.took_ms)),
            a.message.clone(),
            a.receive.to_string(),
            colored(&a.outcome, style),
            why,
        ]);
    }
    print_text(&table(&rows, width()));
    Ok(Exit::Ok)
}

fn ago(a: &AttemptInfo) -> String {
    let age = holdfast_host::clock::wall_ms().saturating_sub(a.ended_wall_ms);
    format!("{} ago", human(Duration::from_millis(age)))
}

fn colored(outcome: &str, style: Style) -> String {
    match outcome {
        "done" => style.green(outcome),
        "retry" | "too late" => style.yellow(outcome),
        other => style.red(other),
    }
}

fn told(a: &AttemptInfo, style: Style) -> String {
    let head =
        format!("{} try {} of {}: {}, {}", style.bold("●"), a.receive, a.message, colored(&a.outcome, style), ago(a));
    let lines: Vec<String> = a.output.lines().map(|line| format!("  {line}")).collect();
    format!("{head}\n{}\n", lines.join("\n"))
}
