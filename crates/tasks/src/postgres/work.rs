//! What workers do: written down before a program starts, under the plane whose machine it runs on.

use super::{Postgres, clean, transact};
use crate::error::Result;
use crate::work::history::{Attempt, Begun};

/// Ended attempts of one worker that are remembered.
const REMEMBERED: i64 = 1_000;

impl Postgres {
    pub(crate) async fn begin_work(&self, work: Begun) -> Result<()> {
        let sql = "INSERT INTO work (token, plane, worker, queue, receipt, message, receive, began)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (token) DO NOTHING";
        let receive = i64::from(work.receive);
        transact!(self, tx => {
            let plane = &self.0.plane;
            let row = [&work.token, plane, &work.worker, &work.queue, &work.receipt, &work.message];
            let [token, plane, worker, queue, receipt, message] = row;
            tx.run(sql, &[token, plane, worker, queue, receipt, message, &receive, &work.began]).await?;
            Ok(())
        })
    }

    pub(crate) async fn end_work(&self, token: Option<String>, attempt: Attempt) -> Result<()> {
        let (receive, output) = (i64::from(attempt.receive), clean(&attempt.output));
        transact!(self, tx => {
            if let Some(token) = &token {
                tx.run("DELETE FROM work WHERE token = $1", &[token]).await?;
            }
            tx.run(
                "INSERT INTO attempt (worker, queue, message, receive, began, ended, outcome, output)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    &attempt.worker, &attempt.queue, &attempt.message, &receive, &attempt.began, &attempt.ended,
                    &attempt.outcome, &output,
                ],
            )
            .await?;
            tx.run(
                "DELETE FROM attempt WHERE worker = $1 AND number <= (SELECT number FROM attempt WHERE worker = $1
                 ORDER BY number DESC LIMIT 1 OFFSET $2)",
                &[&attempt.worker, &REMEMBERED],
            )
            .await?;
            Ok(())
        })
    }

    pub(crate) async fn open_work(&self) -> Result<Vec<Begun>> {
        let sql = "SELECT token, worker, queue, receipt, message, receive, began FROM work WHERE plane = $1";
        transact!(self, tx => {
            let rows = tx.rows(sql, &[&self.0.plane]).await?;
            Ok(rows
                .iter()
                .map(|row| Begun {
                    token: row.get(0),
                    worker: row.get(1),
                    queue: row.get(2),
                    receipt: row.get(3),
                    message: row.get(4),
                    receive: u32::try_from(row.get::<_, i64>(5)).unwrap_or(u32::MAX),
                    began: row.get(6),
                })
                .collect())
        })
    }

    pub(crate) async fn forget_attempts(&self, worker: &str) -> Result<()> {
        transact!(self, tx => tx.run("DELETE FROM attempt WHERE worker = $1", &[&worker]).await.map(drop))
    }

    pub(crate) async fn attempts(&self, worker: &str, limit: u32) -> Result<Vec<Attempt>> {
        let sql = "SELECT worker, queue, message, receive, began, ended, outcome, output FROM attempt
                   WHERE worker = $1 ORDER BY number DESC LIMIT $2";
        let limit = i64::from(limit);
        transact!(self, tx => {
            let rows = tx.rows(sql, &[&worker, &limit]).await?;
            Ok(rows
                .iter()
                .map(|row| Attempt {
                    worker: row.get(0),
                    queue: row.get(1),
                    message: row.get(2),
                    receive: u32::try_from(row.get::<_, i64>(3)).unwrap_or(u32::MAX),
                    began: row.get(4),
                    ended: row.get(5),
                    outcome: row.get(6),
                    output: row.get(7),
                })
                .collect())
        })
    }
}
