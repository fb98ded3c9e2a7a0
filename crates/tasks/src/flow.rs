//! Workflows and sagas at work: one task leads each run that is not over. It tells the machine what happened, stores the state,
//! and only then does what the machine asks for; so whatever dies in between is repeated under the same key, never left out.

mod attempt;
pub(crate) mod declared;
mod leader;
mod pools;
mod schedules;
pub(crate) mod state;
pub(crate) mod stored;
mod submit;
pub(crate) mod value;
mod zone;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use holdfast_policy::Timestamp;
use holdfast_policy::flow::{self, Event, Key, Run};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, oneshot, watch};

pub(crate) use self::attempt::read_log;
use self::declared::Workflow;
use self::leader::Leader;
use self::pools::{Granted, Pools};
use self::schedules::Schedules;
use self::stored::RunRow;
pub(crate) use self::submit::typed;
use crate::clock::Millis;
use crate::definition::Definition;
use crate::desk::Desk;
use crate::error::{Error, Result};
use crate::store::decode;

/// Runs that are not over. Each has a task and its state in memory.
pub(crate) const RUNS_MAX: u32 = 10_000;
/// Of them begun at once; the others wait by their priority. Runs below another run do not count: it waits for them.
const BEGUN_MAX: usize = 1_000;
/// Ended runs that are remembered, whatever `keep` says: some gigabytes at most.
pub(crate) const RUNS_KEPT_MAX: u32 = 100_000;
/// Ended runs whose time is over are taken away.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// From the end of a run until nobody leads it.
const LEAVE_MAX: Duration = Duration::from_millis(500);
/// After an error of the store.
const AGAIN: Duration = Duration::from_millis(500);

/// Of several planes one leads the runs; when it is silent for so long another one does.
const LEAD_FOR: Duration = Duration::from_secs(10);
const LEAD_AGAIN: Duration = Duration::from_secs(3);
/// Whether nobody leads any more.
const LEAD_LOOK: Duration = Duration::from_secs(1);
/// Runs that other planes have taken are looked for.
const ADOPT_EVERY: Duration = Duration::from_millis(250);

/// Whether this plane leads the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    NotYet,
    Here,
    /// Another plane does, and this one must begin anew.
    Lost,
}

/// What the runner works with.
pub(crate) struct Ground {
    pub(crate) desk: Desk,
    /// Holdfast itself, which is the shim of each program.
    pub(crate) exe: Arc<PathBuf>,
    /// Of the jobs, one directory each.
    pub(crate) work: Arc<PathBuf>,
    /// Of outputs: one directory for each run.
    pub(crate) files: PathBuf,
    pub(crate) definition: watch::Receiver<Arc<Definition>>,
    pub(crate) closing: watch::Receiver<bool>,
}

/// A definition that runs are pinned to.
pub(crate) struct Pinned {
    pub(crate) hash: String,
    pub(crate) declared: Workflow,
    pub(crate) machine: Arc<flow::Definition>,
}

impl Pinned {
    pub(crate) fn new(declared: Workflow) -> Result<Pinned> {
        Ok(Pinned { hash: declared.hash()?, machine: Arc::new(declared.definition()?), declared })
    }
}

/// A handle; clones share everything.
#[derive(Clone)]
pub(crate) struct Flows(Arc<Inner>);

struct Inner {
    ground: Ground,
    pools: Pools,
    led: Mutex<Led>,
    /// Of definitions that a run in memory has.
    pinned: Mutex<HashMap<String, Weak<Pinned>>>,
    /// A run is over.
    ended: Notify,
    schedules: Schedules,
    lead: watch::Sender<Lead>,
}

/// The runs that are not over.
#[derive(Default)]
struct Led {
    runs: BTreeMap<String, Handle>,
    /// Higher priorities first, then by number.
    queued: BTreeMap<(i32, i64), String>,
}

struct Handle {
    /// Holds as much as there are attempts of the run, and requests that wait for their answer.
    inbox: UnboundedSender<Told>,
    workflow: String,
    place: (i32, i64),
    held: bool,
    below: bool,
    begun: bool,
}

