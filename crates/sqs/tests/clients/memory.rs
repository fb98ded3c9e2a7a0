//! A backend in memory, for tests of the face alone: enough of SQS that each answer and error can come about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use holdfast_sqs::backend::{
    Attributes, Backend, Change, Error, MoveTask, Outgoing, Queue, Receive, Received, Result, Sent,
};
use tokio::sync::Notify;

#[derive(Default)]
pub(crate) struct Memory {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<String, Held>,
    deleted: BTreeSet<String>,
    moves: Vec<MoveTask>,
    count: u64,
}

struct Held {
    attributes: Attributes,
    tags: BTreeMap<String, String>,
    created_s: u64,
    messages: Vec<Stored>,
    sent: BTreeMap<String, Sent>,
    is_purged: bool,
}

struct Stored {
    message: Outgoing,
    number: u64,
    sent_ms: u64,
    first_received_ms: u64,
    receives: u32,
    visible_at: Instant,
    is_in_flight: bool,
    source: Option<String>,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(since.as_millis()).expect("milliseconds fit")
}

fn seconds(n: u32) -> Duration {
    Duration::from_secs(n.into())
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, queue: &str, f: impl FnOnce(&mut Held) -> T) -> Result<T> {
        self.state().queues.get_mut(queue).map(f).ok_or(Error::QueueDoesNotExist)
    }
}

impl State {
    fn put(&mut self, queue: &str, message: Outgoing) -> Result<Sent> {
        self.count += 1;
        let number = self.count;
        let held = self.queues.get_mut(queue).ok_or(Error::QueueDoesNotExist)?;
        let attributes = &held.attributes;
        if message.size_bytes() > usize::try_from(attributes.size_max).unwrap_or(usize::MAX) {
            return Err(Error::InvalidParameterValue(format!(
                "message must be shorter than {} bytes",
                attributes.size_max
            )));
        }
        let sent = Sent {
            message_id: format!("00000000-0000-4000-8000-{number:012}"),
            sequence: attributes.fifo.then_some(number),
        };
        if attributes.fifo {
            let content = attributes.content_based_deduplication.then(|| message.body.clone());
            let id = message.deduplication_id.clone().or(content);
            let id = id.ok_or_else(|| Error::InvalidParameterValue("the queue needs a deduplication id".into()))?;
            if let Some(before) = held.sent.get(&id) {
                return Ok(before.clone());
            }
            held.sent.insert(id, sent.clone());
        }
        let delay = message.delay.unwrap_or(attributes.delay);
        held.messages.push(Stored {
            message,
            number,
            sent_ms: now_ms(),
            first_received_ms: 0,
            receives: 0,
            visible_at: Instant::now() + seconds(delay),
            is_in_flight: false,
            source: None,
        });
        Ok(sent)
    }

    fn take(&mut self, queue: &str, receive: &Receive) -> Result<Vec<Received>> {
        self.bury(queue)?;
        let held = self.queues.get_mut(queue).ok_or(Error::QueueDoesNotExist)?;
        let (now, fifo) = (Instant::now(), held.attributes.fifo);
        let timeout = seconds(receive.visibility_timeout.unwrap_or(held.attributes.visibility_timeout));
        let busy = |stored: &&Stored| stored.is_in_flight && stored.visible_at > now;
        let busy: BTreeSet<Option<String>> =
            held.messages.iter().filter(busy).map(|s| s.message.group.clone()).collect();
        let free = |stored: &&mut Stored| stored.visible_at <= now && !(fifo && busy.contains(&stored.message.group));
        let most = usize::try_from(receive.messages_max).unwrap_or(1);
        let shown = held.messages.iter_mut().filter(free).take(most).map(|stored| {
            stored.receives += 1;
            stored.is_in_flight = true;
            stored.visible_at = now + timeout;
            if stored.receives == 1 {
                stored.first_received_ms = now_ms();
            }
            stored.show(queue, fifo)
        });
        Ok(shown.collect())
    }

    /// Moves what was received too often to the dead-letter queue.
    fn bury(&mut self, queue: &str) -> Result<()> {
        let held = self.queues.get_mut(queue).ok_or(Error::QueueDoesNotExist)?;
        let Some(redrive) = held.attributes.redrive.clone() else { return Ok(()) };
        let now = Instant::now();
        let is_spent = |stored: &mut Stored| stored.visible_at <= now && stored.receives >= redrive.receives_max;
        let spent: Vec<Stored> = held.messages.extract_if(.., is_spent).collect();
        let dead = self.queues.get_mut(&redrive.target).ok_or(Error::QueueDoesNotExist)?;
        dead.messages.extend(spent.into_iter().map(|stored| Stored {
            source: Some(queue.to_owned()),
            is_in_flight: false,
            ..stored
        }));
        Ok(())
    }

