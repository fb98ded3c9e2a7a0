//! `holdfast reboot --rolling -- COMMAND`: every machine once, one after the other, and not the next before all is well.

use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Args;
use holdfast_observe::status::Status;

use super::{Common, print_text};
use crate::api::{Rolling, RollingCurrent, RollingNext};
use crate::failure::{Exit, Failure};
use crate::terminal::Progress;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The command starts a reboot; it does not wait for its end.
const COMMAND_TIME: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// One machine after the other
    #[arg(long, required = true)]
    rolling: bool,
    /// Only these machines; all but this one when left out
    #[arg(long = "only", value_name = "NAME")]
    only: Vec<String>,
    /// What reboots a machine; `{node}` and `{address}` stand for its name and address
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<Exit, Failure> {
    let client = common.client()?;
    let status: Status = client.get("/v1/status").await?;
    let mut nodes: Vec<String> = match options.only.is_empty() {
        true => status.nodes.keys().cloned().collect(),
        false => options.only.clone(),
    };
    // The command that reboots the others must outlive them.
    let own = status.nodes.iter().find(|(_, node)| node.this).map(|(name, _)| name.clone()).unwrap_or_default();
    nodes.retain(|node| *node != own);
    let mut asked = Rolling { nodes, ..Rolling::default() };
    let mut began = Instant::now();
    let mut progress = Progress::new(common.json);
    loop {
        if let Some(current) = &mut asked.current {
            current.since_ms = holdfast_policy::time::millis(began.elapsed());
        }
        match client.post("/v1/rolling", &asked).await? {
            RollingNext::Reboot { node, address, boot } => {
                progress.clear();
                print_text(&format!("{node}: reboots\n"));
                reboot(&options.command, &node, &address).await?;
                began = Instant::now();
                asked.current = Some(RollingCurrent { node, since_ms: 0, boot });
            }
            RollingNext::Wait { why } => {
                progress.show(&why);
                tokio::time::sleep(LOOK_EVERY).await;
            }
            RollingNext::Completed { node } => {
                progress.clear();
                print_text(&format!("{node}: back and well after {} s\n", began.elapsed().as_secs()));
                asked.done.push(node);
                asked.current = None;
            }
            RollingNext::Stop { why } => {
                progress.clear();
                let mut failure = Failure::new("HF0336", "stopped: this is a doubt that a person must look at")
                    .hint("holdfast node list; then run the same command again")
                    .exit(Exit::Refused);
                for fact in why {
                    failure = failure.because(fact);
                }
                return Err(failure);
            }
            RollingNext::Done => {
                progress.clear();
                let rest = if options.only.is_empty() {
                    format!("; {own} is left, from another machine")
                } else {
                    String::new()
                };
                print_text(&format!("{} machines are done{rest}\n", asked.done.len()));
                return Ok(Exit::Ok);
            }
        }
    }
}

async fn reboot(command: &[String], node: &str, address: &str) -> Result<(), Failure> {
    let argv: Vec<String> =
        command.iter().map(|word| word.replace("{node}", node).replace("{address}", address)).collect();
    let failed = |why: String| {
        Failure::new("HF0337", format!("the command that reboots {node} failed")).because(why).exit(Exit::Failed)
    };
    let mut child = tokio::process::Command::new(&argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(format!("{}: {e}", argv[0])))?;
    match tokio::time::timeout(COMMAND_TIME, child.wait()).await {
        // A connection that breaks because the machine goes down is no failure of the reboot.
        Ok(Ok(status)) if status.success() || status.code() == Some(255) => Ok(()),
        Ok(Ok(status)) => Err(failed(status.to_string())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("it did not end within {} s", COMMAND_TIME.as_secs()))),
    }
}
