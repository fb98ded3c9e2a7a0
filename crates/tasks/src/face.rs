//! The desk as the face of SQS sees it: its words for ours.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_sqs::backend::{
    Attributes, Change, Error as Refusal, MoveTask, Outgoing, Queue, Receive, Received, Redrive, RedriveAllow,
    Result as Answer, Scope, Sent,
};
use holdfast_sqs::{Backend, Key, Keys, Options, Secret};

use crate::definition::Definition;
use crate::desk::{Ask, Desk};
use crate::error::Error;
use crate::queue::{DeadLetter, DeadLetterOf, Delivery, New, Spec};

const TAGS_MAX: usize = 50;

/// Reads the secrets.
pub(crate) fn options(definition: &Definition) -> crate::Result<Options> {
    let keys = definition.keys.iter().map(|key| {
        Ok(Key {
            id: key.id.clone(),
            secret: Secret::new(key.secret.read()?),
            queues: match key.queues.is_empty() {
                true => vec!["*".to_owned()],
                false => key.queues.clone(),
            },
            send: key.send,
            receive: key.receive,
            manage: key.manage,
        })
    });
    let keys = keys.collect::<crate::Result<Vec<_>>>()?;
    Ok(Options {
        region: definition.region.clone(),
        account: definition.account.clone(),
        keys: if keys.is_empty() { Keys::Any } else { Keys::Known(keys) },
        base: None,
    })
}

impl Backend for Desk {
    async fn create(&self, name: &str, attributes: Attributes, tags: BTreeMap<String, String>) -> Answer<()> {
        Ok(self.store.create(name, spec(attributes), tags).await?)
    }

    async fn delete(&self, queue: &str) -> Answer<()> {
        Ok(self.store.delete(queue).await?)
    }

    async fn purge(&self, queue: &str) -> Answer<()> {
        Ok(self.store.purge(queue).await?)
    }

    async fn get(&self, queue: &str) -> Answer<Queue> {
        let known = self.store.get(queue).await?;
        let counts = self.store.counts(queue).await?;
        let seconds = |at| self.store.clock().wall(at) / 1000;
        Ok(Queue {
            name: known.name,
            attributes: attributes(&known.spec),
            created_s: seconds(known.created),
            modified_s: seconds(known.modified),
            visible: counts.visible,
            in_flight: counts.in_flight,
            delayed: counts.delayed,
        })
    }

