//! Drills on this plane. Their messages are in queues of their own, so that no client of a user's queue can ever meet one,
//! and a user's program is never started for one: the places of the worker that is drilled also take messages of the
//! drill's queue, and a stand-in of holdfast works on those. All else is as for any message.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::Timestamp;
use serde::{Deserialize, Serialize};

use crate::definition::{How, Program, Worker};
use crate::desk::Desk;
use crate::error::{Error, Result};
use crate::queue::{DeadLetter, QUEUES_MAX, Spec};
use crate::work::Workers;

/// Names of its queues begin so; no file can name one.
pub const PREFIX: &str = "_drill-";
/// Of the queue with its dead letters.
pub const DEAD: &str = "-dead";
/// A drill that nobody ends is over then, whatever it asked for.
const LENGTH_MAX: Duration = Duration::from_secs(2 * 3600);
const ID_CHARS_MAX: usize = 32;
/// A queue whose next try comes in an hour could not be drilled: for the drill its back-off is cut.
const RETRY_MS_MAX: u64 = 1_000;
/// Where a queue has no dead letters: more tries than a drill makes.
const RECEIVES_MAX: u32 = 100;
const VISIBILITY_MS: u64 = 2_000;
/// An attempt at a probe is over by then.
const ATTEMPT_MS: u64 = 120_000;
const CLOSE_AGAIN: Duration = Duration::from_secs(5);

/// `PUT /v1/drills/ID`; again with another `full` changes that.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Order {
    /// Whose places also work on the drill's messages.
    pub worker: Option<String>,
    /// The store refuses sends, of everybody.
    pub full: bool,
    /// Boot time at which the plane ends it unasked.
    pub until_boot_ns: u64,
}

/// Of a drill: the queue of its messages.
pub fn queue(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// What its stand-ins did, a line each, in the directory of the instance.
pub fn effects(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("drill-{id}"))
}

/// A handle; clones share everything.
#[derive(Clone)]
pub(crate) struct Drills {
    pub(crate) desk: Desk,
    pub(crate) workers: Arc<Workers>,
    pub(crate) exe: Arc<PathBuf>,
    pub(crate) dir: Arc<PathBuf>,
}

impl Drills {
    /// What a process before this one was asked for and nobody ended: it forgot, so it is over; but a queue is kept until its
    /// time, because the drill may have killed that process itself.
    pub(crate) async fn take_over(&self) -> Result<()> {
        for queue in self.desk.store.list(PREFIX, None, QUEUES_MAX).await? {
            let id = queue.name.trim_start_matches(PREFIX).to_owned();
            let until = queue.tags.get("until_boot_ns").and_then(|ns| ns.parse().ok()).map(Timestamp::from_nanos);
            if let Some(until) = until.filter(|_| !id.ends_with(DEAD)) {
                self.end_at(id, until.min(clock::now() + LENGTH_MAX));
            }
        }
        Ok(())
    }

    pub(crate) async fn open(&self, id: &str, order: &Order, worker: Option<&Worker>) -> Result<()> {
        let name = checked(id)?;
        let until = Timestamp::from_nanos(order.until_boot_ns).min(clock::now() + LENGTH_MAX);
        let spec = match worker {
            Some(worker) => self.like(&worker.queue, &name).await?,
            None => Spec { visibility_ms: VISIBILITY_MS, ..Spec::default() },
        };
        if self.desk.store.get(&name).await.is_err() {
            if let Some(dead) = &spec.dead_letter {
                self.desk.store.create(&dead.queue, Spec::default(), BTreeMap::new()).await?;
            }
            let tags = BTreeMap::from([("until_boot_ns".to_owned(), order.until_boot_ns.to_string())]);
            self.desk.store.create(&name, spec, tags).await?;
            self.end_at(id.to_owned(), until);
        }
        if let (Some(worker), Some(of)) = (worker, &order.worker) {
            self.workers.lend(of, &name, self.stand_in(id, &name, worker));
        }
        self.desk.store.pretend_full(order.full.then_some(until));
        Ok(())
    }

    /// As the worker's own queue, but for what would make a drill last for hours.
    async fn like(&self, queue: &str, name: &str) -> Result<Spec> {
        let spec = self.desk.store.spec(queue).await?;
        let receives_max = spec.dead_letter.as_ref().map_or(RECEIVES_MAX, |d| d.receives_max);
        let retry = spec.retry.map(|mut retry| {
            retry.base_ms = retry.base_ms.min(RETRY_MS_MAX);
            retry.max_ms = retry.max_ms.min(RETRY_MS_MAX);
            retry
        });
        let dead_letter = Some(DeadLetter { queue: format!("{name}{DEAD}"), receives_max });
        Ok(Spec { dead_letter, retry, crashes_max: spec.crashes_max, rate_max: spec.rate_max, ..Spec::default() })
    }

    fn stand_in(&self, id: &str, queue: &str, worker: &Worker) -> Worker {
        let argv = [&*self.exe, Path::new("__probe"), &effects(&self.dir, id)];
        let argv = argv.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let how = How::Command(Program { argv, done: vec![0], dead: vec![65], ..Program::default() });
        let timeout_ms = worker.timeout_ms.min(ATTEMPT_MS);
        Worker { queue: queue.to_owned(), how, timeout_ms, ..worker.clone() }
    }

    fn end_at(&self, id: String, until: Timestamp) {
        let drills = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(clock::now().until(until)).await;
            while let Err(error) = drills.close(&id).await {
                tracing::warn!(drill = id, %error, "what a drill left is removed later");
                tokio::time::sleep(CLOSE_AGAIN).await;
            }
        });
    }

    /// Nothing of it is left; doing so again is no error.
    pub(crate) async fn close(&self, id: &str) -> Result<()> {
        let name = checked(id)?;
        self.workers.take_back(&name);
        let dead = format!("{name}{DEAD}");
        for queue in [&name, &dead] {
            match self.desk.store.delete(queue).await {
                Ok(()) => self.desk.store.pretend_full(None),
                Err(Error::NoQueue { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.desk.store.forget_attempts(&name).await?;
        match std::fs::remove_file(effects(&self.dir, id)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::System { what: format!("remove what drill {id} left"), source: e })
            }
            _ => Ok(()),
        }
    }
}

fn checked(id: &str) -> Result<String> {
    let plain = id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    match plain && !id.is_empty() && id.len() <= ID_CHARS_MAX {
        true => Ok(queue(id)),
        false => Err(Error::Invalid {
            queue: PREFIX.to_owned(),
            reason: "a drill is named by small letters and digits".into(),
        }),
    }
}
