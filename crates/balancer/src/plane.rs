//! One balancer process: cores that serve, and a control thread that tells them what.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use holdfast_host::{clock, inherit};
use holdfast_policy::Timestamp;
use tokio::sync::mpsc;

use crate::access_log;
use crate::control::Applied;
use crate::core::{Common, Process};
use crate::error::Error;
use crate::fault::Fault;
use crate::shared::{BALANCERS_MAX, ENDPOINTS_MAX, ProcessSlot, Table};
use crate::snapshot::Snapshot;
use crate::stats::Stats;

mod accept;
mod events;
mod worker;

use worker::{Command, Worker};

/// Commands waiting for a core that is busy with requests.
const COMMANDS_MAX: usize = 64;

/// A core that takes no command for so long is hung; the others go on.
const COMMAND_WAIT: Duration = Duration::from_secs(1);

/// How often a drain looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// Faults at the same time; a drill sets one.
const FAULTS_MAX: usize = 64;

#[derive(Debug)]
pub struct Options {
    /// Of this process: control socket, kept snapshot, events.
    pub dir: PathBuf,
    /// The table that all balancer processes of the node map: `plane/shared` in the data directory.
    pub shared: PathBuf,
    pub node: String,
    /// Source of its events: `balancer/1`.
    pub source: String,
    /// Default: as many as there are sockets per address, one per core without any.
    pub threads: Option<usize>,
    /// A drain ends after this at the latest, whatever is in flight.
    pub drain_max: Duration,
    /// Besides those of LISTEN_FDS.
    pub listeners: Vec<TcpListener>,
}

impl Options {
    pub fn new(dir: PathBuf, shared: PathBuf) -> Options {
        Options {
            dir,
            shared,
            node: String::new(),
            source: "balancer".into(),
            threads: None,
            drain_max: Duration::from_secs(30),
            listeners: Vec::new(),
        }
    }
}

/// Runs until it was told to drain (SIGTERM, SIGINT or by the control socket) and is done with that.
pub fn run(options: Options) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Start { what: "the control runtime", source })?;
    runtime.block_on(async {
        let mut plane = Plane::start(options)?;
        let server = crate::control::server::Server::bind(&plane.options.dir)?;
        server.serve(&mut plane).await
    })
}

/// The state that the control thread keeps.
#[derive(Debug)]
pub(crate) struct Plane {
    pub(crate) options: Options,
    process: Arc<Process>,
    _slot: ProcessSlot,
    workers: Vec<Worker>,
    commons: HashMap<String, Arc<Common>>,
    snapshot: Option<Snapshot>,
    listeners: BTreeMap<SocketAddr, Vec<TcpListener>>,
    faults: Vec<Fault>,
    ready: bool,
    /// When a drain ends whatever is in flight.
    drain_until: Timestamp,
}

impl Plane {
    fn start(mut options: Options) -> Result<Plane, Error> {
        holdfast_host::files::create_dir(&options.dir)?;
        if let Some(parent) = options.shared.parent() {
            holdfast_host::files::create_dir(parent)?;
        }
        let table = Table::open(&options.shared)?;
        let slot = table.take_slot()?;
        let mut listeners = Vec::new();
        listeners.append(&mut options.listeners);
        listeners.extend(
            inherit::listeners().map_err(|e| Error::Listener { name: "LISTEN_FDS".into(), because: e.to_string() })?,
        );
        let listeners = by_address(listeners)?;
        let threads = options.threads.unwrap_or_else(|| default_threads(&listeners)).max(1);
        let logs = access_log::Sink::start(slot.index + 1)
            .map_err(|source| Error::Start { what: "the log writer", source })?;
        let events = events::start(&options.dir, &options.node, &options.source)
            .map_err(|source| Error::Start { what: "the event writer", source })?;
        let process = Arc::new(Process::new(table, slot.index, threads, logs, events));
        let workers = (0..threads).map(|index| Worker::start(index, process.clone())).collect::<Result<_, _>>()?;
        Ok(Plane {
            options,
            process,
            _slot: slot,
            workers,
            commons: HashMap::new(),
            snapshot: None,
            listeners,
            faults: Vec::new(),
            ready: false,
            drain_until: Timestamp::NEVER,
        })
    }

