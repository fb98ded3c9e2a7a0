//! What nobody waits for, in small steps, by one plane at a time.

use std::collections::BTreeSet;

use super::session::{Done, Tx};
use super::{Postgres, transact};
use crate::error::Result;
use crate::queue::DELETED_FOR_MS;

/// Rows of one step: some 10 ms.
const STEP_ROWS: i64 = 1_000;
/// Programs whose plane never came back are forgotten.
const WORK_KEPT_MS: i64 = 30 * 86_400_000;
/// Requests to the plane that leads; whoever asked has long gone.
const INBOX_KEPT_MS: i64 = 60_000;

/// Chores that one plane does at a time.
const SWEEP: i64 = 1;
const EXPIRE: i64 = 2;

impl Postgres {
    pub(crate) async fn sweep(&self) -> Result<bool> {
        transact!(self, tx => {
            if !tx.try_lock(SWEEP).await? {
                return Ok(false);
            }
            Ok(tx.sweep_doomed().await? | tx.sweep_seen().await?)
        })
    }

    pub(crate) async fn expire(&self, queue: &str, from: i64) -> Result<Option<i64>> {
        transact!(self, tx => {
            if !tx.try_lock(EXPIRE).await? {
                return Ok(None);
            }
            tx.expire(queue, from).await
        })
    }

    /// The time is the server's.
    #[expect(clippy::unused_async, reason = "other engines keep it")]
    pub(crate) async fn keep_clock(&self) -> Result<()> {
        Ok(())
    }
}

impl Tx<'_> {
    async fn sweep_doomed(&mut self) -> Done<bool> {
        let Some(row) = self.opt("SELECT low, high, at FROM doomed ORDER BY low LIMIT 1", &[]).await? else {
            return Ok(false);
        };
        let (low, high, at): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let sql = "DELETE FROM message WHERE id IN
                   (SELECT id FROM message WHERE id >= $1 AND id <= $2 ORDER BY id LIMIT $3)";
        let gone = self.run(sql, &[&low, &high, &STEP_ROWS]).await?;
        // What was sent while the queue was purged or deleted may still come to be seen.
        let is_over = gone == 0 && self.now > at + DELETED_FOR_MS;
        if is_over {
            self.run("DELETE FROM doomed WHERE low = $1", &[&low]).await?;
        }
        Ok(gone > 0 || is_over)
    }

    async fn sweep_seen(&self) -> Done<bool> {
        let sql = "DELETE FROM seen WHERE (queue, key) IN (SELECT queue, key FROM seen WHERE until <= $1 LIMIT $2)";
        let gone = self.run(sql, &[&self.now, &STEP_ROWS]).await?;
        self.run("DELETE FROM deleted WHERE at <= $1", &[&(self.now - DELETED_FOR_MS)]).await?;
        self.run("DELETE FROM work WHERE began <= $1", &[&(self.now - WORK_KEPT_MS)]).await?;
        self.run("DELETE FROM inbox WHERE at <= $1", &[&(self.now - INBOX_KEPT_MS)]).await?;
        Ok(gone >= STEP_ROWS.unsigned_abs())
    }

    async fn expire(&mut self, queue: &str, from: i64) -> Done<Option<i64>> {
        let Some(entry) = self.find(queue).await? else { return Ok(None) };
        match entry.spec.fifo {
            true => self.lock(&[entry.number], &[]).await?,
            false => self.lock(&[], &[entry.number]).await?,
        }
        let retention = i64::try_from(entry.spec.retention_ms).unwrap_or(i64::MAX / 2);
        let cutoff = self.now.saturating_sub(retention);
        let (mut next, mut expired, mut groups) = (None, BTreeSet::new(), BTreeSet::new());
        for start in [entry.low(), from.max(entry.low())] {
            let sql = "SELECT id, sent, grp FROM message WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3";
            let rows = self.rows(sql, &[&start, &entry.high(), &STEP_ROWS]).await?;
            for row in rows.iter().filter(|row| row.get::<_, i64>(1) <= cutoff) {
                expired.insert(row.get::<_, i64>(0));
                groups.extend(row.get::<_, Option<String>>(2));
            }
            next = rows.last().filter(|_| rows.len() as i64 >= STEP_ROWS).map(|row| row.get(0));
        }
        let expired: Vec<i64> = expired.into_iter().collect();
        self.remove(&entry, &expired).await?;
        if entry.spec.fifo {
            let groups: Vec<String> = groups.into_iter().collect();
            self.refresh(&entry, &groups).await?;
        }
        Ok(next)
    }
}
