//! The thread behind the journal: numbers, folds, feeds the incident machine, stores each batch in one transaction.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use holdfast_host::{clock, event::Event, files};
use holdfast_policy::incident::Incidents;
use holdfast_store::Store;
use tokio::sync::oneshot;

use super::rows::{self, Change, EventKey};
use super::{Batch, Limits, Message, Shared};
use crate::incident::{self, Record};

/// Messages stored in one transaction.
const BATCH_MAX: usize = 512;

/// The same change of the same subject is written out this often within the window, then counted on the last row.
const FOLD_AFTER: usize = 3;
const FOLD_WINDOW: Duration = Duration::from_secs(300);
const FOLD_KEYS_MAX: usize = 2000;

/// How often the limits are enforced.
const TRIM_EVERY: Duration = Duration::from_secs(300);
/// After this many changes they are enforced sooner.
const TRIM_CHANGES: usize = 5000;

pub(super) struct Keeper {
    shared: Arc<Shared>,
    node: String,
    limits: Limits,
    incidents: Incidents,
    /// Open incidents whose last state could not be stored yet.
    unsaved: BTreeMap<String, Record>,
    services: BTreeMap<String, u32>,
    /// Life and last sequence of each (node, source).
    sources: BTreeMap<(String, String), (String, u64)>,
    folds: BTreeMap<FoldKey, VecDeque<(EventKey, u64)>>,
    trimmed: Instant,
    changes: usize,
    /// Where the copying of a ring goes on whose batch could not be stored; later ones are refused until then.
    behind: BTreeMap<(String, String), u64>,
    /// Events not kept since the last row about it, whatever the cause.
    missing: u64,
    /// Incarnation of events that the journal writes itself.
    life: String,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FoldKey {
    source: String,
    subject: String,
    from: String,
    to: String,
    reason: String,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, node: String, limits: Limits) -> Self {
        Keeper {
            shared,
            node,
            limits,
            incidents: Incidents::default(),
            unsaved: BTreeMap::new(),
            services: BTreeMap::new(),
            sources: BTreeMap::new(),
            folds: BTreeMap::new(),
            trimmed: Instant::now(),
            changes: 0,
            behind: BTreeMap::new(),
            missing: 0,
            life: format!("{}.0", clock::wall_ms()),
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Message>) {
        let Ok(store) = self.shared.store.clone() else { return discard(inbox) };
        match store.read_blocking(|db| Ok(incident::open_ones(db)?)) {
            Ok(open) => self.incidents = Incidents::restore(open),
            Err(error) => tracing::warn!(%error, "open incidents of before are not known"),
        }
        self.count_open();
        loop {
            let first = match inbox.recv_timeout(TRIM_EVERY) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let batch: Vec<Message> = first.into_iter().chain(inbox.try_iter().take(BATCH_MAX - 1)).collect();
            let open = self.take(&store, batch);
            self.trim(&store);
            if !open {
                return;
            }
        }
    }

    /// False after `Close`.
    fn take(&mut self, store: &Store, batch: Vec<Message>) -> bool {
        let mut open = true;
        let mut changes: Vec<Change> = Vec::new();
        let mut answers: Vec<oneshot::Sender<()>> = Vec::new();
        let mut copied: Vec<((String, String), u64)> = Vec::new();
        let mut flushes = Vec::new();
        let before = self.sources.clone();
        let mut events = 0;
        for message in batch {
            match message {
                Message::Event(event) => {
                    events += 1;
                    self.event(store, *event, &mut changes);
                }
                Message::Batch(batch, reply) => {
                    // A refused one is answered by dropping `reply`.
                    if let Some(ring) = self.copy(store, batch, &mut changes) {
                        copied.push(ring);
                        answers.push(reply);
                    }
                }
                Message::Failed { service, requests } => {
                    let changed = self.incidents.failed_requests(&service, requests);
                    self.incidents_changed(changed, &mut changes);
                }
                Message::Minute { service, minute, tally } => changes.push(Change::Minute { service, minute, tally }),
                Message::Services(services) => self.services = services,
                Message::Flush(reply) => flushes.push(reply),
                Message::Close => open = false,
            }
        }
        let told_missing = self.note_missing(store, &mut changes);
        changes.extend(std::mem::take(&mut self.unsaved).into_values().map(|r| Change::Incident(Box::new(r))));
        let stored = self.store(store, changes);
        // Whoever waited for this batch must find it counted.
        self.count_open();
        match stored {
            Ok(()) => {
                self.note_failure(None);
                self.behind.retain(|source, _| copied.iter().all(|(stored, _)| stored != source));
                answers.into_iter().chain(flushes).for_each(|reply| {
                    let _ = reply.send(());
                });
            }
            Err(error) => {
                // Rings are copied again from where they were; events without a ring are gone.
                self.note_failure(Some(error.to_string()));
                self.sources = before;
                // Rows to count on may be among those that were not stored.
                self.folds.clear();
                for (source, after) in copied {
                    let from = self.behind.entry(source).or_insert(after);
                    *from = after.min(*from);
                }
                self.missing += events + told_missing;
                self.shared.lost.fetch_add(events, Ordering::Relaxed);
            }
        }
        open
    }

    /// Said once for each cause: a disk may be full for long.
    fn note_failure(&self, error: Option<String>) {
        let mut known = self.shared.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_some() && *known != error {
            tracing::warn!(error, "the journal cannot store; rings are copied when it can, other events are counted");
        }
        *known = error;
    }

    fn store(&mut self, store: &Store, changes: Vec<Change>) -> holdfast_store::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.changes += changes.len();
        let changes = Arc::new(changes);
        let shared = changes.clone();
        // The last of the disk is for what gates something.
        let result = match files::is_scarce(store.path()) {
            true => Err(holdfast_store::Error::Full { path: store.path().to_owned() }),
            false => store.write_blocking(move |db| {
                shared.iter().try_for_each(|change| rows::apply(db, change))?;
                Ok(())
            }),
        };
        if result.is_err() {
            for change in changes.iter() {
                if let Change::Incident(record) = change {
                    self.unsaved.insert(record.key.clone(), (**record).clone());
                }
            }
        }
        result
    }

