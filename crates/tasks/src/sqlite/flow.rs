//! Runs of workflows: each with the definition it began with and the state of its machine, replaced only by who has seen it.

use holdfast_policy::schedule::{Overlap, Verdict};
use rusqlite::{OptionalExtension, Row, params};

use super::catalogue::read;
use super::{Sqlite, Work};

use crate::error::{Error, Result};
use crate::flow::stored::{
    ATTEMPTS_KEPT, AttemptNote, AttemptRow, Fate, Filter, Found, Keep, NewRun, RunRow, SWEEP_ROWS, Submitted, verdict,
};
use crate::flow::{RUNS_KEPT_MAX, RUNS_MAX};
use crate::queue::Sent;
use crate::queue::entry::PLACE_BITS;

const COLUMNS: &str = "number, id, workflow, definition, version, state, status, over, held, priority, created, ended, key, \
                       parent, nominal, output, error";

fn row(r: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        number: r.get(0)?,
        id: r.get(1)?,
        workflow: r.get(2)?,
        definition: r.get(3)?,
        version: r.get::<_, i64>(4)?.unsigned_abs(),
        state: r.get(5)?,
        status: r.get(6)?,
        over: r.get(7)?,
        held: r.get(8)?,
        priority: r.get(9)?,
        created: r.get(10)?,
        ended: r.get(11)?,
        key: r.get(12)?,
        parent: r.get(13)?,
        nominal: r.get(14)?,
        output: r.get(15)?,
        error: r.get(16)?,
    })
}

impl Sqlite {
    /// The same key with the same parameters is the same run.
    pub(crate) async fn submit_run(&self, new: NewRun) -> Result<Submitted> {
        self.write_if_room(move |work| work.submit_run(&new)).await
    }

    /// One firing of a schedule: a run or none, and the watermark, in one transaction.
    pub(crate) async fn fire(&self, new: NewRun, at: i64, rule: Overlap) -> Result<Fate> {
        self.write_if_room(move |work| work.fire(&new, at, rule)).await
    }

    /// The watermark of a schedule; of one that is new or changed it is `now`.
    pub(crate) async fn watermark(&self, workflow: &str, pattern: &str, now: i64) -> Result<i64> {
        let (workflow, pattern) = (workflow.to_owned(), pattern.to_owned());
        self.write(move |work| {
            let known = work
                .db
                .prepare_cached("SELECT watermark FROM flow_schedule WHERE workflow = ?1 AND pattern = ?2")?
                .query_row(params![workflow, pattern], |r| r.get(0))
                .optional()?;
            if let Some(watermark) = known {
                return Ok(watermark);
            }
            // Firings of an older pattern stay behind it, also when the clock went back since.
            Ok(work.db.query_row(
                "INSERT INTO flow_schedule (workflow, pattern, watermark) VALUES (?1, ?2, ?3)
                 ON CONFLICT (workflow) DO UPDATE SET pattern = ?2, watermark = max(watermark, ?3) RETURNING watermark",
                params![workflow, pattern, now],
                |r| r.get(0),
            )?)
        })
        .await
    }

    pub(crate) async fn move_watermark(&self, workflow: &str, to: i64) -> Result<()> {
        let workflow = workflow.to_owned();
        self.write(move |work| work.move_watermark(&workflow, to)).await
    }

    /// `false`: somebody else has stored a state since.
    pub(crate) async fn keep_run(&self, keep: Keep) -> Result<bool> {
        self.write(move |work| work.keep_run(&keep)).await
    }

    pub(crate) async fn flow_run(&self, id: &str) -> Result<RunRow> {
        let run = id.to_owned();
        let found = read(&self.store, move |db| {
            let sql = format!("SELECT {COLUMNS} FROM flow_run WHERE id = ?1");
            Ok(db.prepare_cached(&sql)?.query_row([&run], row).optional()?)
        });
        found.await?.ok_or_else(|| Error::NoRun { run: id.to_owned() })
    }

