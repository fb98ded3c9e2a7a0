//! Looking without touching: how many there are, and what waits.

use rusqlite::{OptionalExtension, params};

use super::Sqlite;
use super::catalogue::read;
use crate::error::{Error, Result};
use crate::queue::entry::{PLACE_BITS, message_id};
use crate::queue::{Counts, NEVER, Peeked};
use crate::store::decode;

impl Sqlite {
    pub(crate) async fn counts(&self, queue: &str) -> Result<Counts> {
        let (name, now) = (queue.to_owned(), self.clock.now());
        let counts = read(&self.store, move |db| {
            let row = db
                .prepare_cached("SELECT number, floor, messages FROM queue WHERE name = ?1")?
                .query_row([&name], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?)))
                .optional()?;
            let Some((number, floor, messages)) = row else { return Ok(None) };
            let low = (number << PLACE_BITS) + floor;
            let (in_flight, delayed): (i64, i64) = db
                .prepare_cached(
                    "SELECT count(*) FILTER (WHERE receives > 0 AND due < ?4), count(*) FILTER (WHERE receives = 0 OR due = ?4)
                     FROM claim WHERE queue = ?1 AND due > ?2 AND id > ?3",
                )?
                .query_row(params![number, now, low, NEVER], |r| Ok((r.get(0)?, r.get(1)?)))?;
            let oldest: Option<i64> = db
                .prepare_cached("SELECT sent FROM message WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT 1")?
                .query_row([low, (number + 1) << PLACE_BITS], |r| r.get(0))
                .optional()?;
            Ok(Some(Counts {
                visible: (messages - in_flight - delayed).max(0).unsigned_abs(),
                in_flight: in_flight.unsigned_abs(),
                delayed: delayed.unsigned_abs(),
                oldest_ms: oldest.map_or(0, |sent| (now - sent).max(0).unsigned_abs()),
            }))
        });
        counts.await?.ok_or_else(|| Error::NoQueue { queue: queue.to_owned() })
    }

    /// The first `many` messages in order of sending.
    pub(crate) async fn peek(&self, queue: &str, many: u32) -> Result<Vec<Peeked>> {
        let name = queue.to_owned();
        let rows = read(&self.store, move |db| {
            let row = db
                .prepare_cached("SELECT number, floor FROM queue WHERE name = ?1")?
                .query_row([&name], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)))
                .optional()?;
            let Some((number, floor)) = row else { return Ok(None) };
            let mut query = db.prepare_cached(
                "SELECT m.uid, m.body, m.sent, coalesce(c.receives, 0), coalesce(c.failures, 0), coalesce(c.crashes, 0),
                        coalesce(c.due, 0), m.grp, c.error, m.buried
                 FROM message m LEFT JOIN claim c ON c.id = m.id WHERE m.id > ?1 AND m.id < ?2 ORDER BY m.id LIMIT ?3",
            )?;
            let (low, high) = ((number << PLACE_BITS) + floor, (number + 1) << PLACE_BITS);
            let rows = query.query_map(params![low, high, many], |r| {
                let due: i64 = r.get(6)?;
                let peeked = Peeked {
                    message: message_id(r.get(0)?),
                    body: r.get(1)?,
                    sent: r.get(2)?,
                    receives: r.get(3)?,
                    failures: r.get(4)?,
                    crashes: r.get(5)?,
                    due: (due < NEVER).then_some(due),
                    group: r.get(7)?,
                    error: r.get(8)?,
                    buried: None,
                };
                Ok((peeked, r.get::<_, Option<String>>(9)?))
            })?;
            Ok(Some(rows.collect::<rusqlite::Result<Vec<_>>>()?))
        });
        let rows = rows.await?.ok_or_else(|| Error::NoQueue { queue: queue.to_owned() })?;
        rows.into_iter()
            .map(|(mut peeked, story)| {
                peeked.buried = story.map(|text| decode(&text, "story of a dead letter")).transpose()?;
                Ok(peeked)
            })
            .collect()
    }
}
