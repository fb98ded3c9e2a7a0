//! What holdfast has on record of each death, against the kills that caused them.

use std::collections::BTreeMap;

use holdfast_host::shim::{Dir, Exit};
use holdfast_policy::Incarnation;
use holdfast_store::rusqlite::{self, Connection, OpenFlags};

use super::killer::{How, Kill, Role};
use super::ledger::Life;
use crate::site::Site;

/// Exits as the shims kept them. A ring holds 32, so it is read after each kill.
#[derive(Default)]
pub(super) struct Records {
    exits: BTreeMap<(String, Incarnation), Exit>,
}

impl Records {
    pub(super) fn collect(&mut self, site: &Site) {
        for entry in std::fs::read_dir(site.data().join("run")).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            for exit in Dir::new(entry.path()).read_exits() {
                self.exits.insert((id.clone(), exit.incarnation), exit);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.exits.len()
    }

    pub(super) fn highest_run(&self, id: &str, generation: u64) -> u32 {
        let of_it = |(name, life): &&(String, Incarnation)| name == id && life.generation == generation;
        self.exits.keys().filter(of_it).map(|(_, life)| life.run).max().unwrap_or(0)
    }

    /// Deaths without a record, records with another ending than the one that was caused, and deaths that nobody caused.
    pub(super) fn disagreements(&self, kills: &[Kill], ledgers: &BTreeMap<String, Vec<Life>>) -> Vec<String> {
        let mut found = Vec::new();
        let mut caused: BTreeMap<(String, Incarnation), Vec<&Kill>> = BTreeMap::new();
        for kill in kills.iter().filter(|k| k.role != Role::Shim) {
            match kill.life.parse() {
                Ok(life) => caused.entry((kill.id.clone(), life)).or_default().push(kill),
                Err(_) => found.push(format!("no incarnation in the environment of {kill:?}")),
            }
        }
        for ((id, life), causes) in &caused {
            match self.exits.get(&(id.clone(), *life)) {
                Some(exit) if causes.iter().any(|kill| fits(exit, kill)) => {}
                Some(exit) => found.push(format!("{id} {life}: recorded {exit:?}, caused by {causes:?}")),
                None if shim_was_killed(kills, id, *life) => {}
                None => found.push(format!("{id} {life}: no record of {causes:?}")),
            }
        }
        for ((id, life), exit) in &self.exits {
            if !exit.wanted && !caused.contains_key(&(id.clone(), *life)) {
                found.push(format!("{id} {life}: died and nobody killed it: {exit:?}"));
            }
        }
        for (id, lives) in ledgers {
            let over = lives.len().saturating_sub(1);
            for life in lives.iter().take(over).map(|life| life.incarnation) {
                if !self.exits.contains_key(&(id.clone(), life)) && !shim_was_killed(kills, id, life) {
                    found.push(format!("{id} {life}: it is over, its shim was not killed, and there is no record"));
                }
            }
        }
        found
    }

    /// The journal tells each recorded death once, folded rows counted as often as they were seen. A shim that was killed right
    /// after it had kept an exit may not have told it.
    pub(super) fn journal_disagreements(&self, ids: &[String], kills: &[Kill], rows: &[Told]) -> Vec<String> {
        let mut found = Vec::new();
        for id in ids {
            // By ending: how many must be told, and how many more may be.
            let mut counts: BTreeMap<String, (i64, i64)> = BTreeMap::new();
            for ((_, life), exit) in self.exits.iter().filter(|((name, _), exit)| name == id && !exit.wanted) {
                let last_word = life.run == self.highest_run(id, life.generation) && shim_was_killed(kills, id, *life);
                let (must, may) = counts.entry(exit.to_string()).or_default();
                *(if last_word { may } else { must }) += 1;
            }
            let source = format!("shim/{id}");
            for row in rows.iter().filter(|r| r.source == source && r.to == "backoff" && r.from != "stopping") {
                let ending = row.reason.split(';').next().unwrap_or_default();
                counts.entry(ending.to_owned()).or_default().0 -= 1 + row.repeats;
            }
            for (ending, (must, may)) in counts {
                if must > 0 || must + may < 0 {
                    found.push(format!(
                        "{id}: `{ending}`: {must} more in its exit ring than in the journal ({may} may be untold)"
                    ));
                }
            }
        }
        found
    }
}

fn shim_was_killed(kills: &[Kill], id: &str, life: Incarnation) -> bool {
    kills.iter().any(|k| k.role == Role::Shim && k.id == id && k.life == life.generation.to_string())
}

fn fits(exit: &Exit, kill: &Kill) -> bool {
    let pid_fits = u32::try_from(exit.pid) == Ok(kill.pid);
    pid_fits
        && match kill.how {
            How::Kill => exit.signal == Some(9),
            How::Term => exit.code == Some(0) || exit.signal == Some(15),
            How::Exit(code) => exit.code == Some(code),
        }
}

/// A row of `journal.db`, as somebody with the sqlite3 shell would see it.
#[derive(Debug)]
pub(super) struct Told {
    source: String,
    subject: String,
    from: String,
    to: String,
    reason: String,
    repeats: i64,
    /// Of the last time that it was seen: a row may stand for several.
    pub(super) last_ms: u64,
}

impl Told {
    pub(super) fn is_loss(&self) -> bool {
        self.source == "journal" && self.to == "lost"
    }

    /// By the Supervisor.
    pub(super) fn is_exit_of(&self, id: &str) -> bool {
        self.source == "services" && self.to == "exited" && self.subject.strip_prefix("instance/") == Some(id)
    }
}

pub(super) fn journal(site: &Site) -> rusqlite::Result<Vec<Told>> {
    let db = Connection::open_with_flags(site.data().join("journal.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut rows =
        db.prepare("SELECT source, subject, was, became, reason, repeats, last_boot_ns FROM events ORDER BY id")?;
    let told = rows.query_map([], |row| {
        Ok(Told {
            source: row.get(0)?,
            subject: row.get(1)?,
            from: row.get(2)?,
            to: row.get(3)?,
            reason: row.get(4)?,
            repeats: row.get(5)?,
            last_ms: row.get::<_, i64>(6)? as u64 / 1_000_000,
        })
    })?;
    told.collect()
}

/// Shims whose death the journal does not tell although an agent was there to see it.
pub(super) fn untold_shims(kills: &[Kill], rows: &[Told]) -> Vec<String> {
    let agents: Vec<u64> = kills.iter().filter(|k| k.id == "_agent-1").map(|k| k.at_ms).collect();
    let shims = kills.iter().filter(|k| k.role == Role::Shim && k.id != "_agent-1");
    let untold = shims.filter(|kill| {
        let subject = format!("instance/{}", kill.id);
        let told = rows.iter().any(|row| {
            row.source == "services"
                && row.subject == subject
                && row.last_ms + 1 >= kill.at_ms
                && (row.reason.contains("shim") || row.to == "launching")
        });
        // What the Supervisor of a killed agent had not yet stored is gone with it; what had no space is counted.
        let agent_died = agents.iter().any(|at| *at >= kill.at_ms);
        let lost = rows.iter().any(|row| row.is_loss() && row.last_ms >= kill.at_ms);
        !told && !agent_died && !lost
    });
    untold.map(|kill| format!("{kill:?}")).collect()
}
