//! Move tasks, in steps that each are one transaction. One plane goes on with a task; when it dies another one does.

use tokio_postgres::Row;

use super::batch::Transfer;
use super::session::{Done, Tx};
use super::{Postgres, transact};
use crate::error::{Error, Result};
use crate::queue::rules::check_move;
use crate::queue::{Buried, Move, MoveState, Moved, NEVER};
use crate::store::decode;

/// Tasks of one source that are remembered.
const REMEMBERED: i64 = 10;
/// Whoever makes the steps of a task has died when there was none for so long.
const LEFT_MS: i64 = 15_000;

const COLUMNS: &str = "handle, source, destination, state, rate, moved, to_move, failure, started";

impl Postgres {
    pub(crate) async fn start_move(
        &self,
        source: &str,
        destination: Option<&str>,
        rate_max: Option<u32>,
    ) -> Result<Move> {
        let handle = crate::queue::entry::random()?.to_string();
        transact!(self, tx => tx.start_move(&handle, source, destination, rate_max).await)
    }

    pub(crate) async fn step_move(&self, handle: &str, many: u32) -> Result<Moved> {
        transact!(self, tx => tx.step_move(handle, many).await)
    }

    pub(crate) async fn cancel_move(&self, handle: &str) -> Result<Move> {
        transact!(self, tx => {
            let known = tx.get_move(handle).await?;
            if known.state == MoveState::Running {
                tx.end_move(handle, MoveState::Cancelled, None).await?;
            }
            Ok(known)
        })
    }

    pub(crate) async fn moves(&self, source: &str, limit: usize) -> Result<Vec<Move>> {
        let limit = limit as i64;
        let sql = format!("SELECT {COLUMNS} FROM move WHERE source = $1 ORDER BY started DESC, number DESC LIMIT $2");
        transact!(self, tx => Ok(tx.rows(&sql, &[&source, &limit]).await?.iter().map(row).collect()))
    }

    pub(crate) async fn running_moves(&self, limit: usize) -> Result<Vec<Move>> {
        let limit = limit as i64;
        let sql = format!(
            "SELECT {COLUMNS} FROM move WHERE state = 'RUNNING' AND (plane = $3 OR stepped <= $1)
             ORDER BY started LIMIT $2"
        );
        transact!(self, tx => {
            let left = tx.now - LEFT_MS;
            Ok(tx.rows(&sql, &[&left, &limit, &self.0.plane]).await?.iter().map(row).collect())
        })
    }
}

fn row(r: &Row) -> Move {
    Move {
        handle: r.get(0),
        source: r.get(1),
        destination: r.get(2),
        state: MoveState::parse(r.get(3)),
        rate_max: r.get::<_, Option<i64>>(4).and_then(|rate| u32::try_from(rate).ok()),
        moved: r.get::<_, i64>(5).unsigned_abs(),
        to_move: r.get::<_, i64>(6).unsigned_abs(),
        failure: r.get(7),
        started: r.get(8),
    }
}

