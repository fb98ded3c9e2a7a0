//! How many messages a second a queue in one SQLite file could bring through on this disk and CPU, if nothing else were to
//! be done: no network, no protocol, no checks, not even a second thread. `cargo xtask bench tasks` compares the real queue
//! with it.
//!
//! As many messages as are in flight go through together: one transaction sends them, one claims them, one deletes them.
//! Transactions of that size are the most that a closed loop of so many messages allows, because each step of a message
//! is answered before its next one begins.
//!
//! ```sh
//! cargo run --release -p holdfast-store --example group_commit -- DIR IN_FLIGHT SECONDS
//! ```

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

const BODY_BYTES: usize = 256;

/// As every store of holdfast syncs; a checkpoint when 64 MiB are written, once in a second or more.
const SETTINGS: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 16384;
PRAGMA cache_size = -65536;
";

/// The columns that a message cannot do without, and the index by which claims that ran out are found.
const TABLES: &str = "
CREATE TABLE queue (number INTEGER PRIMARY KEY, last INTEGER NOT NULL, messages INTEGER NOT NULL);
INSERT INTO queue VALUES (1, 0, 0);
CREATE TABLE message (id INTEGER PRIMARY KEY, uid BLOB NOT NULL, sent INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE claim (id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, due INTEGER NOT NULL, receives INTEGER NOT NULL);
CREATE INDEX claim_due ON claim (queue, due, receives);
";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, in_flight, seconds] = arguments.as_slice() else {
        return Err("usage: group_commit DIR IN_FLIGHT SECONDS".into());
    };
    let (dir, in_flight) = (Path::new(dir), in_flight.parse::<i64>()?);
    let length = Duration::from_secs_f64(seconds.parse()?);
    let db = Connection::open(dir.join("group_commit.db"))?;
    db.execute_batch(SETTINGS)?;
    db.execute_batch(TABLES)?;
    let mut bench = Bench { db, in_flight, next: 1 };
    let life = bench.rate(length, Bench::live)?;
    let sends = bench.rate(length, Bench::send)?;
    drop(bench);
    let append = append(&dir.join("append"), in_flight, length)?;
    println!("{{\"life\":{life:.0},\"sends\":{sends:.0},\"append\":{append:.0}}}");
    Ok(())
}

struct Bench {
    db: Connection,
    in_flight: i64,
    next: i64,
}

impl Bench {
    /// Messages a second.
    fn rate(&mut self, length: Duration, step: fn(&mut Bench) -> rusqlite::Result<()>) -> rusqlite::Result<f64> {
        let began = Instant::now();
        let mut messages = 0;
        while began.elapsed() < length {
            step(self)?;
            messages += self.in_flight;
        }
        Ok(messages as f64 / began.elapsed().as_secs_f64())
    }

    fn live(&mut self) -> rusqlite::Result<()> {
        let ids = self.next..self.next + self.in_flight;
        self.send()?;
        self.claim(ids.clone())?;
        self.delete(ids)
    }

    fn send(&mut self) -> rusqlite::Result<()> {
        let (first, many) = (self.next, self.in_flight);
        self.next += many;
        let body = "0123456789abcdef".repeat(BODY_BYTES / 16);
        let group = self.db.transaction()?;
        {
            let mut insert =
                group.prepare_cached("INSERT INTO message (id, uid, sent, body) VALUES (?1, ?2, ?3, ?4)")?;
            for id in first..first + many {
                insert.execute(params![id, i128::from(id).to_be_bytes(), id, body])?;
            }
            let count = "UPDATE queue SET last = last + ?1, messages = messages + ?1 WHERE number = 1";
            group.prepare_cached(count)?.execute([many])?;
        }
        group.commit()
    }

    /// Reads what is handed out.
    fn claim(&mut self, ids: Range<i64>) -> rusqlite::Result<()> {
        let group = self.db.transaction()?;
        {
            let mut load = group.prepare_cached("SELECT uid, sent, body FROM message WHERE id = ?1")?;
            let mut claim =
                group.prepare_cached("INSERT INTO claim (id, queue, due, receives) VALUES (?1, 1, ?2, 1)")?;
            for id in ids {
                let bytes = load.query_row([id], |row| Ok(row.get::<_, String>(2)?.len()))?;
                assert_eq!(bytes, BODY_BYTES);
                claim.execute(params![id, id + 30_000])?;
            }
        }
        group.commit()
    }

    fn delete(&mut self, ids: Range<i64>) -> rusqlite::Result<()> {
        let many = ids.end - ids.start;
        let group = self.db.transaction()?;
        {
            let mut claim = group.prepare_cached("DELETE FROM claim WHERE id = ?1 AND receives = 1")?;
            let mut message = group.prepare_cached("DELETE FROM message WHERE id = ?1")?;
            for id in ids {
                claim.execute([id])?;
                message.execute([id])?;
            }
            group.prepare_cached("UPDATE queue SET messages = messages - ?1 WHERE number = 1")?.execute([many])?;
        }
        group.commit()
    }
}

/// What the disk alone allows: bodies appended to a file, synced in groups.
fn append(path: &Path, in_flight: i64, length: Duration) -> std::io::Result<f64> {
    let mut file = File::create(path)?;
    let group = vec![b'x'; in_flight.unsigned_abs() as usize * BODY_BYTES];
    let began = Instant::now();
    let mut messages = 0;
    while began.elapsed() < length {
        file.write_all(&group)?;
        file.sync_data()?;
        messages += in_flight;
    }
    Ok(messages as f64 / began.elapsed().as_secs_f64())
}
