//! Move tasks: dead letters taken back to where they came from, at a rate, in steps that each are one transaction.

use rusqlite::{OptionalExtension, params};

use super::catalogue::read;
use super::{Sqlite, Work};
use crate::error::{Error, Result};
use crate::queue::rules::check_move;
use crate::queue::{Buried, Move, MoveState, Moved, NEVER};

/// Tasks of one source that are remembered.
const REMEMBERED: i64 = 10;

const COLUMNS: &str = "handle, source, destination, state, rate, moved, to_move, failure, started";

impl Sqlite {
    /// Begins to move what is in `source` now; the caller makes the steps.
    pub(crate) async fn start_move(
        &self,
        source: &str,
        destination: Option<&str>,
        rate_max: Option<u32>,
    ) -> Result<Move> {
        let (source, destination) = (source.to_owned(), destination.map(str::to_owned));
        let handle = crate::queue::entry::random()?.to_string();
        self.write_if_room(move |work| work.start_move(&handle, &source, destination.as_deref(), rate_max)).await
    }

    /// One step of at most `many` messages.
    pub(crate) async fn step_move(&self, handle: &str, many: u32) -> Result<Moved> {
        let handle = handle.to_owned();
        self.write(move |work| work.step_move(&handle, many)).await
    }

    /// What was moved stays moved.
    pub(crate) async fn cancel_move(&self, handle: &str) -> Result<Move> {
        let handle = handle.to_owned();
        self.write(move |work| {
            let known = work.get_move(&handle)?;
            if known.state == MoveState::Running {
                work.end_move(&handle, MoveState::Cancelled, None)?;
            }
            Ok(known)
        })
        .await
    }

    /// The latest first.
    pub(crate) async fn moves(&self, source: &str, limit: usize) -> Result<Vec<Move>> {
        let source = source.to_owned();
        self.list_moves("source = ?1 ORDER BY started DESC, rowid DESC LIMIT ?2", source, limit).await
    }

    /// Those that a plane that died has left.
    pub(crate) async fn running_moves(&self, limit: usize) -> Result<Vec<Move>> {
        self.list_moves("state = ?1 ORDER BY started LIMIT ?2", MoveState::Running.word().to_owned(), limit).await
    }

    async fn list_moves(&self, which: &'static str, key: String, limit: usize) -> Result<Vec<Move>> {
        read(&self.store, move |db| {
            let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM move WHERE {which}"))?;
            let rows = query.query_map(params![key, limit as i64], row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Move> {
    Ok(Move {
        handle: r.get(0)?,
        source: r.get(1)?,
        destination: r.get(2)?,
        state: MoveState::parse(&r.get::<_, String>(3)?),
        rate_max: r.get(4)?,
        moved: r.get::<_, i64>(5)?.unsigned_abs(),
        to_move: r.get::<_, i64>(6)?.unsigned_abs(),
        failure: r.get(7)?,
        started: r.get(8)?,
    })
}

impl Work<'_> {
    fn start_move(
        &mut self,
        handle: &str,
        source: &str,
        destination: Option<&str>,
        rate_max: Option<u32>,
    ) -> Result<Move> {
        let entry = self.entry(source)?;
        if let Some(destination) = destination {
            let to = self.entry(destination)?;
            check_move(&entry, &to)?;
        }
        let running: i64 = self.db.query_row(
            "SELECT count(*) FROM move WHERE source = ?1 AND state = ?2",
            [source, MoveState::Running.word()],
            |r| r.get(0),
        )?;
        if running > 0 {
            return Err(Error::MoveRuns { source_queue: source.to_owned() });
        }
        let (messages, last): (i64, i64) =
            self.db.query_row("SELECT messages, last FROM queue WHERE number = ?1", [entry.number], |r| {
                Ok((r.get(0)?, r.get(1)?))
            })?;
        self.db.execute(
            "INSERT INTO move (handle, source, destination, state, rate, to_move, last, started)
             VALUES (?1, ?2, ?3, 'RUNNING', ?4, ?5, ?6, ?7)",
            params![handle, source, destination, rate_max, messages, entry.id(last), self.now],
        )?;
        self.db.execute(
            "DELETE FROM move WHERE source = ?1 AND handle NOT IN
             (SELECT handle FROM move WHERE source = ?1 ORDER BY started DESC, rowid DESC LIMIT ?2)",
            params![source, REMEMBERED],
        )?;
        self.get_move(handle)
    }

    fn get_move(&self, handle: &str) -> Result<Move> {
        self.db
            .prepare_cached(&format!("SELECT {COLUMNS} FROM move WHERE handle = ?1"))?
            .query_row([handle], row)
            .optional()?
            .ok_or_else(|| Error::NoMove { handle: handle.to_owned() })
    }

    fn end_move(&self, handle: &str, state: MoveState, failure: Option<&str>) -> Result<()> {
        self.db.execute(
            "UPDATE move SET state = ?2, failure = ?3 WHERE handle = ?1",
            params![handle, state.word(), failure],
        )?;
        Ok(())
    }

    fn step_move(&mut self, handle: &str, many: u32) -> Result<Moved> {
        let task = self.get_move(handle)?;
        let mut moved = Moved { many: 0, state: task.state, into: Vec::new() };
        if task.state != MoveState::Running {
            return Ok(moved);
        }
        for id in self.movable(handle, &task.source, many)? {
            match self.move_one(&task, id)? {
                Some(into) => {
                    moved.many += 1;
                    if !moved.into.contains(&into) {
                        moved.into.push(into);
                    }
                }
                None => {
                    self.end_move(handle, MoveState::Failed, Some("a message has no queue to go back to"))?;
                    moved.state = MoveState::Failed;
                    break;
                }
            }
        }
        self.db.execute("UPDATE move SET moved = moved + ?2 WHERE handle = ?1", params![handle, moved.many])?;
        if moved.many < many && moved.state == MoveState::Running {
            self.end_move(handle, MoveState::Completed, None)?;
            moved.state = MoveState::Completed;
        }
        Ok(moved)
    }

    /// Messages that were there when the task began and are not in flight.
    fn movable(&mut self, handle: &str, source: &str, many: u32) -> Result<Vec<i64>> {
        let entry = self.entry(source)?;
        let last: i64 = self.db.query_row("SELECT last FROM move WHERE handle = ?1", [handle], |r| r.get(0))?;
        let mut query = self.db.prepare_cached(
            "SELECT m.id FROM message m LEFT JOIN claim c ON c.id = m.id
             WHERE m.id > ?1 AND m.id <= ?2 AND (c.id IS NULL OR c.due <= ?3 OR c.due = ?4) ORDER BY m.id LIMIT ?5",
        )?;
        let rows = query.query_map(params![entry.low(), last, self.now, NEVER, many], |r| r.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The queue that it went to; `None` when there is none.
    fn move_one(&mut self, task: &Move, id: i64) -> Result<Option<String>> {
        let from = self.entry(&task.source)?;
        let to = match &task.destination {
            Some(name) => Some(name.clone()),
            None => self.load(id)?.and_then(|delivery| delivery.buried).map(|buried: Buried| buried.source),
        };
        let Some(to) = to.map(|name| self.find(&name)).transpose()?.flatten() else { return Ok(None) };
        if to.number == from.number {
            return Ok(None);
        }
        self.transfer(&from, id, &to, None)?;
        Ok(Some(to.name.clone()))
    }
}