    /// Before the first command: what an earlier process of this directory served.
    pub(crate) async fn resume(&mut self) {
        self.share_listeners().await;
        match Snapshot::load(&self.options.dir) {
            Ok(Some(snapshot)) => {
                tracing::info!(epoch = snapshot.epoch, seq = snapshot.seq, "serving from the kept snapshot");
                self.install(snapshot).await;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, code = error.code(), "the kept snapshot is not used"),
        }
    }

    pub(crate) async fn apply(&mut self, bytes: &[u8]) -> Result<Applied, Error> {
        let snapshot = Snapshot::parse(bytes)?;
        if let Some(held) = &self.snapshot
            && snapshot.order() < held.order()
        {
            return Err(Error::SnapshotOlder { offered: snapshot.order(), held: held.order() });
        }
        check(&snapshot)?;
        let kept = snapshot.clone();
        let wanted = snapshot.balancers.iter().flat_map(|b| b.listen.iter());
        let missing = wanted.filter(|a| !self.listeners.contains_key(a)).copied().collect();
        // In force first: a request must not wait for a disk. Said only when it is kept.
        self.install(snapshot).await;
        let persisted = match kept.keep(&self.options.dir) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the snapshot is used but not kept");
                false
            }
        };
        Ok(Applied { persisted, missing })
    }

    async fn install(&mut self, snapshot: Snapshot) {
        for b in &snapshot.balancers {
            self.process.table.claim_balancer(b.slot, &b.name);
            for e in &b.endpoints {
                self.process.table.claim_endpoint(e.slot, &e.instance, e.incarnation);
            }
            self.commons.entry(b.name.clone()).or_default();
        }
        self.commons.retain(|name, _| snapshot.balancers.iter().any(|b| b.name == *name));
        let (shared, commons) = (Arc::new(snapshot.clone()), Arc::new(self.commons.clone()));
        for worker in &self.workers {
            worker.tell(Command::Apply(shared.clone(), commons.clone())).await;
        }
        for worker in &self.workers {
            worker.settle().await;
        }
        self.snapshot = Some(snapshot);
        self.close_unwanted().await;
        if !self.ready {
            self.ready = true;
            if let Err(error) = inherit::notify("READY=1") {
                tracing::warn!(%error, "readiness could not be told");
            }
        }
    }

    /// Sockets that no balancer listens on any more: left open, they would take connections that nobody answers.
    async fn close_unwanted(&mut self) {
        let wanted: Vec<SocketAddr> =
            self.snapshot.iter().flat_map(|s| &s.balancers).flat_map(|b| b.listen.iter().copied()).collect();
        let before = self.listeners.len();
        self.listeners.retain(|addr, _| wanted.contains(addr));
        if self.listeners.len() != before {
            self.share_listeners().await;
        }
    }

    /// WATCHDOG=1, if every core answers.
    pub(crate) async fn say_alive(&self) {
        for worker in &self.workers {
            if !worker.settle().await {
                return;
            }
        }
        let _ = inherit::notify("WATCHDOG=1");
    }

    pub(crate) async fn add_listeners(&mut self, sockets: Vec<TcpListener>) -> Result<(), Error> {
        for (addr, sockets) in by_address(sockets)? {
            // The same address again: sockets made anew take the place of the old ones.
            self.listeners.insert(addr, sockets);
        }
        self.share_listeners().await;
        Ok(())
    }

    /// Socket i goes to core i, so that every process accepts from every socket and none is left alone.
    async fn share_listeners(&self) {
        for (index, worker) in self.workers.iter().enumerate() {
            let mut mine = Vec::new();
            for (addr, sockets) in &self.listeners {
                let of_core = sockets.iter().enumerate().filter(|(i, _)| i % self.workers.len() == index);
                for (_, socket) in of_core {
                    match socket.try_clone() {
                        Ok(clone) => mine.push((*addr, clone)),
                        Err(error) => {
                            tracing::error!(%addr, %error, "a listening socket is not served by this process")
                        }
                    }
                }
            }
            worker.tell(Command::Listeners(mine)).await;
            worker.settle().await;
        }
    }

    pub(crate) async fn set_fault(&mut self, fault: Fault) -> Result<(), Error> {
        let now = clock::now();
        self.faults.retain(|f| f.id != fault.id && now.as_nanos() < f.until_boot_ns);
        if self.faults.len() >= FAULTS_MAX {
            return Err(Error::Refused {
                request: "the fault",
                because: format!("{FAULTS_MAX} faults are set already"),
                code: "HF0508".into(),
            });
        }
        tracing::warn!(id = fault.id, balancer = fault.balancer, kind = ?fault.kind, "fault set");
        self.faults.push(fault.bounded(now));
        self.share_faults().await;
        Ok(())
    }

    pub(crate) async fn clear_fault(&mut self, id: &str) {
        self.faults.retain(|f| f.id != id);
        self.share_faults().await;
    }

    async fn share_faults(&self) {
        for worker in &self.workers {
            worker.tell(Command::Faults(self.faults.clone())).await;
            worker.settle().await;
        }
    }

    pub(crate) async fn stats(&self) -> Stats {
        let (epoch, seq) = self.snapshot.as_ref().map_or((0, 0), Snapshot::order);
        let mut parts = Vec::new();
        for worker in &self.workers {
            parts.extend(worker.stats().await);
        }
        let now = clock::now();
        let listening: Vec<SocketAddr> = self.listeners.keys().copied().collect();
        let snapshot = self.snapshot.as_ref();
        let balancers = snapshot.map_or_else(Vec::new, |s| {
            s.balancers
                .iter()
                .map(|b| worker::gather(b, &parts, &self.commons, &self.process.table, &listening, now))
                .collect()
        });
        Stats {
            version: crate::stats::VERSION,
            pid: std::process::id(),
            process: self.process.slot,
            epoch,
            seq,
            draining: self.process.draining.load(Relaxed),
            connections: self.process.connections.load(Relaxed),
            log_lines_dropped: self.process.logs.dropped(),
            faults: self.faults.iter().filter(|f| now.as_nanos() < f.until_boot_ns).cloned().collect(),
            balancers,
        }
    }

    /// Stops accepting: waiting connections stay in the sockets, which other processes hold too.
    pub(crate) async fn begin_drain(&mut self) {
        if self.process.draining.swap(true, Relaxed) {
            return;
        }
        tracing::info!(connections = self.process.connections.load(Relaxed), "draining");
        self.drain_until = clock::now() + self.options.drain_max;
        let _ = inherit::notify("STOPPING=1");
        self.listeners.clear();
        for worker in &self.workers {
            worker.tell(Command::Drain).await;
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.process.draining.load(Relaxed)
    }

    /// Resolves when nothing is left to do, or the time for it is over.
    pub(crate) async fn drained(process: Arc<Process>, deadline: Timestamp) {
        while process.connections.load(Relaxed) > 0 && clock::now() < deadline {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }

    pub(crate) fn process(&self) -> Arc<Process> {
        self.process.clone()
    }

    pub(crate) fn drain_until(&self) -> Timestamp {
        self.drain_until
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.stop();
        }
    }
}

