//! Runs of workflows. One plane leads them all, under a lease in the server's time; a state is replaced only by who has
//! seen it, whatever the lease says.

use tokio_postgres::Row;

use super::session::{Done, Tx};
use super::{Postgres, clean, transact};
use crate::error::{Error, Result};
use crate::flow::stored::{
    ATTEMPTS_KEPT, AttemptNote, AttemptRow, Fate, Filter, Found, Keep, NewRun, RunRow, SWEEP_ROWS, Submitted, verdict,
};
use crate::flow::{RUNS_KEPT_MAX, RUNS_MAX};
use crate::queue::Sent;
use crate::queue::rules::later;
use holdfast_policy::schedule::{Overlap, Verdict};

const COLUMNS: &str = "number, id, workflow, definition, version, state, status, over, held, priority, created, ended, key, \
                       parent, nominal, output, error";
/// Requests that the leading plane takes at once.
const INBOX_STEP: i64 = 100;

fn row(r: &Row) -> RunRow {
    RunRow {
        number: r.get(0),
        id: r.get(1),
        workflow: r.get(2),
        definition: r.get(3),
        version: r.get::<_, i64>(4).unsigned_abs(),
        state: r.get(5),
        status: r.get(6),
        over: r.get(7),
        held: r.get(8),
        priority: i32::try_from(r.get::<_, i64>(9)).unwrap_or_default(),
        created: r.get(10),
        ended: r.get(11),
        key: r.get(12),
        parent: r.get(13),
        nominal: r.get(14),
        output: r.get(15),
        error: r.get(16),
    }
}

impl Postgres {
    pub(crate) async fn submit_run(&self, new: NewRun) -> Result<Submitted> {
        transact!(self, tx => tx.submit_run(&new).await)
    }

    pub(crate) async fn fire(&self, new: NewRun, at: i64, rule: Overlap) -> Result<Fate> {
        transact!(self, tx => tx.fire(&new, at, rule).await)
    }

    pub(crate) async fn watermark(&self, workflow: &str, pattern: &str, now: i64) -> Result<i64> {
        transact!(self, tx => {
            let sql = "SELECT watermark FROM flow_schedule WHERE workflow = $1 AND pattern = $2";
            if let Some(known) = tx.opt(sql, &[&workflow, &pattern]).await? {
                return Ok(known.get(0));
            }
            // Firings of an older pattern stay behind it, also when the clock went back since.
            let sql = "INSERT INTO flow_schedule (workflow, pattern, watermark) VALUES ($1, $2, $3)
                       ON CONFLICT (workflow) DO UPDATE
                       SET pattern = $2, watermark = greatest(flow_schedule.watermark, $3) RETURNING watermark";
            Ok(tx.one(sql, &[&workflow, &pattern, &now]).await?.get(0))
        })
    }

    pub(crate) async fn move_watermark(&self, workflow: &str, to: i64) -> Result<()> {
        transact!(self, tx => tx.move_watermark(workflow, to).await)
    }

    pub(crate) async fn keep_run(&self, keep: Keep) -> Result<bool> {
        transact!(self, tx => tx.keep_run(&keep).await)
    }

    pub(crate) async fn flow_run(&self, id: &str) -> Result<RunRow> {
        let sql = format!("SELECT {COLUMNS} FROM flow_run WHERE id = $1");
        transact!(self, tx => {
            let found = tx.opt(&sql, &[&id]).await?;
            Ok(row(&found.ok_or_else(|| Error::NoRun { run: id.to_owned() })?))
        })
    }

    pub(crate) async fn open_runs(&self) -> Result<Vec<RunRow>> {
        let sql = format!("SELECT {COLUMNS} FROM flow_run WHERE NOT over ORDER BY number");
        transact!(self, tx => Ok(tx.rows(&sql, &[]).await?.iter().map(row).collect()))
    }

    pub(crate) async fn queued_runs(&self) -> Result<Vec<String>> {
        let sql = "SELECT id FROM flow_run WHERE NOT over AND status = 'queued' ORDER BY number";
        transact!(self, tx => Ok(tx.rows(sql, &[]).await?.iter().map(|row| row.get(0)).collect()))
    }

