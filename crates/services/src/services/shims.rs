//! One task for each instance: its connection to the shim, its launches, and the proof of its absence.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use holdfast_host::ring::RingReader;
use holdfast_host::shim::{self, Absence, Body, Client, ClientError, Dir, LaunchError};
use holdfast_host::{cgroup, clock};
use holdfast_observe::Journal;
use holdfast_observe::journal::Batch;
use holdfast_policy::lease::FencingToken;
use holdfast_policy::time::millis;
use holdfast_policy::{Incarnation, InstanceId};
use tokio::sync::{Notify, Semaphore, mpsc};

use super::launch;
use super::seen::{Labels, shim_state};
use crate::supervisor::{Event, Launch, Request, Role, ShimState};

/// A living shim answers within microseconds; a starved machine may need this long.
const ANSWER: Duration = Duration::from_secs(2);
/// SIGKILL takes effect within it, unless the process waits for a dead disk.
const KILL: Duration = Duration::from_secs(5);
/// Shims launched at the same time: more only makes each of them slower.
const LAUNCHES: usize = 16;
/// Events that the journal had no room for are copied again after this time.
const COPY_AGAIN: Duration = Duration::from_secs(2);
/// A shim whose launcher died before it handed over the sockets is given them within this.
const EQUIP_EVERY: Duration = Duration::from_millis(500);

/// Listening sockets by name, handed to the shims whose definitions list them.
pub(crate) type Listeners = Arc<Mutex<BTreeMap<String, Arc<OwnedFd>>>>;

#[derive(Debug)]
pub(crate) enum Order {
    Launch(Launch),
    Command { incarnation: Incarnation, request: Request },
    Prove { generation: u64 },
    KillOrphans { generation: u64 },
}

/// What all tasks share.
pub(crate) struct Ground {
    pub(crate) run_dir: PathBuf,
    pub(crate) exe: PathBuf,
    pub(crate) node: String,
    /// Part of cgroup names, so that two data directories do not collide.
    pub(crate) scope: String,
    pub(crate) cgroups: Option<cgroup::Tree>,
    pub(crate) listeners: Listeners,
    pub(crate) journal: Option<Journal>,
    pub(crate) launches: Semaphore,
    pub(crate) events: mpsc::Sender<Event>,
}

impl Ground {
    pub(crate) fn permits() -> Semaphore {
        Semaphore::new(LAUNCHES)
    }
}

/// The tasks, by instance; one is begun when something is ordered for it first.
pub(crate) struct Shims {
    ground: Arc<Ground>,
    tasks: BTreeMap<InstanceId, mpsc::UnboundedSender<Order>>,
}

impl Shims {
    pub(crate) fn new(ground: Ground) -> Shims {
        Shims { ground: Arc::new(ground), tasks: BTreeMap::new() }
    }

    pub(crate) fn order(&mut self, instance: &InstanceId, order: Order) {
        let task = self.tasks.entry(instance.clone()).or_insert_with(|| {
            // Bounded by the Supervisor, which repeats an order once a second at most.
            let (orders, queue) = mpsc::unbounded_channel();
            let dir = self.ground.run_dir.join(instance.to_string());
            let keeper = Keeper {
                ground: self.ground.clone(),
                instance: instance.clone(),
                dir,
                client: None,
                labels: Labels::default(),
                fds: Vec::new(),
                seq: 0,
                ring: None,
                told: None,
                not_stored: Arc::new(Notify::new()),
            };
            tokio::spawn(keeper.run(queue));
            orders
        });
        let _ = task.send(order);
    }

    /// Ends the task of an instance that is not there any more.
    pub(crate) fn forget(&mut self, instance: &InstanceId) {
        self.tasks.remove(instance);
    }
}

struct Keeper {
    ground: Arc<Ground>,
    instance: InstanceId,
    dir: PathBuf,
    client: Option<Client>,
    labels: Labels,
    /// Descriptors without which the shim starts nothing.
    fds: Vec<String>,
    seq: u64,
    /// Last event copied from the shim's ring; `None` until the journal was asked.
    ring: Option<u64>,
    /// What was told last over the present connection.
    told: Option<ShimState>,
    not_stored: Arc<Notify>,
}

