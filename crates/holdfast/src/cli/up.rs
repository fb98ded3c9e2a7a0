//! `holdfast up`: start the agent where there is none, give it the file, wait until all is ready.
//!
//! In the foreground this process is only a client: a lost terminal or a kill -9 of it stops nothing; Ctrl-C and
//! SIGTERM ask the agent to stop everything in order.

use std::time::{Duration, Instant};

use clap::Args;
use holdfast_observe::status::{Instance, State, Status};
use tokio::signal::unix::{SignalKind, signal};

use super::{Common, down, print_json, print_text};
use crate::agent::launch;
use crate::api::{Applied, Apply};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::layout::Layout;
use crate::terminal::{Progress, Style, human, plural};

/// Names of things somebody waits for.
pub(super) type Waited = Vec<String>;

/// A new agent opens its databases and its socket; adoption goes on after that.
const AGENT_TIME: Duration = Duration::from_secs(20);
const READY_TIME: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// `up` in the foreground prints what changed at this pace.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
/// Code of an agent that does not reach the shared store.
const NO_STORE: &str = "HF0410";
const STOP_TIME: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Leave the agent running and return when all is ready
    #[arg(short, long)]
    detach: bool,
    /// With -d: give up waiting after this long (what was begun goes on)
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<Exit, Failure> {
    let limit = options.timeout.as_deref().map(super::duration).transpose()?.unwrap_or(READY_TIME);
    let loaded = super::check::load(common)?;
    let layout = common.layout()?;
    if options.detach {
        // Signals keep their default: Ctrl-C ends the wait, what was begun goes on.
        let applied = start(common, &layout, loaded.path, loaded.text, limit).await?;
        return ready_or_named(common, &layout, applied, limit).await;
    }
    // Taken before anything is started, so that Ctrl-C at any moment stops in order.
    let mut stop = Interrupts::new()?;
    let started = tokio::select! {
        result = start(common, &layout, loaded.path, loaded.text, limit) => result,
        why = stop.next() => Err(interrupted(why)),
    };
    match started {
        Ok(applied) => follow(common, &layout, applied, stop).await,
        Err(failure) if failure.exit == Exit::Interrupted => {
            down::stop(&layout, STOP_TIME, common.json).await?;
            Ok(Exit::Interrupted)
        }
        Err(failure) => Err(failure),
    }
}

async fn start(
    common: &Common,
    layout: &Layout,
    path: String,
    text: String,
    limit: Duration,
) -> Result<Applied, Failure> {
    ensure_agent(layout).await?;
    let (client, apply, began) = (Client::new(layout), Apply { path, text }, Instant::now());
    let mut progress = Progress::new(common.json);
    loop {
        match client.post("/v1/apply", &apply).await {
            // At the very first start of a cluster too few machines are there: the next `up` elsewhere ends the wait.
            Err(failure) if failure.code == NO_STORE && began.elapsed() < limit => {
                progress.show("waiting for etcd: do enough of its members run?");
                tokio::time::sleep(LOOK_EVERY).await;
            }
            result => {
                progress.clear();
                return result;
            }
        }
    }
}