/// Something that happened to a run.
pub(crate) struct Told {
    pub(crate) event: Event,
    /// What an attempt printed.
    pub(crate) output: Option<String>,
    /// After it is stored; the error says why it was refused.
    pub(crate) reply: Option<oneshot::Sender<Result<()>>>,
}

impl Told {
    fn of(event: Event) -> Told {
        Told { event, output: None, reply: None }
    }
}

/// Engine time as the machine counts it.
pub(crate) fn time(at: Millis) -> Timestamp {
    Timestamp::from_millis(at.max(0).unsigned_abs())
}

impl Flows {
    pub(crate) fn new(ground: Ground) -> Flows {
        Flows(Arc::new(Inner {
            ground,
            pools: Pools::default(),
            led: Mutex::default(),
            pinned: Mutex::default(),
            ended: Notify::new(),
            schedules: Schedules::default(),
            lead: watch::Sender::new(Lead::NotYet),
        }))
    }

    /// Goes on with every run that is not over, and with the schedules.
    pub(crate) fn begin(&self) {
        let this = self.clone();
        tokio::spawn(async move {
            let mut closing = this.0.ground.closing.clone();
            tokio::select! {
                () = this.run() => {}
                _ = closing.wait_for(|closing| *closing) => {}
            }
        });
    }

    async fn run(&self) {
        self.come_to_lead().await;
        self.recover().await;
        let rest = async { tokio::join!(self.follow_pools(), self.sweep(), self.keep_schedules()) };
        match self.0.ground.desk.store.is_shared() {
            true => drop(tokio::join!(rest, self.go_on_leading(), self.adopt())),
            false => drop(rest.await),
        }
    }

    async fn come_to_lead(&self) {
        let mut cleared = false;
        loop {
            match self.0.ground.desk.store.lead(holdfast_policy::time::millis(LEAD_FOR)).await {
                Ok(true) => break,
                Ok(false) if !cleared => {
                    // What this plane began when it led is begun again by the one that leads now.
                    attempt::end_orphans(&self.0.ground, attempt::Owner::Elsewhere).await;
                    cleared = true;
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "who leads the runs is not known"),
            }
            tokio::time::sleep(LEAD_LOOK).await;
        }
        if self.0.ground.desk.store.is_shared() {
            tracing::info!("this plane leads the runs of workflows");
        }
        self.0.lead.send_replace(Lead::Here);
    }

    /// While the store cannot say who leads, this plane goes on: no state is stored by two.
    async fn go_on_leading(&self) {
        loop {
            tokio::time::sleep(LEAD_AGAIN).await;
            match self.0.ground.desk.store.lead(holdfast_policy::time::millis(LEAD_FOR)).await {
                Ok(true) => {}
                Ok(false) => {
                    self.0.lead.send_replace(Lead::Lost);
                    return std::future::pending().await;
                }
                Err(error) => tracing::debug!(%error, "the lease of who leads the runs is not renewed"),
            }
        }
    }

    /// Runs that were asked for at other planes.
    async fn adopt(&self) {
        loop {
            tokio::time::sleep(ADOPT_EVERY).await;
            let queued = match self.0.ground.desk.store.queued_runs().await {
                Ok(queued) => queued,
                Err(error) => {
                    tracing::debug!(%error, "nobody looks for runs of other planes now");
                    continue;
                }
            };
            for run in queued.iter().filter(|run| !self.is_led(run)) {
                if let Err(error) = self.begin_leading(run).await {
                    tracing::warn!(code = error.code(), %error, run, "a run does not begin");
                }
            }
        }
    }

    pub(crate) fn leads(&self) -> bool {
        *self.0.lead.borrow() == Lead::Here
    }

    /// Until another plane leads what this one did.
    pub(crate) async fn until_lost(&self) {
        let mut lead = self.0.lead.subscribe();
        if lead.wait_for(|lead| *lead == Lead::Lost).await.is_err() {
            std::future::pending().await
        }
    }

    /// The plane ends: another one need not wait for the lease.
    pub(crate) async fn give_up_lead(&self) {
        if self.leads() && self.0.ground.desk.store.is_shared() {
            drop(self.0.ground.desk.store.lead(0).await);
        }
    }