    /// Whose events they are and where they begin; `None` when an earlier batch of the same ring is still to come.
    fn copy(&mut self, store: &Store, batch: Batch, changes: &mut Vec<Change>) -> Option<((String, String), u64)> {
        let Batch { events, after, lost } = batch;
        let first = events.first()?;
        let node = if first.node.is_empty() { self.node.clone() } else { first.node.clone() };
        let source = (node, first.source.clone());
        if self.behind.get(&source).is_some_and(|from| *from < after) {
            return None;
        }
        if lost > 0 {
            self.shared.lost.fetch_add(lost, Ordering::Relaxed);
            self.lost(store, lost, &format!("lost {lost} of {}", source.1), changes);
        }
        // Sequences of a ring rise through all lives of its writer. Only a ring that was made anew ends below what is known.
        let known = self.known(store, source.clone()).1;
        let anew = events.last().is_some_and(|last| last.seq < known);
        for event in events.into_iter().filter(|event| anew || event.seq > known) {
            self.event(store, event, changes);
        }
        Some((source, after))
    }

    fn lost(&mut self, store: &Store, count: u64, reason: &str, changes: &mut Vec<Change>) {
        let event = Event::now(&self.node, "journal", &self.life, "journal").change("", "lost", reason);
        self.event(store, event.with("events", count), changes);
    }

