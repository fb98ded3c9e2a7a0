//! What becomes of messages in flight: done, held longer, given back, buried.

use std::collections::{BTreeMap, HashMap};

use holdfast_policy::queue::{Next, Record};

use super::batch::{Act, Ask, Batch, Did, Said, Transfer};
use super::session::{Done, Tx};
use crate::clock::Millis;
use crate::error::{Error, Result};
use crate::queue::entry::Entry;
use crate::queue::receipt::Receipt;
use crate::queue::rules::{Claim, acknowledged, after_report, check, held, in_flight, later};
use crate::queue::{Acknowledged, Buried, NEVER, Settled};
use crate::store::encode;

/// A message as it is, and as it is to be.
struct Row {
    claim: Claim,
    epoch: i64,
    group: Option<String>,
    error: Option<String>,
    gone: bool,
    changed: bool,
}

type Known = HashMap<i64, Row>;

/// Messages on their way to the dead letters: from which queue, to which.
type Buries = BTreeMap<(String, String), Vec<Transfer>>;

impl Tx<'_> {
    pub(super) async fn settle_all(&mut self, batch: &mut Batch, asks: &[&Ask]) -> Done<Vec<Option<Result<Said>>>> {
        let mut said: Vec<Option<Result<Said>>> = asks.iter().map(|_| None).collect();
        let mut ids: Vec<i64> = Vec::new();
        for ask in asks {
            if let Ask::Settle { acts, .. } = ask {
                ids.extend(acts.iter().filter_map(|(receipt, _)| receipt.map(|r| r.id)));
            }
        }
        let mut known = self.known(&ids).await?;
        let mut buries = Buries::new();
        for (n, ask) in asks.iter().enumerate() {
            let Ask::Settle { queue, acts } = ask else { continue };
            let Some(entry) = batch.entries.get(queue).cloned() else { continue };
            let dead = match &entry.spec.dead_letter {
                Some(dead) => self.find(&dead.queue).await?,
                None => None,
            };
            let mut answers = Vec::with_capacity(acts.len());
            for (receipt, act) in acts {
                let touched = Settling { entry: &entry, dead: dead.as_deref(), now: self.now };
                answers.push(touched.act(&mut known, *receipt, act, &mut buries)?);
                let group = receipt.and_then(|r| known.get(&r.id)).and_then(|row| row.group.clone());
                if let Some(group) = group.filter(|_| entry.spec.fifo) {
                    batch.groups.entry(entry.number).or_default().insert(group);
                }
            }
            said[n] = Some(Ok(Said::Settled(answers)));
        }
        self.write_down(batch, &known, &buries).await?;
        Ok(said)
    }

    async fn known(&self, ids: &Vec<i64>) -> Done<Known> {
        if ids.is_empty() {
            return Ok(Known::new());
        }
        let sql = "SELECT id, receives, failures, crashes, due, since, epoch, grp, error FROM message
                   WHERE id = ANY($1) ORDER BY id FOR UPDATE";
        let rows = self.rows(sql, &[ids]).await?;
        let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        let known = rows.iter().map(|row| {
            let record =
                Record { receives: count(row.get(1)), failures: count(row.get(2)), crashes: count(row.get(3)) };
            let claim = Claim { record, due: row.get(4), since: row.get(5) };
            let known =
                Row { claim, epoch: row.get(6), group: row.get(7), error: row.get(8), gone: false, changed: false };
            (row.get(0), known)
        });
        Ok(known.collect())
    }

    async fn write_down(&mut self, batch: &Batch, known: &Known, buries: &Buries) -> Done<()> {
        let mut gone: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (id, _) in known.iter().filter(|(_, row)| row.gone) {
            gone.entry(id >> crate::queue::entry::PLACE_BITS).or_default().push(*id);
        }
        for entry in batch.entries.values() {
            if let Some(ids) = gone.get(&entry.number) {
                self.remove(entry, ids).await?;
            }
        }
        let changed: Vec<(i64, &Row)> =
            known.iter().filter(|(_, row)| row.changed && !row.gone).map(|(id, row)| (*id, row)).collect();
        if !changed.is_empty() {
            let of = |which: fn(&Row) -> i64| changed.iter().map(|(_, row)| which(row)).collect::<Vec<i64>>();
            let ids: Vec<i64> = changed.iter().map(|(id, _)| *id).collect();
            let errors: Vec<Option<&str>> = changed.iter().map(|(_, row)| row.error.as_deref()).collect();
            self.run(
                "UPDATE message m SET due = u.due, receives = u.receives, failures = u.failures, crashes = u.crashes,
                        error = u.error
                 FROM unnest($1, $2, $3, $4, $5, $6) u(id, due, receives, failures, crashes, error) WHERE m.id = u.id",
                &[
                    &ids,
                    &of(|row| row.claim.due),
                    &of(|row| i64::from(row.claim.record.receives)),
                    &of(|row| i64::from(row.claim.record.failures)),
                    &of(|row| i64::from(row.claim.record.crashes)),
                    &errors,
                ],
            )
            .await?;
        }
        for ((from, to), messages) in buries {
            let (from, to) = (self.entry(from).await?, self.entry(to).await?);
            self.transfer(&from, &to, messages).await?;
        }
        Ok(())
    }
}