/// An agent that answers, started when there is none.
pub(super) async fn ensure_agent(layout: &Layout) -> Result<(), Failure> {
    let client = Client::new(layout);
    if client.alive().await {
        return Ok(());
    }
    layout.prepare()?;
    let _ = std::fs::remove_file(layout.refusal());
    launch::agent(layout).await?;
    let began = Instant::now();
    while !client.alive().await {
        if let Some(refusal) = read_refusal(layout) {
            return Err(refusal);
        }
        if began.elapsed() > AGENT_TIME {
            return Err(Failure::new("HF0309", format!("the agent did not answer within {}s", AGENT_TIME.as_secs()))
                .hint("its log tells more: holdfast logs _agent")
                .exit(Exit::Unhealthy));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn read_refusal(layout: &Layout) -> Option<Failure> {
    serde_json::from_slice(&std::fs::read(layout.refusal()).ok()?).ok()
}

async fn ready_or_named(common: &Common, layout: &Layout, applied: Applied, limit: Duration) -> Result<Exit, Failure> {
    let client = Client::new(layout);
    let began = Instant::now();
    let mut progress = Progress::new(common.json);
    loop {
        let status: Status = client.get("/v1/status").await?;
        let waiting = not_ready(&status);
        let stuck = waiting.iter().any(|w| w.hopeless);
        if waiting.is_empty() || stuck || began.elapsed() > limit {
            progress.clear();
            return report(common, &status, &waiting, applied, began.elapsed());
        }
        let names: Vec<&str> = waiting.iter().map(|w| w.name.as_str()).collect();
        progress.show(&format!("waiting for {}: {}", names.len(), names.join(", ")));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn report(
    common: &Common,
    status: &Status,
    waiting: &[Waiting],
    applied: Applied,
    took: Duration,
) -> Result<Exit, Failure> {
    if common.json {
        print_json(status)?;
    }
    if waiting.is_empty() {
        if !common.json {
            print_text(&all_ready(status, &applied, took));
        }
        return Ok(Exit::Ok);
    }
    let first = &waiting[0].name;
    let hint = match waiting.iter().any(|one| one.why.to_ascii_lowercase().contains("no space left")) {
        true => format!("free some space for {}; what was begun goes on by itself then", status.agent.data_dir),
        false => format!("holdfast why {first}; holdfast logs {first}; what was begun goes on"),
    };
    let mut failure =
        Failure::new("HF0310", format!("{} not ready after {}", plural(waiting.len(), "instance"), human(took)))
            .hint(hint)
            .exit(Exit::Unhealthy);
    for one in waiting {
        failure = failure.because(format!("{}: {}", one.name, one.why));
    }
    Err(failure)
}

fn all_ready(status: &Status, applied: &Applied, took: Duration) -> String {
    let instances: usize = status.services.values().map(|s| s.instances.len()).sum();
    format!(
        "ready: {}, {}, {} (revision {}, {})\n",
        plural(status.services.len(), "service"),
        plural(instances, "instance"),
        plural(status.balancers.len(), "balancer"),
        applied.revision,
        human(took)
    )
}

#[derive(Debug)]
struct Waiting {
    name: String,
    why: String,
    /// It will not become ready by waiting: failed for good, or in a crash loop.
    hopeless: bool,
}

fn not_ready(status: &Status) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    for (name, service) in &status.services {
        for instance in &service.instances {
            if matches!(instance.state, State::Ready | State::Standby | State::Completed | State::Stopped) {
                continue;
            }
            let why = match &instance.reason {
                Some(reason) => format!("{} ({reason})", instance.state),
                None => instance.state.to_string(),
            };
            waiting.push(Waiting {
                name: instance.id.clone(),
                why,
                hopeless: instance.state == State::Failed || crash_loop(instance) || is_held(instance),
            });
        }
        if service.standby.is_some() && service.ready == 0 {
            waiting.push(Waiting { name: name.clone(), why: "no member is active yet".into(), hopeless: false });
        }
        if (service.instances.len() as u32) < service.desired {
            waiting.push(Waiting { name: name.clone(), why: "instances not created yet".into(), hopeless: false });
        }
    }
    for (name, balancer) in &status.balancers {
        if balancer.processes == 0 && !balancer.elsewhere {
            waiting.push(Waiting { name: name.clone(), why: "balancer processes not ready".into(), hopeless: false });
        }
    }
    waiting
}

/// A pause keeps it from being started.
fn is_held(instance: &Instance) -> bool {
    instance.pid.is_none() && instance.reason.as_deref().is_some_and(|r| r.contains("paused ("))
}

/// Enough restarts to say that waiting longer will not help.
fn crash_loop(instance: &Instance) -> bool {
    instance.state == State::Backoff && instance.reason.as_deref().is_some_and(|r| r.contains("crash loop"))
}

async fn follow(common: &Common, layout: &Layout, applied: Applied, mut stop: Interrupts) -> Result<Exit, Failure> {
    let style = Style::stdout();
    if !common.json {
        print_text(&format!(
            "{}\n",
            style.dim(&format!("revision {} applied; Ctrl-C stops everything in order", applied.revision))
        ));
    }
    let client = Client::new(layout);
    let mut shown = Shown::default();
    let mut quiet_since: Option<Instant> = None;
    let (began, mut was_ready) = (Instant::now(), false);
    loop {
        tokio::select! {
            why = stop.next() => return finish(common, layout, why).await,
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
        }
        holdfast_host::process::reap_inherited();
        match client.get::<Status>("/v1/status").await {
            Ok(status) => {
                quiet_since = None;
                print_text(&shown.changes(&status, style));
                if !was_ready && not_ready(&status).is_empty() {
                    was_ready = true;
                    print_text(&all_ready(&status, &applied, began.elapsed()));
                }
            }
            Err(_) if down::nothing_runs(layout) => {
                print_text("everything was stopped from elsewhere\n");
                return Ok(Exit::Ok);
            }
            Err(failure) => {
                // The shim restarts a dead agent within milliseconds; only a longer silence is news.
                let since = *quiet_since.get_or_insert_with(Instant::now);
                if since.elapsed() > AGENT_TIME {
                    return Err(failure);
                }
            }
        }
    }
}

async fn finish(common: &Common, layout: &Layout, why: Interrupt) -> Result<Exit, Failure> {
    if why == Interrupt::TerminalLost {
        return Ok(Exit::Ok);
    }
    if !common.json {
        print_text("\nstopping everything in order\n");
    }
    down::stop(layout, STOP_TIME, common.json).await?;
    if !common.json {
        print_text("everything stopped\n");
    }
    Ok(if why == Interrupt::CtrlC { Exit::Interrupted } else { Exit::Ok })
}

fn interrupted(why: Interrupt) -> Failure {
    Failure::new("HF0707", "interrupted").exit(if why == Interrupt::TerminalLost {
        Exit::Ok
    } else {
        Exit::Interrupted
    })
}

/// What was printed last of each instance, so that only changes are.
#[derive(Debug, Default)]
struct Shown {
    states: std::collections::BTreeMap<String, (String, u64)>,
}

impl Shown {
    fn changes(&mut self, status: &Status, style: Style) -> String {
        let mut text = String::new();
        let mut now = std::collections::BTreeMap::new();
        for instance in status.services.values().flat_map(|s| &s.instances) {
            let state = (instance.state.to_string(), instance.restarts);
            if self.states.get(&instance.id) != Some(&state) {
                let colored = super::status::paint(style, instance.state);
                let reason = instance.reason.as_deref().map(|r| format!("  {}", style.dim(r))).unwrap_or_default();
                text.push_str(&format!("{:<16} {colored}{reason}\n", instance.id));
            }
            now.insert(instance.id.clone(), state);
        }
        for gone in self.states.keys().filter(|id| !now.contains_key(*id)) {
            text.push_str(&format!("{gone:<16} gone\n"));
        }
        self.states = now;
        text
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interrupt {
    CtrlC,
    Terminate,
    TerminalLost,
}

/// The signals that `up` answers to.
#[derive(Debug)]
struct Interrupts {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

impl Interrupts {
    fn new() -> Result<Self, Failure> {
        let take = |kind| signal(kind).map_err(|e| Failure::new("HF0701", "cannot take signals").because(e));
        Ok(Interrupts {
            int: take(SignalKind::interrupt())?,
            term: take(SignalKind::terminate())?,
            hup: take(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.int.recv() => Interrupt::CtrlC,
            _ = self.term.recv() => Interrupt::Terminate,
            _ = self.hup.recv() => Interrupt::TerminalLost,
        }
    }
}
