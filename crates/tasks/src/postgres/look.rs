//! Looking without touching: how many there are, and what waits.

use super::{Postgres, transact};
use crate::error::Result;
use crate::queue::entry::message_id;
use crate::queue::{Counts, NEVER, Peeked};
use crate::store::decode;

/// Of one queue it is enough to know that so many can be received.
const READY_MAX: i64 = 100;

impl Postgres {
    pub(crate) async fn counts(&self, queue: &str) -> Result<Counts> {
        transact!(self, tx => {
            let entry = tx.entry(queue).await?;
            let row = tx
                .one(
                    "SELECT coalesce((SELECT sum(messages)::int8 FROM tally WHERE queue = $1), 0),
                            count(*) FILTER (WHERE receives > 0 AND due < $4), count(*) FILTER (WHERE receives = 0 OR due = $4),
                            (SELECT sent FROM message WHERE id > $3 AND id <= $5 ORDER BY id LIMIT 1)
                     FROM message WHERE queue = $1 AND due > $2 AND id > $3",
                    &[&entry.number, &tx.now, &entry.low(), &NEVER, &entry.high()],
                )
                .await?;
            let (messages, in_flight, delayed): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
            let oldest: Option<i64> = row.get(3);
            Ok(Counts {
                visible: (messages - in_flight - delayed).max(0).unsigned_abs(),
                in_flight: in_flight.unsigned_abs(),
                delayed: delayed.unsigned_abs(),
                oldest_ms: oldest.map_or(0, |sent| (tx.now - sent).max(0).unsigned_abs()),
            })
        })
    }

    pub(crate) async fn peek(&self, queue: &str, many: u32) -> Result<Vec<Peeked>> {
        let many = i64::from(many);
        transact!(self, tx => {
            let entry = tx.entry(queue).await?;
            let sql = "SELECT uid, body, sent, receives, failures, crashes, due, grp, error, buried FROM message
                       WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3";
            let rows = tx.rows(sql, &[&entry.low(), &entry.high(), &many]).await?;
            let mut all = Vec::with_capacity(rows.len());
            for row in rows {
                let count = |at: usize| u32::try_from(row.get::<_, i64>(at)).unwrap_or(u32::MAX);
                let (due, story): (i64, Option<&str>) = (row.get(6), row.get(9));
                all.push(Peeked {
                    message: message_id(row.get(0)),
                    body: row.get(1),
                    sent: row.get(2),
                    receives: count(3),
                    failures: count(4),
                    crashes: count(5),
                    due: (due < NEVER).then_some(due),
                    group: row.get(7),
                    error: row.get(8),
                    buried: story.map(|text| decode(text, "story of a dead letter")).transpose()?,
                });
            }
            Ok(all)
        })
    }

    pub(crate) async fn ready(&self, queues: Vec<String>) -> Result<Vec<(String, u64)>> {
        transact!(self, tx => {
            let sql = "SELECT q.name, CASE WHEN (q.spec::jsonb ->> 'fifo')::bool
                          THEN (SELECT count(*) FROM (SELECT FROM grp WHERE queue = q.number AND due <= $2 LIMIT $3) g)
                          ELSE (SELECT count(*) FROM (SELECT FROM message WHERE queue = q.number AND due = 0
                                AND id > (q.number << 40) + q.floor LIMIT $3) m)
                             + (SELECT count(*) FROM (SELECT FROM message WHERE queue = q.number AND due > 0 AND due <= $2
                                AND id > (q.number << 40) + q.floor LIMIT $3) m) END
                       FROM queue q WHERE q.name = ANY($1)";
            let rows = tx.rows(sql, &[&queues, &tx.now, &READY_MAX]).await?;
            Ok(rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs())).filter(|(_, n)| *n > 0).collect())
        })
    }
}