struct Settling<'a> {
    entry: &'a Entry,
    dead: Option<&'a Entry>,
    now: Millis,
}

impl Settling<'_> {
    fn act(&self, known: &mut Known, receipt: Option<Receipt>, act: &Act, buries: &mut Buries) -> Result<Result<Did>> {
        let receipt = match check(self.entry, receipt) {
            Ok(Some(receipt)) => receipt,
            Ok(None) => {
                return Ok(match act {
                    Act::Acknowledge { .. } => Ok(Did::Acknowledged(Acknowledged::Stale)),
                    _ => Err(Error::NotInFlight),
                });
            }
            Err(error) => return Ok(Err(error)),
        };
        let row = known.get_mut(&receipt.id).filter(|row| !row.gone);
        let is_there = row.is_some();
        let mut row = row.filter(|row| row.epoch == receipt.epoch && row.claim.record.receives == receipt.receive);
        let claim = row.as_ref().map(|row| row.claim);
        let done = match act {
            Act::Acknowledge { strict } => {
                acknowledged(self.entry, claim, *strict, self.now, || Ok(is_there))?.map(Did::Acknowledged)
            }
            Act::Hold { ms } => held(self.entry, claim, *ms, self.now).map(|due| {
                set(&mut row, |row| row.claim.due = due);
                Did::Held
            }),
            Act::HandBack => in_flight(claim, self.now).map(|_| {
                set(&mut row, |row| {
                    row.claim.due = self.now;
                    row.claim.record.receives = row.claim.record.receives.saturating_sub(1);
                });
                Did::Held
            }),
            Act::Report { report, words, seed } => match (in_flight(claim, self.now), &mut row) {
                (Ok(claim), Some(row)) => {
                    let (record, next) = after_report(&self.entry.spec, claim, *report, *seed);
                    (row.claim.record, row.error, row.changed) = (record, Some(words.clone()), true);
                    self.next(receipt.id, row, next, buries).map(Did::Settled)
                }
                (Err(error), _) => Err(error),
                (_, None) => Err(Error::NotInFlight),
            },
        };
        if let (Ok(Did::Acknowledged(Acknowledged::Deleted)), Some(row)) = (&done, &mut row) {
            row.gone = true;
        }
        Ok(done)
    }

    fn next(&self, id: i64, row: &mut Row, next: Next, buries: &mut Buries) -> Result<Settled> {
        match (next, self.dead) {
            (Next::Again(delay), _) => {
                row.claim.due = later(self.now, holdfast_policy::time::millis(delay));
                Ok(Settled::Again { due: row.claim.due })
            }
            (Next::Bury(reason), Some(dead)) => {
                let story = Buried {
                    source: self.entry.name.clone(),
                    reason: reason.word().to_owned(),
                    error: row.error.clone(),
                };
                let transfer = Transfer { id, group: row.group.clone(), story: Some(encode(&story)?) };
                // Until it is moved nobody else in this transaction finds it.
                (row.claim.due, row.epoch) = (NEVER, 0);
                buries.entry((self.entry.name.clone(), dead.name.clone())).or_default().push(transfer);
                Ok(Settled::Buried { queue: dead.name.clone() })
            }
            (Next::Bury(_) | Next::Quarantine, _) => {
                row.claim.due = NEVER;
                Ok(Settled::Quarantined)
            }
        }
    }
}

fn set(row: &mut Option<&mut Row>, change: impl FnOnce(&mut Row)) {
    if let Some(row) = row {
        change(row);
        row.changed = true;
    }
}
