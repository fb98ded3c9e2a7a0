//! What becomes of a message in flight: done, held longer, given back, buried.

use holdfast_policy::queue::{Next, Record, Report};
use rusqlite::{OptionalExtension, params};

use super::{Sqlite, Work};
use crate::clock::Millis;
use crate::error::{Error, Result};
use crate::queue::entry::Entry;
use crate::queue::receipt::Receipt;
use crate::queue::rules::{Claim, acknowledged, after_report, check, held, in_flight, later};
use crate::queue::{Acknowledged, ERROR_CHARS_MAX, NEVER, Settled};

impl Sqlite {
    /// With `strict` a receipt that ran out is refused even if nobody else received the message: whoever held it could not
    /// know that it was still theirs.
    pub(crate) async fn acknowledge(
        &self,
        queue: &str,
        receipts: Vec<String>,
        strict: bool,
    ) -> Result<Vec<Result<Acknowledged>>> {
        let queue = queue.to_owned();
        let receipts: Vec<Option<Receipt>> = receipts.iter().map(|handle| self.sealer.open(handle)).collect();
        self.write(move |work| {
            let entry = work.entry(&queue)?;
            let mut deleted = Vec::new();
            let mut answers = Vec::with_capacity(receipts.len());
            for receipt in &receipts {
                answers.push(work.acknowledge(&entry, *receipt, strict, &mut deleted)?);
            }
            work.remove(&entry, &deleted)?;
            Ok(answers)
        })
        .await
    }

    /// Milliseconds from now; 0 gives the message back.
    pub(crate) async fn change_visibility(&self, queue: &str, changes: Vec<(String, u64)>) -> Result<Vec<Result<()>>> {
        let queue = queue.to_owned();
        let changes: Vec<_> = changes.iter().map(|(handle, ms)| (self.sealer.open(handle), *ms)).collect();
        self.write(move |work| {
            let entry = work.entry(&queue)?;
            changes.iter().map(|(receipt, ms)| work.hold(&entry, *receipt, *ms)).collect()
        })
        .await
    }

    /// Nobody looked at the message: others may have it at once, and nothing is charged. Its receipt is void from now on,
    /// and must not be used again.
    pub(crate) async fn hand_back(&self, queue: &str, receipt: &str) -> Result<()> {
        let queue = queue.to_owned();
        let receipt = self.sealer.open(receipt);
        self.write(move |work| work.hand_back(&queue, receipt)).await
    }

    /// A worker did not finish the message. Refused when its claim ran out: somebody else may have it.
    pub(crate) async fn report(&self, queue: &str, receipt: &str, report: Report, words: &str) -> Result<Settled> {
        let queue = queue.to_owned();
        let receipt = self.sealer.open(receipt);
        let words: String = words.chars().take(ERROR_CHARS_MAX).collect();
        let seed = crate::seed();
        self.write(move |work| work.report(&queue, receipt, report, &words, seed)).await
    }
}

impl Work<'_> {
    fn acknowledge(
        &mut self,
        entry: &Entry,
        receipt: Option<Receipt>,
        strict: bool,
        deleted: &mut Vec<i64>,
    ) -> Result<Result<Acknowledged>> {
        let receipt = match check(entry, receipt) {
            Ok(Some(receipt)) => receipt,
            Ok(None) => return Ok(Ok(Acknowledged::Stale)),
            Err(error) => return Ok(Err(error)),
        };
        if deleted.contains(&receipt.id) {
            return Ok(Ok(Acknowledged::Stale));
        }
        let claim = self.claimed(receipt)?;
        let answer = acknowledged(entry, claim, strict, self.now, || Ok(self.load(receipt.id)?.is_some()))?;
        if matches!(answer, Ok(Acknowledged::Deleted)) {
            deleted.push(receipt.id);
        }
        Ok(answer)
    }

    /// The claim that `receipt` belongs to; `None` when it is gone or somebody else's by now.
    fn claimed(&self, receipt: Receipt) -> Result<Option<Claim>> {
        Ok(self
            .db
            .prepare_cached(
                "SELECT receives, failures, crashes, due, since FROM claim WHERE id = ?1 AND receives = ?2 AND epoch = ?3",
            )?
            .query_row(params![receipt.id, receipt.receive, receipt.epoch], |r| {
                let record = Record { receives: r.get(0)?, failures: r.get(1)?, crashes: r.get(2)? };
                Ok(Claim { record, due: r.get(3)?, since: r.get(4)? })
            })
            .optional()?)
    }

    fn hold(&mut self, entry: &Entry, receipt: Option<Receipt>, ms: u64) -> Result<Result<()>> {
        let receipt = match check(entry, receipt) {
            Ok(Some(receipt)) => receipt,
            Ok(None) => return Ok(Err(Error::NotInFlight)),
            Err(error) => return Ok(Err(error)),
        };
        let due = match held(entry, self.claimed(receipt)?, ms, self.now) {
            Ok(due) => due,
            Err(error) => return Ok(Err(error)),
        };
        self.set_due(entry, receipt.id, due)?;
        Ok(Ok(()))
    }

    fn set_due(&mut self, entry: &Entry, id: i64, due: Millis) -> Result<()> {
        self.db.prepare_cached("UPDATE claim SET due = ?2 WHERE id = ?1")?.execute(params![id, due])?;
        match entry.spec.fifo.then(|| self.group_of(id)).transpose()?.flatten() {
            Some(group) => self.refresh_group(entry, &group),
            None => Ok(()),
        }
    }

    pub(super) fn hand_back(&mut self, queue: &str, receipt: Option<Receipt>) -> Result<()> {
        let entry = self.entry(queue)?;
        let receipt = check(&entry, receipt)?.ok_or(Error::NotInFlight)?;
        in_flight(self.claimed(receipt)?, self.now)?;
        self.db.prepare_cached("UPDATE claim SET receives = receives - 1 WHERE id = ?1")?.execute([receipt.id])?;
        self.set_due(&entry, receipt.id, self.now)
    }

    fn report(
        &mut self,
        queue: &str,
        receipt: Option<Receipt>,
        report: Report,
        words: &str,
        seed: u64,
    ) -> Result<Settled> {
        let entry = self.entry(queue)?;
        let receipt = check(&entry, receipt)?.ok_or(Error::NotInFlight)?;
        let claim = in_flight(self.claimed(receipt)?, self.now)?;
        let (record, next) = after_report(&entry.spec, claim, report, seed);
        self.db
            .prepare_cached("UPDATE claim SET failures = ?2, crashes = ?3, error = ?4 WHERE id = ?1")?
            .execute(params![receipt.id, record.failures, record.crashes, words])?;
        if let Next::Bury(reason) = next
            && let Some(queue) = self.bury(&entry, receipt.id, reason.word(), Some(words))?
        {
            return Ok(Settled::Buried { queue });
        }
        match next {
            Next::Again(delay) => {
                let due = later(self.now, holdfast_policy::time::millis(delay));
                self.set_due(&entry, receipt.id, due)?;
                Ok(Settled::Again { due })
            }
            Next::Bury(_) | Next::Quarantine => {
                self.set_due(&entry, receipt.id, NEVER)?;
                Ok(Settled::Quarantined)
            }
        }
    }
}