fn by_address(sockets: Vec<TcpListener>) -> Result<BTreeMap<SocketAddr, Vec<TcpListener>>, Error> {
    let mut all: BTreeMap<SocketAddr, Vec<TcpListener>> = BTreeMap::new();
    for socket in sockets {
        let addr = socket
            .local_addr()
            .map_err(|e| Error::Listener { name: "without address".into(), because: e.to_string() })?;
        socket.set_nonblocking(true).map_err(|e| Error::Listener { name: addr.to_string(), because: e.to_string() })?;
        all.entry(addr).or_default().push(socket);
    }
    Ok(all)
}

fn default_threads(listeners: &BTreeMap<SocketAddr, Vec<TcpListener>>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    listeners.values().map(Vec::len).max().unwrap_or_else(cores)
}

/// What the shared table has no room for is refused whole.
fn check(snapshot: &Snapshot) -> Result<(), Error> {
    let endpoints = snapshot.balancers.iter().flat_map(|b| &b.endpoints);
    let fits = snapshot.balancers.iter().all(|b| usize::from(b.slot) < BALANCERS_MAX)
        && endpoints.into_iter().all(|e| usize::from(e.slot) < ENDPOINTS_MAX);
    if fits { Ok(()) } else { Err(Error::SnapshotDamaged { because: "a slot lies outside the shared table".into() }) }
}

type Commands = mpsc::Sender<Command>;