    pub(crate) async fn runs(&self, filter: Filter) -> Result<Vec<RunRow>> {
        // States can be large, and nobody looks at them here.
        let columns = COLUMNS.replace("state", "''");
        let sql = format!(
            "SELECT {columns} FROM flow_run WHERE ($1 IS NULL OR workflow = $1) AND ($2 IS NULL OR status = $2)
             ORDER BY number DESC LIMIT $3"
        );
        let many = i64::from(filter.many);
        transact!(self, tx => {
            Ok(tx.rows(&sql, &[&filter.workflow, &filter.status, &many]).await?.iter().map(row).collect())
        })
    }

    pub(crate) async fn count_open_runs(&self) -> Result<Vec<(String, String, u64)>> {
        let sql =
            "SELECT workflow, status, count(*) FROM flow_run WHERE NOT over GROUP BY workflow, status ORDER BY 1, 2";
        transact!(self, tx => {
            let rows = tx.rows(sql, &[]).await?;
            Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get::<_, i64>(2).unsigned_abs())).collect())
        })
    }

    pub(crate) async fn run_attempts(&self, run: &str) -> Result<Vec<AttemptRow>> {
        let sql = "SELECT barrier, attempt, began, ended, outcome, words, output FROM flow_attempt WHERE run = $1
                   ORDER BY began, barrier, attempt";
        transact!(self, tx => {
            let rows = tx.rows(sql, &[&run]).await?;
            Ok(rows
                .iter()
                .map(|row| AttemptRow {
                    barrier: row.get(0),
                    attempt: u32::try_from(row.get::<_, i64>(1)).unwrap_or(u32::MAX),
                    began: row.get(2),
                    ended: row.get(3),
                    outcome: row.get(4),
                    words: row.get(5),
                    output: row.get(6),
                })
                .collect())
        })
    }

    pub(crate) async fn open_attempts(&self) -> Result<Vec<String>> {
        let sql = "SELECT a.barrier || '/' || a.attempt FROM flow_run r JOIN flow_attempt a ON a.run = r.id
                   WHERE NOT r.over AND a.ended IS NULL";
        transact!(self, tx => Ok(tx.rows(sql, &[]).await?.iter().map(|row| row.get(0)).collect()))
    }

    pub(crate) async fn flow_definition(&self, hash: &str) -> Result<String> {
        transact!(self, tx => {
            let found = tx.opt("SELECT body FROM flow_definition WHERE hash = $1", &[&hash]).await?;
            let none = || Error::Database {
                what: format!("find the definition {hash}"),
                reason: "it is not in the store".into(),
            };
            Ok(found.ok_or_else(none)?.get(0))
        })
    }

    pub(crate) async fn sweep_runs(&self) -> Result<Vec<String>> {
        transact!(self, tx => tx.sweep_runs().await)
    }

    pub(crate) async fn run_of_key(&self, key: &str) -> Result<Option<String>> {
        transact!(self, tx => {
            Ok(tx.opt("SELECT id FROM flow_run WHERE key = $1", &[&key]).await?.map(|row| row.get(0)))
        })
    }

    pub(crate) async fn find_sent(&self, queue: &str, sent: &Sent) -> Result<Option<Found>> {
        transact!(self, tx => tx.find_sent(queue, sent).await)
    }

    pub(crate) async fn lead(&self, for_ms: u64) -> Result<bool> {
        let sql = "INSERT INTO lead (one, plane, until) VALUES (1, $1, $2) ON CONFLICT (one)
                   DO UPDATE SET plane = $1, until = $2 WHERE lead.plane = $1 OR lead.until <= $3 RETURNING one";
        transact!(self, tx => {
            let until = later(tx.now, for_ms);
            Ok(tx.opt(sql, &[&self.0.plane, &until, &tx.now]).await?.is_some())
        })
    }

    pub(crate) async fn post(&self, request: String) -> Result<i64> {
        let sql = "INSERT INTO inbox (at, request) VALUES ($1, $2) RETURNING number";
        transact!(self, tx => Ok(tx.one(sql, &[&tx.now, &request]).await?.get(0)))
    }

    pub(crate) async fn posted(&self) -> Result<Vec<(i64, String)>> {
        let sql = "SELECT number, request FROM inbox WHERE reply IS NULL ORDER BY number LIMIT $1";
        transact!(self, tx => {
            Ok(tx.rows(sql, &[&INBOX_STEP]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
        })
    }

    pub(crate) async fn reply(&self, number: i64, reply: String) -> Result<()> {
        let reply = clean(&reply);
        transact!(self, tx => {
            tx.run("UPDATE inbox SET reply = $2 WHERE number = $1", &[&number, &reply]).await?;
            Ok(())
        })
    }

    pub(crate) async fn replied(&self, number: i64) -> Result<Option<String>> {
        let sql = "DELETE FROM inbox WHERE number = $1 AND reply IS NOT NULL RETURNING reply";
        transact!(self, tx => Ok(tx.opt(sql, &[&number]).await?.and_then(|row| row.get(0))))
    }
}

impl Tx<'_> {
    async fn submit_run(&mut self, new: &NewRun) -> Done<Submitted> {
        let name = &new.pinned.declared.name;
        let asked = new.asked()?;
        if let Some(key) = &new.key {
            let sql = "SELECT id, asked FROM flow_run WHERE workflow = $1 AND key = $2";
            if let Some(known) = self.opt(sql, &[name, key]).await? {
                return match known.get::<_, &str>(1) == asked {
                    true => Ok(Submitted { id: known.get(0), fresh: false }),
                    false => Err(Error::RunKeyReused { workflow: name.clone(), key: key.clone() }.into()),
                };
            }
        }
        let open: i64 = self.one("SELECT count(*) FROM flow_run WHERE NOT over", &[]).await?.get(0);
        if open >= i64::from(RUNS_MAX) {
            return Err(Error::TooManyRuns { limit: RUNS_MAX }.into());
        }
        let sql = "INSERT INTO flow_definition (hash, body) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING";
        self.run(sql, &[&new.pinned.hash, &new.pinned.declared.encode()?]).await?;
        // The number is part of the name.
        let number: i64 = self.one("SELECT nextval(pg_get_serial_sequence('flow_run', 'number'))", &[]).await?.get(0);
        let (id, state) = new.born(number, self.now)?;
        self.run(
            "INSERT INTO flow_run (number, id, workflow, definition, version, state, status, held, priority, created, key,
                                   asked, parent, nominal)
             VALUES ($1, $2, $3, $4, 0, $5, 'queued', $6, $7, $8, $9, $10, $11, $12)",
            &[
                &number, &id, name, &new.pinned.hash, &state, &new.held, &i64::from(new.pinned.declared.priority),
                &self.now, &new.key, &asked, &new.parent, &new.nominal,
            ],
        )
        .await?;
        Ok(Submitted { id, fresh: true })
    }

    async fn fire(&mut self, new: &NewRun, at: i64, rule: Overlap) -> Done<Fate> {
        let name = &new.pinned.declared.name;
        // Its lock makes two planes that both believe to lead come one after the other.
        let sql = "SELECT watermark FROM flow_schedule WHERE workflow = $1 FOR UPDATE";
        let watermark = self.opt(sql, &[name]).await?.map(|row| row.get::<_, i64>(0));
        if watermark.is_some_and(|watermark| at <= watermark) {
            return Ok(Fate { verdict: Verdict::Skip, run: None, others: Vec::new() });
        }
        let sql =
            "SELECT id, held AND status = 'queued' FROM flow_run WHERE workflow = $1 AND NOT over ORDER BY number";
        let open: Vec<(String, bool)> =
            self.rows(sql, &[name]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
        let verdict = verdict(rule, &open);
        self.move_watermark(name, at).await?;
        let held = matches!(verdict, Verdict::Queue | Verdict::CancelAndQueue);
        let run = match verdict {
            Verdict::Skip => None,
            _ => Some(self.submit_run(&NewRun { held, nominal: Some(at), ..new.clone() }).await?.id),
        };
        let others = match verdict {
            Verdict::CancelAndQueue => open.into_iter().map(|(id, _)| id).collect(),
            _ => Vec::new(),
        };
        Ok(Fate { verdict, run, others })
    }

    async fn move_watermark(&self, workflow: &str, to: i64) -> Done<()> {
        let sql = "UPDATE flow_schedule SET watermark = greatest(watermark, $2) WHERE workflow = $1";
        self.run(sql, &[&workflow, &to]).await?;
        Ok(())
    }

    async fn keep_run(&self, keep: &Keep) -> Done<bool> {
        let over = keep.over_ms.is_some();
        let until = keep.over_ms.map(|ms| later(self.now, ms));
        let (was, version) = (keep.was as i64, keep.version as i64);
        let (ended, error) = (over.then_some(self.now), keep.error.as_deref().map(clean));
        let changed = self
            .run(
                "UPDATE flow_run SET version = $3, state = $4, status = $5, over = $6, ended = $7, until = $8, output = $9,
                        error = $10
                 WHERE id = $1 AND version = $2",
                &[
                    &keep.id, &was, &version, &keep.state, &keep.status, &over, &ended, &until, &keep.output, &error,
                ],
            )
            .await?;
        if changed == 0 {
            return Ok(false);
        }
        for note in &keep.notes {
            self.note_attempt(&keep.id, note).await?;
        }
        Ok(true)
    }

    async fn note_attempt(&self, run: &str, note: &AttemptNote) -> Done<()> {
        let attempt = i64::from(note.attempt);
        let Some(outcome) = &note.outcome else {
            let sql = "INSERT INTO flow_attempt (run, barrier, attempt, began) VALUES ($1, $2, $3, $4)
                       ON CONFLICT DO NOTHING";
            self.run(sql, &[&run, &note.barrier, &attempt, &self.now]).await?;
            let sql = "DELETE FROM flow_attempt WHERE run = $1 AND barrier = $2 AND attempt <= $3";
            self.run(sql, &[&run, &note.barrier, &(attempt - i64::from(ATTEMPTS_KEPT))]).await?;
            return Ok(());
        };
        let (words, output) = (clean(&note.words), note.output.as_deref().map(clean));
        self.run(
            "UPDATE flow_attempt SET ended = $4, outcome = $5, words = $6, output = $7
             WHERE run = $1 AND barrier = $2 AND attempt = $3 AND ended IS NULL",
            &[&run, &note.barrier, &attempt, &self.now, outcome, &words, &output],
        )
        .await?;
        Ok(())
    }

    async fn sweep_runs(&self) -> Done<Vec<String>> {
        let sql = "SELECT id FROM flow_run WHERE until <= $1 OR (over AND number <=
                       (SELECT number FROM flow_run WHERE over ORDER BY number DESC LIMIT 1 OFFSET $2)) LIMIT $3";
        let rows = self.rows(sql, &[&self.now, &i64::from(RUNS_KEPT_MAX), &i64::from(SWEEP_ROWS)]).await?;
        let gone: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if !gone.is_empty() {
            self.run("DELETE FROM flow_attempt WHERE run = ANY($1)", &[&gone]).await?;
            self.run("DELETE FROM flow_run WHERE id = ANY($1)", &[&gone]).await?;
            let sql = "DELETE FROM flow_definition d WHERE NOT EXISTS
                       (SELECT FROM flow_run r WHERE r.definition = d.hash)";
            self.run(sql, &[]).await?;
        }
        Ok(gone)
    }

    async fn find_sent(&self, queue: &str, sent: &Sent) -> Done<Option<Found>> {
        let Some(entry) = self.find(queue).await? else { return Ok(Some(Found::Purged)) };
        let (place, uid) = (sent.sequence as i64, &sent.message.0[..]);
        if place <= entry.floor {
            return Ok(Some(Found::Purged));
        }
        // Where it was put, or, when dead letters were taken back, behind that.
        let sql = "SELECT receives FROM message WHERE id >= $1 AND id <= $2 AND uid = $3 ORDER BY id LIMIT 1";
        if let Some(here) = self.opt(sql, &[&entry.id(place), &entry.high(), &uid]).await? {
            let receives = u32::try_from(here.get::<_, i64>(0)).unwrap_or(u32::MAX);
            return Ok(Some(Found::Waits { receives }));
        }
        let Some(dead) = &entry.spec.dead_letter else { return Ok(None) };
        let Some(dead) = self.find(&dead.queue).await? else { return Ok(None) };
        let sql = "SELECT buried FROM message WHERE id > $1 AND id <= $2 AND uid = $3 LIMIT 1";
        let story = self.opt(sql, &[&dead.low(), &dead.high(), &uid]).await?;
        Ok(story.map(|row| Found::Dead { story: row.get::<_, Option<String>>(0).unwrap_or_default() }))
    }
}