impl Tx<'_> {
    async fn start_move(
        &mut self,
        handle: &str,
        source: &str,
        destination: Option<&str>,
        rate_max: Option<u32>,
    ) -> Done<Move> {
        let entry = self.entry(source).await?;
        if let Some(destination) = destination {
            check_move(&entry, &*self.entry(destination).await?)?;
        }
        // Two that begin at once on two planes come one after the other.
        self.lock(&[entry.number], &[]).await?;
        let running =
            self.opt("SELECT 1 FROM move WHERE source = $1 AND state = 'RUNNING' LIMIT 1", &[&source]).await?;
        if running.is_some() {
            return Err(Error::MoveRuns { source_queue: source.to_owned() }.into());
        }
        let messages: i64 = self
            .one("SELECT coalesce(sum(messages)::int8, 0) FROM tally WHERE queue = $1", &[&entry.number])
            .await?
            .get(0);
        let last: i64 = self.one("SELECT nextval('place')", &[]).await?.get(0);
        self.run(
            "INSERT INTO move (handle, source, destination, state, rate, to_move, last, started, stepped, plane)
             VALUES ($1, $2, $3, 'RUNNING', $4, $5, $6, $7, $7, $8)",
            &[
                &handle,
                &source,
                &destination,
                &rate_max.map(i64::from),
                &messages,
                &entry.id(last),
                &self.now,
                &self.shared.plane,
            ],
        )
        .await?;
        self.run(
            "DELETE FROM move WHERE source = $1 AND handle NOT IN
             (SELECT handle FROM move WHERE source = $1 ORDER BY started DESC, number DESC LIMIT $2)",
            &[&source, &REMEMBERED],
        )
        .await?;
        self.get_move(handle).await
    }

    /// Until the end of the transaction nobody else changes it.
    async fn get_move(&self, handle: &str) -> Done<Move> {
        let sql = format!("SELECT {COLUMNS} FROM move WHERE handle = $1 FOR UPDATE");
        let found = self.opt(&sql, &[&handle]).await?;
        Ok(row(&found.ok_or_else(|| Error::NoMove { handle: handle.to_owned() })?))
    }

    async fn end_move(&self, handle: &str, state: MoveState, failure: Option<&str>) -> Done<()> {
        let sql = "UPDATE move SET state = $2, failure = $3 WHERE handle = $1";
        self.run(sql, &[&handle, &state.word(), &failure]).await?;
        Ok(())
    }

    async fn step_move(&mut self, handle: &str, many: u32) -> Done<Moved> {
        let task = self.get_move(handle).await?;
        let mut moved = Moved { many: 0, state: task.state, into: Vec::new() };
        if task.state != MoveState::Running {
            return Ok(moved);
        }
        let from = self.entry(&task.source).await?;
        let mut numbers = vec![from.number];
        if let Some(to) = &task.destination {
            numbers.extend(self.find(to).await?.map(|to| to.number));
        }
        match from.spec.fifo {
            true => self.lock(&numbers, &[]).await?,
            false => self.lock(&[], &numbers).await?,
        }
        let rows = self
            .rows(
                "SELECT id, grp, buried FROM message WHERE id > $1
                 AND id <= (SELECT last FROM move WHERE handle = $2) AND (due <= $3 OR due = $4)
                 ORDER BY id LIMIT $5 FOR UPDATE SKIP LOCKED",
                &[&from.low(), &handle, &self.now, &NEVER, &i64::from(many)],
            )
            .await?;
        let mut groups = Vec::new();
        for found in &rows {
            let (group, story): (Option<String>, Option<&str>) = (found.get(1), found.get(2));
            let back: Option<Buried> = story.map(|text| decode(text, "story of a dead letter")).transpose()?;
            let name = task.destination.clone().or(back.map(|buried| buried.source));
            let to = match name {
                Some(name) => self.find(&name).await?.filter(|to| to.number != from.number),
                None => None,
            };
            let Some(to) = to else {
                self.end_move(handle, MoveState::Failed, Some("a message has no queue to go back to")).await?;
                moved.state = MoveState::Failed;
                break;
            };
            match to.spec.fifo {
                true => self.lock(&[to.number], &[]).await?,
                false => self.lock(&[], &[to.number]).await?,
            }
            groups.extend(group.clone());
            self.transfer(&from, &to, &[Transfer { id: found.get(0), group, story: None }]).await?;
            moved.many += 1;
            if !moved.into.contains(&to.name) {
                moved.into.push(to.name.clone());
            }
        }
        if from.spec.fifo {
            groups.sort();
            groups.dedup();
            self.refresh(&from, &groups).await?;
        }
        let sql = "UPDATE move SET moved = moved + $2, stepped = $3, plane = $4 WHERE handle = $1";
        self.run(sql, &[&handle, &i64::from(moved.many), &self.now, &self.shared.plane]).await?;
        if moved.many < many && moved.state == MoveState::Running {
            self.end_move(handle, MoveState::Completed, None).await?;
            moved.state = MoveState::Completed;
        }
        Ok(moved)
    }
}
