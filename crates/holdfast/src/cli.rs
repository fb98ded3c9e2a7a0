//! The command line: what each command is called, and which function runs it.

mod apply;
mod authority;
mod check;
mod cluster;
mod doctor;
mod down;
mod drill;
mod explain;
mod incidents;
mod key;
mod logs;
mod node;
mod queue;
mod reboot;
mod runs;
mod simple;
mod status;
mod up;
mod volume;
mod why;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::drill::PlaneControl;
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::layout::Layout;
use crate::terminal::{Style, width_of_stderr};

const DEFAULT_FILE: &str = "holdfast.toml";

#[derive(Debug, Parser)]
#[command(name = "holdfast", version, about = "Keeps services up, and proves it.", max_term_width = 100)]
#[command(after_help = "Examples:\n  holdfast check              is the file right, and what can fail?\n  \
    holdfast up -d              start everything, return when it is ready\n  holdfast status             what is worst comes first\n  \
    holdfast why web-2          why is it in this state?\n  holdfast drill --all        break things on purpose, measure what it cost")]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// The configuration file
    #[arg(short, long, global = true, value_name = "FILE", default_value = DEFAULT_FILE)]
    file: PathBuf,
    /// Where state, sockets and logs live [default: .holdfast beside the file]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// This machine's name in a cluster [default: the host name]
    #[arg(long, global = true, value_name = "NAME", env = "HOLDFAST_NODE")]
    node: Option<String>,
    /// Ask the agent of another machine, for example https://10.0.0.1:7400
    #[arg(long, global = true, value_name = "URL")]
    remote: Option<String>,
    /// File with the key for --remote [default: the variable HOLDFAST_KEY]
    #[arg(long, global = true, value_name = "FILE", env = "HOLDFAST_KEY_FILE")]
    key: Option<PathBuf>,
    /// Machine-readable output on stdout
    #[arg(long, global = true)]
    json: bool,
    /// Do not ask; severe commands then need their own flag
    #[arg(long, global = true)]
    no_input: bool,
}

impl Common {
    fn with_file(&self, file: Option<&PathBuf>) -> Common {
        Common { file: file.unwrap_or(&self.file).clone(), ..self.clone() }
    }

    pub(crate) fn layout(&self) -> Result<Layout, Failure> {
        let data_dir = match &self.data_dir {
            Some(dir) => dir.clone(),
            None => self.file.parent().unwrap_or(Path::new("")).join(".holdfast"),
        };
        let data_dir = std::path::absolute(&data_dir)
            .map_err(|e| crate::layout::unusable(format!("cannot find {}", data_dir.display()), e))?;
        let file = std::path::absolute(&self.file).unwrap_or_else(|_| self.file.clone());
        Ok(Layout { data_dir, node: self.node.clone(), file })
    }