impl Keeper {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                state = next_state(&mut self.client) => match state {
                    Some(()) => self.tell_change().await,
                    None => self.lost().await,
                },
                () = tokio::time::sleep(EQUIP_EVERY), if !self.missing().is_empty() => {
                    let missing = self.missing();
                    if let Err(error) = self.hand_over(&missing).await {
                        tracing::debug!(instance = %self.instance, %error, "the shim did not take its sockets");
                    }
                }
                () = self.not_stored.notified() => {
                    self.ring = None;
                    self.copy_events().await;
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Launch(launch) => self.launch(launch).await,
            Order::Command { incarnation, request } => {
                if let Err(error) = self.command(incarnation, request).await {
                    tracing::debug!(instance = %self.instance, %error, ?request, "the shim did not take a request");
                }
            }
            Order::Prove { generation } => self.prove(generation).await,
            Order::KillOrphans { generation } => self.kill_orphans(generation).await,
        }
    }

    async fn send(&self, event: Event) {
        // Nobody listens when the agent is about to end.
        let _ = self.ground.events.send(event).await;
    }

    /// A watchdog's beat, several a second, is no news for anybody but the probe that looks at its time.
    async fn tell_change(&mut self) {
        let Some(client) = &self.client else { return };
        let state = shim_state(&client.state(), self.seq, self.labels);
        let beats = |told: &ShimState| *told == ShimState { watchdog_at: told.watchdog_at, ..state.clone() };
        match state.watchdog_at.filter(|_| self.told.as_ref().is_some_and(beats)) {
            Some(at) => {
                let (instance, incarnation) = (self.instance.clone(), state.incarnation);
                self.send(Event::Watchdog { instance, incarnation, at }).await;
            }
            None => self.tell_state().await,
        }
    }

    async fn tell_state(&mut self) {
        let Some(client) = &self.client else { return };
        let state = client.state();
        self.copy_events().await;
        self.seq += 1;
        let state = shim_state(&state, self.seq, self.labels);
        self.told = Some(state.clone());
        self.send(Event::Shim { instance: self.instance.clone(), state }).await;
    }

    async fn lost(&mut self) {
        self.told = None;
        let generation = self.client.take().map_or(0, |c| c.state().incarnation.generation);
        self.copy_events().await;
        self.send(Event::ShimLost { instance: self.instance.clone(), generation }).await;
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        if self.client.as_ref().is_some_and(|c| !c.is_closed()) {
            return Ok(());
        }
        let client = Client::connect(&self.dir, ANSWER).await?;
        let spec = Dir::new(&self.dir).read_spec().ok();
        self.labels = spec.as_ref().map(Labels::of).unwrap_or_default();
        self.fds = spec.map(|spec| spec.fds).unwrap_or_default();
        self.client = Some(client);
        self.told = None;
        Ok(())
    }

    async fn launch(&mut self, launch: Launch) {
        let Launch { instance, generation, .. } = launch.clone();
        let event = match self.try_launch(&launch).await {
            Ok(()) => Event::Launched { instance, generation },
            Err(Failed::Never(reason)) => Event::LaunchFailed { instance, generation, reason },
            // Whether it will begin is not known: the Supervisor asks for proof in time.
            Err(Failed::Unknown(reason)) => {
                tracing::warn!(%instance, %reason, "a launch has no clear result");
                return;
            }
            // It began, and does not answer: it may have died at once.
            Err(Failed::Silent(reason)) => {
                tracing::warn!(%instance, %reason, "a shim that was just launched does not answer");
                return self.prove(generation).await;
            }
        };
        self.send(event).await;
        if self.client.is_some() {
            self.tell_state().await;
        }
    }

    async fn try_launch(&mut self, launch: &Launch) -> Result<(), Failed> {
        let ground = self.ground.clone();
        let trees = ground.cgroups.as_ref().filter(|_| !launch.definition.starts_others);
        let leaf = trees.map(|tree| tree.leaf(&ground.scope, &launch.instance.to_string()));
        let spec = launch::spec(launch, &ground.node, leaf);
        let Ok(_permit) = ground.launches.acquire().await else {
            return Err(Failed::Never("the agent is ending".into()));
        };
        self.client = None;
        let dir = Dir::new(&self.dir);
        blocking(move || dir.write_spec(&spec)).await?.map_err(|e| Failed::Never(e.to_string()))?;
        shim::launch_async(ground.exe.clone(), self.dir.clone(), launch.generation).await.map_err(|e| match e {
            LaunchError::Slow { .. } => Failed::Unknown(e.to_string()),
            e => Failed::Never(e.to_string()),
        })?;
        self.connect().await.map_err(|e| Failed::Silent(e.to_string()))?;
        self.equip(launch).await.map_err(|e| Failed::Silent(e.to_string()))
    }

    /// What the shim needs beside its spec before it starts the child.
    async fn equip(&mut self, launch: &Launch) -> Result<(), ClientError> {
        self.hand_over(&launch.definition.listeners).await?;
        let Some(client) = &self.client else { return Ok(()) };
        // The token first: the program is started by the deadline, and finds it in its environment.
        if let Some(token) = launch.token {
            let incarnation = Incarnation { generation: launch.generation, run: 0 };
            client.request(activate(incarnation, token), ANSWER).await?;
        }
        if let Some(deadline) = launch.deadline {
            client.request(Body::Deadline { boot_ns: deadline.as_nanos() }, ANSWER).await?;
        }
        Ok(())
    }

    async fn hand_over(&self, names: &[String]) -> Result<(), ClientError> {
        let Some(client) = &self.client else { return Ok(()) };
        let held = self.listeners(names);
        let fds: Vec<(String, BorrowedFd<'_>)> = held.iter().map(|(name, fd)| (name.clone(), fd.as_fd())).collect();
        if fds.is_empty() { Ok(()) } else { client.hold_fds(&fds, ANSWER).await }
    }

    /// Of `fds`, what the shim does not hold (yet).
    fn missing(&self) -> Vec<String> {
        let Some(client) = self.client.as_ref().filter(|_| !self.fds.is_empty()) else { return Vec::new() };
        let held = client.state().held;
        self.fds.iter().filter(|name| !held.contains(name)).cloned().collect()
    }

    fn listeners(&self, names: &[String]) -> Vec<(String, Arc<OwnedFd>)> {
        let known = self.ground.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().filter_map(|name| Some((name.clone(), known.get(name)?.clone()))).collect()
    }

    async fn command(&mut self, incarnation: Incarnation, request: Request) -> Result<(), ClientError> {
        self.connect().await?;
        let Some(client) = &self.client else { return Ok(()) };
        let reason = || "the agent".to_owned();
        let body = match request {
            Request::Stop => Body::Stop { incarnation, reason: reason(), grace_ms: None },
            Request::Restart => Body::Restart { incarnation, reason: reason(), grace_ms: None },
            Request::Kill => Body::Kill { incarnation, reason: reason() },
            Request::Ready => Body::Ready { incarnation },
            Request::Grant { restart } => Body::Grant { restart },
            Request::Hold(time) => Body::Hold { ms: millis(time) },
            Request::Activate(token) => activate(incarnation, token),
            Request::Freeze(frozen) => Body::Freeze { incarnation, frozen },
            Request::Deadline(at) => Body::Deadline { boot_ns: at.as_nanos() },
            // `Exit` names no incarnation: the generation is compared here, on the connection that it goes over.
            Request::Quit if client.state().incarnation.generation == incarnation.generation => {
                Body::Exit { reason: reason(), grace_ms: None }
            }
            Request::Quit => return Ok(()),
        };
        client.request(body, ANSWER).await.map(drop)
    }

    async fn prove(&mut self, generation: u64) {
        let alive = match &self.client {
            Some(client) => client.request(Body::Hello {}, ANSWER).await.is_ok(),
            None => false,
        };
        if alive {
            return self.tell_state().await;
        }
        self.client = None;
        match self.absence().await {
            Ok(Some(absence)) => self.tell_absent(absence).await,
            Ok(None) => match self.connect().await {
                Ok(()) => self.tell_state().await,
                Err(error) => {
                    tracing::debug!(instance = %self.instance, %error, "its shim holds the lock and does not answer")
                }
            },
            // No directory: nothing was ever launched in it.
            Err(Failed::Never(_)) if !self.dir.exists() => {
                let instance = self.instance.clone();
                self.send(Event::ShimAbsent { instance, generation, last: None, orphans: false }).await;
            }
            Err(Failed::Never(reason) | Failed::Unknown(reason) | Failed::Silent(reason)) => {
                tracing::warn!(instance = %self.instance, %reason, "cannot tell whether its shim lives");
            }
        }
    }

    async fn absence(&self) -> Result<Option<(Absence, bool)>, Failed> {
        let dir = self.dir.clone();
        blocking(move || {
            let found = shim::absent(&dir).map_err(|e| Failed::Never(e.to_string()))?;
            Ok(found.map(|absence| {
                let orphans = !absence.orphans().is_empty();
                (absence, orphans)
            }))
        })
        .await?
    }

    async fn tell_absent(&mut self, (absence, orphans): (Absence, bool)) {
        self.copy_events().await;
        let last = self.last_state(&absence);
        let (instance, generation) = (self.instance.clone(), absence.generation);
        // Its lock is let go before anything can be launched on the strength of this.
        drop(absence);
        self.send(Event::ShimAbsent { instance, generation, last, orphans }).await;
    }

    /// Of this boot only: the times and process ids of another one mean nothing now.
    fn last_state(&self, absence: &Absence) -> Option<ShimState> {
        let state = absence.state.as_ref().filter(|s| clock::same_boot(&s.boot_id))?;
        let labels = absence.dir.read_spec().map(|spec| Labels::of(&spec)).unwrap_or_default();
        let mut state = state.clone();
        state.last_exit = absence.exit_of_last_run().cloned().or(state.last_exit);
        Some(shim_state(&state, u64::MAX, labels))
    }

    async fn kill_orphans(&mut self, generation: u64) {
        let found = self.absence().await;
        let Ok(Some((absence, _))) = found else { return self.prove(generation).await };
        let left = blocking(move || absence.kill_orphans(KILL)).await;
        match left {
            Ok(Ok(left)) if left.is_empty() => {
                self.send(Event::OrphansGone { instance: self.instance.clone(), generation }).await;
            }
            Ok(Ok(left)) => tracing::warn!(instance = %self.instance, count = left.len(), "processes survive SIGKILL"),
            Ok(Err(error)) => {
                tracing::warn!(instance = %self.instance, %error, "cannot end what a dead shim left behind")
            }
            Err(_) => {}
        }
    }

    /// Copies what the shim wrote since last time, before the state that followed from it is told. Storing goes on by
    /// itself: readiness does not wait for the journal.
    async fn copy_events(&mut self) {
        let Some(journal) = self.ground.journal.clone() else { return };
        let Ok(ring) = RingReader::open(&Dir::new(&self.dir).events()) else { return };
        let after = match self.ring {
            Some(seq) => seq,
            None => journal.acked(&self.ground.node, &format!("shim/{}", self.instance)).await.unwrap_or(0),
        };
        // A ring that was made anew counts from 1 again.
        let (after, read) = match ring.events_after(after) {
            Ok(read) if read.events.is_empty() && !ring.holds(after).unwrap_or(false) => match ring.events_after(0) {
                Ok(all) if all.last < after => (0, Ok(all)),
                _ => (after, Ok(read)),
            },
            read => (after, read),
        };
        let Ok(read) = read else { return };
        self.ring = Some(read.last);
        if read.events.is_empty() {
            return;
        }
        let batch = Batch { events: read.events, after, lost: read.lost };
        let not_stored = self.not_stored.clone();
        let mut stored: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let Err(error) = journal.append_batch(batch).await else { return };
            tracing::debug!(%error, "events of a shim were not stored");
            if error.is_passing() {
                tokio::time::sleep(COPY_AGAIN).await;
                not_stored.notify_one();
            }
        });
        // Polled once here, so that it is queued in order.
        if std::future::poll_fn(|cx| Poll::Ready(stored.as_mut().poll(cx))).await.is_pending() {
            tokio::spawn(stored);
        }
    }
}

fn activate(incarnation: Incarnation, token: FencingToken) -> Body {
    Body::Role { incarnation, role: Role::Active.name().into(), token: token.to_string() }
}

enum Failed {
    /// No shim of this generation exists.
    Never(String),
    Unknown(String),
    /// One was launched, and its connection failed.
    Silent(String),
}

impl From<tokio::task::JoinError> for Failed {
    fn from(e: tokio::task::JoinError) -> Self {
        Failed::Unknown(e.to_string())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, tokio::task::JoinError> {
    tokio::task::spawn_blocking(work).await
}

/// Waits for ever while there is no connection; `None` when it ended.
async fn next_state(client: &mut Option<Client>) -> Option<()> {
    match client {
        Some(client) => client.next_state().await.map(drop),
        None => std::future::pending().await,
    }
}
