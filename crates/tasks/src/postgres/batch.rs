//! What a lane carries: many operations in one transaction, by statements over sets. None can undo another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use holdfast_policy::queue::Report;

use super::Postgres;
use super::session::{Done, Tx};
use crate::clock::Millis;
use crate::error::{Error, Result};
use crate::queue::entry::Entry;
use crate::queue::receipt::Receipt;
use crate::queue::{Acknowledged, ERROR_CHARS_MAX, New, Received, Sent, Settled};

pub(super) enum Ask {
    Send { queue: String, messages: Vec<New> },
    Settle { queue: String, acts: Vec<(Option<Receipt>, Act)> },
    Receive { queue: String, many: u32, visibility_ms: Option<u64> },
}

impl Ask {
    pub(super) fn queue(&self) -> &str {
        match self {
            Ask::Send { queue, .. } | Ask::Settle { queue, .. } | Ask::Receive { queue, .. } => queue,
        }
    }
}

/// What is done with a message in flight.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Acknowledge { strict: bool },
    Hold { ms: u64 },
    HandBack,
    Report { report: Report, words: String, seed: u64 },
}

pub(super) enum Said {
    Sent(Vec<Result<Sent>>),
    Settled(Vec<Result<Did>>),
    Received(Received),
}

#[derive(Debug)]
pub(super) enum Did {
    Acknowledged(Acknowledged),
    Held,
    Settled(Settled),
}

/// Of one transaction.
pub(super) struct Batch {
    pub(super) entries: HashMap<String, Arc<Entry>>,
    /// Groups whose messages were touched.
    pub(super) groups: BTreeMap<i64, BTreeSet<String>>,
}

impl Postgres {
    pub(crate) async fn send(&self, queue: &str, messages: Vec<New>) -> Result<Vec<Result<Sent>>> {
        match self.ask(Ask::Send { queue: queue.to_owned(), messages }).await? {
            Said::Sent(answers) => Ok(answers),
            _ => Err(mixed_up()),
        }
    }

    pub(crate) async fn receive(&self, queue: &str, many: u32, visibility_ms: Option<u64>) -> Result<Received> {
        match self.ask(Ask::Receive { queue: queue.to_owned(), many, visibility_ms }).await? {
            Said::Received(received) => Ok(received),
            _ => Err(mixed_up()),
        }
    }

    pub(crate) async fn acknowledge(
        &self,
        queue: &str,
        receipts: Vec<String>,
        strict: bool,
    ) -> Result<Vec<Result<Acknowledged>>> {
        let acts = receipts.iter().map(|receipt| (receipt.as_str(), Act::Acknowledge { strict }));
        let answers = self.settle(queue, acts).await?;
        let done = |did| match did {
            Did::Acknowledged(done) => Ok(done),
            _ => Err(mixed_up()),
        };
        Ok(answers.into_iter().map(|answer| answer.and_then(done)).collect())
    }

    pub(crate) async fn change_visibility(&self, queue: &str, changes: Vec<(String, u64)>) -> Result<Vec<Result<()>>> {
        let acts = changes.iter().map(|(receipt, ms)| (receipt.as_str(), Act::Hold { ms: *ms }));
        let answers = self.settle(queue, acts).await?;
        Ok(answers.into_iter().map(|answer| answer.map(drop)).collect())
    }

    pub(crate) async fn hand_back(&self, queue: &str, receipt: &str) -> Result<()> {
        let mut answers = self.settle(queue, std::iter::once((receipt, Act::HandBack))).await?;
        answers.pop().unwrap_or_else(|| Err(mixed_up())).map(drop)
    }

    pub(crate) async fn report(&self, queue: &str, receipt: &str, report: Report, words: &str) -> Result<Settled> {
        let words = super::clean(&words.chars().take(ERROR_CHARS_MAX).collect::<String>());
        let act = Act::Report { report, words, seed: crate::seed() };
        match self.settle(queue, std::iter::once((receipt, act))).await?.pop() {
            Some(Ok(Did::Settled(settled))) => Ok(settled),
            Some(Err(error)) => Err(error),
            _ => Err(mixed_up()),
        }
    }

    async fn settle(&self, queue: &str, acts: impl Iterator<Item = (&str, Act)>) -> Result<Vec<Result<Did>>> {
        let acts = acts.map(|(receipt, act)| (self.0.sealer.open(receipt), act)).collect();
        match self.ask(Ask::Settle { queue: queue.to_owned(), acts }).await? {
            Said::Settled(answers) => Ok(answers),
            _ => Err(mixed_up()),
        }
    }
}

