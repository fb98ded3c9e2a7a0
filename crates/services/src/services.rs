//! The Supervisor on a real machine: shims, probes, ports, leases, records and the journal around it.

mod command;
mod engine;
mod error;
mod get;
mod handle;
mod hung;
mod jobs;
mod launch;
mod leases;
mod ledger;
mod prober;
mod seen;
mod shims;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use holdfast_cluster::Store;
use holdfast_cluster::records::Records;
use holdfast_host::shim::Dir;
use holdfast_host::{cgroup, clock};
use holdfast_observe::Journal;
use holdfast_policy::lease::FencingToken;
use holdfast_policy::{Endpoint, Incarnation, InstanceId, NodeId};
use tokio::sync::{broadcast, mpsc, watch};

pub use error::Error;
pub use handle::Handle;
pub use hung::Waiting;

use crate::supervisor::{EndpointState, Event, Rules, Supervisor};
use engine::Engine;
use jobs::Jobs;
use leases::Leases;
use ledger::Ledger;
use prober::Prober;
use shims::{Ground, Shims};

/// Events on their way to the Supervisor. Senders wait when it is full.
const EVENTS: usize = 4096;
const ASKS: usize = 256;
/// Entries that a slow subscriber may lag behind.
const TRANSITIONS: usize = 4096;

pub struct Options {
    pub data_dir: PathBuf,
    pub node: NodeId,
    pub zone: Option<Arc<str>>,
    /// The binary that understands `__shim DIR GENERATION`.
    pub exe: PathBuf,
    pub ports: std::ops::RangeInclusive<u16>,
    pub store: Arc<dyn Store>,
    /// Where the leases of fenced instances are held: in a cluster the store that all machines share.
    pub leases: Arc<dyn Store>,
    /// Of that store: first half of every fencing token. 0 while it is not known yet: no lease is taken then.
    pub epoch: Arc<holdfast_cluster::epoch::Current>,
    pub journal: Option<Journal>,
    /// Tells on which instances requests wait, and takes verdicts on them.
    pub waiting: Option<Arc<dyn Waiting>>,
    /// This life of the agent, as events name it (`GENERATION.RUN`).
    pub life: String,
    /// For jitter.
    pub seed: u64,
}

/// A part of holdfast that runs as a service, such as `_balancer`.
#[derive(Clone, Debug)]
pub struct Internal {
    pub service: holdfast_config::Service,
    /// Held by its shims and passed to its children, in this order.
    pub listeners: Vec<(String, Arc<OwnedFd>)>,
    /// It starts shims that outlive it: it gets no control group, which would be emptied at its end.
    pub starts_others: bool,
}

impl Internal {
    pub fn new(service: holdfast_config::Service, listeners: Vec<(String, Arc<OwnedFd>)>) -> Internal {
        Internal { service, listeners, starts_others: false }
    }
}

/// Where an instance answers, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointEntry {
    pub endpoint: Endpoint,
    pub incarnation: Incarnation,
    pub state: EndpointState,
    pub pid: Option<u32>,
    /// Its process is stopped, as its shim saw.
    pub stopped: bool,
}

pub type Endpoints = Arc<BTreeMap<InstanceId, EndpointEntry>>;

pub struct Services;

impl Services {
    /// Finds what runs already and begins to keep it. Nothing is launched before the first `apply`.
    /// The caller holds the lock of the data directory.
    pub async fn start(options: Options) -> Result<Handle, Error> {
        let Options { data_dir, node, zone, exe, ports, store, leases, epoch, journal, waiting, life, seed } = options;
        let run_dir = data_dir.join("run");
        let records = ledger::load(&*store).await?;
        let found = found(&run_dir)?;
        let (events, inbox) = mpsc::channel(EVENTS);
        let (asks, questions) = mpsc::channel(ASKS);
        // Nobody may take what was not looked at yet for what is there.
        let unknown = crate::supervisor::Status { adopting: true, ..crate::supervisor::Status::default() };
        let (status, status_seen) = watch::channel(Arc::new(unknown));
        let (endpoints, endpoints_seen) = watch::channel(Endpoints::default());
        let (transitions, _) = broadcast::channel(TRANSITIONS);
        let prober = Prober::start(events.clone()).map_err(Error::Thread)?;
        if let Some(hook) = waiting {
            hung::start(hook, endpoints_seen.clone(), events.clone()).map_err(Error::Thread)?;
        }
        let listeners = Arc::new(Mutex::new(BTreeMap::new()));
        let shims = Shims::new(Ground {
            run_dir,
            exe: exe.clone(),
            node: node.to_string(),
            scope: format!("{:016x}", scope(&data_dir)),
            cgroups: cgroup::Tree::detect(),
            listeners: listeners.clone(),
            journal: journal.clone(),
            launches: Ground::permits(),
            events: events.clone(),
        });
        let mut engine = Engine {
            supervisor: Supervisor::new(Rules::ALL, seed),
            node: node.clone(),
            zone,
            ports,
            events: inbox,
            asks: questions,
            shims,
            ledger: Ledger::start(store.clone(), scope(&data_dir), events.clone()),
            leases: Leases::start(leases.clone(), node.to_string(), epoch, events.clone()),
            jobs: Jobs::new(&data_dir, exe, events.clone()),
            prober,
            journal: journal.clone(),
            life,
            status,
            endpoints,
            transitions: transitions.clone(),
            counted: clock::now(),
        };
        engine.supervisor.handle(clock::now(), Event::Adopt { records, found });
        let handle = Handle::new(
            leases,
            Records::new(store),
            journal,
            asks,
            status_seen,
            endpoints_seen,
            transitions,
            listeners,
        );
        tokio::spawn(engine.run());
        handle.restore_pauses().await?;
        Ok(handle)
    }
}

/// Fencing tokens that lie about in run directories: the epoch of the store must not be below any of them.
pub fn tokens(data_dir: &Path) -> Vec<FencingToken> {
    let entries = std::fs::read_dir(data_dir.join("run")).into_iter().flatten().flatten();
    let read = |entry: std::fs::DirEntry| std::fs::read_to_string(Dir::new(entry.path()).token()).ok();
    entries.filter_map(read).filter_map(|text| text.split_whitespace().next()?.parse().ok()).collect()
}

/// Instances that have a run directory. The agent's own shim is not one of them.
fn found(run_dir: &Path) -> Result<Vec<InstanceId>, Error> {
    let failed = |source| Error::RunDir { path: run_dir.to_owned(), source };
    holdfast_host::files::create_dir(run_dir).map_err(|e| failed(std::io::Error::other(e)))?;
    let entries = std::fs::read_dir(run_dir).map_err(failed)?;
    let mut found: Vec<InstanceId> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id: &InstanceId| &*id.service != "_agent" && run_dir.join(id.to_string()).join("spec.json").exists())
        .collect();
    found.sort();
    Ok(found)
}

/// A number for the data directory.
fn scope(data_dir: &Path) -> u64 {
    let path = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
