//! One machine: booted, cut off, paused, killed with everything on it, and booted again with the same disk.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cgroup::Cgroup;
use crate::enclosure::{Enclosure, STEP_LIMIT, first_process};
use crate::process::Process;
use crate::running::{children, wait_until};
use crate::{Direction, Error, Fault, FullDisk, Result, SlowDisk, disk, fault, network};

/// A command by `run` that takes longer has failed.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// What a machine is, over all its boots.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Also the name of its port of the bridge: at most 15 bytes.
    pub(crate) name: String,
    pub(crate) number: usize,
    pub(crate) disk_bytes: Option<u64>,
    pub(crate) clock_offset_s: Option<i64>,
}

pub struct Machine {
    plan: Plan,
    enclosure: Arc<Enclosure>,
    state: Mutex<State>,
}

struct State {
    boots: u32,
    running: Option<Running>,
    paused: bool,
}

/// One boot: the kernel ends it when the pipe closes.
struct Running {
    wrapper: Child,
    pipe: Option<ChildStdin>,
    init: u32,
    cgroup: Option<Cgroup>,
    blkio: Option<Cgroup>,
}

/// Runs as the first process of a machine; then only keeps it, and lets the kernel reap orphans.
const INIT: &str = r#"
set -e
mount --bind "$2" /proc/sys/kernel/random/boot_id
mount --bind "$3" /etc/hosts
echo "$1" > /proc/sys/kernel/hostname
echo up
exec env --ignore-signal=CHLD cat
"#;

impl Machine {
    pub(crate) fn build(enclosure: &Arc<Enclosure>, plan: Plan) -> Result<Machine> {
        let state = Mutex::new(State { boots: 0, running: None, paused: false });
        let machine = Machine { plan, enclosure: enclosure.clone(), state };
        let dir = machine.dir();
        fs::create_dir(&dir).map_err(|e| Error::io(format!("make {}", dir.display()), e))?;
        if let Some(bytes) = machine.plan.disk_bytes {
            let size = format!("size={bytes},mode=755");
            let mount = ["mount", "-t", "tmpfs", "-o", &size, "disk"].map(OsStr::new);
            enclosure.tool(&[&mount[..], &[dir.as_os_str()]].concat(), "")?;
        }
        machine.boot()?;
        Ok(machine)
    }

    pub fn name(&self) -> &str {
        &self.plan.name
    }

    pub fn addr(&self) -> String {
        network::address(self.plan.number)
    }

    /// Its disk, as programs on it see it; outlives its boots.
    pub fn dir(&self) -> PathBuf {
        self.enclosure.dir.join(&self.plan.name)
    }

    /// A file on its disk as we see it from outside, whether the disk is limited or not.
    pub fn outside(&self, file: impl AsRef<Path>) -> PathBuf {
        match self.plan.disk_bytes {
            None => self.dir().join(file),
            Some(_) => {
                let root = PathBuf::from(format!("/proc/{}/root", self.enclosure.init));
                root.join(self.dir().strip_prefix("/").unwrap_or(&self.dir())).join(file)
            }
        }
    }

    /// Whether it is on; a paused machine is.
    pub fn is_on(&self) -> bool {
        self.state().running.is_some()
    }

    /// Switches it on. An error when it is on.
    pub fn boot(&self) -> Result<()> {
        let mut state = self.state();
        if state.running.is_some() {
            return Err(Error::failed(format!("boot {}", self.name()), "it is on"));
        }
        state.boots += 1;
        let running = self.start(state.boots)?;
        network::plug(&self.enclosure, &self.plan, running.init)?;
        self.write_entrance(&running)?;
        if state.boots > 1 {
            network::silence(&self.enclosure, self.name(), false)?;
        }
        state.running = Some(running);
        state.paused = false;
        Ok(())
    }

