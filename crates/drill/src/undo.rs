//! The undo journal: what to take back is on disk before anything is done, so that the runner, its guard or
//! the next agent can do it, whichever is left. Every undo names what it is for exactly and may be done
//! twice.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DrillError;
use crate::session;
use crate::system::{Inject, Process, TasksOrder, within};

const VERSION: u32 = 1;
const JOURNAL: &str = "undo.jsonl";
const LOCK: &str = "lock";

/// How to take one fault back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// Continue every process of the session or group that `leader` leads, in the boot it was stopped in.
    Continue { leader: Process, boot_id: String },
    /// Remove a fault from a balancer process.
    Clear { control: PathBuf, fault: String },
    /// Let the plane of tasks take messages again.
    Room { control: PathBuf, drill: String, until_boot_ns: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    version: u32,
    id: u64,
    /// Absent in the line that says it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    undo: Option<Undo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    done_by: Option<String>,
}

/// Held while a drill is under way: one at a time on a data directory.
#[derive(Debug)]
pub(crate) struct DrillLock {
    _file: File,
}

impl DrillLock {
    /// `None` when a drill holds it.
    pub(crate) fn take(dir: &Path) -> Result<Option<DrillLock>, DrillError> {
        let path = Self::path(dir);
        let failed = |source| DrillError::Journal { operation: "lock", path: path.clone(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(DrillLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(failed(e)),
        }
    }

    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join(LOCK)
    }
}

/// The journal of one data directory's `drill/`.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    path: PathBuf,
}

impl Journal {
    pub(crate) fn of(dir: &Path) -> Journal {
        Journal { path: dir.join(JOURNAL) }
    }

    /// On disk when this returns.
    pub(crate) fn intend(&self, undo: Undo) -> Result<u64, DrillError> {
        let id = self.lines()?.iter().map(|l| l.id).max().unwrap_or(0) + 1;
        self.append(&Line { version: VERSION, id, undo: Some(undo), done_by: None })?;
        Ok(id)
    }

    pub(crate) fn pending(&self) -> Result<Vec<(u64, Undo)>, DrillError> {
        let lines = self.lines()?;
        let done: BTreeSet<u64> = lines.iter().filter(|l| l.done_by.is_some()).map(|l| l.id).collect();
        Ok(lines.into_iter().filter_map(|l| Some((l.id, l.undo?))).filter(|(id, _)| !done.contains(id)).collect())
    }

    /// Does everything pending. What fails stays pending and is said; returns how many were undone.
    pub(crate) async fn undo_all(&self, inject: &dyn Inject, by: &str) -> Result<Undone, DrillError> {
        let mut outcome = Undone::default();
        for (id, undo) in self.pending()? {
            match perform(&undo, inject).await {
                Ok(()) => {
                    self.append(&Line { version: VERSION, id, undo: None, done_by: Some(by.to_owned()) })?;
                    outcome.done += 1;
                }
                Err(because) => {
                    tracing::warn!(?undo, because, "could not undo a drill's fault");
                    outcome.failed.push(because);
                }
            }
        }
        Ok(outcome)
    }

    /// Only under the drill's lock and with nothing pending.
    pub(crate) fn remove(&self) -> Result<(), DrillError> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", e)),
            _ => Ok(()),
        }
    }

    fn append(&self, line: &Line) -> Result<(), DrillError> {
        let write = || {
            let is_new = !self.path.exists();
            let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            // A line torn by a crash must not swallow this one.
            let mut text = b"\n".to_vec();
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
            file.write_all(&text)?;
            file.sync_all()?;
            match self.path.parent() {
                Some(dir) if is_new => File::open(dir)?.sync_all(),
                _ => Ok(()),
            }
        };
        write().map_err(|e| self.failed("write", e))
    }

    fn lines(&self) -> Result<Vec<Line>, DrillError> {
        // A line torn inside a character must not make the others unreadable.
        let text = match fs::read(&self.path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.failed("read", e)),
        };
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> DrillError {
        DrillError::Journal { operation, path: self.path.clone(), source }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undone {
    pub done: u32,
    /// Why others could not be undone; they stay in the journal.
    pub failed: Vec<String>,
}

async fn perform(undo: &Undo, inject: &dyn Inject) -> Result<(), String> {
    match undo {
        Undo::Continue { leader, boot_id } => {
            session::resume(*leader, boot_id).map_err(|e| format!("cannot continue process {}: {e}", leader.pid))
        }
        Undo::Clear { control, fault } => {
            within("clear a fault", inject.clear(control, fault)).await.map_err(|e| e.to_string())
        }
        Undo::Room { control, drill, until_boot_ns } => {
            let order = TasksOrder { until_boot_ns: *until_boot_ns, ..TasksOrder::default() };
            within("end a full disk", inject.open(control, drill, &order)).await.map_err(|e| e.to_string())
        }
    }
}

/// Called by the agent when it starts: undoes what a drill left behind whose runner and guard both died.
/// While a drill is under way it does nothing: that drill's guard watches.
pub async fn replay(dir: &Path, inject: &dyn Inject) -> Result<Undone, DrillError> {
    if !dir.exists() {
        return Ok(Undone::default());
    }
    let Some(_lock) = DrillLock::take(dir)? else { return Ok(Undone::default()) };
    let journal = Journal::of(dir);
    let undone = journal.undo_all(inject, "replay").await?;
    if undone.failed.is_empty() {
        journal.remove()?;
    }
    Ok(undone)
}

#[cfg(test)]
mod tests;
