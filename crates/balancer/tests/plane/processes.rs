//! Planes as processes of their own, with inherited sockets: what a kill costs.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::backend::wait_for;
use super::client::get;
use super::load::{Load, slow};
use super::setup::{Node, THREADS};

/// Sockets come as standard input and output and are moved to where LISTEN_FDS begins.
const PASS: &str = "exec 3<&0 4>&1 </dev/null >/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\"";

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cargo builds the examples of a crate before it runs its tests, beside them.
fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    deps.parent().unwrap().parent().unwrap().join("examples/plane")
}

fn start(node: &Node, number: usize) -> Process {
    let file = node.dir.path().join("snapshot.json");
    std::fs::write(&file, node.snapshot.to_bytes()).unwrap();
    let ready = node.dir.path().join(format!("ready-{number}"));
    let notify = std::os::unix::net::UnixDatagram::bind(&ready).unwrap();
    notify.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let socket = |i: usize| OwnedFd::from(node.sockets[i].try_clone().unwrap());
    let child = Command::new("sh")
        .args(["-c", PASS])
        .arg(program())
        .arg(node.dir.path().join(format!("process-{number}")))
        .arg(&file)
        .arg(THREADS.to_string())
        .arg(node.shared())
        .env("NOTIFY_SOCKET", &ready)
        .stdin(Stdio::from(socket(0)))
        .stdout(Stdio::from(socket(1)))
        .spawn()
        .unwrap();
    let process = Process(child);
    let mut bytes = [0; 64];
    let count = notify.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..count], b"READY=1");
    process
}

#[test]
fn killing_a_plane_loses_at_most_what_it_had_and_refuses_nothing() {
    const CLIENTS: usize = 8;
    let (one, two) = (slow("one"), slow("two"));
    let node = Node::new(&[one.addr, two.addr], |_| {});
    let mut old = start(&node, 0);
    let mut kills = 0;
    let load = Load::start(node.addr, CLIENTS);
    for number in 1..6 {
        let new = start(&node, number);
        let before = one.count() + two.count();
        wait_for("traffic", || (one.count() + two.count() > before + 100).then_some(()));
        drop(std::mem::replace(&mut old, new));
        kills += 1;
        wait_for("an answer from the other", || (get(node.addr, "/")?.status == 200).then_some(()));
    }
    let (good, failed) = load.outcome();
    assert!(good > 300);
    assert!(failed.len() <= kills * CLIENTS, "{} failed: {failed:?}", failed.len());
    assert!(!failed.contains(&"not connected".to_owned()), "refused: {failed:?}");
    // Counts of the dead are still there; each of their requests in flight is forgotten when their place is taken.
    assert!(node.table().counters(0).good >= good - 50);
    // The last one takes the place of the last dead; the other lives until it has counted its own requests out.
    let _last = start(&node, 9);
    wait_for("nothing in flight", || (node.table().in_flight(0) + node.table().in_flight(1) == 0).then_some(()));
    drop(old);
}
