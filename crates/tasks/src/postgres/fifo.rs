//! Message groups, as in every engine: one row for each group that has messages. Whoever touches them holds the lock of the
//! queue.

use std::collections::BTreeMap;

use super::batch::Batch;
use super::session::{Done, Tx};
use crate::clock::Millis;
use crate::queue::entry::Entry;
use crate::queue::rules::{Front, GROUP_IN_FLIGHT_MAX, group_due};

impl Tx<'_> {
    pub(super) async fn refresh_groups(&mut self, batch: &mut Batch) -> Done<()> {
        let touched = std::mem::take(&mut batch.groups);
        for (number, groups) in touched {
            let Some(entry) = batch.entries.values().find(|entry| entry.number == number).cloned() else { continue };
            let groups: Vec<String> = groups.into_iter().collect();
            self.refresh(&entry, &groups).await?;
        }
        Ok(())
    }

    /// After a change of their messages: when each group may be received, or that it has none left.
    pub(super) async fn refresh(&mut self, entry: &Entry, groups: &[String]) -> Done<()> {
        let fronts = self.fronts(entry, groups).await?;
        let (mut empty, mut names, mut dues, mut heads) = (Vec::new(), Vec::new(), Vec::<Millis>::new(), Vec::new());
        for group in groups {
            match fronts.get(group).and_then(|front| group_due(front, self.now)) {
                None => empty.push(group.clone()),
                Some((head, due)) => {
                    names.push(group.clone());
                    heads.push(head);
                    dues.push(due);
                }
            }
        }
        if !empty.is_empty() {
            self.run("DELETE FROM grp WHERE queue = $1 AND name = ANY($2)", &[&entry.number, &empty]).await?;
        }
        if !names.is_empty() {
            self.run(
                "INSERT INTO grp (queue, name, due, head) SELECT $1, n, d, h FROM unnest($2, $3, $4) u(n, d, h)
                 ON CONFLICT (queue, name) DO UPDATE SET due = excluded.due, head = excluded.head",
                &[&entry.number, &names, &dues, &heads],
            )
            .await?;
        }
        Ok(())
    }

    async fn fronts(&self, entry: &Entry, groups: &[String]) -> Done<BTreeMap<String, Vec<Front>>> {
        let mut fronts: BTreeMap<String, Vec<Front>> = BTreeMap::new();
        if groups.is_empty() {
            return Ok(fronts);
        }
        let rows = self
            .rows(
                "SELECT g.name, f.id, f.due, f.receives FROM unnest($2) g(name) CROSS JOIN LATERAL
                 (SELECT id, due, receives FROM message WHERE queue = $1 AND grp = g.name AND id > $3 ORDER BY id LIMIT $4) f
                 ORDER BY f.id",
                &[&entry.number, &groups.to_vec(), &entry.low(), &i64::from(GROUP_IN_FLIGHT_MAX)],
            )
            .await?;
        for row in rows {
            let receives = u32::try_from(row.get::<_, i64>(3)).unwrap_or(u32::MAX);
            fronts.entry(row.get(0)).or_default().push((row.get(1), row.get(2), receives));
        }
        Ok(fronts)
    }

    /// Groups that may be received, those that waited longest first.
    pub(super) async fn groups_due(&self, entry: &Entry, many: usize) -> Done<Vec<String>> {
        let rows = self
            .rows(
                "(SELECT name, 0 AS o, due AS k FROM grp WHERE queue = $1 AND due > 0 AND due <= $2 ORDER BY due LIMIT $3)
                 UNION ALL
                 (SELECT name, 1, head FROM grp WHERE queue = $1 AND due = 0 ORDER BY head LIMIT $3)
                 ORDER BY o, k LIMIT $3",
                &[&entry.number, &self.now, &(many as i64)],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
