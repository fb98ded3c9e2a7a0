//! Messages in: checked, deduplicated, numbered, written.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use super::{Sqlite, Work};
use crate::error::Result;
use crate::queue::entry::{Entry, message_id, place};
use crate::queue::rules::{Judged, Remember, Seen, deduplication_id, due_of_new, judge};
use crate::queue::{MessageId, New, Sent};

impl Sqlite {
    /// One answer for each message, in order: a message that is refused takes no other with it.
    pub(crate) async fn send(&self, queue: &str, messages: Vec<New>) -> Result<Vec<Result<Sent>>> {
        let (queue, messages) = (queue.to_owned(), Arc::new(messages));
        self.write_if_room(move |work| work.send(&queue, &messages)).await
    }
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
            answers.push(match judge(&entry, message, self.now, |key| self.seen(&entry, key))? {
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
        let due = due_of_new(entry, message, self.now);
        if due > 0 {
            self.db
                .prepare_cached("INSERT INTO claim (id, queue, due, receives) VALUES (?1, ?2, ?3, 0)")?
                .execute(params![id, entry.number, due])?;
        }
        match (&message.group, entry.spec.fifo) {
            (Some(group), true) => self.join_group(entry, group, id, due),
            _ => Ok(()),
        }
    }

    fn seen(&self, entry: &Entry, key: &str) -> Result<Option<Seen>> {
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

    fn remember(&self, entry: &Entry, id: i64, uid: MessageId, keys: &[Remember]) -> Result<()> {
        for Remember { key, until, hash } in keys {
            self.db
                .prepare_cached(
                    "INSERT OR REPLACE INTO seen (queue, key, until, hash, uid, place) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![entry.number, key, until, hash, uid.0, place(id) as i64])?;
        }
        Ok(())
    }
}
