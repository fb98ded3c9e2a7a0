//! The control process: no user byte passes through it, and it is parent of nothing.

pub(crate) mod core;
pub(crate) mod launch;
pub(crate) mod member;
mod metrics_port;
mod own_shim;
pub(crate) mod plane;
mod planes;
mod report;
mod rings;
mod server;
mod snapshot;
mod sockets;
mod story;
mod tally;
pub(crate) mod tasks;
mod view;
mod vip;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_cluster::Store;
use holdfast_cluster::embedded::{self, Embedded};
use holdfast_cluster::records::Records;
use holdfast_config::Environment;
use holdfast_host::event::Event;
use holdfast_host::lock::Lock;
use holdfast_host::{clock, shim};
use holdfast_observe::journal::{self, Journal};
use holdfast_policy::NodeId;
use holdfast_services::{Options, Services};
use tokio::signal::unix::{SignalKind, signal};

use self::core::Core;
use self::member::Member;
use self::planes::Planes;
use crate::failure::{Exit, Failure};
use crate::layout::{Layout, PLANES};

/// The journal's last words before the process ends.
const FLUSH_TIME: Duration = Duration::from_secs(2);
/// Control work is little; a second thread keeps the API answering while the first one applies.
const THREADS: usize = 2;
/// An agent whose shim died launches the next one and then ends; so long may that take.
const TAKEOVER_TIME: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Exit code, which any shim takes for a reason to start it again.
const MIGRATED: i32 = 75;
const AGENT_SOURCE: &str = "agent";

pub(crate) fn main(layout: &Layout) -> Result<Exit, Failure> {
    holdfast_observe::logging::start("info");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("agent")
        .enable_all()
        .build()
        .map_err(|e| Failure::new("HF0701", "cannot start the runtime").because(e))?;
    let result = runtime.block_on(run(layout));
    // Blocking reads of a dead disk must not keep the process from ending.
    runtime.shutdown_timeout(FLUSH_TIME);
    if let Err(failure) = &result {
        refuse(layout, failure);
    }
    result
}

/// Left for the command that waits for this agent; the log has it too.
fn refuse(layout: &Layout, failure: &Failure) {
    tracing::error!(code = failure.code, "{failure}");
    // A second agent must not write over what belongs to the first.
    if failure.code == "HF0301" {
        return;
    }
    if let Ok(text) = serde_json::to_vec(failure) {
        let _ = holdfast_host::files::write_atomic(&layout.refusal(), &text);
    }
}

async fn run(layout: &Layout) -> Result<Exit, Failure> {
    layout.prepare()?;
    let _lock = take_lock(layout).await?;
    let _ = std::fs::remove_file(layout.refusal());
    let core = start(layout).await?;
    let listener = server::bind(layout)?;
    let api = tokio::spawn(server::serve(listener, core.clone()));
    if let Some(member) = &core.member {
        member::keeping::prepare(member, &core).await;
    }
    core.resume_desired().await;
    if let Some(member) = &core.member {
        member.start(&core);
    }
    let _ = holdfast_host::inherit::notify("READY=1");
    let end = wait_for_end(&core).await?;
    if end == End::Stopped {
        launch::dismiss_own_shim(layout).await;
    }
    core.journal.flush(FLUSH_TIME).await;
    if end == End::Migrated {
        core.store.close().await;
        // Its shim starts it again at once, as a member.
        std::process::exit(MIGRATED);
    }
    if end == End::Replaced {
        // As a crash would: closed files would have to be made anew by the next agent, and the disk may be full.
        std::process::exit(0);
    }
    core.journal.close();
    core.store.close().await;
    api.abort();
    Ok(Exit::Ok)
}

async fn take_lock(layout: &Layout) -> Result<Lock, Failure> {
    // Under a shim of its own it may be here to take over from one whose shim is gone.
    let patience = if own_shim::incarnation().is_some() { TAKEOVER_TIME } else { Duration::ZERO };
    let began = Instant::now();
    loop {
        match Lock::try_take(&layout.lock()) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if began.elapsed() < patience => tokio::time::sleep(LOOK_EVERY).await,
            Ok(None) => {
                return Err(Failure::new("HF0301", format!("another agent runs on {}", layout.data_dir.display()))
                    .hint("holdfast status; or choose another directory with --data-dir DIR")
                    .exit(Exit::Refused));
            }
            Err(e) => {
                return Err(crate::layout::unusable(format!("cannot lock {}", layout.lock().display()), e));
            }
        }
    }
}

