//! A message changes its queue: to the dead letters, back from them, or wherever a person sends it.

use rusqlite::params;

use super::Work;
use crate::error::Result;
use crate::queue::entry::Entry;
use crate::queue::{Buried, ERROR_CHARS_MAX};
use crate::store::encode;

impl Work<'_> {
    /// To the dead letters of its queue; `None` when there are none to go to (their queue was deleted): it stays.
    pub(super) fn bury(&mut self, entry: &Entry, id: i64, reason: &str, error: Option<&str>) -> Result<Option<String>> {
        let Some(dead) = &entry.spec.dead_letter else { return Ok(None) };
        let Some(to) = self.find(&dead.queue)? else { return Ok(None) };
        let error = match error {
            Some(words) => Some(words.chars().take(ERROR_CHARS_MAX).collect()),
            None => self
                .db
                .prepare_cached("SELECT error FROM claim WHERE id = ?1")?
                .query_row([id], |r| r.get::<_, Option<String>>(0))
                .unwrap_or_default(),
        };
        let story = Buried { source: entry.name.clone(), reason: reason.to_owned(), error };
        self.transfer(entry, id, &to, Some(&story))?;
        Ok(Some(to.name.clone()))
    }

    /// In one transaction out of one queue and into the other, with its id. A standard queue keeps the time of sending,
    /// so that retention counts from there; a FIFO queue begins anew.
    pub(super) fn transfer(&mut self, from: &Entry, id: i64, to: &Entry, story: Option<&Buried>) -> Result<()> {
        let new = to.id(self.places(to, 1)?);
        let story = story.map(encode).transpose()?;
        let sent = to.spec.fifo.then_some(self.now);
        let moved = self
            .db
            .prepare_cached(
                "INSERT INTO message (id, uid, sent, body, attributes, trace, sender, grp, deduplication, buried)
                 SELECT ?1, uid, coalesce(?2, sent), body, attributes, trace, sender, grp, deduplication, ?3
                 FROM message WHERE id = ?4",
            )?
            .execute(params![new, sent, story, id])?;
        if moved == 0 {
            return self.count(to, -1);
        }
        if to.spec.fifo
            && let Some(group) = self.group_of(new)?
        {
            self.join_group(to, &group, new, 0)?;
        }
        self.remove(from, &[id])
    }
}