    async fn set(&self, queue: &str, change: Change) -> Answer<()> {
        Ok(self
            .store
            .change(
                queue,
                Box::new(move |spec| {
                    apply(spec, &change);
                    Ok(())
                }),
            )
            .await?)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Answer<Vec<String>> {
        Ok(self.store.list(prefix, after, limit).await?.into_iter().map(|queue| queue.name).collect())
    }

    async fn dead_letter_sources(&self, queue: &str, after: Option<&str>, limit: usize) -> Answer<Vec<String>> {
        self.store.spec(queue).await?;
        let all = self.store.list("", after, crate::queue::QUEUES_MAX).await?;
        let sources = all.into_iter().filter(|q| q.spec.dead_letter.as_ref().is_some_and(|d| d.queue == queue));
        Ok(sources.map(|q| q.name).take(limit).collect())
    }

    async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> Answer<Vec<Answer<Sent>>> {
        let messages = messages.into_iter().map(new).collect();
        let fifo = self.store.spec(queue).await?.fifo;
        let answers = Desk::send(self, queue, messages).await?;
        let sent = |sent: crate::queue::Sent| Sent {
            message_id: sent.message.to_string(),
            sequence: fifo.then_some(sent.sequence),
        };
        Ok(answers.into_iter().map(|answer| answer.map(sent).map_err(Refusal::from)).collect())
    }

    async fn receive(&self, queue: &str, receive: Receive) -> Answer<Vec<Received>> {
        let fifo = self.store.spec(queue).await?.fifo;
        let ask = Ask {
            many: receive.messages_max,
            visibility_ms: receive.visibility_timeout.map(|s| u64::from(s) * 1000),
            wait: receive.wait.map(|s| Duration::from_secs(u64::from(s))),
            attempt: receive.attempt_id,
        };
        let deliveries = Desk::receive(self, queue, ask).await?;
        let clock = self.store.clock();
        Ok(deliveries.into_iter().map(|d| received(d, fifo, |at| clock.wall(at))).collect())
    }

    async fn acknowledge(&self, queue: &str, receipts: Vec<String>) -> Answer<Vec<Answer<()>>> {
        let answers = Desk::acknowledge(self, queue, receipts, false).await?;
        Ok(answers.into_iter().map(|answer| answer.map(drop).map_err(Refusal::from)).collect())
    }

    async fn change_visibility(&self, queue: &str, changes: Vec<(String, u32)>) -> Answer<Vec<Answer<()>>> {
        let changes = changes.into_iter().map(|(receipt, s)| (receipt, u64::from(s) * 1000)).collect();
        let answers = Desk::change_visibility(self, queue, changes).await?;
        Ok(answers.into_iter().map(|answer| answer.map_err(Refusal::from)).collect())
    }

    async fn tag(&self, queue: &str, tags: BTreeMap<String, Option<String>>) -> Answer<()> {
        let name = queue.to_owned();
        let edit = move |known: &mut BTreeMap<String, String>| {
            for (key, value) in &tags {
                match value {
                    Some(value) => drop(known.insert(key.clone(), value.clone())),
                    None => drop(known.remove(key)),
                }
            }
            match known.len() > TAGS_MAX {
                true => Err(Error::Invalid { queue: name.clone(), reason: format!("at most {TAGS_MAX} tags") }),
                false => Ok(()),
            }
        };
        Ok(self.store.change_tags(queue, Box::new(edit)).await?)
    }

    async fn tags(&self, queue: &str) -> Answer<BTreeMap<String, String>> {
        Ok(self.store.get(queue).await?.tags)
    }

    async fn start_move(&self, source: &str, destination: Option<&str>, rate_max: Option<u32>) -> Answer<String> {
        // As SQS: only dead letters are moved, unless it is said where to.
        if self.dead_letter_sources(source, None, 1).await?.is_empty() {
            return Err(Refusal::InvalidParameterValue(
                "the source is not the dead-letter queue of any other queue".into(),
            ));
        }
        Ok(Desk::start_move(self, source, destination, rate_max).await?.handle)
    }

    async fn cancel_move(&self, handle: &str) -> Answer<u64> {
        let task = self.store.cancel_move(handle).await?;
        match task.state {
            crate::queue::MoveState::Running => Ok(task.moved),
            other => {
                Err(Refusal::ResourceNotFound(format!("only a running task can be cancelled, it is {}", other.word())))
            }
        }
    }

    async fn moves(&self, source: &str, limit: usize) -> Answer<Vec<MoveTask>> {
        self.store.spec(source).await?;
        let clock = self.store.clock();
        let tasks = self.store.moves(source, limit).await?;
        let task = |task: crate::queue::Move| MoveTask {
            handle: task.handle,
            status: task.state.word(),
            source: task.source,
            destination: task.destination,
            rate_max: task.rate_max,
            moved: task.moved,
            to_move: task.to_move,
            failure: task.failure,
            started_ms: clock.wall(task.started),
        };
        Ok(tasks.into_iter().map(task).collect())
    }
}

fn ms(seconds: u32) -> u64 {
    u64::from(seconds) * 1000
}

fn seconds(ms: u64) -> u32 {
    u32::try_from(ms / 1000).unwrap_or(u32::MAX)
}

fn spec(a: Attributes) -> Spec {
    Spec {
        fifo: a.fifo,
        visibility_ms: ms(a.visibility_timeout),
        delay_ms: ms(a.delay),
        retention_ms: ms(a.retention),
        size_max: a.size_max,
        wait_ms: ms(a.wait),
        dead_letter: a.redrive.map(dead_letter),
        dead_letter_of: dead_letter_of(a.redrive_allow),
        content_based_deduplication: a.content_based_deduplication,
        deduplicate_in_group: a.deduplication_scope == Scope::MessageGroup,
        throughput_by_group: a.throughput_limit == Scope::MessageGroup,
        kept: a.kept,
        ..Spec::default()
    }
}

fn attributes(spec: &Spec) -> Attributes {
    let scope = |group| if group { Scope::MessageGroup } else { Scope::Queue };
    Attributes {
        fifo: spec.fifo,
        visibility_timeout: seconds(spec.visibility_ms),
        delay: seconds(spec.delay_ms),
        retention: seconds(spec.retention_ms),
        size_max: spec.size_max,
        wait: seconds(spec.wait_ms),
        redrive: spec.dead_letter.as_ref().map(|d| Redrive { target: d.queue.clone(), receives_max: d.receives_max }),
        redrive_allow: match &spec.dead_letter_of {
            DeadLetterOf::All => RedriveAllow::All,
            DeadLetterOf::None => RedriveAllow::None,
            DeadLetterOf::Queues(names) => RedriveAllow::Queues(names.clone()),
        },
        content_based_deduplication: spec.content_based_deduplication,
        deduplication_scope: scope(spec.deduplicate_in_group),
        throughput_limit: scope(spec.throughput_by_group),
        kept: spec.kept.clone(),
    }
}

fn apply(spec: &mut Spec, change: &Change) {
    let time = |field: &mut u64, value: Option<u32>| {
        if let Some(value) = value {
            *field = ms(value);
        }
    };
    time(&mut spec.visibility_ms, change.visibility_timeout);
    time(&mut spec.delay_ms, change.delay);
    time(&mut spec.retention_ms, change.retention);
    time(&mut spec.wait_ms, change.wait);
    spec.size_max = change.size_max.unwrap_or(spec.size_max);
    if let Some(redrive) = &change.redrive {
        spec.dead_letter = redrive.clone().map(dead_letter);
    }
    if let Some(allow) = &change.redrive_allow {
        spec.dead_letter_of = dead_letter_of(allow.clone());
    }
    let flag = |field: &mut bool, value: Option<bool>| *field = value.unwrap_or(*field);
    flag(&mut spec.content_based_deduplication, change.content_based_deduplication);
    flag(&mut spec.deduplicate_in_group, change.deduplication_scope.map(|s| s == Scope::MessageGroup));
    flag(&mut spec.throughput_by_group, change.throughput_limit.map(|s| s == Scope::MessageGroup));
    for (name, value) in &change.kept {
        match value.is_empty() {
            true => drop(spec.kept.remove(name)),
            false => drop(spec.kept.insert(name.clone(), value.clone())),
        }
    }
}

fn dead_letter(redrive: Redrive) -> DeadLetter {
    DeadLetter { queue: redrive.target, receives_max: redrive.receives_max }
}

fn dead_letter_of(allow: RedriveAllow) -> DeadLetterOf {
    match allow {
        RedriveAllow::All => DeadLetterOf::All,
        RedriveAllow::None => DeadLetterOf::None,
        RedriveAllow::Queues(names) => DeadLetterOf::Queues(names),
    }
}

fn new(message: Outgoing) -> New {
    New {
        body: message.body,
        attributes: message.attributes,
        trace: message.trace_header,
        sender: message.sender,
        delay_ms: message.delay.map(ms),
        group: message.group,
        deduplication: message.deduplication_id,
        idempotency: None,
        fingerprint: None,
    }
}

fn received(d: Delivery, fifo: bool, wall: impl Fn(crate::clock::Millis) -> u64) -> Received {
    Received {
        message_id: d.message.to_string(),
        receipt: d.receipt,
        body: d.body,
        attributes: d.attributes,
        trace_header: d.trace,
        sender: d.sender,
        sent_ms: wall(d.sent),
        first_received_ms: wall(d.first_received),
        receives: d.receives,
        group: d.group,
        deduplication_id: d.deduplication,
        sequence: fifo.then_some(d.sequence),
        dead_letter_source: d.buried.map(|buried| buried.source),
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let text = error.to_string();
        match error {
            Error::NoQueue { .. } => Refusal::QueueDoesNotExist,
            Error::QueueExists { .. } => Refusal::QueueNameExists(text),
            Error::DeletedRecently { .. } => Refusal::QueueDeletedRecently,
            Error::PurgedRecently { .. } => Refusal::PurgeQueueInProgress,
            Error::Declared { .. } => Refusal::UnsupportedOperation(text),
            Error::TooManyQueues { .. } | Error::InFlight { .. } => Refusal::OverLimit(text),
            Error::Invalid { .. } | Error::KeyReused { .. } => Refusal::InvalidParameterValue(text),
            Error::Missing { .. } => Refusal::MissingParameter(text),
            Error::Receipt { .. } => Refusal::ReceiptHandleIsInvalid(text),
            Error::NotInFlight => Refusal::MessageNotInflight,
            Error::NoMove { .. } => Refusal::ResourceNotFound(text),
            Error::MoveRuns { .. } => Refusal::UnsupportedOperation(text),
            Error::Throttled { .. } => Refusal::Throttled(text),
            // Of workflows, which SQS does not know.
            Error::NoWorkflow { .. }
            | Error::Workflow { .. }
            | Error::NoRun { .. }
            | Error::RunRefuses { .. }
            | Error::Parameters { .. }
            | Error::RunKeyReused { .. }
            | Error::TooManyRuns { .. } => Refusal::UnsupportedOperation(text),
            Error::Store(_) | Error::System { .. } | Error::Database { .. } => Refusal::Unavailable(text),
        }
    }
}
