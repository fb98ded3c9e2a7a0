//! A watch that outlives its connections: each begins where the last one ended, and nothing is told twice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_policy::backoff::Backoff;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::client::{Client, Repeat, read, read_streamed};
use super::failure::Failure;
use super::wire::{Namespace, RangeAnswer, RawEvent, WatchAnswer};
use crate::{Change, Event, Result, Watch};

/// etcd cuts messages (`fragment`) near its request limit of 1.5 MiB, a third more in base64.
const LINE_BYTES_MAX: usize = 16 << 20;

/// All changes of one revision, which are held until they are complete. A deletion is told by its key alone.
const REVISION_BYTES_MAX: usize = 64 << 20;

/// Connections in a row on which a member spoke nonsense or said no; then the watcher hears `Lost`.
const STRANGE_MAX: u32 = 8;

const RECONNECT: Backoff =
    Backoff { base: Duration::from_millis(20), factor: 2.0, max: Duration::from_secs(5), jitter: 0.3 };

pub(super) struct Limits {
    /// No other cluster is watched.
    pub followed: Option<u64>,
    pub silence_max: Duration,
    pub stall_max: Duration,
    pub queue_max: usize,
}

/// Refuses what the watch itself would be refused for, and knows the revision of now.
pub(super) async fn start(
    client: &Arc<Client>,
    namespace: &Namespace,
    prefix: &str,
    from: u64,
    limits: Limits,
) -> Result<Watch> {
    let (key, range_end) = namespace.range(prefix);
    let now: RangeAnswer = client.call("/v3/kv/range", &probe(&key, &range_end), Repeat::Yes).await?;
    if limits.followed.is_some_and(|followed| followed != now.header.cluster_id) {
        return Err(super::another_cluster());
    }
    let (events, receiver) = mpsc::channel(limits.queue_max.max(1));
    let next = if from == 0 { now.header.revision.saturating_add(1) } else { from };
    let task = Task {
        client: client.clone(),
        namespace: namespace.clone(),
        key,
        range_end,
        next,
        untold: next,
        cluster_id: now.header.cluster_id,
        known: now.header.revision,
        held: Held::default(),
        events,
        limits,
    };
    tokio::spawn(task.run());
    Ok(Watch::new(receiver))
}

/// Through the quorum, whatever little it returns.
fn probe(key: &str, range_end: &str) -> serde_json::Value {
    json!({"key": key, "range_end": range_end, "count_only": true})
}

/// Dropping `events` tells the consumer `Lost`.
struct Task {
    client: Arc<Client>,
    namespace: Namespace,
    key: String,
    range_end: String,
    /// Where the next connection begins.
    next: u64,
    /// First revision whose changes were not told. Behind `next` after progress: changes that it overtook are still told.
    untold: u64,
    cluster_id: u64,
    /// Highest revision that this cluster is known to have had.
    known: u64,
    held: Held,
    events: mpsc::Sender<Event>,
    limits: Limits,
}

/// Changes of a revision of which more may come.
#[derive(Default)]
struct Held {
    revision: u64,
    changes: Vec<Change>,
    bytes: usize,
}

enum End {
    /// The consumer has heard its last event, or is gone.
    Over,
    Broken(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> End {
        End::Broken(failure)
    }
}

impl Task {
    async fn run(mut self) {
        let (mut failures, mut strange) = (0u32, 0u32);
        let events = self.events.clone();
        loop {
            let (index, before, began) = (self.client.best(), self.next, Instant::now());
            let end = tokio::select! {
                end = self.follow(index) => end,
                () = events.closed() => return,
            };
            let Err(End::Broken(failure)) = end else { return };
            let (endpoint, reason) = (self.client.name(index), failure.reason());
            tracing::debug!(endpoint, reason, "etcd: a watch begins again");
            if self.next > before || began.elapsed() > RECONNECT.max {
                (failures, strange) = (0, 0);
            }
            if matches!(failure, Failure::Refused { .. } | Failure::Garbage(_)) {
                strange += 1;
            }
            if strange > STRANGE_MAX {
                tracing::warn!(endpoint, reason, "etcd: a watch is given up");
                return;
            }
            match failure {
                Failure::LoggedOut(_) => self.client.forget_held().await,
                _ => self.client.troubled(index),
            }
            tokio::select! {
                () = tokio::time::sleep(self.client.delay(&RECONNECT, failures)) => {}
                () = events.closed() => return,
            }
            failures = failures.saturating_add(1);
        }
    }

