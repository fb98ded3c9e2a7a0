//! What a lab lives in: process, network and mount namespaces whose first process ends when our end of a pipe closes.
//! The kernel closes it however we die, and then kills all that is inside; a janitor in a session of its own outlives
//! that and removes what is no namespace: the folder and the cgroups.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::running::{children, finish, path, tool, wait_until};
use crate::{Error, Result, cgroup};

/// Nothing in here is slower, also when a hundred processes are to be killed on busy cores.
pub(crate) const STEP_LIMIT: Duration = Duration::from_secs(30);

const PREFIX: &str = "holdfast-lab-";

/// Set, the folders of labs stay for a look at the logs.
const KEEP: &str = "HOLDFAST_LAB_KEEP";

const TOOLS: &[&str] = &["unshare", "nsenter", "setsid", "ip", "nft", "mount", "timeout"];

/// An ignored SIGCHLD lets the kernel reap orphans, as `cat` would not.
const JANITOR: &str = r#"
unshare --net --mount --pid --fork --kill-child --mount-proc sh -c 'echo up; exec env --ignore-signal=CHLD cat'
for tree in "$2" "$3"; do
    [ -z "$tree" ] || find "$tree" -depth -type d -exec rmdir {} + 2>/dev/null
done
[ -n "$4" ] || rm -rf "$1"
"#;

static LABS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Enclosure {
    /// Pid of the first process inside.
    pub(crate) init: u32,
    pub(crate) dir: PathBuf,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) blkio: Option<PathBuf>,
    janitor: Mutex<Janitor>,
    next: AtomicU32,
}

struct Janitor {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Enclosure {
    pub(crate) fn open() -> Result<Enclosure> {
        allowed()?;
        let own = format!("{PREFIX}{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        sweep();
        let dir = std::env::temp_dir().join(&own);
        fs::create_dir(&dir).map_err(|e| Error::io(format!("make {}", dir.display()), e))?;
        fs::create_dir(dir.join("logs")).map_err(|e| Error::io("make the folder of logs", e))?;
        // Without these trees everything works but what freezes, or slows a disk.
        let make = |place: Option<PathBuf>| Some(place?.join(&own)).filter(|place| fs::create_dir(place).is_ok());
        let (cgroup, blkio) = (make(cgroup::own()), make(cgroup::own_blkio()));
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", JANITOR, "holdfast-lab-janitor"]).arg(&dir);
        command.args([&cgroup, &blkio].map(|tree| tree.clone().unwrap_or_default()));
        command.arg(std::env::var_os(KEEP).unwrap_or_default());
        let (child, pipe) = first_process(command, &dir.join("logs/enclosure"))?;
        let init = children(child.id()).first().and_then(|unshare| children(*unshare).first().copied());
        let janitor = Mutex::new(Janitor { child, pipe: Some(pipe) });
        let init = init.ok_or_else(|| Error::failed("find the first process of the lab", "it has gone"))?;
        Ok(Enclosure { init, dir, cgroup, blkio, janitor, next: AtomicU32::new(0) })
    }

    /// A number that nothing else in this lab has.
    pub(crate) fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs a tool inside, with the lab's network and mounts but not on any machine; gives its stdout.
    pub(crate) fn tool<S: AsRef<OsStr>>(&self, argv: &[S], input: &str) -> Result<String> {
        let init = self.init.to_string();
        let mut command = tool(&["nsenter", "--target", &init, "--net", "--mount", "--"]);
        finish(command.args(argv), input)
    }

    /// Ends everything and waits until it is gone; also the second time.
    pub(crate) fn close(&self) {
        let Ok(mut janitor) = self.janitor.lock() else { return };
        janitor.pipe = None;
        if wait_until(STEP_LIMIT, || janitor.child.try_wait().ok().flatten()).is_none() {
            eprintln!("warning: the lab in {} does not end", self.dir.display());
        }
    }
}

impl Drop for Enclosure {
    fn drop(&mut self) {
        self.close();
    }
}

/// Starts what ends in `echo up; exec cat`: gives it back when it is up, with the pipe that keeps it.
pub(crate) fn first_process(mut command: Command, log: &Path) -> Result<(Child, ChildStdin)> {
    let file = fs::File::create(log).map_err(|e| Error::io(format!("create {}", log.display()), e))?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).env("PATH", path());
    let mut child = command.spawn().map_err(|e| Error::io("start a namespace", e))?;
    let mut line = String::new();
    if let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) {
        // When it fails, its output ends.
        let read = BufReader::new(stdout).read_line(&mut line);
        if read.is_ok() && line == "up\n" {
            return Ok((child, stdin));
        }
    }
    let _ = child.wait();
    let why = fs::read_to_string(log).unwrap_or_default();
    Err(Error::failed("start a namespace", why.trim()))
}

/// Tools are there, and the kernel gives namespaces to us.
fn allowed() -> Result<()> {
    let folders = path();
    let missing = |name: &&&str| !std::env::split_paths(&folders).any(|dir| dir.join(name).is_file());
    if let Some(name) = TOOLS.iter().find(missing) {
        return Err(Error::skipped(format!("{name} is not installed")));
    }
    let probe = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--mount-proc"];
    let probed = finish(tool(&probe).args(["nft", "add", "table", "bridge", "probe"]), "");
    probed.map(drop).map_err(|e| Error::skipped(format!("namespaces with nftables are not allowed: {e}")))
}

/// Folders and cgroups of labs whose janitor was killed too.
fn sweep() {
    for place in [cgroup::own(), cgroup::own_blkio(), Some(std::env::temp_dir())].into_iter().flatten() {
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) && std::env::var_os(KEEP).is_none() {
                let _ = fs::remove_dir_all(entry.path()).or_else(|_| remove_tree_of_folders(&entry.path()));
            }
        }
    }
}

/// A cgroup has files that cannot be removed, and goes all the same.
fn remove_tree_of_folders(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree_of_folders(&entry.path())?;
    }
    fs::remove_dir(dir)
}