    fn event(&mut self, store: &Store, mut event: Event, changes: &mut Vec<Change>) {
        if event.node.is_empty() {
            event.node.clone_from(&self.node);
        }
        if !self.accept(store, &mut event) {
            return;
        }
        changes.push(Change::Acked {
            node: event.node.clone(),
            source: event.source.clone(),
            incarnation: event.incarnation.clone(),
            seq: event.seq,
        });
        let seen = incident::sightings(&event, &self.services);
        let changed: Vec<_> = seen.iter().flat_map(|seen| self.incidents.handle(seen)).collect();
        let part_of = self.incidents.of(&event.subject).or(changed.first());
        let incident = part_of.map(|i| i.id.to_string());
        self.incidents_changed(changed, changes);
        match self.fold(&event) {
            Some(of) => changes.push(Change::Repeat { of, boot_ns: event.boot_ns, wall_ms: event.wall_ms }),
            None => changes.push(Change::Insert { event, incident }),
        }
    }

    /// Gives the event its number, or finds that it is stored already.
    fn accept(&mut self, store: &Store, event: &mut Event) -> bool {
        let known = self.known(store, (event.node.clone(), event.source.clone()));
        let same_life = known.0 == event.incarnation;
        if event.seq == 0 {
            event.seq = if same_life { known.1 + 1 } else { 1 };
        } else if same_life && event.seq <= known.1 {
            return false;
        }
        *known = (event.incarnation.clone(), event.seq);
        true
    }

    /// Newest life and last sequence of a source.
    fn known(&mut self, store: &Store, (node, source): (String, String)) -> &mut (String, u64) {
        self.sources.entry((node.clone(), source.clone())).or_insert_with(|| {
            store.read_blocking(move |db| Ok(rows::acked(db, &node, &source)?)).ok().flatten().unwrap_or_default()
        })
    }

    /// The row that already tells this, when it has been told often enough.
    fn fold(&mut self, event: &Event) -> Option<EventKey> {
        if self.folds.len() > FOLD_KEYS_MAX {
            self.folds.clear();
        }
        let key = FoldKey {
            source: event.source.clone(),
            subject: event.subject.clone(),
            from: event.from.clone(),
            to: event.to.clone(),
            reason: event.reason.clone(),
        };
        let told = self.folds.entry(key).or_default();
        let oldest = event.boot_ns.saturating_sub(FOLD_WINDOW.as_nanos() as u64);
        told.retain(|(_, at)| *at >= oldest && *at <= event.boot_ns);
        if told.len() >= FOLD_AFTER {
            return told.back().map(|(key, _)| key.clone());
        }
        told.push_back((EventKey::of(event), event.boot_ns));
        None
    }

    fn incidents_changed(&mut self, changed: Vec<holdfast_policy::incident::Incident>, changes: &mut Vec<Change>) {
        for incident in changed {
            let record = Record::from(&incident);
            self.unsaved.remove(&record.key);
            changes.push(Change::Incident(Box::new(record)));
        }
    }

    /// How many were told just now.
    fn note_missing(&mut self, store: &Store, changes: &mut Vec<Change>) -> u64 {
        let overflow = self.shared.overflow.swap(0, Ordering::Relaxed);
        self.shared.lost.fetch_add(overflow, Ordering::Relaxed);
        let missing = std::mem::take(&mut self.missing) + overflow;
        if missing > 0 {
            self.lost(store, missing, &format!("lost {missing}"), changes);
        }
        missing
    }

    fn count_open(&self) {
        self.shared.open_incidents.store(self.incidents.open().count() as u64, Ordering::Relaxed);
    }

    fn trim(&mut self, store: &Store) {
        if self.changes < TRIM_CHANGES && self.trimmed.elapsed() < TRIM_EVERY {
            return;
        }
        let oldest = clock::wall_ms().saturating_sub(u64::from(self.limits.days) * 86_400_000);
        let bytes_max = self.limits.bytes;
        let again = store.write_blocking(move |db| Ok(rows::trim(db, oldest, bytes_max)?));
        self.trimmed = Instant::now();
        self.changes = if matches!(again, Ok(true)) { TRIM_CHANGES } else { 0 };
    }
}

/// Without a file everything is let go, and whoever waits is told by a closed channel.
fn discard(inbox: &Receiver<Message>) {
    while let Ok(message) = inbox.recv() {
        if matches!(message, Message::Close) {
            return;
        }
    }
}
