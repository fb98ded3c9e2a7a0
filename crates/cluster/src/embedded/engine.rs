//! What the engine does inside one SQLite transaction. Synchronous; knows no clock and no watcher.

use std::time::Duration;

use holdfast_store::rusqlite::{self, Connection, OptionalExtension, Row, params};

use crate::{Change, Error, KeyValue, LeaseId, Listing, Op, Outcome, Response, Txn};

/// A refusal rolls the transaction back.
pub(super) enum Failure {
    Sql(rusqlite::Error),
    Refused(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(e: rusqlite::Error) -> Self {
        Failure::Sql(e)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Refused(e)
    }
}

pub(super) type Result<T> = std::result::Result<T, Failure>;
type Sql<T> = rusqlite::Result<T>;

#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub revisions_max: u64,
    pub bytes_max: u64,
}

pub(super) struct Engine<'a> {
    pub db: &'a Connection,
    pub limits: Limits,
}

/// The revision that a transaction would make, and how many changes it has made so far.
struct Writing {
    revision: u64,
    changes: u64,
}

impl Engine<'_> {
    pub(super) fn txn(&self, txn: &Txn) -> Result<Outcome> {
        let mut succeeded = true;
        for guard in &txn.guards {
            succeeded &= guard.holds(get(self.db, guard.key())?.as_ref());
        }
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let mut writing = self.begin()?;
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(self.apply(op, &mut writing)?);
        }
        Ok(Outcome { succeeded, revision: self.finish(writing)?, responses })
    }

    fn apply(&self, op: &Op, writing: &mut Writing) -> Result<Response> {
        Ok(match op {
            Op::Get { key } => Response::Get(get(self.db, key)?),
            Op::List { prefix } => Response::List(list(self.db, prefix)?),
            Op::Put { key, value, lease } => {
                self.put(key, value, *lease, writing)?;
                Response::Put
            }
            Op::Delete { key } => Response::Deleted(u64::from(self.delete(key, writing)?)),
            Op::DeletePrefix { prefix } => {
                let keys: Vec<String> = list(self.db, prefix)?.into_iter().map(|kv| kv.key).collect();
                for key in &keys {
                    self.delete(key, writing)?;
                }
                Response::Deleted(keys.len() as u64)
            }
        })
    }

    fn put(&self, key: &str, value: &[u8], lease: Option<LeaseId>, writing: &mut Writing) -> Result<()> {
        if let Some(lease) = lease {
            self.lease_exists(lease)?;
        }
        let before = get(self.db, key)?;
        let created = before.as_ref().map_or(writing.revision, |kv| kv.create_revision);
        let version = before.map_or(1, |kv| kv.version + 1);
        let lease = lease.map(|l| l.0);
        self.db
            .prepare_cached(
                "INSERT INTO kv VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT(key) DO UPDATE SET value = excluded.value,
                 create_revision = excluded.create_revision, mod_revision = excluded.mod_revision,
                 version = excluded.version, lease = excluded.lease",
            )?
            .execute(params![key, value, created as i64, writing.revision as i64, version as i64, lease])?;
        self.record(key, Some((value, created, version, lease)), writing)
    }

    fn delete(&self, key: &str, writing: &mut Writing) -> Result<bool> {
        let gone = self.db.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([key])? > 0;
        if gone {
            self.record(key, None, writing)?;
        }
        Ok(gone)
    }

    fn record(&self, key: &str, put: Option<(&[u8], u64, u64, Option<i64>)>, writing: &mut Writing) -> Result<()> {
        let (value, created, version, lease) = match put {
            Some((value, created, version, lease)) => (Some(value), Some(created as i64), Some(version as i64), lease),
            None => (None, None, None, None),
        };
        self.db.prepare_cached("INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(params![
            writing.revision as i64,
            writing.changes as i64,
            key,
            value,
            created,
            version,
            lease
        ])?;
        writing.changes += 1;
        let bytes = (key.len() + value.map_or(0, <[u8]>::len)) as i64;
        self.db.prepare_cached("UPDATE meta SET value = value + ?1 WHERE name = 'history_bytes'")?.execute([bytes])?;
        Ok(())
    }

    fn begin(&self) -> Result<Writing> {
        Ok(Writing { revision: meta(self.db, "revision")? + 1, changes: 0 })
    }

    /// A transaction that changed nothing has no revision of its own.
    fn finish(&self, writing: Writing) -> Result<u64> {
        if writing.changes == 0 {
            return Ok(writing.revision - 1);
        }
        self.set("revision", writing.revision)?;
        self.trim(writing.revision)?;
        Ok(writing.revision)
    }

    /// Keeps history within its limits, a quarter at a time so that it is not done with every write.
    fn trim(&self, revision: u64) -> Result<()> {
        let (mut compacted, max) = (meta(self.db, "compacted")?, self.limits.revisions_max);
        if revision - compacted > max + max / 4 {
            compacted = revision - max;
            self.forget(compacted)?;
        }
        while meta(self.db, "history_bytes")? > self.limits.bytes_max && compacted + 1 < revision {
            compacted += (revision - compacted).div_ceil(2).min(revision - compacted - 1);
            self.forget(compacted)?;
        }
        Ok(())
    }

    fn forget(&self, up_to: u64) -> Result<()> {
        self.db.prepare_cached("DELETE FROM history WHERE revision <= ?1")?.execute([up_to as i64])?;
        self.set("compacted", up_to)?;
        let left: i64 = self
            .db
            .prepare_cached("SELECT coalesce(sum(length(key) + coalesce(length(value), 0)), 0) FROM history")?
            .query_row([], |r| r.get(0))?;
        self.set("history_bytes", left as u64)
    }

    pub(super) fn compact(&self, revision: u64) -> Result<()> {
        let (now, compacted) = (meta(self.db, "revision")?, meta(self.db, "compacted")?);
        if revision > now {
            return Err(Error::FutureRevision { asked: revision, now }.into());
        }
        if revision <= compacted {
            return Err(Error::Compacted { asked: revision, compacted }.into());
        }
        self.forget(revision)
    }

    pub(super) fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let id = meta(self.db, "lease_next")?;
        self.set("lease_next", id + 1)?;
        self.db.execute("INSERT INTO lease VALUES (?1, ?2)", params![id as i64, ttl.as_millis() as i64])?;
        Ok(LeaseId(id as i64))
    }

    /// Used by revocation and expiry alike.
    pub(super) fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.lease_exists(lease)?;
        let mut writing = self.begin()?;
        let keys: Vec<String> = self
            .db
            .prepare_cached("SELECT key FROM kv WHERE lease = ?1 ORDER BY key")?
            .query_map([lease.0], |r| r.get(0))?
            .collect::<Sql<_>>()?;
        for key in &keys {
            self.delete(key, &mut writing)?;
        }
        self.db.execute("DELETE FROM lease WHERE id = ?1", [lease.0])?;
        self.finish(writing)?;
        Ok(())
    }

    fn lease_exists(&self, lease: LeaseId) -> Result<()> {
        let found = self.db.prepare_cached("SELECT 1 FROM lease WHERE id = ?1")?.exists([lease.0])?;
        if found { Ok(()) } else { Err(Error::LeaseNotFound(lease).into()) }
    }

    /// Once a second is enough (see [`super::TIME_STEP`]), and a transaction that changes nothing stays free.
    pub(super) fn remember_time(&self, engine_ms: u64) -> Sql<()> {
        self.db
            .prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'engine_ms' AND value + 1000 <= ?1")?
            .execute([engine_ms as i64])
            .map(drop)
    }

    fn set(&self, name: &str, value: u64) -> Result<()> {
        self.db.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?.execute(params![name, value as i64])?;
        Ok(())
    }
}

