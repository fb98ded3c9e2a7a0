//! Reading the journal.

use holdfast_host::event::Event;
use holdfast_store::rusqlite::{self, Connection, OptionalExtension, ToSql};
use serde::{Deserialize, Serialize};

use super::{Journal, Result};
use crate::incident::Record;

/// Answers are bounded whatever is asked.
const ROWS_MAX: u32 = 10_000;

#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Exactly this subject (`instance/web-2`).
    pub subject: Option<String>,
    /// Every instance of this service, and the service itself.
    pub service: Option<String>,
    pub since_wall_ms: Option<u64>,
    pub until_wall_ms: Option<u64>,
    /// Key of an incident.
    pub incident: Option<String>,
    /// Newest this many; 0 is the most there is to get.
    pub limit: u32,
}

/// An event, and how often it was seen again just so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    #[serde(flatten)]
    pub event: Event,
    pub repeats: u64,
    pub last_wall_ms: u64,
    pub incident: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct IncidentQuery {
    pub open_only: bool,
    pub since_wall_ms: Option<u64>,
    pub subject: Option<String>,
    pub limit: u32,
}

fn limit(asked: u32) -> u32 {
    if asked == 0 { ROWS_MAX } else { asked.min(ROWS_MAX) }
}

/// Conditions with their values, joined by AND.
#[derive(Default)]
struct Where {
    text: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Where {
    fn and(&mut self, condition: &str, value: impl ToSql + 'static) {
        self.values.push(Box::new(value));
        self.text.push(condition.replace('?', &format!("?{}", self.values.len())));
    }

    fn sql(&self) -> String {
        if self.text.is_empty() { String::new() } else { format!("WHERE {}", self.text.join(" AND ")) }
    }

    fn params(&self) -> impl rusqlite::Params {
        rusqlite::params_from_iter(self.values.iter())
    }
}

impl Journal {
    /// Oldest first.
    pub async fn events(&self, query: EventQuery) -> Result<Vec<Row>> {
        self.read(move |db| Ok(events(db, query)?)).await
    }

    /// Newest first.
    pub async fn incidents(&self, query: IncidentQuery) -> Result<Vec<Record>> {
        self.read(move |db| Ok(incidents(db, query)?)).await
    }

    /// By `I-000123`, its bare number, or its long key.
    pub async fn incident(&self, id: &str) -> Result<Option<Record>> {
        let id = id.to_owned();
        self.read(move |db| Ok(incident(db, &id)?)).await
    }
}

fn events(db: &Connection, query: EventQuery) -> rusqlite::Result<Vec<Row>> {
    let mut wanted = Where::default();
    if let Some(subject) = query.subject {
        wanted.and("subject = ?", subject);
    }
    if let Some(service) = query.service {
        // Subjects of instances are `instance/NAME-ORDINAL`; GLOB's digit class keeps `web-admin-1` out of `web`.
        wanted.and(
            "(subject = 'service/' || ? OR subject = 'balancer/' || ? OR (subject GLOB 'instance/' || ? || '-[0-9]*' \
                    AND subject NOT GLOB 'instance/' || ? || '-*[^0-9]*'))",
            service,
        );
    }
    if let Some(since) = query.since_wall_ms {
        wanted.and("last_wall_ms >= ?", since as i64);
    }
    if let Some(until) = query.until_wall_ms {
        wanted.and("wall_ms < ?", until as i64);
    }
    if let Some(incident) = query.incident {
        wanted.and("incident = ?", incident);
    }
    let sql = format!(
        "SELECT node, source, incarnation, seq, boot_id, boot_ns, wall_ms, subject, was, became, reason, cause, inputs,
         repeats, last_wall_ms, incident FROM events {} ORDER BY id DESC LIMIT {}",
        wanted.sql(),
        limit(query.limit)
    );
    let mut rows: Vec<Row> = db.prepare(&sql)?.query_map(wanted.params(), row)?.collect::<rusqlite::Result<_>>()?;
    rows.reverse();
    Ok(rows)
}

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let inputs: String = r.get(12)?;
    let event = Event {
        version: holdfast_host::event::VERSION,
        node: r.get(0)?,
        source: r.get(1)?,
        incarnation: r.get(2)?,
        seq: r.get::<_, i64>(3)? as u64,
        boot_id: r.get(4)?,
        boot_ns: r.get::<_, i64>(5)? as u64,
        wall_ms: r.get::<_, i64>(6)? as u64,
        subject: r.get(7)?,
        from: r.get(8)?,
        to: r.get(9)?,
        reason: r.get(10)?,
        cause: r.get(11)?,
        inputs: serde_json::from_str(&inputs).unwrap_or_default(),
    };
    Ok(Row {
        event,
        repeats: r.get::<_, i64>(13)? as u64,
        last_wall_ms: r.get::<_, i64>(14)? as u64,
        incident: r.get(15)?,
    })
}

fn incidents(db: &Connection, query: IncidentQuery) -> rusqlite::Result<Vec<Record>> {
    let mut wanted = Where::default();
    if query.open_only {
        wanted.and("outcome = ?", "open");
    } else {
        wanted.and("outcome <> ?", "merged");
    }
    if let Some(since) = query.since_wall_ms {
        wanted.and("detected_wall_ms >= ?", since as i64);
    }
    if let Some(subject) = query.subject {
        wanted.and("subject = ?", subject);
    }
    let sql = format!(
        "SELECT number, body FROM incidents {} ORDER BY number DESC LIMIT {}",
        wanted.sql(),
        limit(query.limit)
    );
    let found: Vec<Option<Record>> = db
        .prepare(&sql)?
        .query_map(wanted.params(), |r| Ok(read(r.get(0)?, &r.get::<_, String>(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(found.into_iter().flatten().collect())
}

fn incident(db: &Connection, id: &str) -> rusqlite::Result<Option<Record>> {
    let number = id.strip_prefix("I-").unwrap_or(id).parse::<i64>().unwrap_or(-1);
    let found = db
        .prepare_cached("SELECT number, body FROM incidents WHERE key = ?1 OR number = ?2")?
        .query_row(rusqlite::params![id, number], |r| Ok(read(r.get(0)?, &r.get::<_, String>(1)?)))
        .optional()?;
    Ok(found.flatten())
}

fn read(number: i64, body: &str) -> Option<Record> {
    let record: Record = serde_json::from_str(body).ok()?;
    Some(Record { number: number as u64, ..record })
}
