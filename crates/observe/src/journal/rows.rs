//! Rows of `journal.db`, written by the keeper only.

use holdfast_host::event::Event;
use holdfast_policy::availability::Tally;
use holdfast_store::rusqlite::{self, Connection, OptionalExtension, params};

use crate::incident::Record;

type Sql<T> = rusqlite::Result<T>;

/// One change of the tables. A batch of them is one transaction.
#[derive(Clone)]
pub(super) enum Change {
    Insert {
        event: Event,
        incident: Option<String>,
    },
    /// Seen again: counted on the row of the same key.
    Repeat {
        of: EventKey,
        boot_ns: u64,
        wall_ms: u64,
    },
    Acked {
        node: String,
        source: String,
        incarnation: String,
        seq: u64,
    },
    Incident(Box<Record>),
    Minute {
        service: String,
        minute: u64,
        tally: Tally,
    },
}

/// What identifies an event everywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EventKey {
    pub node: String,
    pub source: String,
    pub incarnation: String,
    pub seq: u64,
}

impl EventKey {
    pub(super) fn of(event: &Event) -> EventKey {
        EventKey {
            node: event.node.clone(),
            source: event.source.clone(),
            incarnation: event.incarnation.clone(),
            seq: event.seq,
        }
    }
}

/// SQLite integers are signed.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn apply(db: &Connection, change: &Change) -> Sql<()> {
    match change {
        Change::Insert { event, incident } => insert(db, event, incident.as_deref()),
        Change::Repeat { of, boot_ns, wall_ms } => db
            .prepare_cached(
                "UPDATE events SET repeats = repeats + 1, last_boot_ns = ?5, last_wall_ms = ?6
                 WHERE node = ?1 AND source = ?2 AND incarnation = ?3 AND seq = ?4",
            )?
            .execute(params![of.node, of.source, of.incarnation, int(of.seq), int(*boot_ns), int(*wall_ms)])
            .map(drop),
        Change::Acked { node, source, incarnation, seq } => db
            .prepare_cached("INSERT OR REPLACE INTO sources VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![node, source, incarnation, int(*seq)])
            .map(drop),
        Change::Incident(record) => incident(db, record),
        Change::Minute { service, minute, tally } => minute_row(db, service, *minute, tally),
    }
}

fn insert(db: &Connection, e: &Event, incident: Option<&str>) -> Sql<()> {
    let inputs = serde_json::to_string(&e.inputs).unwrap_or_default();
    db.prepare_cached(
        "INSERT OR IGNORE INTO events(node, source, incarnation, seq, boot_id, boot_ns, wall_ms, subject, was, became, reason,
         cause, inputs, last_boot_ns, last_wall_ms, incident)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?6, ?7, ?14)",
    )?
    .execute(params![
        e.node,
        e.source,
        e.incarnation,
        int(e.seq),
        e.boot_id,
        int(e.boot_ns),
        int(e.wall_ms),
        e.subject,
        e.from,
        e.to,
        e.reason,
        e.cause,
        inputs,
        incident
    ])
    .map(drop)
}

fn incident(db: &Connection, record: &Record) -> Sql<()> {
    let body = serde_json::to_string(record).unwrap_or_default();
    let wall = int(record.detected.wall_ms);
    db.prepare_cached(
        "INSERT INTO incidents(key, subject, detected_wall_ms, outcome, body) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT(key) DO UPDATE SET subject = excluded.subject, detected_wall_ms = excluded.detected_wall_ms,
         outcome = excluded.outcome, body = excluded.body",
    )?
    .execute(params![record.key, record.subject, wall, record.outcome, body])
    .map(drop)
}

fn minute_row(db: &Connection, service: &str, minute: u64, t: &Tally) -> Sql<()> {
    db.prepare_cached(
        "INSERT INTO minutes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT(service, minute) DO UPDATE SET
         good = good + excluded.good, failed = failed + excluded.failed, degraded = degraded + excluded.degraded,
         ready_seconds = ready_seconds + excluded.ready_seconds, down_seconds = down_seconds + excluded.down_seconds,
         unknown_seconds = unknown_seconds + excluded.unknown_seconds",
    )?
    .execute(params![
        service,
        int(minute),
        int(t.good),
        int(t.failed),
        int(t.degraded),
        int(t.ready_seconds),
        int(t.down_seconds),
        int(t.unknown_seconds)
    ])
    .map(drop)
}

/// Life and highest stored sequence of a source.
pub(super) fn acked(db: &Connection, node: &str, source: &str) -> Sql<Option<(String, u64)>> {
    db.prepare_cached("SELECT incarnation, seq FROM sources WHERE node = ?1 AND source = ?2")?
        .query_row([node, source], |r| Ok((r.get(0)?, r.get::<_, i64>(1)? as u64)))
        .optional()
}

/// Rows that go in one pass: a wall clock that jumped ahead must not empty the journal at once.
const TRIM_ROWS: u32 = 5000;

/// Deletes what is too old or too much; true when another pass is due.
pub(super) fn trim(db: &Connection, oldest_wall_ms: u64, bytes_max: u64) -> Sql<bool> {
    let number = |pragma: &str| db.query_row(&format!("PRAGMA {pragma}"), [], |r| r.get::<_, i64>(0));
    let used = (number("page_count")? - number("freelist_count")?) * number("page_size")?;
    let mut gone = db.execute(
        "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE last_wall_ms < ?1 ORDER BY id LIMIT ?2)",
        params![int(oldest_wall_ms), TRIM_ROWS],
    )?;
    if used > int(bytes_max) {
        gone += db.execute(
            "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT min(?1, (SELECT count(*) / 10 + 1 FROM events)))",
            [TRIM_ROWS],
        )?;
    }
    db.execute(
        "DELETE FROM incidents WHERE number IN (SELECT number FROM incidents WHERE detected_wall_ms < ?1 AND outcome <> 'open'
         ORDER BY number LIMIT ?2)",
        params![int(oldest_wall_ms), TRIM_ROWS],
    )?;
    db.execute(
        "DELETE FROM minutes WHERE (service, minute) IN
         (SELECT service, minute FROM minutes WHERE minute < ?1 ORDER BY minute LIMIT ?2)",
        params![int(oldest_wall_ms / 60_000), TRIM_ROWS],
    )?;
    Ok(gone >= TRIM_ROWS as usize || (used > int(bytes_max) && gone > 0))
}
