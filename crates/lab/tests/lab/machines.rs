//! Machines: booted, killed, rebooted, paused, with disks and clocks of their own.

use std::fs;
use std::process::Command;
use std::time::Duration;

use holdfast_lab::{Lab, Options};

use crate::network::{answers, hears};

fn two() -> Option<Lab> {
    Lab::or_skip(&Options { machines: 2, ..Options::default() })
}

#[test]
fn a_machine_has_a_name_an_address_and_processes_of_its_own() {
    let Some(lab) = two() else { return };
    let node = lab.machine(0);
    assert_eq!(node.run(&["hostname"]).expect("hostname").trim(), "node-1");
    assert!(node.run(&["ip", "-4", "-o", "addr"]).expect("ip").contains(" 10.77.0.1/24 "));
    let pids = node.run(&["sh", "-c", "ls /proc | grep -c '^[0-9]'"]).expect("ls");
    assert!(pids.trim().parse::<u32>().expect("a number") < 10, "{pids}");
    let failed = node.run(&["sh", "-c", "echo why >&2; exit 3"]).expect_err("exit code 3");
    assert!(failed.to_string().contains("exit status: 3, why"), "{failed}");
    assert!(answers(node, lab.machine(1)));
    let entered = Command::new(node.entrance()).args(["sh", "-c", "hostname; pwd; cat /proc/self/cgroup"]).output();
    let entered = String::from_utf8_lossy(&entered.expect("enter").stdout).into_owned();
    assert!(entered.starts_with(&format!("node-1\n{}\n", node.dir().display())), "{entered}");
    assert!(node.pids().is_empty() || entered.contains("/node-1.1\n"), "{entered}");
}

#[test]
fn killed_with_everything_on_it_and_booted_again_with_its_disk() {
    let Some(lab) = two() else { return };
    let node = lab.machine(0);
    let boot_id = || node.run(&["cat", "/proc/sys/kernel/random/boot_id"]).expect("boot id");
    let first = boot_id();
    fs::write(node.outside("kept"), "x").expect("write");
    // Detached from what started it, and nobody's child.
    node.run(&["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo started"]).expect("start");
    let mut process = node.spawn(&["sleep", "600"], &[]).expect("spawn");
    let sleepers = || node.pids().iter().filter(|pid| command(**pid).starts_with("sleep")).count();
    wait_for("both sleep", || sleepers() == 2);
    let pids = node.pids();
    node.kill_all().expect("kill");
    assert!(pids.iter().all(|pid| command(*pid).is_empty()), "alive after the kill");
    assert!(!process.wait(Duration::from_secs(5)).expect("ended").success());
    assert!(!node.is_on() && node.run(&["true"]).is_err());
    node.boot().expect("boot");
    assert_eq!(node.run(&["cat", "kept"]).expect("disk"), "x");
    assert_ne!(first, boot_id());
    assert!(answers(node, lab.machine(1)) && answers(lab.machine(1), node));
    node.reboot().expect("reboot");
    assert!(answers(lab.machine(1), node));
}

fn command(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

#[test]
fn orphans_are_reaped() {
    let Some(lab) = two() else { return };
    let node = lab.machine(0);
    node.run(&["sh", "-c", "for i in 1 2 3; do (true &) ; done"]).expect("orphans");
    let zombies = || node.run(&["sh", "-c", "cat /proc/[0-9]*/stat | grep -c ') Z' || true"]).expect("stat");
    wait_for("no zombie is left", || zombies().trim() == "0");
}

#[test]
fn a_paused_machine_does_nothing_and_goes_on() {
    let Some(lab) = two() else { return };
    let node = lab.machine(0);
    let count = "i=0; while :; do i=$((i+1)); echo $i > count; sleep 0.01; done";
    let process = node.spawn(&["sh", "-c", count], &[]).expect("spawn");
    let read = || fs::read_to_string(node.outside("count")).unwrap_or_default();
    let counts = || {
        let before = read();
        wait_until(Duration::from_secs(1), || read() != before)
    };
    wait_for("it counts", counts);
    node.pause().expect("pause");
    assert!(!counts(), "a paused machine counts");
    assert!(!hears(lab.machine(1), node), "a paused machine answers");
    node.resume().expect("resume");
    wait_for("it counts again", counts);
    wait_for("it answers again", || hears(lab.machine(1), node));
    node.pause().expect("pause");
    node.kill_all().expect("a paused machine can be killed");
    assert!(!process.is_running());
    node.boot().expect("boot");
    assert!(answers(lab.machine(1), node));
}

#[test]
fn a_stopped_program_is_waited_for_after_it_goes_on() {
    let Some(lab) = two() else { return };
    let mut process = lab.machine(0).spawn(&["sleep", "600"], &[]).expect("spawn");
    process.stop().expect("stop");
    wait_for("it is stopped", || state(process.pid()) == Some('T'));
    process.cont().expect("continue");
    assert!(process.wait(Duration::from_millis(100)).is_err());
    process.terminate().expect("terminate");
    assert!(!process.wait(Duration::from_secs(10)).expect("ends").success());
}

fn state(pid: Option<u32>) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{}/stat", pid?)).ok()?;
    text.rsplit(") ").next()?.chars().next()
}

#[test]
fn a_small_disk_is_full_until_the_guard_goes() {
    let options = Options { machines: 1, disk_bytes: Some(1 << 20), ..Options::default() };
    let Some(lab) = Lab::or_skip(&options) else { return };
    let node = lab.machine(0);
    let write = || node.run(&["sh", "-c", "head -c 10000 /dev/zero > data"]);
    write().expect("there is room");
    let full = node.fill_disk().expect("fill");
    let error = write().err().or_else(|| node.run(&["sh", "-c", "head -c 20000 /dev/zero > more"]).err());
    assert!(error.expect("no room").to_string().contains("No space left"));
    drop(full);
    write().expect("there is room again");
    node.reboot().expect("reboot");
    assert_eq!(node.outside("data").metadata().expect("kept").len(), 10_000);
}

#[test]
fn clocks_may_differ() {
    let options = Options { machines: 2, clock_offsets_s: vec![86_400], ..Options::default() };
    let Some(lab) = Lab::or_skip(&options) else { return };
    let uptime = |i: usize| {
        let text = lab.machine(i).run(&["cat", "/proc/uptime"]).expect("uptime");
        text.split('.').next().and_then(|s| s.parse::<i64>().ok()).expect("seconds")
    };
    let ahead = uptime(0) - uptime(1);
    assert!((86_390..=86_410).contains(&ahead), "{ahead}");
}

pub(crate) fn wait_for(what: &str, seen: impl Fn() -> bool) {
    assert!(wait_until(Duration::from_secs(20), seen), "not within 20 s: {what}");
}

fn wait_until(limit: Duration, seen: impl Fn() -> bool) -> bool {
    let deadline = std::time::Instant::now() + limit;
    while std::time::Instant::now() < deadline {
        if seen() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
