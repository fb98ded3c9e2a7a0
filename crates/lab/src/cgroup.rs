//! The processes of a machine as one cgroup: frozen and killed at once, whatever they forked.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::running::wait_until;
use crate::{Error, Result};

/// The kernel freezes and kills within milliseconds; a process in an uninterruptible wait takes as long as its disk.
const DONE_LIMIT: Duration = Duration::from_secs(20);

/// Our own place in the unified tree.
pub(crate) fn own() -> Option<PathBuf> {
    place(&mount()?, |controllers| controllers.is_empty())
}

/// Where the whole unified tree is mounted.
pub(crate) fn mount() -> Option<PathBuf> {
    mounted("cgroup2", |_| true)
}

/// Our own place in the tree of the blkio controller, where the kernel has it apart (version 1).
pub(crate) fn own_blkio() -> Option<PathBuf> {
    let has = |list: &str| list.split(',').any(|one| one == "blkio");
    place(&mounted("cgroup", has)?, has)
}

fn place(mount: &Path, controllers: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut lines = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let (_, path) = lines.find(|(list, _)| controllers(list))?;
    Some(mount.join(path.trim_start_matches('/')))
}

/// Where the root of a tree of this kind is mounted.
fn mounted(kind: &str, options: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let of = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let fields: Vec<&str> = left.split(' ').collect();
        let mut right = right.split(' ');
        let fits = right.next() == Some(kind) && fields.get(3) == Some(&"/") && options(right.nth(1)?);
        fits.then(|| fields.get(4).map(PathBuf::from))?
    };
    mounts.lines().find_map(of)
}

#[derive(Clone, Debug)]
pub(crate) struct Cgroup(pub(crate) PathBuf);

impl Cgroup {
    pub(crate) fn make(path: PathBuf) -> Result<Cgroup> {
        fs::create_dir(&path).map_err(|e| Error::io(format!("make the cgroup {}", path.display()), e))?;
        Ok(Cgroup(path))
    }

    /// Returns when every process is frozen, or runs again.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
        let wanted = if frozen { "frozen 1" } else { "frozen 0" };
        self.wait_for(wanted)
    }

    /// Returns when no process is left; frozen ones die as they are.
    pub(crate) fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")?;
        self.wait_for("populated 0")
    }

    /// Pids of everything inside, also deeper down.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let (mut left, mut found) = (vec![self.0.clone()], Vec::new());
        while let Some(dir) = left.pop() {
            let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
        }
        found
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, text).map_err(|e| Error::io(format!("write {}", path.display()), e))
    }

    fn wait_for(&self, line: &str) -> Result<()> {
        let events = self.0.join("cgroup.events");
        let seen = || {
            let text = fs::read_to_string(&events).ok()?;
            text.lines().any(|have| have == line).then_some(())
        };
        let what = || format!("see `{line}` in {}", events.display());
        wait_until(DONE_LIMIT, seen).ok_or_else(|| Error::failed(what(), format!("not within {DONE_LIMIT:?}")))
    }
}
