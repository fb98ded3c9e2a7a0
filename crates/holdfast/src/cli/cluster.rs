//! `holdfast cluster …`: what a cluster is made of.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use holdfast_cluster::etcd::Etcd;

use super::simple::say;
use super::{Common, authority, print_json, print_text};
use crate::agent::member;
use crate::api::{Apply, Done};
use crate::failure::{Exit, Failure};
use crate::terminal::{Style, table, width};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make this machine, with all that it runs, the first of the cluster that the file names
    Migrate,
    /// The members of etcd, and how they are
    Members,
    /// Write everything that etcd keeps to a file
    Snapshot {
        /// Must not be there yet
        to: PathBuf,
    },
    #[command(flatten)]
    Authority(authority::Command),
}

impl Command {
    pub(super) fn is_remote(&self) -> bool {
        matches!(self, Command::Authority(command) if command.is_remote())
    }
}

pub(super) async fn run(common: &Common, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Migrate => migrate(common).await,
        Command::Members => members(common).await,
        Command::Snapshot { to } => snapshot(common, &to).await,
        Command::Authority(command) => authority::run(common, command).await,
    }
}

async fn migrate(common: &Common) -> Result<Exit, Failure> {
    let loaded = super::check::load(common)?;
    let path = match common.layout()?.node {
        Some(node) => format!("/v1/migrate?node={node}"),
        None => "/v1/migrate".into(),
    };
    let done: Done = common.client()?.post(&path, &Apply { path: loaded.path, text: loaded.text }).await?;
    say(common, &done)
}

/// Without an agent: whoever needs this may have none.
fn etcd(common: &Common) -> Result<(Etcd, Vec<String>), Failure> {
    let loaded = super::check::load(common)?;
    let cluster = loaded.config.cluster.ok_or_else(member::alone)?;
    let etcd = Etcd::new(member::options(&cluster)?).map_err(|e| failed("cannot use etcd as [cluster] says", &e))?;
    Ok((etcd, cluster.etcd))
}

fn failed(what: &str, error: &holdfast_cluster::Error) -> Failure {
    let failure = Failure::new(error.code(), what).because_of(error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure.hint("holdfast doctor"),
    }
}

async fn members(common: &Common) -> Result<Exit, Failure> {
    let (etcd, _) = etcd(common)?;
    let statuses = etcd.status().await;
    let names = etcd.members().await.unwrap_or_default();
    let style = Style::stdout();
    let head = ["ENDPOINT", "NAME", "STATE", "ROLE", "VERSION", "SIZE", "WHY"];
    let mut rows: Vec<Vec<String>> = vec![head.iter().map(|name| style.dim(name)).collect()];
    let mut json = Vec::new();
    for one in &statuses {
        let (id, state, role, version, size, why) = match &one.status {
            Ok(m) => {
                let role = if m.is_leader() { "leader" } else { "follower" };
                let size = holdfast_config::quantity::format_size(m.db_bytes >> 10 << 10);
                (m.member_id, style.green("ready"), role, m.version.clone(), size, m.errors.join("; "))
            }
            Err(reason) => (0, style.red("silent"), "", String::new(), String::new(), reason.clone()),
        };
        let name = names.iter().find(|m| m.id == id).map(|m| m.name.clone()).unwrap_or_default();
        json.push(serde_json::json!({
            "endpoint": one.endpoint, "name": name, "answers": one.status.is_ok(), "role": role, "version": version, "why": why,
        }));
        rows.push(vec![one.endpoint.clone(), name, state, role.into(), version, size, why]);
    }
    match common.json {
        true => print_json(&json)?,
        false => print_text(&table(&rows, width())),
    }
    let well = statuses.iter().filter(|s| s.status.is_ok()).count();
    Ok(match (well == statuses.len(), well * 2 > statuses.len()) {
        (true, _) => Exit::Ok,
        (false, true) => Exit::Degraded,
        _ => Exit::Unhealthy,
    })
}

async fn snapshot(common: &Common, to: &Path) -> Result<Exit, Failure> {
    let (etcd, endpoints) = etcd(common)?;
    if to.exists() {
        return Err(Failure::new("HF0329", format!("{} is there already", to.display()))
            .hint("choose another name; a snapshot is never written over")
            .exit(Exit::Refused));
    }
    let mut last = None;
    for endpoint in &endpoints {
        match etcd.snapshot(endpoint, to).await {
            Ok(bytes) => {
                let done = Done { message: format!("{bytes} bytes of {endpoint} written to {}", to.display()) };
                return say(common, &done);
            }
            Err(error) => last = Some(failed(&format!("{endpoint} gives no snapshot"), &error)),
        }
    }
    Err(last.unwrap_or_else(member::alone))
}
