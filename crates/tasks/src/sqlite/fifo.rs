//! Message groups: one row for each group that has messages, with its first message and when it may be received.
//!
//! While messages of a group are in flight, or its first waits for its delay, nothing of the group is handed out: that is
//! what keeps the order.

use rusqlite::{OptionalExtension, params};

use super::Work;
use crate::clock::Millis;
use crate::error::Result;
use crate::queue::entry::Entry;
use crate::queue::rules::{Front, GROUP_IN_FLIGHT_MAX, group_due};

impl Work<'_> {
    pub(super) fn group_of(&self, id: i64) -> Result<Option<String>> {
        Ok(self
            .db
            .prepare_cached("SELECT grp FROM message WHERE id = ?1")?
            .query_row([id], |r| r.get(0))
            .optional()?
            .flatten())
    }

    /// A message came to the end of its group.
    pub(super) fn join_group(&mut self, entry: &Entry, group: &str, id: i64, due: Millis) -> Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO grp (queue, name, due, head) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (queue, name) DO NOTHING",
            )?
            .execute(params![entry.number, group, due, id])?;
        Ok(())
    }

    /// Groups that may be received, those that waited longest first.
    pub(super) fn groups_due(&self, entry: &Entry, many: u32) -> Result<Vec<String>> {
        let mut groups = Vec::new();
        for sql in [
            "SELECT name FROM grp WHERE queue = ?1 AND due > 0 AND due <= ?2 ORDER BY due LIMIT ?3",
            "SELECT name FROM grp WHERE queue = ?1 AND due = 0 AND ?2 > 0 ORDER BY head LIMIT ?3",
        ] {
            let mut query = self.db.prepare_cached(sql)?;
            let left = i64::from(many) - groups.len() as i64;
            let rows = query.query_map(params![entry.number, self.now, left], |r| r.get::<_, String>(0))?;
            for name in rows {
                groups.push(name?);
            }
        }
        Ok(groups)
    }

    /// The first messages of a group with when each is due and how often it was received, in order.
    pub(super) fn group_front(&self, entry: &Entry, group: &str) -> Result<Vec<Front>> {
        let mut query = self.db.prepare_cached(
            "SELECT m.id, coalesce(c.due, 0), coalesce(c.receives, 0) FROM message m LEFT JOIN claim c ON c.id = m.id
             WHERE m.grp = ?1 AND m.id > ?2 AND m.id <= ?3 ORDER BY m.id LIMIT ?4",
        )?;
        let rows = query.query_map(params![group, entry.low(), entry.high(), GROUP_IN_FLIGHT_MAX], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// After a change of its messages: when the group may be received, or that it has none left.
    pub(super) fn refresh_group(&mut self, entry: &Entry, group: &str) -> Result<()> {
        let front = self.group_front(entry, group)?;
        let Some((head, due)) = group_due(&front, self.now) else {
            self.db
                .prepare_cached("DELETE FROM grp WHERE queue = ?1 AND name = ?2")?
                .execute(params![entry.number, group])?;
            return Ok(());
        };
        self.db
            .prepare_cached(
                "INSERT INTO grp (queue, name, due, head) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (queue, name) DO UPDATE SET due = ?3, head = ?4",
            )?
            .execute(params![entry.number, group, due, head])?;
        Ok(())
    }
}
