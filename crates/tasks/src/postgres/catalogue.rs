//! Queues made, changed, purged, deleted, listed. Each change raises the version of the catalogue, by which every plane
//! knows that what it remembers is old.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::session::{Done, Tx};
use super::{Postgres, transact};
use crate::clock::Millis;
use crate::error::{Error, Result};
use crate::queue::entry::PLACE_BITS;
use crate::queue::rules;
use crate::queue::{DELETED_FOR_MS, PURGE_EVERY_MS, QUEUES_MAX, Queue, Spec};
use crate::store::{self, Edit, encode};

type Tags = BTreeMap<String, String>;

impl Postgres {
    pub(crate) async fn create(&self, name: &str, spec: Spec, tags: Tags) -> Result<()> {
        transact!(self, tx => tx.create(name, &spec, &tags).await)
    }

    pub(crate) async fn declare(&self, name: &str, spec: Spec, tags: Tags) -> Result<()> {
        transact!(self, tx => {
            if tx.find(name).await?.is_none() {
                tx.run("DELETE FROM deleted WHERE name = $1", &[&name]).await?;
                return tx.create(name, &spec, &tags).await;
            }
            tx.change(name, &mut |known: &mut Spec| rules::declare(name, known, &spec)).await?;
            tx.set_tags(name, &tags).await
        })
    }

    pub(crate) async fn change(&self, name: &str, mut change: Edit<Spec>) -> Result<()> {
        transact!(self, tx => tx.change(name, &mut *change).await)
    }

    pub(crate) async fn change_tags(&self, name: &str, mut change: Edit<Tags>) -> Result<()> {
        transact!(self, tx => {
            let row = tx.opt("SELECT tags FROM queue WHERE name = $1 FOR UPDATE", &[&name]).await?;
            let row = row.ok_or_else(|| Error::NoQueue { queue: name.to_owned() })?;
            let mut tags = store::decode(row.get(0), "tags of a queue")?;
            change(&mut tags)?;
            tx.set_tags(name, &tags).await
        })
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        transact!(self, tx => tx.delete(name).await)
    }

    pub(crate) async fn purge(&self, name: &str) -> Result<()> {
        transact!(self, tx => tx.purge(name).await)
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Queue> {
        transact!(self, tx => {
            let row = tx.opt("SELECT name, spec, tags, created, modified FROM queue WHERE name = $1", &[&name]).await?;
            Ok(queue(&row.ok_or_else(|| Error::NoQueue { queue: name.to_owned() })?)?)
        })
    }

    pub(crate) async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Queue>> {
        let (after, limit) = (after.unwrap_or_default(), limit as i64);
        transact!(self, tx => {
            // By bytes, as names are compared everywhere else.
            let sql = "SELECT name, spec, tags, created, modified FROM queue
                       WHERE name COLLATE \"C\" > $1 AND starts_with(name, $2) ORDER BY name COLLATE \"C\" LIMIT $3";
            let rows = tx.rows(sql, &[&after, &prefix, &limit]).await?;
            Ok(rows.iter().map(queue).collect::<Result<_>>()?)
        })
    }
}

fn queue(row: &Row) -> Result<Queue> {
    Ok(Queue {
        name: row.get(0),
        spec: store::spec(row.get(1))?,
        tags: store::decode(row.get(2), "tags of a queue")?,
        created: row.get(3),
        modified: row.get(4),
    })
}

impl Tx<'_> {
    async fn create(&mut self, name: &str, spec: &Spec, tags: &Tags) -> Done<()> {
        self.changes_catalogue().await?;
        if let Some(known) = self.find(name).await? {
            return Ok(rules::check_same(name, &known.spec, spec)?);
        }
        let deleted = self.opt("SELECT at FROM deleted WHERE name = $1", &[&name]).await?;
        if deleted.is_some_and(|row| self.now < row.get::<_, Millis>(0) + DELETED_FOR_MS) {
            return Err(Error::DeletedRecently { queue: name.to_owned() }.into());
        }
        let many: i64 = self.one("SELECT count(*) FROM queue", &[]).await?.get(0);
        if many >= QUEUES_MAX as i64 {
            return Err(Error::TooManyQueues { limit: QUEUES_MAX }.into());
        }
        self.check_dead_letter(name, spec).await?;
        let sql = "INSERT INTO queue (name, spec, tags, created, modified) VALUES ($1, $2, $3, $4, $4)";
        self.run(sql, &[&name, &encode(spec)?, &encode(tags)?, &self.now]).await?;
        Ok(())
    }

