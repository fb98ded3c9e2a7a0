//! Messages in: checked, deduplicated, numbered, written.

use std::sync::Arc;

use ring::digest;
use rusqlite::{OptionalExtension, params};

use super::{Sqlite, Work};
use crate::clock::Millis;
use crate::error::{Error, Result};
use crate::queue::entry::{Entry, message_id, place, random};
use crate::queue::{DEDUPLICATION_MS, MessageId, New, Sent};

impl Sqlite {
    /// One answer for each message, in order: a message that is refused takes no other with it.
    pub(crate) async fn send(&self, queue: &str, messages: Vec<New>) -> Result<Vec<Result<Sent>>> {
        let (queue, messages) = (queue.to_owned(), Arc::new(messages));
        self.write_if_room(move |work| work.send(&queue, &messages)).await
    }
}

/// What is known of a message before it has a place.
enum Judged {
    Refused(Error),
    /// It was sent before.
    Known(Sent),
    Fresh {
        uid: MessageId,
        /// Key that remembers it, until when, and what it must be the same as.
        remember: Vec<(String, Millis, Vec<u8>)>,
    },
}

impl Work<'_> {
    pub(super) fn send(&mut self, queue: &str, messages: &[New]) -> Result<Vec<Result<Sent>>> {
        let entry = self.entry(queue)?;
        let mut answers = Vec::with_capacity(messages.len());
        let many = messages.len();
        let mut taken = 0;
        let last = self.places(&entry, many)?;
        let mut next = last - many as i64 + 1;
        for message in messages {
            answers.push(match self.judge(&entry, message)? {
                Judged::Refused(error) => Err(error),
                Judged::Known(sent) => Ok(sent),
                Judged::Fresh { uid, remember } => {
                    let id = entry.id(next);
                    self.insert(&entry, id, uid, message)?;
                    self.remember(&entry, id, uid, &remember)?;
                    (next, taken) = (next + 1, taken + 1);
                    Ok(Sent { message: uid, sequence: place(id), duplicate: false })
                }
            });
        }
        // Places of what was not taken stay empty; they must not be counted.
        self.count(&entry, taken - many as i64)?;
        Ok(answers)
    }

    fn judge(&mut self, entry: &Entry, message: &New) -> Result<Judged> {
        if let Some(error) = refusal(entry, message) {
            return Ok(Judged::Refused(error));
        }
        let mut remember = Vec::new();
        if let Some(key) = deduplication_key(entry, message) {
            if let Some((_, sent)) = self.seen(entry, &key)? {
                return Ok(Judged::Known(sent));
            }
            remember.push((key, self.now + DEDUPLICATION_MS, Vec::new()));
        }
        if let Some(given) = &message.idempotency {
            let key = format!("i:{given}");
            let same = message.fingerprint.as_deref().unwrap_or(&message.body);
            let hash = digest::digest(&digest::SHA256, same.as_bytes()).as_ref().to_vec();
            match self.seen(entry, &key)? {
                Some((known, sent)) if known == hash => return Ok(Judged::Known(sent)),
                Some(_) => {
                    let error = Error::KeyReused { queue: entry.name.clone(), key: given.clone() };
                    return Ok(Judged::Refused(error));
                }
                None => {
                    let until = self.now + i64::try_from(entry.spec.idempotency_ms).unwrap_or(i64::MAX / 2);
                    remember.push((key, until, hash));
                }
            }
        }
        Ok(Judged::Fresh { uid: random()?, remember })
    }

    fn insert(&mut self, entry: &Entry, id: i64, uid: MessageId, message: &New) -> Result<()> {
        let deduplication = deduplication_id(entry, message);
        let attributes = (!message.attributes.is_empty()).then_some(&message.attributes);
        self.db
            .prepare_cached(
                "INSERT INTO message (id, uid, sent, body, attributes, trace, sender, grp, deduplication)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                id,
                uid.0,
                self.now,
                message.body,
                attributes,
                message.trace,
                message.sender,
                message.group,
                deduplication
            ])?;
        let delay = i64::try_from(message.delay_ms.unwrap_or(entry.spec.delay_ms)).unwrap_or(i64::MAX / 2);
        let due = self.now.saturating_add(delay);
        if delay > 0 {
            self.db
                .prepare_cached("INSERT INTO claim (id, queue, due, receives) VALUES (?1, ?2, ?3, 0)")?
                .execute(params![id, entry.number, due])?;
        }
        match (&message.group, entry.spec.fifo) {
            (Some(group), true) => self.join_group(entry, group, id, if delay > 0 { due } else { 0 }),
            _ => Ok(()),
        }
    }

    fn seen(&self, entry: &Entry, key: &str) -> Result<Option<(Vec<u8>, Sent)>> {
        Ok(self
            .db
            .prepare_cached("SELECT hash, uid, place FROM seen WHERE queue = ?1 AND key = ?2 AND until > ?3")?
            .query_row(params![entry.number, key, self.now], |r| {
                let sent = Sent {
                    message: message_id(r.get(1)?),
                    sequence: r.get::<_, i64>(2)?.unsigned_abs(),
                    duplicate: true,
                };
                Ok((r.get::<_, Option<Vec<u8>>>(0)?.unwrap_or_default(), sent))
            })
            .optional()?)
    }

    fn remember(&self, entry: &Entry, id: i64, uid: MessageId, keys: &[(String, Millis, Vec<u8>)]) -> Result<()> {
        for (key, until, hash) in keys {
            self.db
                .prepare_cached(
                    "INSERT OR REPLACE INTO seen (queue, key, until, hash, uid, place) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![entry.number, key, until, hash, uid.0, place(id) as i64])?;
        }
        Ok(())
    }
}

/// What depends on the queue; everything else the face has checked.
fn refusal(entry: &Entry, message: &New) -> Option<Error> {
    let queue = || entry.name.clone();
    let invalid = |reason: String| Some(Error::Invalid { queue: queue(), reason });
    let size = message.body.len() + message.attributes.len();
    if size > entry.spec.size_max as usize {
        return invalid(format!("a message of {size} bytes, at most {} are allowed", entry.spec.size_max));
    }
    if !entry.spec.fifo {
        return message
            .deduplication
            .is_some()
            .then(|| invalid("MessageDeduplicationId is for FIFO queues".into()))
            .flatten();
    }
    if message.group.is_none() {
        return Some(Error::Missing { queue: queue(), what: "MessageGroupId" });
    }
    if message.deduplication.is_none() && !entry.spec.content_based_deduplication {
        return Some(Error::Missing {
            queue: queue(),
            what: "MessageDeduplicationId, unless it has ContentBasedDeduplication",
        });
    }
    if message.delay_ms.is_some_and(|delay| delay != entry.spec.delay_ms) {
        return invalid("a message of a FIFO queue has no delay of its own".into());
    }
    None
}

fn deduplication_id(entry: &Entry, message: &New) -> Option<String> {
    if !entry.spec.fifo {
        return None;
    }
    message.deduplication.clone().or_else(|| {
        let hash = digest::digest(&digest::SHA256, message.body.as_bytes());
        Some(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    })
}

fn deduplication_key(entry: &Entry, message: &New) -> Option<String> {
    let id = deduplication_id(entry, message)?;
    let group = message.group.as_deref().filter(|_| entry.spec.deduplicate_in_group);
    Some(match group {
        // A group has no line feed in its name.
        Some(group) => format!("g:{group}\n{id}"),
        None => format!("d:{id}"),
    })
}
