//! Workers: messages of a queue given to a program or a service, one attempt each, under a lease that is renewed while
//! it works.

mod attempt;
mod call;
pub(crate) mod history;
mod replay;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_policy::queue::Crew;
use tokio::sync::watch;

use crate::definition::{Definition, How, Worker};
use crate::desk::{Ask, Desk};
use crate::queue::Delivery;

/// A receive waits so long before it looks anew how large its crew should be.
const WAIT: Duration = Duration::from_secs(5);
/// Without a free place, a message or an instance to ask.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// After an error of the store.
const AGAIN: Duration = Duration::from_secs(1);
/// SQS hands out no more at once, nor do we.
const MESSAGES_MAX: u32 = 10;

/// What the crews share.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) desk: Desk,
    /// Holdfast itself, which is the shim of each program.
    pub(crate) exe: Arc<PathBuf>,
    /// Of the jobs, one directory each.
    pub(crate) root: Arc<PathBuf>,
    pub(crate) definition: watch::Receiver<Arc<Definition>>,
    pub(crate) closing: watch::Receiver<bool>,
}

/// One worker's attempts.
struct Team {
    name: String,
    at_work: AtomicU32,
    /// Somebody takes messages for it.
    runs: AtomicBool,
}

/// Starts a crew for each worker of the definition in force, now and whenever it changes.
pub(crate) struct Workers {
    ground: Ground,
    teams: Arc<Mutex<BTreeMap<String, Arc<Team>>>>,
    /// Stand-ins of drills, by their queue.
    lent: Arc<Mutex<BTreeMap<String, Worker>>>,
}

/// Which messages a crew takes, and what it does with them.
#[derive(Clone)]
enum Post {
    /// As the file says of the worker.
    Declared,
    /// Of a drill, on the places of the worker that is drilled.
    Lent { queue: String, by: Arc<Mutex<BTreeMap<String, Worker>>> },
}

impl Post {
    /// `None` once it is no more.
    fn worker(&self, name: &str, definition: &Definition) -> Option<Worker> {
        match self {
            Post::Declared => definition.workers.get(name).cloned(),
            Post::Lent { queue, by } => lock(by).get(queue).cloned(),
        }
    }
}

/// How many messages a worker works on.
pub type AtWork = BTreeMap<String, u32>;

impl Workers {
    pub(crate) fn start(ground: Ground) -> Arc<Workers> {
        let workers = Arc::new(Workers { ground, teams: Arc::default(), lent: Arc::default() });
        let this = workers.clone();
        tokio::spawn(async move { this.run().await });
        workers
    }

    pub(crate) fn at_work(&self) -> AtWork {
        lock(&self.teams).values().map(|team| (team.name.clone(), team.at_work.load(Ordering::SeqCst))).collect()
    }

    async fn run(&self) {
        self.find_again().await;
        let mut definition = self.ground.definition.clone();
        loop {
            let names: Vec<String> = definition.borrow_and_update().workers.keys().cloned().collect();
            for name in names {
                self.begin(&name);
            }
            if definition.changed().await.is_err() {
                return;
            }
        }
    }