    async fn follow_pools(&self) {
        let mut definition = self.0.ground.definition.clone();
        loop {
            let slots = definition.borrow_and_update().pools.clone();
            self.grant(self.0.pools.set_slots(slots));
            if definition.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            match self.0.ground.desk.store.sweep_runs().await {
                Ok(gone) => {
                    for run in gone {
                        attempt::forget_files(&self.0.ground.files, &run);
                    }
                }
                Err(error) => tracing::debug!(%error, "no ended run is taken away now"),
            }
        }
    }

    /// What a process before this one has led. Slots that are held are known before any is granted.
    async fn recover(&self) {
        // The definition in force tells how many slots there are.
        let mut definition = self.0.ground.definition.clone();
        let known = definition.borrow_and_update().pools.clone();
        self.0.pools.set_slots(known);
        let rows = loop {
            match self.0.ground.desk.store.open_runs().await {
                Ok(rows) => break rows,
                Err(error) => {
                    tracing::warn!(%error, "runs that were begun are looked for again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        attempt::end_orphans(&self.0.ground, attempt::Owner::Here).await;
        let mut first = Vec::new();
        for row in rows {
            let (done, recovered) = oneshot::channel();
            match self.lead(&row, leader::First::Recover(done)).await {
                Ok(()) => first.push(recovered),
                Err(error) => tracing::error!(code = error.code(), %error, run = row.id, "a run cannot go on"),
            }
        }
        for recovered in first {
            drop(recovered.await);
        }
        self.grant(self.0.pools.open());
        self.pump();
    }

    /// A task for a run, unless it has one.
    async fn lead(&self, row: &RunRow, first: leader::First) -> Result<()> {
        let pinned = self.pinned(&row.definition).await?;
        let state = state::decode(&row.state)?;
        let begun = state.phase != flow::RunPhase::Queued;
        let run = Run::from_state(pinned.machine.clone(), state)
            .map_err(|why| Error::RunRefuses { run: row.id.clone(), reason: why.to_string() })?;
        let (inbox, told) = tokio::sync::mpsc::unbounded_channel();
        let place = (-row.priority, row.number);
        let handle = Handle {
            inbox: inbox.clone(),
            workflow: row.workflow.clone(),
            place,
            held: row.held,
            below: row.parent.is_some(),
            begun,
        };
        {
            let mut led = self.led();
            if led.runs.contains_key(&row.id) {
                return Ok(());
            }
            led.runs.insert(row.id.clone(), handle);
            if !begun {
                led.queued.insert(place, row.id.clone());
            }
        }
        let leader = Leader::new(self.clone(), pinned, run, row.version, inbox, told);
        let (flows, id) = (self.clone(), row.id.clone());
        tokio::spawn(async move {
            leader.lead(first).await;
            flows.leave(&id);
        });
        Ok(())
    }

    /// Nobody leads the run any more: whatever it held is free.
    fn leave(&self, id: &str) {
        {
            let mut led = self.led();
            if let Some(handle) = led.runs.remove(id) {
                led.queued.remove(&handle.place);
            }
        }
        self.grant(self.0.pools.forget(id));
        self.0.ended.notify_waiters();
        self.pump();
    }

    /// Begins what may begin.
    fn pump(&self) {
        let mut led = self.led();
        let mut begun = led.runs.values().filter(|handle| handle.begun && !handle.below).count();
        let queued: Vec<((i32, i64), String)> = led.queued.iter().map(|(at, id)| (*at, id.clone())).collect();
        for (place, id) in queued {
            let Some(handle) = led.runs.get(&id) else { continue };
            let waits = handle.held && led.runs.values().any(|other| other.begun && other.workflow == handle.workflow);
            if waits || (!handle.below && begun >= BEGUN_MAX) {
                continue;
            }
            begun += usize::from(!handle.below);
            led.queued.remove(&place);
            if let Some(handle) = led.runs.get_mut(&id) {
                handle.begun = true;
                drop(handle.inbox.send(Told::of(Event::Begin)));
            }
        }
    }

    fn grant(&self, granted: Granted) {
        for key in granted {
            let inbox = self.led().runs.get(&key.run).map(|handle| handle.inbox.clone());
            match inbox {
                Some(inbox) => drop(inbox.send(Told::of(Event::SlotGranted { key }))),
                None => self.forget_slots(&key),
            }
        }
    }

    fn forget_slots(&self, key: &Key) {
        let next = self.0.pools.forget(&key.run);
        // Each step takes a run out, so that this ends.
        self.grant(next);
    }

    /// Answers when what was told is stored.
    pub(crate) async fn tell(&self, id: &str, event: Event) -> Result<()> {
        let inbox = || self.led().runs.get(id).map(|handle| handle.inbox.clone());
        let over = || Error::RunRefuses { run: id.to_owned(), reason: "it is over".into() };
        let known = inbox();
        let inbox = match known {
            Some(known) => known,
            None => {
                let row = self.0.ground.desk.store.flow_run(id).await?;
                if !row.over && row.status == "queued" {
                    // Another plane has just taken it.
                    self.begin_leading(id).await?;
                }
                inbox().ok_or_else(over)?
            }
        };
        let (reply, answer) = oneshot::channel();
        let told = Told { event, output: None, reply: Some(reply) };
        inbox.send(told).map_err(|_| over())?;
        answer.await.unwrap_or_else(|_| Err(over()))
    }

    /// Of a run that is over.
    pub(crate) async fn rerun(&self, id: &str, event: Event) -> Result<()> {
        // It may have ended just now, and its leader is on the way out.
        let left = async {
            loop {
                let ended = self.0.ended.notified();
                if !self.is_led(id) {
                    return;
                }
                ended.await;
            }
        };
        drop(tokio::time::timeout(LEAVE_MAX, left).await);
        let row = self.0.ground.desk.store.flow_run(id).await?;
        let refused = |reason: &str| Error::RunRefuses { run: id.to_owned(), reason: reason.into() };
        if !row.over || self.led().runs.contains_key(id) {
            return Err(refused("it is not over"));
        }
        let (reply, answer) = oneshot::channel();
        self.lead(&row, leader::First::Told(Told { event, output: None, reply: Some(reply) })).await?;
        answer.await.unwrap_or_else(|_| Err(refused("somebody else runs it again")))
    }

    pub(crate) fn is_led(&self, id: &str) -> bool {
        self.led().runs.contains_key(id)
    }

    pub(crate) async fn pinned(&self, hash: &str) -> Result<Arc<Pinned>> {
        if let Some(pinned) = self.known(hash) {
            return Ok(pinned);
        }
        let body = self.0.ground.desk.store.flow_definition(hash).await?;
        // Not hashed anew: a field that was added since would change it.
        let declared: Workflow = decode(&body, "definition of a workflow")?;
        let machine = Arc::new(declared.definition()?);
        let pinned = Arc::new(Pinned { hash: hash.to_owned(), declared, machine });
        self.remember(&pinned);
        Ok(pinned)
    }

    fn known(&self, hash: &str) -> Option<Arc<Pinned>> {
        lock(&self.0.pinned).get(hash).and_then(Weak::upgrade)
    }

    fn remember(&self, pinned: &Arc<Pinned>) {
        let mut all = lock(&self.0.pinned);
        all.retain(|_, weak| weak.strong_count() > 0);
        all.insert(pinned.hash.clone(), Arc::downgrade(pinned));
    }

    pub(crate) fn pool_counts(&self) -> BTreeMap<String, (u32, usize, usize)> {
        self.0.pools.counts()
    }

    pub(crate) fn files(&self) -> &std::path::Path {
        &self.0.ground.files
    }

    fn led(&self) -> MutexGuard<'_, Led> {
        lock(&self.0.led)
    }
}

/// Every workflow of a definition can run, and its zone is known; the first that cannot is the error.
pub(crate) fn check(definition: &Definition) -> Result<()> {
    for workflow in definition.workflows.values() {
        workflow.definition()?;
        schedules::schedule(workflow)?;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
