//! `holdfast down`: stops everything in order and waits until nothing is left.

use std::time::{Duration, Instant};

use clap::Args;
use holdfast_host::seqpacket::Connection;

use super::up::{Waited, ensure_agent};
use super::{Common, print_json, print_text};
use crate::api::Done;
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::layout::{AGENT, Layout};
use crate::terminal::Progress;

/// Stops may take drain + grace for each layer of dependencies.
const STOP_TIME: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Give up waiting after this long (what was begun goes on)
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<Exit, Failure> {
    let limit = options.timeout.as_deref().map(super::duration).transpose()?.unwrap_or(STOP_TIME);
    let layout = common.layout()?;
    if nothing_runs(&layout) {
        return say(common, "nothing runs");
    }
    stop(&layout, limit, common.json).await?;
    say(common, "everything stopped")
}

fn say(common: &Common, message: &str) -> Result<Exit, Failure> {
    if common.json {
        print_json(&Done { message: message.into() })?;
    } else {
        print_text(&format!("{message}\n"));
    }
    Ok(Exit::Ok)
}

/// Asks the agent (started for it when it is dead) to stop all, and waits for the last shim to go.
pub(super) async fn stop(layout: &Layout, limit: Duration, quiet: bool) -> Result<(), Failure> {
    let client = Client::new(layout);
    if !client.alive().await {
        ensure_agent(layout).await?;
    }
    let _: Done = client.post("/v1/down", &()).await?;
    let mut progress = Progress::new(quiet);
    let began = Instant::now();
    loop {
        let left = living(layout);
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() > limit {
            return Err(Failure::new(
                "HF0308",
                format!("still running after {}s: {}", limit.as_secs(), left.join(", ")),
            )
            .hint("holdfast status; what was begun goes on")
            .exit(Exit::Degraded));
        }
        progress.show(&format!("stopping {}: {}", left.len(), left.join(", ")));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) fn nothing_runs(layout: &Layout) -> bool {
    living(layout).is_empty()
}

/// Instances whose shim answers on its socket, the agent's last. (Trying their locks could make a starting shim give up.)
fn living(layout: &Layout) -> Waited {
    let mut names: Vec<String> = std::fs::read_dir(layout.data_dir.join("run"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| Connection::connect(&entry.path().join("ctl.sock")).is_ok())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_by_key(|name| (name == AGENT, name.clone()));
    names
}
