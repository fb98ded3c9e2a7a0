//! Queues made, changed, purged, deleted, listed.

use std::collections::BTreeMap;

use holdfast_store::Store;
use rusqlite::{OptionalExtension, params};

use super::{Sqlite, Work};
use crate::clock::Millis;
use crate::error::{Error, Result};
use crate::queue::entry::PLACE_BITS;
use crate::queue::rules;
use crate::queue::{DELETED_FOR_MS, PURGE_EVERY_MS, QUEUES_MAX, Queue, Spec};
use crate::store::{self, Edit, encode};

impl Sqlite {
    /// The same definition again is no error.
    pub(crate) async fn create(&self, name: &str, spec: Spec, tags: BTreeMap<String, String>) -> Result<()> {
        let name = name.to_owned();
        self.write_if_room(move |work| work.create(&name, &spec, &tags)).await
    }

    /// Makes the queue, or makes it be so.
    pub(crate) async fn declare(&self, name: &str, spec: Spec, tags: BTreeMap<String, String>) -> Result<()> {
        let name = name.to_owned();
        self.write(move |work| {
            if work.find(&name)?.is_none() {
                work.db.execute("DELETE FROM deleted WHERE name = ?1", [&name])?;
                return work.create(&name, &spec, &tags);
            }
            work.change(&name, |known| rules::declare(&name, known, &spec))?;
            work.set_tags(&name, &tags)
        })
        .await
    }

    pub(crate) async fn change(&self, name: &str, mut change: Edit<Spec>) -> Result<()> {
        let name = name.to_owned();
        self.write(move |work| work.change(&name, &mut change)).await
    }

    pub(crate) async fn change_tags(&self, name: &str, mut change: Edit<BTreeMap<String, String>>) -> Result<()> {
        let name = name.to_owned();
        self.write(move |work| {
            work.entry(&name)?;
            let text: String = work.db.query_row("SELECT tags FROM queue WHERE name = ?1", [&name], |r| r.get(0))?;
            let mut tags = store::decode(&text, "tags of a queue")?;
            change(&mut tags)?;
            work.set_tags(&name, &tags)
        })
        .await
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.write(move |work| work.delete(&name)).await
    }

    /// Messages sent before are gone, those in flight too.
    pub(crate) async fn purge(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.write(move |work| work.purge(&name)).await
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Queue> {
        let wanted = name.to_owned();
        let found = read(&self.store, move |db| {
            let row = db
                .prepare_cached("SELECT name, spec, tags, created, modified FROM queue WHERE name = ?1")?
                .query_row([wanted], row)
                .optional()?;
            Ok(row)
        });
        found.await?.ok_or_else(|| Error::NoQueue { queue: name.to_owned() })?.decode()
    }

    /// In order of their names, after `after`.
    pub(crate) async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Queue>> {
        let (prefix, after) = (prefix.to_owned(), after.unwrap_or_default().to_owned());
        let rows = read(&self.store, move |db| {
            let mut query = db.prepare_cached(
                "SELECT name, spec, tags, created, modified FROM queue
                 WHERE name > ?1 AND substr(name, 1, length(?2)) = ?2 ORDER BY name LIMIT ?3",
            )?;
            let rows = query.query_map(params![after, prefix, limit as i64], row)?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        });
        rows.await?.into_iter().map(Row::decode).collect()
    }
}

pub(super) async fn read<T, F>(store: &Store, query: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&rusqlite::Connection) -> holdfast_store::Result<T> + Send + 'static,
{
    Ok(store.read(query).await?)
}

struct Row {
    name: String,
    spec: String,
    tags: String,
    created: Millis,
    modified: Millis,
}

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row { name: r.get(0)?, spec: r.get(1)?, tags: r.get(2)?, created: r.get(3)?, modified: r.get(4)? })
}

impl Row {
    fn decode(self) -> Result<Queue> {
        Ok(Queue {
            spec: store::spec(&self.spec)?,
            tags: store::decode(&self.tags, "tags of a queue")?,
            name: self.name,
            created: self.created,
            modified: self.modified,
        })
    }
}