async fn start(layout: &Layout) -> Result<Arc<Core>, Failure> {
    let store = Embedded::open(layout.data_dir.join("coord.db"), embedded::Options::default())
        .await
        .map_err(|e| state_failure(layout, &e))?;
    let node = own_name(layout, &store).await;
    let (journal, trouble) = Journal::open(&layout.data_dir, &node.0, journal::Limits::default());
    // A store that was restored or made anew begins an epoch above every token that lies about.
    let tokens = holdfast_services::tokens(&layout.data_dir);
    let epoch = holdfast_cluster::epoch::settle(&store, None, tokens).await.map_err(|e| state_failure(layout, &e))?;
    let life = own_life(layout);
    let records = Records::new(Arc::new(store.clone()));
    let member = join(&records, &node, layout, Arc::new(store.clone())).await?;
    let order = records.next_plane_epoch(PLANES, planes::highest_epoch(layout)).await;
    let planes = Planes::open(layout, order.map_err(|e| state_failure(layout, &e))?)?;
    planes.recover_sockets().await;
    let tasks = tasks::Tasks::open(layout);
    tasks.recover_sockets().await;
    undo_drills(layout).await;
    let options = Options {
        data_dir: layout.data_dir.clone(),
        node: node.clone(),
        zone: None,
        exe: std::env::current_exe()
            .map_err(|e| Failure::new("HF0311", "cannot find the running binary").because(e))?,
        ports: core::ports(&records).await,
        store: Arc::new(store.clone()),
        leases: member.as_ref().map_or_else(|| Arc::new(store.clone()) as Arc<dyn Store>, |m| m.store.clone()),
        epoch: member
            .as_ref()
            .map_or_else(|| Arc::new(holdfast_cluster::epoch::Current::of(epoch)), |m| m.epoch.clone()),
        journal: Some(journal.clone()),
        waiting: Some(Arc::new(waiting::Watch::new(planes.clone()))),
        life: life.clone(),
        seed: clock::now().as_nanos() ^ u64::from(std::process::id()),
    };
    let services = Services::start(options).await.map_err(|e| core::services_failure(&e))?;
    let core = Core::new(
        layout.clone(),
        node,
        records,
        store,
        journal,
        trouble,
        services,
        (planes, tasks),
        epoch,
        life,
        member,
    );
    core.tell_start();
    core.tasks.keep_targets(core.services.endpoints());
    story::watch_agent(&core).await;
    tally::start(&core);
    view::keep_planes_told(&core);
    Ok(core)
}

/// As it was started; else as it is known to others; else the host's.
async fn own_name(layout: &Layout, local: &dyn Store) -> NodeId {
    let name = match &layout.node {
        Some(name) => Some(name.clone()),
        None => Member::kept_name(local).await,
    };
    NodeId::from(name.unwrap_or_else(|| Environment::here().hostname).as_str())
}

/// The cluster of what was applied last, or else of the file that the agent was started with.
async fn join(
    records: &Records,
    node: &NodeId,
    layout: &Layout,
    local: Arc<dyn Store>,
) -> Result<Option<Arc<Member>>, Failure> {
    let applied = records.desired().await.ok().flatten();
    let config = match applied {
        Some((desired, _)) => core::parse(&desired.toml, &desired.source, &Environment::here()).ok(),
        None => member::bootstrap(&layout.file),
    };
    match config {
        Some(config) => Member::prepare(&config, node, local, &layout.data_dir).await,
        None => Ok(None),
    }
}

fn state_failure(layout: &Layout, error: &holdfast_cluster::Error) -> Failure {
    let path = layout.data_dir.join("coord.db");
    let failure = Failure::new(error.code(), format!("cannot use the state in {}", path.display()))
        .because_of(error)
        .exit(Exit::Refused);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure.hint("what runs goes on running; holdfast explain tells what can be done"),
    }
}

/// This life of the agent, as its shim counts; an agent started by hand is always life 0.1.
fn own_life(layout: &Layout) -> String {
    let state = shim::Dir::new(layout.run_dir(crate::layout::AGENT)).read_state();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    match std::env::var("HOLDFAST_INCARNATION") {
        Ok(life) => life,
        Err(_) => state
            .filter(|s| s.child.is_some_and(|c| c.pid == own))
            .map_or_else(|| "0.1".into(), |s| s.incarnation.to_string()),
    }
}

/// What a drill left behind whose guard died with it.
async fn undo_drills(layout: &Layout) {
    match holdfast_drill::undo::replay(&layout.drill_dir(), &crate::cli::PlaneControl).await {
        Ok(_) => {}
        Err(error) => tracing::warn!(code = error.code(), %error, "cannot undo what a drill left behind"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything was stopped on request.
    Stopped,
    /// Only this process is to end.
    Told,
    /// An agent under a new shim waits for the data directory.
    Replaced,
    /// The next life is a member of a cluster.
    Migrated,
}

async fn wait_for_end(core: &Arc<Core>) -> Result<End, Failure> {
    let take = |kind| signal(kind).map_err(|e| Failure::new("HF0701", "cannot take signals").because(e));
    let mut term = take(SignalKind::terminate())?;
    let mut int = take(SignalKind::interrupt())?;
    // The terminal it was started from is of no interest.
    let mut hup = take(SignalKind::hangup())?;
    tokio::spawn(async move { while hup.recv().await.is_some() {} });
    tokio::select! {
        _ = term.recv() => Ok(End::Told),
        _ = int.recv() => Ok(End::Told),
        () = core.stopped() => Ok(End::Stopped),
        () = own_shim::replaced(core) => Ok(End::Replaced),
        () = core.migrated() => Ok(End::Migrated),
    }
}

/// An event of the agent itself.
pub(crate) fn agent_event(core: &Core, subject: &str) -> Event {
    let mut event = Event::now(&core.node.0, AGENT_SOURCE, &core.life, subject);
    event.seq = core.next_seq();
    event
}