    fn start(&self, boot: u32) -> Result<Running> {
        let (dir, name) = (&self.enclosure.dir, self.name());
        // Every boot has an id of its own, as the kernel would give it.
        let boot_id = dir.join(format!("{name}.boot_id"));
        let fresh = fs::read("/proc/sys/kernel/random/uuid").and_then(|id| fs::write(&boot_id, id));
        fresh.map_err(|e| Error::io("write a boot id", e))?;
        // A cgroup that was killed is not used again: Linux 6.18 kills what is born in it.
        let make = |lab: &Option<PathBuf>| {
            lab.as_ref().map(|lab| Cgroup::make(lab.join(format!("{name}.{boot}")))).transpose()
        };
        let (cgroup, blkio) = (make(&self.enclosure.cgroup)?, make(&self.enclosure.blkio)?);
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.enclosure.init.to_string(), "--net", "--mount", "--pid", "--"]);
        command.args(["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]);
        if let Some(offset) = self.plan.clock_offset_s {
            let offset = offset.to_string();
            command.args(["--time", "--boottime", &offset, "--monotonic", &offset]);
        }
        command.arg("--mount-proc").args(joining([&cgroup, &blkio]));
        command.args(["sh", "-c", INIT, "init", name]).arg(&boot_id).arg(dir.join("hosts"));
        let (wrapper, pipe) = first_process(command, &dir.join(format!("logs/{name}-boot-{boot}")))?;
        let only = |pid: u32| children(pid).first().copied();
        let init = only(wrapper.id()).and_then(only);
        let init = init.ok_or_else(|| Error::failed(format!("boot {name}"), "its first process has gone"))?;
        Ok(Running { wrapper, pipe: Some(pipe), init, cgroup, blkio })
    }

    /// A program to enter the machine by from a terminal: `enter-node-1 [COMMAND…]`.
    pub fn entrance(&self) -> PathBuf {
        self.enclosure.dir.join(format!("enter-{}", self.name()))
    }

    fn write_entrance(&self, running: &Running) -> Result<()> {
        let cgroups = running.cgroup.iter().chain(&running.blkio);
        let join: String = cgroups.map(|c| format!("echo 0 > {}/cgroup.procs; ", c.0.display())).collect();
        let (init, dir) = (running.init, self.dir());
        let text = format!(
            "#!/bin/sh\n# Part of the machine in every way: paused and killed with it.\n[ $# -gt 0 ] || set -- bash\n\
             exec nsenter --target {init} --all --wdns='{}' -- sh -c '{join}exec \"$@\"' machine \"$@\"\n",
            dir.display()
        );
        let path = self.entrance();
        let written = fs::write(&path, text).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)));
        written.map_err(|e| Error::io(format!("write {}", path.display()), e))
    }

    /// Loss of power: silent at once, so that no peer sees a connection end, then everything on it is dead. Its disk
    /// stays, also what was not synced. Returns when no process is left; nothing happens when it is off.
    pub fn kill_all(&self) -> Result<()> {
        let mut state = self.state();
        let Some(mut running) = state.running.take() else { return Ok(()) };
        if !state.paused {
            network::silence(&self.enclosure, self.name(), true)?;
        }
        state.paused = false;
        match &running.cgroup {
            Some(cgroup) => cgroup.kill()?,
            None => running.pipe = None,
        }
        let gone = wait_until(STEP_LIMIT, || running.wrapper.try_wait().ok().flatten());
        gone.ok_or_else(|| Error::failed(format!("kill {}", self.name()), "its processes do not end"))?;
        network::unplug(&self.enclosure, &self.plan)
    }

    /// Loss of power, and on again with the same disk and a new boot id. What ran has to be started again.
    pub fn reboot(&self) -> Result<()> {
        self.kill_all()?;
        self.boot()
    }

    /// A virtual machine that is paused: no process runs, no packet is answered, also not by its kernel. Its clocks go on.
    pub fn pause(&self) -> Result<()> {
        let mut state = self.state();
        let cgroup = self.freezable(&state)?;
        if !state.paused {
            network::silence(&self.enclosure, self.name(), true)?;
            state.paused = true;
        }
        cgroup.freeze(true)
    }

    pub fn resume(&self) -> Result<()> {
        let mut state = self.state();
        let cgroup = self.freezable(&state)?;
        cgroup.freeze(false)?;
        if state.paused {
            network::silence(&self.enclosure, self.name(), false)?;
            state.paused = false;
        }
        Ok(())
    }

    fn freezable(&self, state: &State) -> Result<Cgroup> {
        let off = || Error::failed(format!("pause {}", self.name()), "it is off");
        let running = state.running.as_ref().ok_or_else(off)?;
        running.cgroup.clone().ok_or_else(|| Error::skipped("no unified cgroup tree to freeze a machine in"))
    }

    /// Starts a program on it, in its directory, with our environment and these variables. Its output goes to a file.
    pub fn spawn<S: AsRef<OsStr>>(&self, argv: &[S], env: &[(&str, &str)]) -> Result<Process> {
        let state = self.state();
        let name = argv.first().map_or("", |first| first.as_ref().to_str().unwrap_or(""));
        let off = || Error::failed(format!("start {name} on {}", self.name()), "it is off");
        let running = state.running.as_ref().ok_or_else(off)?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &running.init.to_string()]);
        command.args(["--net", "--mount", "--pid", "--uts", "--ipc", "--no-fork"]);
        if self.plan.clock_offset_s.is_some() {
            command.arg("--time");
        }
        let mut wd = OsString::from("--wdns=");
        wd.push(self.dir());
        // nsenter would stop itself when what it waits for is stopped, and then reap nothing; unshare does not.
        command
            .arg(wd)
            .args(["--", "unshare", "--fork", "--"])
            .args(joining([&running.cgroup, &running.blkio]))
            .args(argv)
            .envs(env.iter().copied());
        let base = name.rsplit('/').next().unwrap_or_default();
        let log = self.enclosure.dir.join(format!("logs/{}-{}-{base}", self.name(), self.enclosure.number()));
        Process::start(command, &format!("{base} on {}", self.name()), log)
    }

    /// Runs a program to its end and gives its stdout; an error with its stderr when it fails.
    pub fn run<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<String> {
        self.run_env(argv, &[])
    }

    pub fn run_env<S: AsRef<OsStr>>(&self, argv: &[S], env: &[(&str, &str)]) -> Result<String> {
        let mut process = self.spawn(argv, env)?;
        let status = process.wait(RUN_LIMIT)?;
        if status.success() {
            return Ok(process.stdout());
        }
        Err(Error::failed(format!("run {}", process.shown()), format!("{status}, {}", process.stderr().trim())))
    }

    /// Runs `work` on a thread in its network namespace: it connects and listens there, but is not paused or killed.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let state = self.state();
        let what = || format!("enter the network of {}", self.name());
        let init = state.running.as_ref().map(|r| r.init).ok_or_else(|| Error::failed(what(), "it is off"))?;
        let namespace = File::open(format!("/proc/{init}/ns/net")).map_err(|e| Error::io(what(), e))?;
        drop(state);
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map(|()| work())
            });
            match thread.join() {
                Ok(done) => done.map_err(|e| Error::io(what(), e.into())),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Cuts it off from all others.
    pub fn isolate(&self, direction: Direction) -> Result<Fault> {
        let me = format!("\"{}\"", self.name());
        fault::inject(&self.enclosure, &fault::between(&me, None, direction, "drop"))
    }

    /// Cuts it off from these only.
    pub fn isolate_from(&self, peers: &[&Machine], direction: Direction) -> Result<Fault> {
        let me = format!("\"{}\"", self.name());
        let names: Vec<String> = peers.iter().map(|peer| format!("\"{}\"", peer.name())).collect();
        let peers = format!("{{ {} }}", names.join(", "));
        fault::inject(&self.enclosure, &fault::between(&me, Some(&peers), direction, "drop"))
    }

    /// Cuts its clients of etcd off from the members on other machines; a member of its own stays in the cluster.
    pub fn isolate_from_etcd(&self) -> Result<Fault> {
        let name = self.name();
        let rules = [
            format!("iifname \"{name}\" ip protocol tcp tcp dport {} drop", crate::etcd::CLIENT_PORT),
            format!("oifname \"{name}\" ip protocol tcp tcp sport {} drop", crate::etcd::CLIENT_PORT),
        ];
        fault::inject(&self.enclosure, &rules)
    }

    /// Each packet from and to it is lost with this probability.
    pub fn loss(&self, percent: f64) -> Result<Fault> {
        let me = format!("\"{}\"", self.name());
        let drop = format!("{} drop", fault::by_chance(percent)?);
        fault::inject(&self.enclosure, &fault::between(&me, None, Direction::Both, &drop))
    }

    /// What goes over this rate is dropped, each way by itself: a policer, which does not queue and adds no latency.
    pub fn police(&self, kbytes_per_s: u32) -> Result<Fault> {
        let me = format!("\"{}\"", self.name());
        let over = format!("limit rate over {kbytes_per_s} kbytes/second drop");
        fault::inject(&self.enclosure, &fault::between(&me, None, Direction::Both, &over))
    }

    /// Fills its disk to the last byte until the guard is dropped; only for a disk of limited size.
    pub fn fill_disk(&self) -> Result<FullDisk> {
        if self.plan.disk_bytes.is_none() {
            return Err(Error::failed(format!("fill the disk of {}", self.name()), "it is not limited (disk_bytes)"));
        }
        disk::fill(self.outside("filled-by-the-lab"))
    }

    /// It writes no more often than this to the disk that its directory is on, until the guard is dropped or it is switched
    /// off: each sync waits for a few writes. What the kernel writes back later by itself is not slowed.
    pub fn slow_disk(&self, writes_per_s: u32) -> Result<SlowDisk> {
        let state = self.state();
        let blkio = state.running.as_ref().and_then(|running| running.blkio.as_ref());
        let blkio = blkio.ok_or_else(|| Error::skipped("no blkio controller to slow a disk with, or it is off"))?;
        disk::slow(&blkio.0, &self.outside(""), writes_per_s)
    }

    /// Pids, as we see them, of every process on it and of what entered it for us.
    pub fn pids(&self) -> Vec<u32> {
        self.state().running.as_ref().and_then(|r| r.cgroup.as_ref()).map(Cgroup::pids).unwrap_or_default()
    }

    /// The pid of its first process as we see it.
    pub fn init(&self) -> Option<u32> {
        self.state().running.as_ref().map(|r| r.init)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After the enclosure has gone nothing of it lives; this only reaps.
        let _ = self.wrapper.kill();
        let _ = self.wrapper.wait();
    }
}

/// What comes before a program so that it belongs to the machine's cgroups. It joins them from inside: what waits for it
/// outside must stay able to reap it when the machine is frozen or killed, or its process namespace would not end.
fn joining(cgroups: [&Option<Cgroup>; 2]) -> Vec<OsString> {
    let script = r#"for i in 1 2; do [ -z "$1" ] || echo 0 > "$1"; shift; done; exec "$@""#;
    let files = cgroups.map(|cgroup| cgroup.as_ref().map(|c| c.0.join("cgroup.procs")).unwrap_or_default());
    ["sh", "-c", script, "machine"].map(OsString::from).into_iter().chain(files.map(PathBuf::into_os_string)).collect()
}