fn meta(db: &Connection, name: &str) -> Sql<u64> {
    db.prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |r| r.get::<_, i64>(0))
        .map(|v| v as u64)
}

pub(super) fn revision(db: &Connection) -> holdfast_store::Result<u64> {
    Ok(meta(db, "revision")?)
}

pub(super) fn engine_ms(db: &Connection) -> holdfast_store::Result<u64> {
    Ok(meta(db, "engine_ms")?)
}

pub(super) fn leases(db: &Connection) -> holdfast_store::Result<Vec<(LeaseId, Duration)>> {
    let mut statement = db.prepare_cached("SELECT id, ttl_ms FROM lease")?;
    let rows =
        statement.query_map([], |r| Ok((LeaseId(r.get(0)?), Duration::from_millis(r.get::<_, i64>(1)? as u64))))?;
    Ok(rows.collect::<Sql<_>>()?)
}

const COLUMNS: &str = "key, value, create_revision, mod_revision, version, lease";

fn key_value(row: &Row<'_>) -> Sql<KeyValue> {
    Ok(KeyValue {
        key: row.get(0)?,
        value: row.get(1)?,
        create_revision: row.get::<_, i64>(2)? as u64,
        mod_revision: row.get::<_, i64>(3)? as u64,
        version: row.get::<_, i64>(4)? as u64,
        lease: row.get::<_, Option<i64>>(5)?.map(LeaseId),
    })
}

