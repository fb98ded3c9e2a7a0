//! A watch reads stored history, so it misses nothing however its consumer is scheduled.

use std::sync::Arc;

use holdfast_store as store;
use tokio::sync::{mpsc, watch};

use super::{Inner, engine};
use crate::{Event, Result, Watch};

/// Revisions read at once.
const STRETCH_MAX: u64 = 256;

pub(super) async fn start(inner: &Arc<Inner>, prefix: String, from: u64) -> Result<Watch> {
    let committed = inner.committed.subscribe();
    let from = match from {
        0 => inner.db.read(engine::revision).await? + 1,
        from => from,
    };
    let (events, receiver) = mpsc::channel(inner.options.watch_queue_max.max(1));
    let task = Task {
        db: inner.db.clone(),
        committed,
        prefix,
        next: from,
        events,
        stall_max: inner.options.watch_stall_max,
        progress_every: inner.options.progress_every,
    };
    tokio::spawn(task.run());
    Ok(Watch::new(receiver))
}

/// Dropping `events` tells the consumer `Lost`.
struct Task {
    db: store::Store,
    committed: watch::Receiver<u64>,
    prefix: String,
    next: u64,
    events: mpsc::Sender<Event>,
    stall_max: std::time::Duration,
    progress_every: std::time::Duration,
}

impl Task {
    async fn run(mut self) {
        while self.catch_up().await.is_some() {
            tokio::select! {
                changed = self.committed.changed() => if changed.is_err() { return },
                () = self.events.closed() => return,
                () = tokio::time::sleep(self.progress_every) => {
                    let progress = Event::Progress { revision: self.next.saturating_sub(1) };
                    if self.send(progress).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// `None` ends the watch.
    async fn catch_up(&mut self) -> Option<()> {
        self.committed.borrow_and_update();
        loop {
            let (prefix, next) = (self.prefix.clone(), self.next);
            let read = self.db.read(move |db| engine::stretch(db, &prefix, next, STRETCH_MAX)).await;
            let stretch = read.ok()?;
            if next <= stretch.compacted {
                self.send(Event::Compacted { compacted: stretch.compacted }).await?;
                return None;
            }
            for (revision, changes) in stretch.changes {
                self.send(Event::Changes { revision, changes }).await?;
            }
            if stretch.revision < next {
                return Some(());
            }
            self.next = stretch.revision + 1;
            if stretch.revision - next + 1 < STRETCH_MAX {
                return Some(());
            }
        }
    }

    async fn send(&self, event: Event) -> Option<()> {
        self.events.send_timeout(event, self.stall_max).await.ok()
    }
}