    /// One connection, from its beginning to its end.
    async fn follow(&mut self, index: usize) -> std::result::Result<std::convert::Infallible, End> {
        self.held = Held::default();
        let request = json!({"create_request": {
            "key": self.key,
            "range_end": self.range_end,
            "start_revision": self.next.to_string(),
            "progress_notify": true,
            "fragment": true,
        }});
        let client = self.client.clone();
        let mut lines = client.stream(index, "/v3/watch", &request, LINE_BYTES_MAX).await?;
        let mut created = false;
        loop {
            let patience = if created { self.limits.silence_max } else { client.request_timeout };
            let line = match timeout(patience, lines.next()).await {
                Ok(line) => line?.ok_or_else(|| Failure::Unknown("the stream ended".into()))?,
                Err(_) if created => {
                    self.ask(index).await?;
                    continue;
                }
                Err(_) => return Err(Failure::Unknown(format!("no watch within {patience:?}")).into()),
            };
            let answer: WatchAnswer = read_streamed(&line)?;
            created |= answer.created;
            if answer.created && answer.header.revision < self.known {
                self.ask(index).await?;
            }
            self.known = self.known.max(answer.header.revision);
            self.take(answer, line.len()).await?;
        }
    }

    /// After silence: whether this member still has a quorum behind it. A quiet watch goes on then.
    async fn ask(&self, index: usize) -> std::result::Result<(), End> {
        let body = Bytes::from(probe(&self.key, &self.range_end).to_string());
        let limit = self.client.request_timeout;
        let answer: RangeAnswer = self.client.at(index, "/v3/kv/range", &body, limit, read).await?;
        self.same_cluster(answer.header.cluster_id)?;
        self.same_history(answer.header.revision)
    }

    /// Restored from a copy, revisions mean other things than they did.
    fn same_cluster(&self, cluster_id: u64) -> std::result::Result<(), End> {
        if cluster_id == self.cluster_id {
            return Ok(());
        }
        tracing::warn!(was = self.cluster_id, is = cluster_id, "etcd: another cluster answers; a watch ends");
        Err(End::Over)
    }

    /// Restored with the names that it had, a cluster has its old id too. Only `revision` of a read through the quorum
    /// tells: a member alone may lag.
    fn same_history(&self, revision: u64) -> std::result::Result<(), End> {
        if revision >= self.known {
            return Ok(());
        }
        tracing::warn!(known = self.known, revision, "etcd: it was set back to an older copy; a watch ends");
        Err(End::Over)
    }

    async fn take(&mut self, answer: WatchAnswer, bytes: usize) -> std::result::Result<(), End> {
        self.same_cluster(answer.header.cluster_id)?;
        if answer.compact_revision != 0 {
            let compacted = answer.compact_revision;
            self.send(Event::Compacted { compacted }).await?;
            return Err(End::Over);
        }
        if answer.canceled {
            return Err(cancelled(&answer.cancel_reason).into());
        }
        let quiet = answer.events.is_empty();
        for event in answer.events {
            self.event(event, bytes).await?;
        }
        if answer.fragment {
            return Ok(());
        }
        self.release().await?;
        let (revision, after) = (answer.header.revision, answer.header.revision.saturating_add(1));
        if quiet && !answer.created && after >= self.next {
            self.next = after;
            self.send(Event::Progress { revision }).await?;
        }
        Ok(())
    }

    async fn event(&mut self, event: RawEvent, bytes: usize) -> std::result::Result<(), End> {
        let revision = event.kv.mod_revision;
        if revision < self.untold {
            return Ok(());
        }
        if revision != self.held.revision {
            if revision < self.held.revision {
                return Err(Failure::Garbage("revisions went back".into()).into());
            }
            self.release().await?;
            self.held.revision = revision;
        }
        self.held.bytes += event.kv.key.0.len() + event.kv.value.0.len();
        if self.held.bytes > REVISION_BYTES_MAX.max(bytes) {
            return Err(Failure::Garbage(format!("more than {REVISION_BYTES_MAX} bytes in one revision")).into());
        }
        self.held.changes.extend(self.namespace.change(event));
        Ok(())
    }

    /// Tells the revision that is complete now.
    async fn release(&mut self) -> std::result::Result<(), End> {
        let Held { revision, changes, .. } = std::mem::take(&mut self.held);
        if revision == 0 {
            return Ok(());
        }
        if !changes.is_empty() {
            self.send(Event::Changes { revision, changes }).await?;
        }
        self.untold = revision.saturating_add(1);
        self.next = self.next.max(self.untold);
        Ok(())
    }

    async fn send(&self, event: Event) -> std::result::Result<(), End> {
        self.events.send_timeout(event, self.limits.stall_max).await.map_err(|_| End::Over)
    }
}

fn cancelled(reason: &str) -> Failure {
    match reason.contains("permission denied") {
        true => Failure::Refused { code: 7, message: reason.to_owned() },
        false => Failure::classify(2, if reason.is_empty() { "the watch was cancelled" } else { reason }),
    }
}
