//! What workers do: written down before a program starts, so that the next process finds it again; and how it ended.

use rusqlite::params;

use super::Sqlite;
use super::catalogue::read;
use crate::error::Result;
use crate::work::history::{Attempt, Begun};

/// Ended attempts of one worker that are remembered.
const REMEMBERED: i64 = 1_000;

impl Sqlite {
    pub(crate) async fn begin_work(&self, work: Begun) -> Result<()> {
        self.write(move |w| {
            w.db.prepare_cached(
                "INSERT OR IGNORE INTO work (token, worker, queue, receipt, message, receive, began)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                work.token,
                work.worker,
                work.queue,
                work.receipt,
                work.message,
                work.receive,
                work.began
            ])?;
            Ok(())
        })
        .await
    }

    /// `token` names what was begun, if anything was.
    pub(crate) async fn end_work(&self, token: Option<String>, attempt: Attempt) -> Result<()> {
        self.write(move |w| {
            if let Some(token) = &token {
                w.db.prepare_cached("DELETE FROM work WHERE token = ?1")?.execute([token])?;
            }
            w.db.prepare_cached(
                "INSERT INTO attempt (worker, queue, message, receive, began, ended, outcome, output)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                attempt.worker,
                attempt.queue,
                attempt.message,
                attempt.receive,
                attempt.began,
                attempt.ended,
                attempt.outcome,
                attempt.output
            ])?;
            w.db.prepare_cached(
                "DELETE FROM attempt WHERE worker = ?1 AND number <= (SELECT number FROM attempt WHERE worker = ?1
                 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
            )?
            .execute(params![attempt.worker, REMEMBERED])?;
            Ok(())
        })
        .await
    }

    /// What earlier processes have begun and not seen the end of.
    pub(crate) async fn open_work(&self) -> Result<Vec<Begun>> {
        read(&self.store, |db| {
            let mut query =
                db.prepare_cached("SELECT token, worker, queue, receipt, message, receive, began FROM work")?;
            let rows = query.query_map([], |r| {
                Ok(Begun {
                    token: r.get(0)?,
                    worker: r.get(1)?,
                    queue: r.get(2)?,
                    receipt: r.get(3)?,
                    message: r.get(4)?,
                    receive: r.get(5)?,
                    began: r.get(6)?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    pub(crate) async fn forget_attempts(&self, worker: &str) -> Result<()> {
        let worker = worker.to_owned();
        self.write(move |w| {
            w.db.prepare_cached("DELETE FROM attempt WHERE worker = ?1")?.execute([&worker])?;
            Ok(())
        })
        .await
    }

    /// The latest first.
    pub(crate) async fn attempts(&self, worker: &str, limit: u32) -> Result<Vec<Attempt>> {
        let worker = worker.to_owned();
        read(&self.store, move |db| {
            let mut query = db.prepare_cached(
                "SELECT worker, queue, message, receive, began, ended, outcome, output FROM attempt
                 WHERE worker = ?1 ORDER BY number DESC LIMIT ?2",
            )?;
            let rows = query.query_map(params![worker, limit], |r| {
                Ok(Attempt {
                    worker: r.get(0)?,
                    queue: r.get(1)?,
                    message: r.get(2)?,
                    receive: r.get(3)?,
                    began: r.get(4)?,
                    ended: r.get(5)?,
                    outcome: r.get(6)?,
                    output: r.get(7)?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