pub(super) fn get(db: &Connection, key: &str) -> Sql<Option<KeyValue>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM kv WHERE key = ?1"))?.query_row([key], key_value).optional()
}

fn list(db: &Connection, prefix: &str) -> Sql<Vec<KeyValue>> {
    // `substr` counts characters, and so does `length` of text: the comparison is exact for every key.
    let sql = format!("SELECT {COLUMNS} FROM kv WHERE key >= ?1 AND substr(key, 1, length(?1)) = ?1 ORDER BY key");
    db.prepare_cached(&sql)?.query_map([prefix], key_value)?.collect()
}

pub(super) fn listing(db: &Connection, prefix: &str) -> holdfast_store::Result<Listing> {
    Ok(Listing { items: list(db, prefix)?, revision: meta(db, "revision")? })
}

/// A stretch of history: whole revisions, in order.
pub(super) struct Stretch {
    pub compacted: u64,
    /// Looked at up to here.
    pub revision: u64,
    pub changes: Vec<(u64, Vec<Change>)>,
}

/// Revisions `from..` under `prefix`, at most `revisions_max` of them.
pub(super) fn stretch(db: &Connection, prefix: &str, from: u64, revisions_max: u64) -> holdfast_store::Result<Stretch> {
    let now = meta(db, "revision")?;
    let until = now.min(from.saturating_add(revisions_max - 1));
    let mut statement = db.prepare_cached(
        "SELECT revision, key, value, create_revision, version, lease FROM history
         WHERE revision BETWEEN ?1 AND ?2 AND substr(key, 1, length(?3)) = ?3 ORDER BY revision, n",
    )?;
    let mut rows = statement.query(params![from as i64, until as i64, prefix])?;
    let mut changes: Vec<(u64, Vec<Change>)> = Vec::new();
    while let Some(row) = rows.next()? {
        let (revision, change) = change(row)?;
        match changes.last_mut() {
            Some((last, list)) if *last == revision => list.push(change),
            _ => changes.push((revision, vec![change])),
        }
    }
    Ok(Stretch { compacted: meta(db, "compacted")?, revision: until, changes })
}

fn change(row: &Row<'_>) -> Sql<(u64, Change)> {
    let revision = row.get::<_, i64>(0)? as u64;
    let key: String = row.get(1)?;
    let change = match row.get::<_, Option<Vec<u8>>>(2)? {
        None => Change::Delete { key },
        Some(value) => Change::Put(KeyValue {
            key,
            value,
            create_revision: row.get::<_, i64>(3)? as u64,
            mod_revision: revision,
            version: row.get::<_, i64>(4)? as u64,
            lease: row.get::<_, Option<i64>>(5)?.map(LeaseId),
        }),
    };
    Ok((revision, change))
}
