//! Messages in: checked, deduplicated, numbered, written; those of all senders that waited by one statement.

use std::collections::HashMap;

use super::batch::{Ask, Batch, Said};
use super::session::{Done, Tx};
use crate::error::{Error, Result};
use crate::queue::entry::{Entry, message_id};
use crate::queue::rules::{Judged, Remember, Seen, deduplication_id, due_of_new, judge, keys};
use crate::queue::{MessageId, New, Sent};

/// Columns of the rows to be.
#[derive(Default)]
struct Rows<'a> {
    id: Vec<i64>,
    queue: Vec<i64>,
    uid: Vec<Vec<u8>>,
    due: Vec<i64>,
    body: Vec<&'a str>,
    attributes: Vec<Option<&'a [u8]>>,
    trace: Vec<Option<&'a str>>,
    sender: Vec<&'a str>,
    group: Vec<Option<&'a str>>,
    deduplication: Vec<Option<String>>,
}

#[derive(Default)]
struct Keys {
    queue: Vec<i64>,
    key: Vec<String>,
    until: Vec<i64>,
    hash: Vec<Vec<u8>>,
    uid: Vec<Vec<u8>>,
    place: Vec<i64>,
}

impl Tx<'_> {
    pub(super) async fn send_all(&mut self, batch: &mut Batch, asks: &[&Ask]) -> Done<Vec<Option<Result<Said>>>> {
        let sends: Vec<(usize, &Entry, &[New])> = asks
            .iter()
            .enumerate()
            .filter_map(|(n, ask)| match ask {
                Ask::Send { queue, messages } => Some((n, &**batch.entries.get(queue)?, &messages[..])),
                _ => None,
            })
            .collect();
        let mut said: Vec<Option<Result<Said>>> = asks.iter().map(|_| None).collect();
        let many: usize = sends.iter().map(|(_, _, messages)| messages.len()).sum();
        if many == 0 {
            return Ok(said);
        }
        let (places, seen) = tokio::join!(self.places(many), self.seen(&sends));
        let (mut places, mut seen) = (places?.into_iter(), seen?);
        let (mut rows, mut remembered) = (Rows::default(), Keys::default());
        for (n, entry, messages) in sends {
            let mut answers = Vec::with_capacity(messages.len());
            for message in messages {
                let known = |key: &str| Ok(seen.get(&(entry.number, key.to_owned())).cloned());
                let judged = match stored(entry, message) {
                    Some(refused) => Judged::Refused(refused),
                    None => judge(entry, message, self.now, known)?,
                };
                answers.push(match judged {
                    Judged::Refused(error) => Err(error),
                    Judged::Known(sent) => Ok(Sent { duplicate: true, ..sent }),
                    Judged::Fresh { uid, remember } => {
                        let place = places.next().unwrap_or_default();
                        let sent = Sent { message: uid, sequence: place.unsigned_abs(), duplicate: false };
                        rows.push(entry, place, uid, message, self.now);
                        for known in remember {
                            seen.insert((entry.number, known.key.clone()), (known.hash.clone(), sent.clone()));
                            remembered.push(entry, place, uid, known);
                        }
                        self.count(entry.number, 1);
                        Ok(sent)
                    }
                });
            }
            said[n] = Some(Ok(Said::Sent(answers)));
        }
        for (queue, group) in rows.queue.iter().zip(&rows.group) {
            let fifo = batch.entries.values().any(|entry| entry.number == *queue && entry.spec.fifo);
            if let Some(group) = group.filter(|_| fifo) {
                batch.groups.entry(*queue).or_default().insert(group.to_owned());
            }
        }
        self.write(rows, remembered).await?;
        Ok(said)
    }

    async fn seen(&self, sends: &[(usize, &Entry, &[New])]) -> Done<HashMap<(i64, String), Seen>> {
        let (mut queues, mut wanted) = (Vec::new(), Vec::new());
        for (_, entry, messages) in sends {
            for known in messages.iter().flat_map(|message| keys(entry, message, self.now)) {
                queues.push(entry.number);
                wanted.push(super::clean(&known.key));
            }
        }
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let sql = "SELECT s.queue, s.key, s.hash, s.uid, s.place FROM seen s
                   JOIN (SELECT DISTINCT q, k FROM unnest($1, $2) u(q, k)) u ON s.queue = u.q AND s.key = u.k
                   WHERE s.until > $3";
        let rows = self.rows(sql, &[&queues, &wanted, &self.now]).await?;
        let seen = rows.iter().map(|row| {
            let place: i64 = row.get(4);
            let sent = Sent { message: message_id(row.get(3)), sequence: place.unsigned_abs(), duplicate: true };
            ((row.get(0), row.get(1)), (row.get(2), sent))
        });
        Ok(seen.collect())
    }

    async fn write(&self, r: Rows<'_>, k: Keys) -> Done<()> {
        if r.id.is_empty() {
            return Ok(());
        }
        self.run(
            "INSERT INTO message (id, queue, uid, sent, due, body, attributes, trace, sender, grp, deduplication)
             SELECT i, q, u, $1, d, b, a, t, s, g, x
             FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11) r(i, q, u, d, b, a, t, s, g, x)",
            &[
                &self.now,
                &r.id,
                &r.queue,
                &r.uid,
                &r.due,
                &r.body,
                &r.attributes,
                &r.trace,
                &r.sender,
                &r.group,
                &r.deduplication,
            ],
        )
        .await?;
        if !k.key.is_empty() {
            self.run(
                "INSERT INTO seen (queue, key, until, hash, uid, place) SELECT * FROM unnest($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (queue, key) DO UPDATE
                 SET until = excluded.until, hash = excluded.hash, uid = excluded.uid, place = excluded.place",
                &[&k.queue, &k.key, &k.until, &k.hash, &k.uid, &k.place],
            )
            .await?;
        }
        Ok(())
    }
}

impl<'a> Rows<'a> {
    fn push(&mut self, entry: &Entry, place: i64, uid: MessageId, message: &'a New, now: i64) {
        self.id.push(entry.id(place));
        self.queue.push(entry.number);
        self.uid.push(uid.0.to_vec());
        self.due.push(due_of_new(entry, message, now));
        self.body.push(&message.body);
        self.attributes.push((!message.attributes.is_empty()).then_some(&message.attributes[..]));
        self.trace.push(message.trace.as_deref());
        self.sender.push(&message.sender);
        self.group.push(message.group.as_deref());
        self.deduplication.push(deduplication_id(entry, message));
    }
}

impl Keys {
    fn push(&mut self, entry: &Entry, place: i64, uid: MessageId, known: Remember) {
        self.queue.push(entry.number);
        self.key.push(known.key);
        self.until.push(known.until);
        self.hash.push(known.hash);
        self.uid.push(uid.0.to_vec());
        self.place.push(place);
    }
}

/// Why PostgreSQL cannot hold it: it has no text with a zero byte.
fn stored(entry: &Entry, message: &New) -> Option<Error> {
    let given = [&message.trace, &message.group, &message.deduplication, &message.idempotency];
    let mut texts = given.into_iter().flatten().chain([&message.body, &message.sender]);
    texts.any(|text| text.contains('\0')).then(|| Error::Invalid {
        queue: entry.name.clone(),
        reason: "a text with a zero byte cannot be stored".into(),
    })
}
