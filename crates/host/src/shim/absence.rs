//! Proof that a shim is dead, and what it may have left running.

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::dir::{Dead, Dir};
use super::log::Log;
use super::state::{Exit, State};
use crate::cgroup::Leaf;
use crate::clock;
use crate::files;
use crate::lock::Lock;
use crate::process::{self, Identity, Process, Table};

/// While this value lives no shim can begin in the directory; drop it before launching the next one.
#[derive(Debug)]
pub struct Absence {
    pub dir: Dir,
    /// The last state it wrote; may be older than its last act.
    pub state: Option<State>,
    /// Exit results kept, oldest first.
    pub exits: Vec<Exit>,
    /// The generation that is over; the next one must be higher.
    pub generation: u64,
    /// Keeps what waits in the output pipe from vanishing with its last writer; written to the log on drop.
    log: Option<Log>,
    _lock: Lock,
}

impl Drop for Absence {
    fn drop(&mut self) {
        if let Some(log) = &mut self.log {
            log.finish();
        }
    }
}

/// Tries the lock. `None` when it is held: the shim lives. Otherwise its generation (from `spec.json`) is recorded as
/// over, so that not even a shim that was launched and has not begun yet can start anything.
pub fn absent(dir: &Path) -> Result<Option<Absence>, files::Error> {
    let dir = Dir::new(dir);
    let failed = |path: std::path::PathBuf| move |source| files::Error::Write { path, source };
    let Some(lock) = Lock::try_take(&dir.lock()).map_err(failed(dir.lock()))? else { return Ok(None) };
    let state = dir.read_state();
    let spec = dir.read_spec().ok();
    let log = spec.as_ref().and_then(|spec| Log::open(&dir.fifo(), &dir.logs(), spec.log.clone()).ok());
    let generation =
        spec.map(|spec| spec.generation).or_else(|| state.as_ref().map(|s| s.incarnation.generation)).unwrap_or(0);
    if dir.read_dead().is_none_or(|dead| dead.generation < generation) {
        Dead::now(generation, "reader").write(&dir).map_err(failed(dir.dead()))?;
    }
    Ok(Some(Absence { state, exits: dir.read_exits(), generation, dir, log, _lock: lock }))
}

impl Absence {
    /// How the last run ended; `None` when nobody saw it (shim and child died together, or the machine did).
    pub fn exit_of_last_run(&self) -> Option<&Exit> {
        let incarnation = self.state.as_ref()?.incarnation;
        self.exits.iter().rfind(|exit| exit.incarnation == incarnation)
    }

    /// Processes of the instance that live without their shim.
    pub fn orphans(&self) -> Vec<Identity> {
        orphans(&self.dir)
    }

    /// Ends them; `Ok` holds those that SIGKILL did not end within `limit` (waiting for a dead disk).
    pub fn kill_orphans(&self, limit: Duration) -> io::Result<Vec<Identity>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = self.orphans();
            if left.is_empty() || Instant::now() >= deadline {
                return Ok(left);
            }
            if let Some(leaf) = leaf_of(&self.dir) {
                let _ = leaf.kill();
            }
            for who in left {
                if let Some(process) = Process::open(who)? {
                    process.signal(libc::SIGKILL)?;
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn leaf_of(dir: &Dir) -> Option<Leaf> {
    Leaf::existing(dir.read_spec().ok()?.cgroup.as_deref()?)
}

/// The child of the last state and everything that carries the instance's mark: its group, session, descendants,
/// cgroup, and whoever was started with its environment. A state of another boot names nobody: its process ids are
/// other processes now. Zombies are not counted.
pub fn orphans(dir: &Dir) -> Vec<Identity> {
    let table = Table::read();
    let own = std::process::id() as i32;
    let state = dir.read_state().filter(|s| clock::same_boot(&s.boot_id));
    let spared = dir.read_spec().is_ok_and(|spec| spec.spares_descendants);
    let mut found: HashSet<Identity> = HashSet::new();
    if let Some(child) = state.as_ref().and_then(|s| s.child) {
        let same = table.iter().any(|s| s.identity() == child);
        if same {
            found.insert(child);
        }
        // Group and session ids stay taken while a member lives, so they mean the instance as long as the child's own
        // id was not recycled for a younger process.
        let recycled = table.iter().any(|s| s.pid == child.pid && s.start_ticks != child.start_ticks);
        if !recycled {
            let members = table.iter().filter(|s| s.pgrp == child.pid || s.session == child.pid);
            found.extend(members.filter(|s| s.start_ticks >= child.start_ticks).map(|s| s.identity()));
        }
        if same && !spared {
            found.extend(table.descendants(child.pid).into_iter().map(|s| s.identity()));
        }
    }
    if !spared {
        let inside: HashSet<i32> = leaf_of(dir).map(|leaf| leaf.pids()).unwrap_or_default().into_iter().collect();
        let marked = |s: &&process::Stat| inside.contains(&s.pid) || is_marked(s.pid, dir.path());
        found.extend(table.iter().filter(marked).map(|s| s.identity()));
    }
    let dead: HashSet<Identity> = table.iter().filter(|s| s.is_zombie()).map(|s| s.identity()).collect();
    found.retain(|who| who.pid != own && !dead.contains(who));
    let mut found: Vec<Identity> = found.into_iter().collect();
    found.sort_by_key(|who| who.pid);
    found
}

/// Whether the process was started with the mark of `dir` in its environment.
fn is_marked(pid: i32, dir: &Path) -> bool {
    let Ok(environ) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = [super::MARK.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    environ.split(|b| *b == 0).any(|entry| entry == wanted)
}