    fn is_dead_letter_queue(&self, queue: &str) -> bool {
        self.queues.values().any(|held| held.attributes.redrive.as_ref().is_some_and(|r| r.target == queue))
    }
}

impl Stored {
    fn show(&self, queue: &str, fifo: bool) -> Received {
        Received {
            message_id: format!("00000000-0000-4000-8000-{:012}", self.number),
            receipt: format!("{queue}:{}:{}", self.number, self.receives),
            body: self.message.body.clone(),
            attributes: self.message.attributes.clone(),
            trace_header: self.message.trace_header.clone(),
            sender: self.message.sender.clone(),
            sent_ms: self.sent_ms,
            first_received_ms: self.first_received_ms,
            receives: self.receives,
            group: self.message.group.clone(),
            deduplication_id: self.message.deduplication_id.clone(),
            sequence: fifo.then_some(self.number),
            dead_letter_source: self.source.clone(),
        }
    }
}

/// Number of the message in a receipt of this queue.
fn number(queue: &str, receipt: &str) -> Result<u64> {
    let number = receipt.strip_prefix(queue).and_then(|rest| rest.strip_prefix(':')?.split(':').next()?.parse().ok());
    number.ok_or_else(|| Error::ReceiptHandleIsInvalid("it was not given out by this queue".into()))
}

fn apply(attributes: &mut Attributes, change: Change) {
    fn set<T>(slot: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *slot = value;
        }
    }
    set(&mut attributes.visibility_timeout, change.visibility_timeout);
    set(&mut attributes.delay, change.delay);
    set(&mut attributes.retention, change.retention);
    set(&mut attributes.size_max, change.size_max);
    set(&mut attributes.wait, change.wait);
    set(&mut attributes.redrive, change.redrive);
    set(&mut attributes.redrive_allow, change.redrive_allow);
    set(&mut attributes.content_based_deduplication, change.content_based_deduplication);
    set(&mut attributes.deduplication_scope, change.deduplication_scope);
    set(&mut attributes.throughput_limit, change.throughput_limit);
    for (name, value) in change.kept {
        if value.is_empty() {
            attributes.kept.remove(&name);
        } else {
            attributes.kept.insert(name, value);
        }
    }
}

impl Backend for Memory {
    async fn create(&self, name: &str, attributes: Attributes, tags: BTreeMap<String, String>) -> Result<()> {
        let mut state = self.state();
        if let Some(held) = state.queues.get(name) {
            let same = held.attributes == attributes;
            return if same { Ok(()) } else { Err(Error::QueueNameExists("they differ".into())) };
        }
        if state.deleted.contains(name) {
            return Err(Error::QueueDeletedRecently);
        }
        let held = Held {
            attributes,
            tags,
            created_s: now_ms() / 1000,
            messages: vec![],
            sent: BTreeMap::new(),
            is_purged: false,
        };
        state.queues.insert(name.to_owned(), held);
        Ok(())
    }

    async fn delete(&self, queue: &str) -> Result<()> {
        let mut state = self.state();
        state.queues.remove(queue).ok_or(Error::QueueDoesNotExist)?;
        state.deleted.insert(queue.to_owned());
        Ok(())
    }

    async fn purge(&self, queue: &str) -> Result<()> {
        self.with(queue, |held| {
            held.messages.clear();
            if std::mem::replace(&mut held.is_purged, true) { Err(Error::PurgeQueueInProgress) } else { Ok(()) }
        })?
    }

    async fn get(&self, queue: &str) -> Result<Queue> {
        let now = Instant::now();
        self.with(queue, |held| {
            let count =
                |f: &dyn Fn(&Stored) -> bool| u64::try_from(held.messages.iter().filter(|s| f(s)).count()).unwrap_or(0);
            Queue {
                name: queue.to_owned(),
                attributes: held.attributes.clone(),
                created_s: held.created_s,
                modified_s: held.created_s,
                visible: count(&|s| s.visible_at <= now),
                in_flight: count(&|s| s.visible_at > now && s.is_in_flight),
                delayed: count(&|s| s.visible_at > now && !s.is_in_flight),
            }
        })
    }

    async fn set(&self, queue: &str, change: Change) -> Result<()> {
        let mut state = self.state();
        if let Some(Some(redrive)) = &change.redrive
            && !state.queues.contains_key(&redrive.target)
        {
            return Err(Error::InvalidParameterValue("the dead letter target does not exist".into()));
        }
        state.queues.get_mut(queue).map(|held| apply(&mut held.attributes, change)).ok_or(Error::QueueDoesNotExist)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let state = self.state();
        let names = state.queues.keys().filter(|name| name.starts_with(prefix) && Some(name.as_str()) > after);
        Ok(names.take(limit).cloned().collect())
    }

