//! Messages out: those that are due again first, then fresh ones, oldest first. Each is claimed before it is answered.

use std::sync::Arc;

use holdfast_policy::queue::Record;
use rusqlite::{OptionalExtension, params};

use super::{Sqlite, Work};
use crate::clock::Millis;
use crate::error::Result;
use crate::queue::entry::{Entry, message_id, place};
use crate::queue::receipt::Receipt;
use crate::queue::rules::{CLEARED_MAX, Offer, check_in_flight, later, offer};
use crate::queue::{Delivery, IN_FLIGHT_MAX, NEVER, Received};
use crate::store::decode;

/// Rows that are looked at to find fresh ones among those with a delay.
const LOOKED_AT_MAX: u32 = 10_000;
/// The place where fresh messages begin is written down every so many messages.
const FRESH_STEP: i64 = 1_000;

/// A message that may be handed out, as its claim tells; a fresh one has none.
struct Candidate {
    id: i64,
    record: Record,
    first: Millis,
}

const FRESH: Record = Record { receives: 0, failures: 0, crashes: 0 };

impl Sqlite {
    /// At most `many` messages, invisible to others for `visibility_ms` (`None`: as the queue says).
    pub(crate) async fn receive(&self, queue: &str, many: u32, visibility_ms: Option<u64>) -> Result<Received> {
        let (queue, name) = (queue.to_owned(), queue.to_owned());
        let op = move |work: &mut Work<'_>| work.receive(&queue, many, visibility_ms);
        self.run(op, move |this, received| this.give_back(name, &received), false).await
    }

    /// Whoever asked went away before the answer: nobody has these messages, so nobody need wait for their timeout, and
    /// none is charged.
    fn give_back(&self, queue: String, received: &Received) {
        let receipts: Vec<_> = received.deliveries.iter().map(|d| self.sealer.open(&d.receipt)).collect();
        if receipts.is_empty() {
            return;
        }
        let op = self.on_writer(move |work| receipts.iter().try_for_each(|receipt| work.hand_back(&queue, *receipt)));
        if let Err(error) = self.store.submit(op, |_| {}) {
            tracing::debug!(%error, "messages that nobody took wait for their timeout");
        }
    }
}

/// One receive while it goes on.
struct Receiving {
    entry: Arc<Entry>,
    until: Millis,
    want: usize,
    cleared: u32,
    received: Received,
}

impl Receiving {
    fn is_done(&self) -> bool {
        self.received.deliveries.len() >= self.want || self.cleared >= CLEARED_MAX
    }
}

