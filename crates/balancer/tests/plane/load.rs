//! Under load: deaths, drains and changes without a lost GET.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use super::backend::{Backend, reply, wait_for};
use super::client::Client;
use super::setup::{Node, endpoint};

/// Clients that send GETs until stopped. A connection that was closed between two requests is opened again, as any
/// client does; everything else that is not 200 is a failure.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(u64, Vec<String>)>>,
}

impl Load {
    pub(crate) fn start(addr: SocketAddr, clients: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients).map(|_| run(addr, stop.clone())).collect();
        Load { stop, clients }
    }

    fn end(self) -> u64 {
        let (good, failed) = self.outcome();
        assert!(failed.is_empty(), "{} failed after {good}: {:?}", failed.len(), &failed[..failed.len().min(5)]);
        good
    }

    pub(crate) fn outcome(self) -> (u64, Vec<String>) {
        self.stop.store(true, SeqCst);
        let (mut total, mut all) = (0, Vec::new());
        for client in self.clients {
            let (good, failed) = client.join().unwrap();
            total += good;
            all.extend(failed);
        }
        (total, all)
    }
}

fn run(addr: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<(u64, Vec<String>)> {
    std::thread::spawn(move || {
        let (mut good, mut failed) = (0, Vec::new());
        let mut client: Option<Client> = None;
        while !stop.load(SeqCst) {
            let Some(mut c) = client.take().or_else(|| Client::try_connect(addr)) else {
                failed.push("not connected".into());
                continue;
            };
            match c.get("/") {
                Some(answer) if answer.status == 200 => {
                    good += 1;
                    if answer.header("connection") != Some("close") {
                        client = Some(c);
                    }
                }
                other => failed.push(format!("{:?}", other.map(|a| (a.status, a.text())))),
            }
        }
        (good, failed)
    })
}

pub(crate) fn slow(name: &'static str) -> Backend {
    Backend::start(move |_, stream| {
        std::thread::sleep(Duration::from_millis(2));
        reply(stream, 200, name.as_bytes())
    })
}

#[test]
fn killing_one_of_two_again_and_again_loses_no_get() {
    let (mut one, two) = (slow("one"), slow("two"));
    let mut node = Node::new(&[one.addr, two.addr], |_| {});
    let plane = node.serve();
    let load = Load::start(node.addr, 16);
    for run in 2..8 {
        let before = one.count();
        wait_for("traffic on the first", || (one.count() > before + 20).then_some(()));
        one.kill();
        let after = two.count();
        wait_for("traffic on the second", || (two.count() > after + 50).then_some(()));
        one = slow("one again");
        let addr = one.addr;
        let next = node.next(|b| {
            b.endpoints[0].addr = addr;
            b.endpoints[0].incarnation.run = run;
        });
        plane.apply(next).unwrap();
    }
    assert!(load.end() > 500);
    assert_eq!(node.table().counters(0).failed, 0);
}

#[test]
fn draining_one_of_two_processes_resets_and_refuses_nothing() {
    let (one, two) = (slow("one"), slow("two"));
    let node = Node::new(&[one.addr, two.addr], |_| {});
    let mut old = node.serve();
    let load = Load::start(node.addr, 8);
    for number in 2..6 {
        let new = node.start(number);
        new.apply(&node.snapshot).unwrap();
        let before = one.count() + two.count();
        wait_for("traffic", || (one.count() + two.count() > before + 100).then_some(()));
        let draining = std::mem::replace(&mut old, new);
        draining.drain().unwrap();
    }
    assert!(load.end() > 300);
    wait_for("nothing in flight", || (node.table().in_flight(0) + node.table().in_flight(1) == 0).then_some(()));
}

#[test]
fn a_drain_closes_idle_connections_and_ends() {
    let one = slow("one");
    let node = Node::new(&[one.addr], |_| {});
    let plane = node.serve();
    let mut client = Client::connect(node.addr);
    assert_eq!(client.get("/").unwrap().status, 200);
    plane.begin_drain();
    let answer = client.get("/").unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "a request on its way is answered");
    plane.drain().unwrap();
}

#[test]
fn a_hundred_changes_touch_no_connection() {
    let backends: Vec<Backend> = (0..3).map(|_| slow("x")).collect();
    let addrs: Vec<SocketAddr> = backends.iter().map(|b| b.addr).collect();
    let mut node = Node::new(&addrs, |_| {});
    let plane = node.serve();
    let load = Load::start(node.addr, 8);
    for change in 0..100u16 {
        let next = node.next(|b| {
            b.endpoints = (0..3).filter(|i| *i != change % 3).map(|i| endpoint(i + 1, addrs[usize::from(i)])).collect();
        });
        plane.apply(next).unwrap();
    }
    let before: u64 = backends.iter().map(Backend::count).sum();
    wait_for("traffic", || (backends.iter().map(Backend::count).sum::<u64>() > before + 50).then_some(()));
    load.end();
}