    pub(crate) fn client(&self) -> Result<Client, Failure> {
        match &self.remote {
            Some(url) => Client::remote(url, self.key.as_deref()),
            None => Ok(Client::new(&self.layout()?)),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read the file and report every error, warning and single point of failure
    Check {
        /// Treat warnings as errors
        #[arg(long)]
        strict: bool,
    },
    /// Show what applying the file would change (exit code 2 when something would)
    Plan,
    /// Start everything, or apply the file to what runs
    Up(up::Options),
    /// Stop everything in order
    Down(down::Options),
    /// What runs, worst first
    Status {
        /// Show it again every second
        #[arg(short, long)]
        watch: bool,
    },
    /// Why an instance, service or balancer is in its state
    Why {
        /// For example web-2
        name: String,
    },
    /// Output of instances
    Logs(logs::Options),
    /// Restart a service, one instance after the other, or a single instance
    Restart {
        /// For example web or web-2
        target: String,
    },
    /// Change the number of replicas until the file says otherwise
    Scale {
        /// For example web=5
        #[arg(value_name = "SERVICE=REPLICAS")]
        what: String,
    },
    /// Make another member of a redundant service the active one, in order
    Switchover {
        service: String,
        /// For example db-2; any that can take over when left out
        #[arg(long, value_name = "MEMBER")]
        to: Option<String>,
    },
    /// Make a member active when nobody is, or whatever the age of its data
    Promote {
        service: String,
        /// For example db-2
        member: Option<String>,
        /// Even when its data is older than max_staleness: what is missing is lost
        #[arg(long)]
        force: bool,
    },
    /// Give a redundant service back to its first member
    Failback { service: String },
    /// Detect and journal, but do nothing
    Pause {
        /// A service; everything when left out
        name: Option<String>,
        /// How long, for example 1h
        #[arg(long = "for", value_name = "DURATION")]
        duration: String,
        /// Why; shown in status
        #[arg(long)]
        reason: String,
    },
    /// End a pause
    Resume { name: Option<String> },
    /// The cluster itself: migrate a single machine into one, its authority, join tokens, certificates
    Cluster {
        #[command(subcommand)]
        command: cluster::Command,
    },
    /// Reboot machines one after the other, and stop at the first doubt
    Reboot(reboot::Options),
    /// Machines of a cluster: list, cordon, drain, remove
    Node {
        #[command(subcommand)]
        command: node::Command,
    },
    /// Keys for who asks from elsewhere, with roles
    Key {
        #[command(subcommand)]
        command: key::Command,
    },
    /// Whether everything stays up without a machine, or without all that share a label
    CanLose {
        /// For example n3, or rack=r1
        what: String,
    },
    /// Queues: what waits, what failed, and what to do about it
    Queue {
        #[command(subcommand)]
        command: queue::Command,
    },
    /// Workers: what they are at, and how their attempts ended
    Worker {
        #[command(subcommand)]
        command: worker::Command,
    },
    /// Run a workflow
    Run(runs::RunOptions),
    /// Runs of workflows and sagas: what they did, and what to do about it
    Runs {
        #[command(subcommand)]
        command: runs::Command,
    },
    /// What happened and how long recovery took
    Incidents(incidents::Options),
    /// Inject faults on purpose and measure detection, recovery and failed requests
    Drill(drill::Options),
    /// Look for what is wrong with this machine and this data directory
    Doctor,
    /// The page of an error code
    Explain {
        /// For example HF0042
        code: String,
    },
    /// The control process; `up` starts it
    #[command(hide = true)]
    Agent,
    /// A data plane process; the agent starts it
    #[command(hide = true)]
    Balancer,
    /// The plane of queues and workflows; the agent starts it
    #[command(hide = true)]
    Tasks,
    /// Undoes a drill when the drill dies
    #[command(name = "__guard", hide = true)]
    Guard { dir: PathBuf },
    /// Stands in for a worker's program in a drill; the plane of tasks starts it
    #[command(name = "__probe", hide = true)]
    Probe { file: PathBuf },
    /// Mounts the volume of a redundant service; the agent's job
    #[command(name = "__mount", hide = true)]
    Mount { source: String, target: PathBuf, kind: String, options: String },
    /// Unmounts it
    #[command(name = "__unmount", hide = true)]
    Unmount { source: String, target: PathBuf, kind: String, options: String },
}

impl Command {
    /// It is nothing but requests to an agent.
    fn is_remote(&self) -> bool {
        match self {
            Command::Cluster { command } => command.is_remote(),
            Command::Status { .. }
            | Command::Why { .. }
            | Command::Restart { .. }
            | Command::Scale { .. }
            | Command::Pause { .. }
            | Command::Resume { .. }
            | Command::Node { .. }
            | Command::Switchover { .. }
            | Command::Promote { .. }
            | Command::Failback { .. }
            | Command::Key { .. }
            | Command::CanLose { .. }
            | Command::Queue { .. }
            | Command::Worker { .. }
            | Command::Run(_)
            | Command::Runs { .. }
            | Command::Incidents(_) => true,
            _ => false,
        }
    }
}

pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            let _ = error.print();
            return ExitCode::from(if usage { Exit::Usage.code() } else { 0 });
        }
    };
    let json = cli.common.json;
    match run(cli) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => {
            if json {
                eprintln!("{}", serde_json::json!({ "error": failure }));
            } else if !failure.shown {
                eprintln!("{}", failure.render(Style::stderr(), width_of_stderr()));
            }
            ExitCode::from(failure.exit.code())
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let common = cli.common;
    if common.remote.is_some() && !cli.command.is_remote() {
        return Err(Failure::new("HF0389", "this command acts on this machine, not on another one")
            .hint("run it there, without --remote")
            .exit(Exit::Usage));
    }
    match cli.command {
        Command::Check { strict } => check::run(&common, strict),
        Command::Explain { code } => explain::run(&code),
        Command::Logs(options) => logs::run(&common, options),
        Command::Agent => crate::agent::main(&common.layout()?),
        Command::Balancer => crate::agent::plane::main(&common.layout()?),
        Command::Tasks => crate::agent::tasks::main(&common.layout()?),
        Command::Guard { dir } => drill::guard(&dir),
        Command::Probe { file } => drill::probe(&file),
        Command::Mount { source, target, kind, options } => volume::mount(&source, &target, &kind, &options),
        Command::Unmount { target, .. } => volume::unmount(&target),
        Command::Plan => block_on(apply::plan(&common)),
        Command::Up(options) => block_on(up::run(&common, &options)),
        Command::Down(options) => block_on(down::run(&common, &options)),
        Command::Status { watch } => block_on(status::run(&common, watch)),
        Command::Why { name } => block_on(why::run(&common, &name)),
        Command::Restart { target } => block_on(simple::restart(&common, target)),
        Command::Scale { what } => block_on(simple::scale(&common, &what)),
        Command::Switchover { service, to } => block_on(simple::switch_over(&common, service, to, false)),
        Command::Promote { service, member, force } => block_on(simple::switch_over(&common, service, member, force)),
        Command::Failback { service } => {
            let first = format!("{service}-1");
            block_on(simple::switch_over(&common, service, Some(first), false))
        }
        Command::Pause { name, duration, reason } => block_on(simple::pause(&common, name, &duration, reason)),
        Command::Resume { name } => block_on(simple::resume(&common, name)),
        Command::Incidents(options) => block_on(incidents::run(&common, &options)),
        Command::Drill(options) => block_on(drill::run(&common, &options)),
        Command::Reboot(options) => block_on(reboot::run(&common, &options)),
        Command::Node { command } => block_on(node::run(&common, command)),
        Command::Cluster { command } => block_on(cluster::run(&common, command)),
        Command::Key { command } => block_on(key::run(&common, command)),
        Command::Queue { command } => block_on(queue::run(&common, command)),
        Command::Worker { command } => block_on(worker::run(&common, command)),
        Command::Run(options) => block_on(runs::begin(&common, options)),
        Command::Runs { command } => block_on(runs::run(&common, command)),
        Command::CanLose { what } => block_on(node::can_lose(&common, &what)),
        Command::Doctor => block_on(doctor::run(&common)),
    }
}

/// Commands are short-lived clients: one thread is enough.
fn block_on(future: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new("HF0701", "cannot start the runtime").because(e))?
        .block_on(future)
}

/// Durations as the file spells them.
pub(crate) fn duration(text: &str) -> Result<Duration, Failure> {
    holdfast_config::quantity::parse_duration(text).ok_or_else(|| {
        Failure::new("HF0702", format!("`{text}` is not a duration"))
            .hint("for example 500ms, 30s, 1h30m")
            .exit(Exit::Usage)
    })
}

pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::new("HF0703", "cannot encode the answer").because(e))?;
    print_text(&format!("{text}\n"));
    Ok(())
}

/// To stdout; a reader that went away (`| head`) is no error.
pub(crate) fn print_text(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["holdfast", "-f", "a.toml", "logs", "-f", "web"]).expect("both meanings of -f");
        assert_eq!(cli.common.file, PathBuf::from("a.toml"));
        let cli = Cli::try_parse_from(["holdfast", "status", "-f", "b.toml"]).expect("after the command");
        assert_eq!(cli.common.file, PathBuf::from("b.toml"));
    }
}
