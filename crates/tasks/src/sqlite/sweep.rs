//! What nobody waits for: rows of purged and deleted queues, expired messages, keys that are forgotten. In small steps,
//! so that no operation waits long behind one.

use rusqlite::{OptionalExtension, params};

use super::{Sqlite, Work};
use crate::clock::Millis;
use crate::error::Result;
use crate::queue::DELETED_FOR_MS;

/// Rows of one step: about 10 ms.
const STEP_ROWS: u32 = 1_000;

impl Sqlite {
    /// One step; true when there is more to do at once.
    pub(crate) async fn sweep(&self) -> Result<bool> {
        self.write(|work| Ok(work.sweep_doomed()? | work.sweep_seen()?)).await
    }

    /// Expired messages of one queue: those at its head, and those among the next rows after `from`, because dead letters
    /// are not in the order of their sending. Returns where to go on, `None` at the end.
    pub(crate) async fn expire(&self, queue: &str, from: i64) -> Result<Option<i64>> {
        let queue = queue.to_owned();
        self.write(move |work| work.expire(&queue, from)).await
    }

    pub(crate) async fn keep_clock(&self) -> Result<()> {
        let clock = self.clock.clone();
        self.write(move |work| Ok(clock.keep(work.db)?)).await
    }
}

impl Work<'_> {
    fn sweep_doomed(&mut self) -> Result<bool> {
        let range = self
            .db
            .prepare_cached("SELECT low, high FROM doomed ORDER BY low LIMIT 1")?
            .query_row([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)))
            .optional()?;
        let Some((low, high)) = range else { return Ok(false) };
        let mut gone = 0;
        for sql in [
            "DELETE FROM message WHERE id IN (SELECT id FROM message WHERE id >= ?1 AND id <= ?2 ORDER BY id LIMIT ?3)",
            "DELETE FROM claim WHERE id IN (SELECT id FROM claim WHERE id >= ?1 AND id <= ?2 ORDER BY id LIMIT ?3)",
        ] {
            gone += self.db.prepare_cached(sql)?.execute(params![low, high, STEP_ROWS])?;
        }
        if gone == 0 {
            self.db.execute("DELETE FROM doomed WHERE low = ?1", [low])?;
        }
        Ok(true)
    }

    fn sweep_seen(&mut self) -> Result<bool> {
        let gone = self
            .db
            .prepare_cached(
                "DELETE FROM seen WHERE (queue, key) IN (SELECT queue, key FROM seen WHERE until <= ?1 LIMIT ?2)",
            )?
            .execute(params![self.now, STEP_ROWS])?;
        self.db.prepare_cached("DELETE FROM deleted WHERE at <= ?1")?.execute([self.now - DELETED_FOR_MS])?;
        Ok(gone >= STEP_ROWS as usize)
    }

    fn expire(&mut self, queue: &str, from: i64) -> Result<Option<i64>> {
        let Some(entry) = self.find(queue)? else { return Ok(None) };
        let retention = i64::try_from(entry.spec.retention_ms).unwrap_or(i64::MAX / 2);
        let cutoff = self.now.saturating_sub(retention);
        let mut next = None;
        for start in [entry.low(), from.max(entry.low())] {
            let rows = self.sent_after(start, entry.high())?;
            let expired: Vec<i64> = rows.iter().filter(|(_, sent)| *sent <= cutoff).map(|(id, _)| *id).collect();
            self.remove(&entry, &expired)?;
            next = rows.last().filter(|_| rows.len() >= STEP_ROWS as usize).map(|(id, _)| *id);
        }
        Ok(next)
    }

    fn sent_after(&self, start: i64, high: i64) -> Result<Vec<(i64, Millis)>> {
        let mut query =
            self.db.prepare_cached("SELECT id, sent FROM message WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3")?;
        let rows = query.query_map(params![start, high, STEP_ROWS], |r| Ok((r.get(0)?, r.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}
