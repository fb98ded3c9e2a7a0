//! `holdfast node …` and `holdfast can-lose`: the machines of a cluster.

use clap::Subcommand;
use holdfast_observe::status::{Node, Status};

use super::simple::{own_name, say};
use super::{Common, print_json, print_text};
use crate::api::{CanLose, Done, NodeChange, NodeWish};
use crate::failure::{Exit, Failure};
use crate::terminal::{Style, table, width};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Machines of the cluster, and how they are
    List,
    /// Give it nothing new
    Cordon {
        name: String,
        /// Why; shown in the list
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Take a cordon or a drain back
    Uncordon { name: String },
    /// Move what it runs to others, one by one, and give it nothing new
    Drain {
        name: String,
        /// Why; shown in the list
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Drain it and forget it; one that is lost is forgotten at once
    Remove { name: String },
}

pub(super) async fn run(common: &Common, command: Command) -> Result<Exit, Failure> {
    let (name, wish, reason) = match command {
        Command::List => return list(common).await,
        Command::Cordon { name, reason } => (name, NodeWish::Cordon, reason),
        Command::Uncordon { name } => (name, NodeWish::Uncordon, String::new()),
        Command::Drain { name, reason } => (name, NodeWish::Drain, reason),
        Command::Remove { name } => (name, NodeWish::Remove, String::new()),
    };
    let change = NodeChange { name, wish, reason, who: own_name() };
    let done: Done = common.client()?.post("/v1/node", &change).await?;
    say(common, &done)
}

async fn list(common: &Common) -> Result<Exit, Failure> {
    let status: Status = common.client()?.get("/v1/status").await?;
    if common.json {
        print_json(&status.nodes)?;
    } else if status.nodes.is_empty() {
        print_text("this machine is alone: the file has no [cluster]\n");
    } else {
        print_text(&render(&status, Style::stdout(), width()));
    }
    Ok(if status.nodes.values().all(|n| n.state == "ready") { Exit::Ok } else { Exit::Degraded })
}

fn render(status: &Status, style: Style, width: usize) -> String {
    let names = ["NODE", "STATE", "ROLE", "ADDRESS", "READY", "FILE", "VERSION", "WHY"];
    let mut rows: Vec<Vec<String>> = vec![names.iter().map(|name| style.dim(name)).collect()];
    rows.extend(status.nodes.iter().map(|(name, node)| row(name, node, style)));
    table(&rows, width)
}

fn row(name: &str, node: &Node, style: Style) -> Vec<String> {
    let state = match node.state.as_str() {
        "ready" => style.green("ready"),
        "lost" => style.red("lost"),
        other => style.yellow(other),
    };
    let role = match (node.leader, node.admin.as_str()) {
        (true, "") => "leader".to_owned(),
        (true, admin) => format!("leader, {admin}"),
        (false, admin) => admin.to_owned(),
    };
    vec![
        if node.this { format!("{name} *") } else { name.to_owned() },
        state,
        role,
        node.address.clone(),
        format!("{} of {}", node.ready, node.assigned),
        node.revision.to_string(),
        node.program.clone(),
        node.reason.clone().unwrap_or_default(),
    ]
}

/// 0 yes, 5 no.
pub(super) async fn can_lose(common: &Common, what: &str) -> Result<Exit, Failure> {
    let answer: CanLose = common.client()?.get(&format!("/v1/can-lose/{what}")).await?;
    if common.json {
        print_json(&answer)?;
    } else if answer.blockers.is_empty() {
        print_text(&format!("yes: everything stays up without {what}\n"));
    } else {
        let all: Vec<String> = answer.blockers.iter().map(|blocker| format!("no: {blocker}\n")).collect();
        print_text(&all.concat());
    }
    Ok(if answer.blockers.is_empty() { Exit::Ok } else { Exit::Refused })
}
