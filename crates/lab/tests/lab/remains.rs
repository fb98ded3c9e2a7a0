//! Nothing remains of a lab, however its owner ends.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_lab::{Direction, Lab, Options};

use crate::machines::wait_for;

/// What the kernel and the disk show of one lab.
struct Traces {
    dir: PathBuf,
    pids: Vec<u32>,
    namespaces: Vec<String>,
    cgroup: Option<PathBuf>,
    blkio: Option<PathBuf>,
}

impl Traces {
    fn of(dir: &Path) -> Traces {
        let name = dir.display().to_string();
        let members = processes().filter(|pid| in_lab(*pid, &name)).collect::<Vec<_>>();
        let own = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        let ours = |kind: &str| own(std::process::id(), kind);
        let mut namespaces: Vec<String> = Vec::new();
        for (pid, kind) in members.iter().flat_map(|pid| ["net", "pid", "mnt"].map(|kind| (*pid, kind))) {
            if let Some(link) = own(pid, kind).filter(|link| Some(link) != ours(kind).as_ref()) {
                namespaces.push(link.display().to_string());
            }
        }
        namespaces.sort();
        namespaces.dedup();
        let cgroup = |tree: &str| {
            let place = Path::new("/sys/fs/cgroup").join(tree).join(dir.file_name().unwrap_or_default());
            place.is_dir().then_some(place)
        };
        let (cgroup, blkio) = (cgroup("unified").or_else(|| cgroup("")), cgroup("blkio"));
        Traces { dir: dir.to_owned(), pids: members, namespaces, cgroup, blkio }
    }

    fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = self.pids.iter().filter(|p| alive(**p)).map(|p| format!("process {p}")).collect();
        let listed = |kind: &str| Command::new("lsns").args(["-n", "-o", "NS", "-t", kind]).output().expect("lsns");
        for kind in ["net", "pid", "mnt"] {
            let text = String::from_utf8_lossy(&listed(kind).stdout).into_owned();
            let ids: Vec<String> = text.lines().map(|line| format!("{kind}:[{}]", line.trim())).collect();
            left.extend(self.namespaces.iter().filter(|ns| ids.contains(ns)).cloned());
        }
        left.extend(
            self.cgroup.iter().chain(&self.blkio).filter(|dir| dir.exists()).map(|dir| dir.display().to_string()),
        );
        left.extend(self.dir.exists().then(|| self.dir.display().to_string()));
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        left.extend(mounts.lines().filter(|line| line.contains("holdfast-lab-")).map(String::from));
        let links = fs::read_to_string("/proc/net/dev").expect("interfaces");
        left.extend(links.lines().filter(|line| line.contains("node-") || line.contains("lan:")).map(String::from));
        left
    }
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").expect("proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// By its cgroup, its mounts or its arguments: the janitor is in none of the lab's namespaces.
fn in_lab(pid: u32, dir: &str) -> bool {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let name = dir.rsplit('/').next().unwrap_or_default();
    let names = |text: Vec<u8>| String::from_utf8_lossy(&text).contains(name);
    pid != std::process::id() && (names(read("cgroup")) || names(read("mountinfo")) || names(read("cmdline")))
}

fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

/// An owner in a process of its own, and the folder of its lab.
fn owner() -> Option<(Child, BufReader<ChildStdout>, PathBuf)> {
    let probe = Lab::or_skip(&Options::default())?;
    drop(probe);
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-lab"));
    command.args(["--nodes", "2", "--etcd", "1", "--disk", "8"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("spawn");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    out.read_line(&mut line).expect("a line");
    let dir = line.trim().strip_prefix("the lab is in ").expect("the folder").into();
    Some((child, out, dir))
}

fn wait_gone(traces: &Traces) {
    wait_for("nothing of the lab is left", || {
        let left = traces.left();
        if !left.is_empty() {
            println!("left: {left:?}");
        }
        left.is_empty()
    });
}

#[test]
fn a_killed_owner_leaves_nothing() {
    let Some((mut child, _out, dir)) = owner() else { return };
    let traces = Traces::of(&dir);
    // Enclosure, two nodes, etcd, client: each with three namespaces.
    assert!(traces.namespaces.len() >= 15, "{:?}", traces.namespaces);
    assert!(traces.pids.len() >= 10 && traces.left().len() > 20, "{:?}", traces.left());
    // A machine that is frozen at that moment is no obstacle.
    if let Some(cgroup) = &traces.cgroup {
        fs::write(cgroup.join("node-1.1/cgroup.freeze"), "1").expect("freeze");
    }
    child.kill().expect("kill");
    child.wait().expect("reaped");
    wait_gone(&traces);
}

#[test]
fn what_a_killed_janitor_left_the_next_lab_removes() {
    let Some((mut child, _out, dir)) = owner() else { return };
    let traces = Traces::of(&dir);
    let janitor = traces.pids.iter().find(|pid| parent(**pid) == Some(child.id())).expect("a child of the owner");
    let killed = Command::new("kill").args(["-KILL", &janitor.to_string()]).status();
    assert!(killed.expect("kill").success());
    child.kill().expect("kill");
    child.wait().expect("reaped");
    let lives = |left: &String| left.starts_with("process") || left.contains(":[");
    wait_for("no process and no namespace is left", || !traces.left().iter().any(lives));
    assert!(dir.exists(), "nobody was there to remove it");
    drop(Lab::or_skip(&Options::default()));
    assert_eq!(traces.left(), Vec::<String>::new());
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

#[test]
fn an_owner_that_ends_in_order_leaves_nothing() {
    let Some((mut child, mut out, dir)) = owner() else { return };
    let traces = Traces::of(&dir);
    drop(child.stdin.take());
    let mut text = String::new();
    out.read_to_string(&mut text).expect("its output");
    assert!(text.contains("/enter-node-1\n"), "{text}");
    assert!(child.wait().expect("ends").success());
    // Dropping a lab waits for its processes; the kernel takes a moment longer for the mounts of a dead machine.
    wait_gone(&traces);
}

#[test]
fn a_dropped_lab_leaves_nothing_of_what_still_goes_on() {
    let Some(lab) = Lab::or_skip(&Options { machines: 2, ..Options::default() }) else { return };
    let process = lab.machine(0).spawn(&["sleep", "600"], &[]).expect("spawn");
    let paused = lab.machine(1).spawn(&["sleep", "600"], &[]).expect("spawn");
    lab.machine(0).run(&["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & true"]).expect("detached");
    let stopped = lab.machine(0).spawn(&["sleep", "600"], &[]).expect("spawn");
    stopped.stop().expect("stop");
    let fault = lab.machine(0).isolate(Direction::Both).expect("inject");
    lab.machine(1).pause().expect("pause");
    let traces = Traces::of(lab.dir());
    assert!(traces.pids.len() >= 10, "{:?}", traces.pids);
    let began = Instant::now();
    drop(lab);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop((fault, process, paused, stopped));
    wait_gone(&traces);
}
