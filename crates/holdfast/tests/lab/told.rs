//! What the journals of the machines say.

use holdfast_policy::lease::FencingToken;
use holdfast_store::rusqlite::{self, Connection, OpenFlags};

use crate::town::{MACHINES, Town};

/// A row of a machine's `journal.db`.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) subject: String,
    pub(crate) to: String,
    pub(crate) reason: String,
    /// Of the last time: a row may stand for several. Boot time, which all machines of a lab share.
    pub(crate) boot_ns: u64,
}

impl Town {
    pub(crate) fn journal(&self, n: usize) -> Vec<Told> {
        let file = self.data(n).join("journal.db");
        let Ok(db) = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY) else { return Vec::new() };
        let Ok(mut rows) = db.prepare("SELECT subject, became, reason, last_boot_ns FROM events ORDER BY last_boot_ns")
        else {
            return Vec::new();
        };
        let told = rows.query_map([], |row| {
            let boot_ns = row.get::<_, i64>(3)? as u64;
            Ok(Told { subject: row.get(0)?, to: row.get(1)?, reason: row.get(2)?, boot_ns })
        });
        told.map(|told| told.flatten().collect()).unwrap_or_default()
    }

    /// Why, on any machine: who noticed first is not known beforehand.
    pub(crate) fn told_why(&self, subject: &str, to: &str) -> Option<String> {
        let mut all = (0..MACHINES).flat_map(|n| self.journal(n));
        all.find(|told| told.subject == subject && told.to == to).map(|told| told.reason)
    }

    pub(crate) fn count_told(&self, n: usize, subject: &str, to: &str) -> usize {
        self.journal(n).iter().filter(|told| told.subject == subject && told.to == to).count()
    }

    /// Steps of plans that were carried out, on whichever machine led.
    pub(crate) fn placements(&self) -> usize {
        (0..MACHINES).map(|n| self.journal(n).iter().filter(|t| t.to == "placed").count()).sum()
    }
}

impl Town {
    /// The highest token that a machine has seen, as it keeps it: (epoch, create revision).
    pub(crate) fn kept_token(&self, n: usize) -> (u64, u64) {
        let read = || -> rusqlite::Result<Vec<u8>> {
            let file = self.data(n).join("coord.db");
            let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            db.query_row("SELECT value FROM kv WHERE key = '/token'", [], |row| row.get(0))
        };
        let text = String::from_utf8(read().expect("a kept token")).expect("text");
        let token: FencingToken = text.parse().expect("a token");
        (token.epoch, token.create_revision)
    }
}