    async fn change(&mut self, name: &str, change: &mut (dyn FnMut(&mut Spec) -> Result<()> + Send)) -> Done<()> {
        self.changes_catalogue().await?;
        let entry = self.entry(name).await?;
        let mut spec = Spec::clone(&entry.spec);
        change(&mut spec)?;
        if spec == *entry.spec {
            return Ok(());
        }
        self.check_dead_letter(name, &spec).await?;
        let sql = "UPDATE queue SET spec = $2, modified = $3 WHERE name = $1";
        self.run(sql, &[&name, &encode(&spec)?, &self.now]).await?;
        Ok(())
    }

    async fn check_dead_letter(&self, name: &str, spec: &Spec) -> Done<()> {
        let to = match &spec.dead_letter {
            Some(dead) => self.find(&dead.queue).await?,
            None => None,
        };
        Ok(rules::check_dead_letter(name, spec, to.as_ref().map(|to| &*to.spec))?)
    }

    async fn set_tags(&self, name: &str, tags: &Tags) -> Done<()> {
        self.run("UPDATE queue SET tags = $2 WHERE name = $1", &[&name, &encode(tags)?]).await?;
        Ok(())
    }

    async fn delete(&mut self, name: &str) -> Done<()> {
        self.changes_catalogue().await?;
        let entry = self.entry(name).await?;
        if entry.spec.declared {
            return Err(Error::Declared { queue: name.to_owned() }.into());
        }
        self.lock(&[entry.number], &[]).await?;
        self.doom(entry.number << PLACE_BITS, entry.high()).await?;
        for sql in [
            "DELETE FROM queue WHERE number = $1",
            "DELETE FROM grp WHERE queue = $1",
            "DELETE FROM tally WHERE queue = $1",
        ] {
            self.run(sql, &[&entry.number]).await?;
        }
        self.run(
            "UPDATE move SET state = 'FAILED', failure = 'the queue was deleted' WHERE state = 'RUNNING' AND source = $1",
            &[&name],
        )
        .await?;
        let sql = "INSERT INTO deleted (name, at) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET at = $2";
        self.run(sql, &[&name, &self.now]).await?;
        Ok(())
    }

    async fn purge(&mut self, name: &str) -> Done<()> {
        self.changes_catalogue().await?;
        let entry = self.entry(name).await?;
        self.lock(&[entry.number], &[]).await?;
        let purged: Millis = self.one("SELECT purged FROM queue WHERE number = $1", &[&entry.number]).await?.get(0);
        if purged > 0 && self.now < purged + PURGE_EVERY_MS {
            return Err(Error::PurgedRecently { queue: name.to_owned() }.into());
        }
        let floor: i64 = self.one("SELECT nextval('place')", &[]).await?.get(0);
        self.doom(entry.low(), entry.id(floor)).await?;
        self.run("DELETE FROM grp WHERE queue = $1", &[&entry.number]).await?;
        self.run("DELETE FROM tally WHERE queue = $1", &[&entry.number]).await?;
        self.run("UPDATE queue SET floor = $2, purged = $3 WHERE number = $1", &[&entry.number, &floor, &self.now])
            .await?;
        Ok(())
    }

    /// Changes of the catalogue come one after the other, and nothing read in one of them is remembered.
    async fn changes_catalogue(&mut self) -> Done<()> {
        if self.version.take().is_some() {
            self.run("UPDATE catalogue SET version = version + 1", &[]).await?;
        }
        Ok(())
    }

    /// Rows that nobody sees any more; swept in small steps.
    async fn doom(&self, low: i64, high: i64) -> Done<()> {
        let sql = "INSERT INTO doomed (low, high, at) VALUES ($1, $2, $3)
                   ON CONFLICT (low) DO UPDATE SET high = greatest(doomed.high, $2), at = $3";
        self.run(sql, &[&low, &high, &self.now]).await?;
        Ok(())
    }
}