    /// A crew goes on until its worker is taken out of the file.
    fn begin(&self, name: &str) {
        let team = self.team(name);
        if team.runs.swap(true, Ordering::SeqCst) {
            return;
        }
        let ground = self.ground.clone();
        tokio::spawn(async move {
            loop {
                crew(&ground, &team, &Post::Declared).await;
                team.runs.store(false, Ordering::SeqCst);
                // It may have come back into the file just now, and whoever put it there saw this crew.
                let wanted = ground.definition.borrow().workers.contains_key(&team.name);
                if !wanted || *ground.closing.borrow() || team.runs.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
        });
    }

    /// Messages of the queue of `stand_in` are worked on as well, on places of `name`, until they are taken back.
    pub(crate) fn lend(&self, name: &str, queue: &str, stand_in: Worker) {
        if lock(&self.lent).insert(queue.to_owned(), stand_in).is_some() {
            return;
        }
        let (ground, team) = (self.ground.clone(), self.team(name));
        let post = Post::Lent { queue: queue.to_owned(), by: self.lent.clone() };
        tokio::spawn(async move { crew(&ground, &team, &post).await });
    }

    pub(crate) fn take_back(&self, queue: &str) {
        lock(&self.lent).remove(queue);
    }

    fn team(&self, name: &str) -> Arc<Team> {
        let mut teams = lock(&self.teams);
        let fresh =
            || Arc::new(Team { name: name.to_owned(), at_work: AtomicU32::new(0), runs: AtomicBool::new(false) });
        teams.entry(name.to_owned()).or_insert_with(fresh).clone()
    }

    /// Programs that a process before this one started: they work on, and their results wait.
    async fn find_again(&self) {
        let found = loop {
            match self.ground.desk.store.open_work().await {
                Ok(found) => break found,
                Err(error) => {
                    tracing::warn!(%error, "what was begun is looked for again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        for work in found {
            tracing::info!(token = work.token, "a program that was begun before is found again");
            let (ground, team) = (self.ground.clone(), self.team(&work.worker));
            team.at_work.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                attempt::go_on(&ground, work).await;
                team.at_work.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }
}

/// Takes messages while there are places, until the worker is no more or the plane ends.
async fn crew(ground: &Ground, team: &Arc<Team>, post: &Post) {
    let mut closing = ground.closing.clone();
    loop {
        let definition = ground.definition.borrow().clone();
        let Some(worker) = post.worker(&team.name, &definition) else { return };
        let taken = tokio::select! {
            taken = take(ground, team, &worker, &definition) => taken,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        for delivery in taken {
            let (ground, team, worker) = (ground.clone(), team.clone(), worker.clone());
            let name = match post {
                Post::Declared => team.name.clone(),
                Post::Lent { queue, .. } => queue.clone(),
            };
            team.at_work.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                attempt::begin(&ground, &name, &worker, delivery).await;
                team.at_work.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }
}

/// As many messages as there are places for: none is held that nobody works on.
async fn take(ground: &Ground, team: &Team, worker: &Worker, definition: &Definition) -> Vec<Delivery> {
    let places = places(ground, team, worker).await;
    let reachable = match &worker.how {
        How::Http { service, .. } | How::Replay { service, .. } => {
            definition.targets.get(service).is_some_and(|targets| !targets.is_empty())
        }
        How::Command(_) => true,
    };
    if places == 0 || !reachable {
        tokio::time::sleep(LOOK_AGAIN).await;
        return Vec::new();
    }
    // Of a FIFO queue one at a time: a group is closed while somebody works on one of its messages, and one receive may
    // hand out several of the same group, which must not be worked on side by side.
    let fifo = ground.desk.store.spec(&worker.queue).await.is_ok_and(|spec| spec.fifo);
    let many = if fifo { 1 } else { places.min(MESSAGES_MAX) };
    let ask = Ask { many, visibility_ms: Some(worker.lease_ms), wait: Some(WAIT), attempt: None };
    match ground.desk.receive(&worker.queue, ask).await {
        Ok(deliveries) => deliveries,
        Err(error) => {
            tracing::warn!(worker = team.name, %error, "no message could be taken");
            tokio::time::sleep(AGAIN).await;
            Vec::new()
        }
    }
}

async fn places(ground: &Ground, team: &Team, worker: &Worker) -> u32 {
    let at_work = team.at_work.load(Ordering::SeqCst);
    if worker.min == worker.max {
        return worker.max.saturating_sub(at_work);
    }
    let crew =
        Crew { min: worker.min, max: worker.max, backlog: worker.backlog, age: Duration::from_millis(worker.age_ms) };
    let Ok(counts) = ground.desk.store.counts(&worker.queue).await else { return 0 };
    // An idle crew of size 0 still listens with one place: its first message is not to wait for the next look.
    let size = crew.size(at_work, counts.visible, Duration::from_millis(counts.oldest_ms)).max(1).min(worker.max);
    size.saturating_sub(at_work)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
