//! One leaf of the unified cgroup tree per instance, so that nothing a child started can hide from the kill.
//!
//! Works where the v2 tree is mounted and writable, also beside v1 controllers (hybrid): only processes are
//! grouped, no controller is needed. Elsewhere there is no tree, and group, session and descendants are killed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The directory below which holdfast may create cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    pub root: PathBuf,
}

impl Tree {
    /// The place of this process in the unified tree, when it may create cgroups there.
    pub fn detect() -> Option<Tree> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let root = place(&mounts, &own)?;
        // Of all ways to ask (mode, mount options, delegation, namespace), doing it is the only one that is right.
        let trial = root.join(format!("holdfast-trial-{}", std::process::id()));
        let writable = fs::create_dir(&trial).is_ok() && trial.join("cgroup.kill").exists();
        let _ = fs::remove_dir(&trial);
        writable.then_some(Tree { root })
    }

    /// Path of the leaf for an instance of the holdfast whose data directory hashes to `scope`.
    pub fn leaf(&self, scope: &str, instance: &str) -> PathBuf {
        self.root.join(format!("holdfast-{scope}")).join(instance)
    }
}

fn place(mountinfo: &str, own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mount = mountinfo.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut fields = head.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        tail.starts_with("cgroup2 ").then(|| (root.to_owned(), at.to_owned()))
    })?;
    // In a container the mount may show only a part of the tree.
    let below = path.strip_prefix(mount.0.trim_end_matches('/')).unwrap_or(path);
    Some(Path::new(&mount.1).join(below.trim_start_matches('/')))
}

/// A cgroup of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    path: PathBuf,
}

impl Leaf {
    /// A new one when nothing is inside: Linux 6.18 kills what is born in a cgroup that was ever killed.
    pub fn create(path: &Path) -> io::Result<Leaf> {
        let _ = fs::remove_dir(path);
        fs::create_dir_all(path)?;
        Ok(Leaf { path: path.to_owned() })
    }

    /// The leaf at `path`, when it exists.
    pub fn existing(path: &Path) -> Option<Leaf> {
        path.join("cgroup.procs").exists().then(|| Leaf { path: path.to_owned() })
    }

    /// The directory, into which a child can be born (`CLONE_INTO_CGROUP`).
    pub fn entrance(&self) -> io::Result<OwnedFd> {
        Ok(OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_PATH).open(&self.path)?.into())
    }

    /// SIGKILL to every process inside, atomically against fork.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    pub fn is_populated(&self) -> bool {
        let text = fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
        text.lines().any(|line| line == "populated 1")
    }

    pub fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// OOM kills inside so far; `None` without the memory controller.
    pub fn oom_kills(&self) -> Option<u64> {
        let text = fs::read_to_string(self.path.join("memory.events")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
    }

    /// Removes the leaf, and the holdfast cgroup above it when it was the last. Fails while populated.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.path)?;
        if let Some(parent) = self.path.parent() {
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
}

/// OOM kills on the whole machine since boot, for hosts without a memory controller in the unified tree.
pub fn oom_kills_of_host() -> Option<u64> {
    let text = io::read_to_string(File::open("/proc/vmstat").ok()?).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_tree_is_found_in_every_layout() {
        let hybrid = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(place(hybrid, "4:memory:/a\n0::/\n"), Some("/sys/fs/cgroup/unified/".into()));
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            place(v2, "0::/system.slice/holdfast.service\n"),
            Some("/sys/fs/cgroup/system.slice/holdfast.service".into())
        );
        let part = "30 23 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(place(part, "0::/docker/1/x\n"), Some("/sys/fs/cgroup/x".into()));
        assert_eq!(place("", "0::/\n"), None);
        assert_eq!(place(v2, "4:memory:/a\n"), None);
    }
}