    /// In the order of their numbers.
    pub(crate) async fn open_runs(&self) -> Result<Vec<RunRow>> {
        read(&self.store, |db| {
            let sql = format!("SELECT {COLUMNS} FROM flow_run WHERE over = 0 ORDER BY number");
            Ok(db.prepare_cached(&sql)?.query_map([], row)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// The latest first.
    pub(crate) async fn runs(&self, filter: Filter) -> Result<Vec<RunRow>> {
        read(&self.store, move |db| {
            // States can be large, and nobody looks at them here.
            let columns = COLUMNS.replace("state", "''");
            let sql = format!(
                "SELECT {columns} FROM flow_run WHERE (?1 IS NULL OR workflow = ?1) AND (?2 IS NULL OR status = ?2)
                 ORDER BY number DESC LIMIT ?3"
            );
            let mut query = db.prepare_cached(&sql)?;
            let rows = query.query_map(params![filter.workflow, filter.status, filter.many], row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// How many of each workflow are in each state, of those that are not over.
    pub(crate) async fn count_open_runs(&self) -> Result<Vec<(String, String, u64)>> {
        read(&self.store, |db| {
            let mut query = db.prepare_cached(
                "SELECT workflow, status, count(*) FROM flow_run WHERE over = 0 GROUP BY workflow, status ORDER BY 1, 2",
            )?;
            let rows = query.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get::<_, i64>(2)?.unsigned_abs())))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// In the order of their beginning.
    pub(crate) async fn run_attempts(&self, run: &str) -> Result<Vec<AttemptRow>> {
        let run = run.to_owned();
        read(&self.store, move |db| {
            let mut query = db.prepare_cached(
                "SELECT barrier, attempt, began, ended, outcome, words, output FROM flow_attempt WHERE run = ?1
                 ORDER BY began, barrier, attempt",
            )?;
            let rows = query.query_map([&run], |r| {
                Ok(AttemptRow {
                    barrier: r.get(0)?,
                    attempt: r.get(1)?,
                    began: r.get(2)?,
                    ended: r.get(3)?,
                    outcome: r.get(4)?,
                    words: r.get(5)?,
                    output: r.get(6)?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Keys of attempts of runs that are not over, and that are not either.
    pub(crate) async fn open_attempts(&self) -> Result<Vec<String>> {
        read(&self.store, |db| {
            let mut query = db.prepare_cached(
                "SELECT a.barrier || '/' || a.attempt FROM flow_run r JOIN flow_attempt a ON a.run = r.id
                 WHERE r.over = 0 AND a.ended IS NULL",
            )?;
            Ok(query.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    pub(crate) async fn flow_definition(&self, hash: &str) -> Result<String> {
        let wanted = hash.to_owned();
        let found = read(&self.store, move |db| {
            Ok(db
                .prepare_cached("SELECT body FROM flow_definition WHERE hash = ?1")?
                .query_row([&wanted], |r| r.get(0))
                .optional()?)
        });
        found.await?.ok_or_else(|| Error::System {
            what: format!("find the definition {hash}"),
            source: std::io::Error::other("it is not in the store"),
        })
    }

    /// Ended runs whose time is over; their names, so that their files go too.
    pub(crate) async fn sweep_runs(&self) -> Result<Vec<String>> {
        self.write(|work| work.sweep_runs()).await
    }

    /// Of the step of another run.
    pub(crate) async fn run_of_key(&self, key: &str) -> Result<Option<String>> {
        let key = key.to_owned();
        read(&self.store, move |db| {
            Ok(db
                .prepare_cached("SELECT id FROM flow_run WHERE key = ?1")?
                .query_row([&key], |r| r.get(0))
                .optional()?)
        })
        .await
    }

    /// Where a message that was sent is now; `None` when it is gone.
    pub(crate) async fn find_sent(&self, queue: &str, sent: &Sent) -> Result<Option<Found>> {
        let (queue, uid, place) = (queue.to_owned(), sent.message.0, sent.sequence as i64);
        read(&self.store, move |db| {
            let known = db
                .prepare_cached("SELECT number, spec, floor FROM queue WHERE name = ?1")?
                .query_row([&queue], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?, r.get::<_, i64>(2)?)))
                .optional()?;
            let Some((number, spec, floor)) = known else { return Ok(Some(Found::Purged)) };
            if place <= floor {
                return Ok(Some(Found::Purged));
            }
            let id = (number << PLACE_BITS) + place;
            // Where it was put, or, when dead letters were taken back, behind that.
            let here = db
                .prepare_cached(
                    "SELECT coalesce(c.receives, 0) FROM message m LEFT JOIN claim c ON c.id = m.id
                     WHERE m.id >= ?1 AND m.id < ?2 AND m.uid = ?3 LIMIT 1",
                )?
                .query_row(params![id, (number + 1) << PLACE_BITS, uid], |r| r.get(0))
                .optional()?;
            if let Some(receives) = here {
                return Ok(Some(Found::Waits { receives }));
            }
            let dead = crate::store::spec(&spec).ok().and_then(|spec| spec.dead_letter);
            let Some(dead) = dead else { return Ok(None) };
            let story: Option<Option<String>> = db
                .prepare_cached(
                    "SELECT m.buried FROM message m JOIN queue q ON q.name = ?1
                     WHERE m.id >= (q.number << ?2) AND m.id < ((q.number + 1) << ?2) AND m.uid = ?3 LIMIT 1",
                )?
                .query_row(params![dead.queue, PLACE_BITS, uid], |r| r.get(0))
                .optional()?;
            Ok(story.map(|story| Found::Dead { story: story.unwrap_or_default() }))
        })
        .await
    }
}

impl Work<'_> {
    fn submit_run(&mut self, new: &NewRun) -> Result<Submitted> {
        let name = &new.pinned.declared.name;
        let asked = new.asked()?;
        if let Some(key) = &new.key {
            let known = self
                .db
                .prepare_cached("SELECT id, asked FROM flow_run WHERE workflow = ?1 AND key = ?2")?
                .query_row(params![name, key], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))
                .optional()?;
            match known {
                Some((id, before)) if before == asked => return Ok(Submitted { id, fresh: false }),
                Some(_) => return Err(Error::RunKeyReused { workflow: name.clone(), key: key.clone() }),
                None => {}
            }
        }
        let open: u32 =
            self.db.prepare_cached("SELECT count(*) FROM flow_run WHERE over = 0")?.query_row([], |r| r.get(0))?;
        if open >= RUNS_MAX {
            return Err(Error::TooManyRuns { limit: RUNS_MAX });
        }
        self.db
            .prepare_cached("INSERT OR IGNORE INTO flow_definition (hash, body) VALUES (?1, ?2)")?
            .execute(params![new.pinned.hash, new.pinned.declared.encode()?])?;
        self.insert_run(new, &asked)
    }

    fn insert_run(&mut self, new: &NewRun, asked: &str) -> Result<Submitted> {
        let name = &new.pinned.declared.name;
        // The number is part of the name, so the row comes first.
        self.db
            .prepare_cached(
                "INSERT INTO flow_run (id, workflow, definition, version, state, status, held, priority, created, key, asked,
                                       parent, nominal)
                 VALUES (hex(randomblob(16)), ?1, ?2, 0, '', 'queued', ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                name,
                new.pinned.hash,
                new.held,
                new.pinned.declared.priority,
                self.now,
                new.key,
                asked,
                new.parent,
                new.nominal
            ])?;
        let number = self.db.last_insert_rowid();
        let (id, state) = new.born(number, self.now)?;
        self.db
            .prepare_cached("UPDATE flow_run SET id = ?2, state = ?3 WHERE number = ?1")?
            .execute(params![number, id, state])?;
        Ok(Submitted { id, fresh: true })
    }

    fn fire(&mut self, new: &NewRun, at: i64, rule: Overlap) -> Result<Fate> {
        let name = &new.pinned.declared.name;
        let open: Vec<(String, bool)> = {
            let mut query = self.db.prepare_cached(
                "SELECT id, held AND status = 'queued' FROM flow_run WHERE workflow = ?1 AND over = 0 ORDER BY number",
            )?;
            let rows = query.query_map([name], |r| Ok((r.get(0)?, r.get(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()?
        };
        let verdict = verdict(rule, &open);
        self.move_watermark(name, at)?;
        let held = matches!(verdict, Verdict::Queue | Verdict::CancelAndQueue);
        let run = match verdict {
            Verdict::Skip => None,
            _ => Some(self.submit_run(&NewRun { held, nominal: Some(at), ..new.clone() })?.id),
        };
        let others = match verdict {
            Verdict::CancelAndQueue => open.into_iter().map(|(id, _)| id).collect(),
            _ => Vec::new(),
        };
        Ok(Fate { verdict, run, others })
    }

    fn move_watermark(&mut self, workflow: &str, to: i64) -> Result<()> {
        self.db
            .prepare_cached("UPDATE flow_schedule SET watermark = max(watermark, ?2) WHERE workflow = ?1")?
            .execute(params![workflow, to])?;
        Ok(())
    }

    fn keep_run(&mut self, keep: &Keep) -> Result<bool> {
        let over = keep.over_ms.is_some();
        let until = keep.over_ms.map(|ms| self.now.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX / 2)));
        let changed = self
            .db
            .prepare_cached(
                "UPDATE flow_run SET version = ?3, state = ?4, status = ?5, over = ?6, ended = ?7, until = ?8, output = ?9,
                        error = ?10
                 WHERE id = ?1 AND version = ?2",
            )?
            .execute(params![
                keep.id,
                keep.was as i64,
                keep.version as i64,
                keep.state,
                keep.status,
                over,
                over.then_some(self.now),
                until,
                keep.output,
                keep.error
            ])?;
        for note in keep.notes.iter().filter(|_| changed > 0) {
            self.note_attempt(&keep.id, note)?;
        }
        Ok(changed > 0)
    }

    fn note_attempt(&mut self, run: &str, note: &AttemptNote) -> Result<()> {
        let Some(outcome) = &note.outcome else {
            self.db
                .prepare_cached(
                    "INSERT OR IGNORE INTO flow_attempt (run, barrier, attempt, began) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![run, note.barrier, note.attempt, self.now])?;
            self.db
                .prepare_cached("DELETE FROM flow_attempt WHERE run = ?1 AND barrier = ?2 AND attempt <= ?3")?
                .execute(params![run, note.barrier, i64::from(note.attempt) - i64::from(ATTEMPTS_KEPT)])?;
            return Ok(());
        };
        self.db
            .prepare_cached(
                "UPDATE flow_attempt SET ended = ?4, outcome = ?5, words = ?6, output = ?7
                 WHERE run = ?1 AND barrier = ?2 AND attempt = ?3 AND ended IS NULL",
            )?
            .execute(params![run, note.barrier, note.attempt, self.now, outcome, note.words, note.output])?;
        Ok(())
    }

    fn sweep_runs(&mut self) -> Result<Vec<String>> {
        let mut query = self.db.prepare_cached(
            "SELECT id FROM flow_run WHERE until <= ?1 OR (over = 1 AND number <=
                (SELECT number FROM flow_run WHERE over = 1 ORDER BY number DESC LIMIT 1 OFFSET ?2)) LIMIT ?3",
        )?;
        let gone: Vec<String> = query
            .query_map(params![self.now, RUNS_KEPT_MAX, SWEEP_ROWS], |r| r.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for run in &gone {
            self.db.prepare_cached("DELETE FROM flow_attempt WHERE run = ?1")?.execute([run])?;
            self.db.prepare_cached("DELETE FROM flow_run WHERE id = ?1")?.execute([run])?;
        }
        if !gone.is_empty() {
            self.db.execute("DELETE FROM flow_definition WHERE hash NOT IN (SELECT definition FROM flow_run)", [])?;
        }
        Ok(gone)
    }
}