impl Work<'_> {
    pub(super) fn receive(&mut self, queue: &str, many: u32, visibility_ms: Option<u64>) -> Result<Received> {
        let entry = self.entry(queue)?;
        self.check_in_flight(&entry, many)?;
        let mut receiving = Receiving {
            until: later(self.now, visibility_ms.unwrap_or(entry.spec.visibility_ms)),
            want: many as usize,
            cleared: 0,
            received: Received { deliveries: Vec::new(), next_due: None, buried_in: Vec::new() },
            entry,
        };
        match receiving.entry.spec.fifo {
            true => self.receive_groups(&mut receiving)?,
            false => {
                self.receive_due(&mut receiving)?;
                self.receive_fresh(&mut receiving)?;
            }
        }
        if receiving.received.deliveries.is_empty() {
            receiving.received.next_due = match receiving.cleared >= CLEARED_MAX {
                // There may be more behind what was cleared away.
                true => Some(self.now),
                false => self.next_due(&receiving.entry)?,
            };
        }
        let handed_out = u32::try_from(receiving.received.deliveries.len()).unwrap_or(u32::MAX);
        *self.cache.in_flight.entry(receiving.entry.number).or_default() += handed_out;
        Ok(receiving.received)
    }

    /// Counted only when so many were handed out since the last count that the limit may be reached.
    fn check_in_flight(&mut self, entry: &Entry, many: u32) -> Result<()> {
        let known = self.cache.in_flight.get(&entry.number).copied();
        if known.is_some_and(|at_most| at_most + many <= IN_FLIGHT_MAX) {
            return Ok(());
        }
        let counted: u32 = self
            .db
            .prepare_cached("SELECT count(*) FROM claim WHERE queue = ?1 AND due > ?2 AND due < ?3 AND receives > 0")?
            .query_row(params![entry.number, self.now, NEVER], |r| r.get(0))?;
        self.cache.in_flight.insert(entry.number, counted);
        check_in_flight(&entry.name, counted, many)
    }

    fn receive_due(&mut self, receiving: &mut Receiving) -> Result<()> {
        while !receiving.is_done() {
            let candidates = {
                let mut query = self.db.prepare_cached(
                    "SELECT id, receives, failures, crashes, first FROM claim
                     WHERE queue = ?1 AND due <= ?2 AND id > ?3 ORDER BY due LIMIT ?4",
                )?;
                let left = (receiving.want - receiving.received.deliveries.len()) as i64;
                let row = |r: &rusqlite::Row<'_>| {
                    let record = Record { receives: r.get(1)?, failures: r.get(2)?, crashes: r.get(3)? };
                    Ok(Candidate { id: r.get(0)?, record, first: r.get(4)? })
                };
                let entry = &receiving.entry;
                let rows = query.query_map(params![entry.number, self.now, entry.low(), left], row)?;
                rows.collect::<rusqlite::Result<Vec<_>>>()?
            };
            if candidates.is_empty() {
                return Ok(());
            }
            for candidate in candidates {
                self.hand_out(receiving, &candidate)?;
            }
        }
        Ok(())
    }

    fn receive_fresh(&mut self, receiving: &mut Receiving) -> Result<()> {
        let mut looked_at = 0;
        while !receiving.is_done() && looked_at < LOOKED_AT_MAX {
            let entry = receiving.entry.clone();
            let from = self.fresh_from(&entry)?;
            let want = u32::try_from(receiving.want - receiving.received.deliveries.len()).unwrap_or(u32::MAX);
            let rows = {
                let mut query = self.db.prepare_cached(
                    "SELECT m.id, c.id IS NULL FROM message m LEFT JOIN claim c ON c.id = m.id
                     WHERE m.id > ?1 AND m.id <= ?2 ORDER BY m.id LIMIT ?3",
                )?;
                let rows =
                    query.query_map(params![from, entry.high(), want], |r| Ok((r.get::<_, i64>(0)?, r.get(1)?)))?;
                rows.collect::<rusqlite::Result<Vec<(i64, bool)>>>()?
            };
            let Some((last, _)) = rows.last().copied() else { return Ok(()) };
            looked_at += want;
            for (id, is_fresh) in rows {
                if is_fresh {
                    self.hand_out(receiving, &Candidate { id, record: FRESH, first: 0 })?;
                }
            }
            self.set_fresh(&entry, from, last)?;
        }
        Ok(())
    }

    /// Messages of this queue up to here were claimed, or are gone.
    fn fresh_from(&mut self, entry: &Entry) -> Result<i64> {
        if let Some(from) = self.cache.fresh.get(&entry.number) {
            return Ok(*from);
        }
        let place: i64 = self
            .db
            .prepare_cached("SELECT fresh FROM queue WHERE number = ?1")?
            .query_row([entry.number], |r| r.get(0))?;
        let from = entry.id(place).max(entry.low());
        self.cache.fresh.insert(entry.number, from);
        Ok(from)
    }

    fn set_fresh(&mut self, entry: &Entry, before: i64, now: i64) -> Result<()> {
        self.cache.fresh.insert(entry.number, now);
        if before / FRESH_STEP != now / FRESH_STEP {
            self.db
                .prepare_cached("UPDATE queue SET fresh = ?2 WHERE number = ?1")?
                .execute(params![entry.number, place(now) as i64])?;
        }
        Ok(())
    }

    fn receive_groups(&mut self, receiving: &mut Receiving) -> Result<()> {
        let want = u32::try_from(receiving.want).unwrap_or(u32::MAX);
        while !receiving.is_done() {
            let groups = self.groups_due(&receiving.entry, want)?;
            if groups.is_empty() {
                return Ok(());
            }
            for group in groups {
                if !receiving.is_done() {
                    self.receive_group(receiving, &group)?;
                }
            }
        }
        Ok(())
    }

    fn receive_group(&mut self, receiving: &mut Receiving, group: &str) -> Result<()> {
        let entry = receiving.entry.clone();
        for (id, due, _) in self.group_front(&entry, group)? {
            if receiving.is_done() || due > self.now {
                break;
            }
            let candidate = self.candidate(id)?;
            self.hand_out(receiving, &candidate)?;
        }
        self.refresh_group(&entry, group)
    }

    fn candidate(&self, id: i64) -> Result<Candidate> {
        let claim = self
            .db
            .prepare_cached("SELECT receives, failures, crashes, first FROM claim WHERE id = ?1")?
            .query_row([id], |r| {
                let record = Record { receives: r.get(0)?, failures: r.get(1)?, crashes: r.get(2)? };
                Ok(Candidate { id, record, first: r.get(3)? })
            })
            .optional()?;
        Ok(claim.unwrap_or(Candidate { id, record: FRESH, first: 0 }))
    }

    /// Claims a message and adds it to the answer, unless it has expired or belongs to the dead letters.
    fn hand_out(&mut self, receiving: &mut Receiving, candidate: &Candidate) -> Result<()> {
        let entry = receiving.entry.clone();
        let Some(mut delivery) = self.load(candidate.id)? else {
            // Its row is gone; so is the claim that was left.
            self.db.prepare_cached("DELETE FROM claim WHERE id = ?1")?.execute([candidate.id])?;
            receiving.cleared += 1;
            return Ok(());
        };
        match offer(&entry.spec, candidate.record, delivery.sent, self.now) {
            Offer::HandOut => {}
            Offer::Expired => {
                receiving.cleared += 1;
                return self.remove(&entry, &[candidate.id]);
            }
            Offer::Bury(reason) => {
                if let Some(into) = self.bury(&entry, candidate.id, reason.word(), None)? {
                    receiving.received.buried_in.push(into);
                    receiving.cleared += 1;
                    return Ok(());
                }
            }
        }
        let receives = candidate.record.receives + 1;
        let first = if candidate.first > 0 { candidate.first } else { self.now };
        self.claim(&entry, candidate, receives, first, receiving.until)?;
        delivery.receives = receives;
        delivery.failures = candidate.record.failures;
        delivery.first_received = first;
        delivery.receipt = self.sealer.seal(Receipt { id: candidate.id, receive: receives, epoch: self.epoch });
        receiving.received.deliveries.push(delivery);
        Ok(())
    }

    fn claim(&self, entry: &Entry, candidate: &Candidate, receives: u32, first: Millis, until: Millis) -> Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO claim (id, queue, due, receives, first, since, epoch) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (id) DO UPDATE SET due = ?3, receives = ?4, first = ?5, since = ?6, epoch = ?7",
            )?
            .execute(params![candidate.id, entry.number, until, receives, first, self.now, self.epoch])?;
        Ok(())
    }

    pub(super) fn load(&self, id: i64) -> Result<Option<Delivery>> {
        let row = self
            .db
            .prepare_cached(
                "SELECT uid, sent, body, attributes, trace, sender, grp, deduplication, buried FROM message WHERE id = ?1",
            )?
            .query_row([id], |r| {
                let delivery = Delivery {
                    message: message_id(r.get(0)?),
                    receipt: String::new(),
                    sent: r.get(1)?,
                    body: r.get(2)?,
                    attributes: r.get::<_, Option<Vec<u8>>>(3)?.unwrap_or_default(),
                    trace: r.get(4)?,
                    sender: r.get(5)?,
                    group: r.get(6)?,
                    deduplication: r.get(7)?,
                    first_received: 0,
                    receives: 0,
                    failures: 0,
                    sequence: place(id),
                    buried: None,
                };
                Ok((delivery, r.get::<_, Option<String>>(8)?))
            })
            .optional()?;
        let Some((mut delivery, buried)) = row else { return Ok(None) };
        delivery.buried = buried.map(|text| decode(&text, "story of a dead letter")).transpose()?;
        Ok(Some(delivery))
    }

    fn next_due(&self, entry: &Entry) -> Result<Option<Millis>> {
        let sql = match entry.spec.fifo {
            true => "SELECT min(due) FROM grp WHERE queue = ?1 AND due > ?2 AND ?3 >= 0",
            false => "SELECT min(due) FROM claim WHERE queue = ?1 AND due > ?2 AND id > ?3",
        };
        let due: Option<Millis> =
            self.db.prepare_cached(sql)?.query_row(params![entry.number, self.now, entry.low()], |r| r.get(0))?;
        Ok(due.filter(|due| *due < NEVER))
    }
}