impl Work<'_> {
    fn create(&mut self, name: &str, spec: &Spec, tags: &BTreeMap<String, String>) -> Result<()> {
        if let Some(known) = self.find(name)? {
            return rules::check_same(name, &known.spec, spec);
        }
        let deleted: Option<Millis> =
            self.db.query_row("SELECT at FROM deleted WHERE name = ?1", [name], |r| r.get(0)).optional()?;
        if deleted.is_some_and(|at| self.now < at + DELETED_FOR_MS) {
            return Err(Error::DeletedRecently { queue: name.to_owned() });
        }
        let many: i64 = self.db.query_row("SELECT count(*) FROM queue", [], |r| r.get(0))?;
        if many >= QUEUES_MAX as i64 {
            return Err(Error::TooManyQueues { limit: QUEUES_MAX });
        }
        self.check_dead_letter(name, spec)?;
        self.db
            .prepare_cached("INSERT INTO queue (name, spec, tags, created, modified) VALUES (?1, ?2, ?3, ?4, ?4)")?
            .execute(params![name, encode(spec)?, encode(tags)?, self.now])?;
        Ok(())
    }

    pub(super) fn change(&mut self, name: &str, mut change: impl FnMut(&mut Spec) -> Result<()>) -> Result<()> {
        let entry = self.entry(name)?;
        let mut spec = Spec::clone(&entry.spec);
        change(&mut spec)?;
        if spec == *entry.spec {
            return Ok(());
        }
        self.check_dead_letter(name, &spec)?;
        self.db.prepare_cached("UPDATE queue SET spec = ?2, modified = ?3 WHERE name = ?1")?.execute(params![
            name,
            encode(&spec)?,
            self.now
        ])?;
        self.forget(name);
        Ok(())
    }

    fn check_dead_letter(&mut self, name: &str, spec: &Spec) -> Result<()> {
        let to = spec.dead_letter.as_ref().map(|dead| self.find(&dead.queue)).transpose()?.flatten();
        rules::check_dead_letter(name, spec, to.as_ref().map(|to| &*to.spec))
    }

    fn set_tags(&mut self, name: &str, tags: &BTreeMap<String, String>) -> Result<()> {
        self.db.prepare_cached("UPDATE queue SET tags = ?2 WHERE name = ?1")?.execute(params![name, encode(tags)?])?;
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Result<()> {
        let entry = self.entry(name)?;
        if entry.spec.declared {
            return Err(Error::Declared { queue: name.to_owned() });
        }
        self.doom(entry.number << PLACE_BITS, entry.high())?;
        self.db.execute("DELETE FROM queue WHERE number = ?1", [entry.number])?;
        self.db.execute("DELETE FROM grp WHERE queue = ?1", [entry.number])?;
        self.db.execute(
            "UPDATE move SET state = 'FAILED', failure = 'the queue was deleted' WHERE state = 'RUNNING' AND source = ?1",
            [name],
        )?;
        self.db.execute("INSERT OR REPLACE INTO deleted (name, at) VALUES (?1, ?2)", params![name, self.now])?;
        self.forget(name);
        Ok(())
    }

    fn purge(&mut self, name: &str) -> Result<()> {
        let entry = self.entry(name)?;
        let (purged, last): (Millis, i64) =
            self.db.query_row("SELECT purged, last FROM queue WHERE number = ?1", [entry.number], |r| {
                Ok((r.get(0)?, r.get(1)?))
            })?;
        if purged > 0 && self.now < purged + PURGE_EVERY_MS {
            return Err(Error::PurgedRecently { queue: name.to_owned() });
        }
        self.doom(entry.low(), entry.id(last))?;
        self.db.execute("DELETE FROM grp WHERE queue = ?1", [entry.number])?;
        self.db.execute(
            "UPDATE queue SET floor = last, fresh = last, messages = 0, purged = ?2 WHERE number = ?1",
            params![entry.number, self.now],
        )?;
        self.forget(name);
        Ok(())
    }

    /// Rows that nobody sees any more; swept in small steps.
    fn doom(&self, low: i64, high: i64) -> Result<()> {
        self.db.execute(
            "INSERT INTO doomed (low, high) VALUES (?1, ?2) ON CONFLICT (low) DO UPDATE SET high = max(high, ?2)",
            params![low, high],
        )?;
        Ok(())
    }
}