fn mixed_up() -> Error {
    Error::Database { what: "answer".into(), reason: "the answer is of another operation".into() }
}

impl Tx<'_> {
    /// An answer for each, in order.
    pub(super) async fn batch(&mut self, asks: &[&Ask]) -> Done<Vec<Result<Said>>> {
        let mut batch = Batch { entries: HashMap::new(), groups: BTreeMap::new() };
        for ask in asks {
            if !batch.entries.contains_key(ask.queue())
                && let Some(entry) = self.find(ask.queue()).await?
            {
                batch.entries.insert(ask.queue().to_owned(), entry);
            }
        }
        self.lock_what_is_in_order(&batch, asks).await?;
        let sent = self.send_all(&mut batch, asks).await?;
        let settled = self.settle_all(&mut batch, asks).await?;
        self.refresh_groups(&mut batch).await?;
        let received = self.receive_all(&mut batch, asks).await?;
        self.refresh_groups(&mut batch).await?;
        let all = sent.into_iter().zip(settled).zip(received).zip(asks);
        Ok(all
            .map(|(((sent, settled), received), ask)| {
                let none = || Err(Error::NoQueue { queue: ask.queue().to_owned() });
                sent.or(settled).or(received).unwrap_or_else(none)
            })
            .collect())
    }

    /// FIFO queues, with where their dead letters go, and queues whose messages have keys: one commit after the other. The
    /// others only keep a purge away.
    async fn lock_what_is_in_order(&self, batch: &Batch, asks: &[&Ask]) -> Done<()> {
        let (mut alone, mut together) = (Vec::new(), Vec::new());
        for ask in asks {
            let Some(entry) = batch.entries.get(ask.queue()) else { continue };
            let keyed = matches!(ask, Ask::Send { messages, .. } if messages.iter().any(|m| m.idempotency.is_some()));
            let locks = if entry.spec.fifo || keyed { &mut alone } else { &mut together };
            locks.push(entry.number);
            if let Some(dead) = &entry.spec.dead_letter
                && let Some(dead) = self.find(&dead.queue).await?
            {
                let locks = if dead.spec.fifo { &mut alone } else { &mut together };
                locks.push(dead.number);
            }
        }
        self.lock(&alone, &together).await
    }
}

/// A message that changes its queue.
pub(super) struct Transfer {
    pub(super) id: i64,
    pub(super) group: Option<String>,
    /// JSON.
    pub(super) story: Option<String>,
}

impl Tx<'_> {
    /// In one transaction out of one queue and into the other, with its id. A standard queue keeps the time of sending,
    /// so that retention counts from there; a FIFO queue begins anew.
    pub(super) async fn transfer(&mut self, from: &Entry, to: &Entry, messages: &[Transfer]) -> Done<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = messages.iter().map(|m| m.id).collect();
        let new: Vec<i64> = self.places(ids.len()).await?.into_iter().map(|place| to.id(place)).collect();
        let stories: Vec<Option<&str>> = messages.iter().map(|m| m.story.as_deref()).collect();
        let sent: Option<Millis> = to.spec.fifo.then_some(self.now);
        let moved = self
            .run(
                "INSERT INTO message (id, queue, uid, sent, due, body, attributes, trace, sender, grp, deduplication, buried)
                 SELECT u.new, $4, uid, coalesce($5, sent), 0, body, attributes, trace, sender, grp, deduplication, u.story
                 FROM unnest($1, $2, $3) u(old, new, story) JOIN message m ON m.id = u.old",
                &[&ids, &new, &stories, &to.number, &sent],
            )
            .await?;
        self.count(to.number, i64::try_from(moved).unwrap_or(i64::MAX));
        if to.spec.fifo {
            let groups: BTreeSet<String> = messages.iter().filter_map(|m| m.group.clone()).collect();
            let groups: Vec<String> = groups.into_iter().collect();
            self.refresh(to, &groups).await?;
        }
        self.remove(from, &ids).await
    }

    /// Takes messages out for good.
    pub(super) async fn remove(&mut self, entry: &Entry, ids: &[i64]) -> Done<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let gone = self.run("DELETE FROM message WHERE id = ANY($1)", &[&ids.to_vec()]).await?;
        self.count(entry.number, -i64::try_from(gone).unwrap_or(i64::MAX));
        Ok(())
    }
}