    async fn dead_letter_sources(&self, queue: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let state = self.state();
        let names_it = |held: &Held| held.attributes.redrive.as_ref().is_some_and(|r| r.target == queue);
        let names = state.queues.iter().filter(|(name, held)| names_it(held) && Some(name.as_str()) > after);
        Ok(names.take(limit).map(|(name, _)| name.clone()).collect())
    }

    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> Result<Vec<Result<Sent>>> {
        self.with(queue, |_| ())?;
        let sent = messages.into_iter().map(|message| self.state().put(queue, message)).collect();
        self.arrived.notify_waiters();
        Ok(sent)
    }

    async fn receive(&self, queue: &str, receive: Receive) -> Result<Vec<Received>> {
        let wait = self.with(queue, |held| receive.wait.unwrap_or(held.attributes.wait))?;
        let deadline = tokio::time::Instant::now() + seconds(wait);
        loop {
            let arrived = self.arrived.notified();
            let received = self.state().take(queue, &receive)?;
            if !received.is_empty() || tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return Ok(received);
            }
        }
    }

    async fn acknowledge(&self, queue: &str, receipts: Vec<String>) -> Result<Vec<Result<()>>> {
        self.with(queue, |held| {
            let mut one = |receipt: String| {
                let number = number(queue, &receipt)?;
                held.messages.retain(|stored| stored.number != number);
                Ok(())
            };
            receipts.into_iter().map(&mut one).collect()
        })
    }

    async fn change_visibility(&self, queue: &str, changes: Vec<(String, u32)>) -> Result<Vec<Result<()>>> {
        let now = Instant::now();
        self.with(queue, |held| {
            let mut one = |(receipt, timeout): (String, u32)| {
                let number = number(queue, &receipt)?;
                let mut messages = held.messages.iter_mut();
                let stored = messages.find(|s| s.number == number && s.is_in_flight && s.visible_at > now);
                stored.map(|stored| stored.visible_at = now + seconds(timeout)).ok_or(Error::MessageNotInflight)
            };
            changes.into_iter().map(&mut one).collect()
        })
    }

    async fn tag(&self, queue: &str, tags: BTreeMap<String, Option<String>>) -> Result<()> {
        self.with(queue, |held| {
            for (key, value) in tags {
                match value {
                    Some(value) => drop(held.tags.insert(key, value)),
                    None => drop(held.tags.remove(&key)),
                }
            }
        })
    }

    async fn tags(&self, queue: &str) -> Result<BTreeMap<String, String>> {
        self.with(queue, |held| held.tags.clone())
    }

    /// With a rate it stays as it began, so that a test can cancel it; without one all is moved at once.
    async fn start_move(&self, source: &str, destination: Option<&str>, rate_max: Option<u32>) -> Result<String> {
        let mut state = self.state();
        let wanted = destination.unwrap_or(source);
        if !state.queues.contains_key(source) || !state.queues.contains_key(wanted) {
            return Err(Error::QueueDoesNotExist);
        }
        if !state.is_dead_letter_queue(source) {
            return Err(Error::InvalidParameterValue("source queue must be configured as a dead letter queue".into()));
        }
        let held = state.queues.get_mut(source).ok_or(Error::QueueDoesNotExist)?;
        let to_move = u64::try_from(held.messages.len()).unwrap_or(0);
        let taken = if rate_max.is_some() { vec![] } else { std::mem::take(&mut held.messages) };
        let moved = u64::try_from(taken.len()).unwrap_or(0);
        for stored in taken {
            let target = destination.map(str::to_owned).or_else(|| stored.source.clone()).unwrap_or_default();
            let target = state.queues.get_mut(&target).ok_or(Error::QueueDoesNotExist)?;
            target.messages.push(Stored { receives: 0, source: None, ..stored });
        }
        let handle = format!("move-{}", state.moves.len());
        state.moves.push(MoveTask {
            handle: handle.clone(),
            status: if rate_max.is_some() { "RUNNING" } else { "COMPLETED" },
            source: source.to_owned(),
            destination: destination.map(str::to_owned),
            rate_max,
            moved,
            to_move,
            failure: None,
            started_ms: now_ms(),
        });
        Ok(handle)
    }

    async fn cancel_move(&self, handle: &str) -> Result<u64> {
        let mut state = self.state();
        let task = state.moves.iter_mut().find(|task| task.handle == handle && task.status == "RUNNING");
        let task = task.ok_or_else(|| Error::ResourceNotFound("the task is not running".into()))?;
        task.status = "CANCELLED";
        Ok(task.moved)
    }

    async fn moves(&self, source: &str, limit: usize) -> Result<Vec<MoveTask>> {
        self.with(source, |_| ())?;
        let state = self.state();
        Ok(state.moves.iter().rev().filter(|task| task.source == source).take(limit).cloned().collect())
    }
}
