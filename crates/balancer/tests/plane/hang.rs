//! Hung or busy: requests that wait while the agent says what it sees.

use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use holdfast_host::clock;
use holdfast_policy::balance::Verdict;

use super::backend::{Backend, reply, wait_for};
use super::client::{Answer, Client, get};
use super::setup::Node;

/// Answers only when released.
struct Gate {
    backend: Backend,
    open: Arc<(Mutex<bool>, Condvar)>,
}

fn gated() -> Gate {
    let open: Arc<(Mutex<bool>, Condvar)> = Arc::default();
    let door = open.clone();
    let backend = Backend::start(move |_, stream: &mut TcpStream| {
        let guard = door.0.lock().unwrap();
        let _ = door.1.wait_timeout_while(guard, Duration::from_secs(20), |open| !*open).unwrap();
        reply(stream, 200, b"slow")
    });
    Gate { backend, open }
}

impl Gate {
    fn open(&self) {
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// Sends `request` until one waits at `gate`, then gives `verdict` to it. Returns the answer and how long it took.
fn wait_at(node: &Node, gate: &Gate, request: &'static str, verdict: Verdict) -> (Option<Answer>, Duration) {
    let table = node.table();
    let addr = node.addr;
    loop {
        let started = Instant::now();
        let waiting = std::thread::spawn(move || Client::connect(addr).send(request).answer());
        // It was answered by the other one, or it waits.
        wait_for("request to wait", || {
            (waiting.is_finished() || table.waiting_since(0).is_some() && gate.backend.count() > 0).then_some(())
        });
        if waiting.is_finished() {
            let _ = waiting.join();
            continue;
        }
        table.set_verdict(0, verdict);
        wait_for("answer", || {
            table.beat(clock::now());
            if started.elapsed() > Duration::from_millis(700) {
                gate.open();
            }
            waiting.is_finished().then_some(())
        });
        return (waiting.join().unwrap(), started.elapsed());
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: t\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn a_waiting_get_of_a_stopped_instance_moves_at_once() {
    let (gate, good) = (gated(), Backend::named("good"));
    let node = Node::new(&[gate.backend.addr, good.addr], |_| {});
    let plane = node.serve();
    let (answer, took) = wait_at(&node, &gate, GET, Verdict::Stopped);
    assert_eq!(answer.unwrap().text(), "good");
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert_eq!(plane.stats().balancers[0].endpoints[0].moves, 1);
    // New requests do not go there while the verdict stands.
    let before = gate.backend.count();
    for _ in 0..20 {
        node.table().beat(clock::now());
        assert_eq!(get(node.addr, "/").unwrap().text(), "good");
    }
    assert_eq!(gate.backend.count(), before);
    assert_eq!(plane.stats().balancers[0].endpoints[0].verdict, "stopped");
}

#[test]
fn without_progress_it_is_sent_once_more_and_the_first_answer_wins() {
    let (gate, good) = (gated(), Backend::named("good"));
    let node = Node::new(&[gate.backend.addr, good.addr], |_| {});
    let plane = node.serve();
    let (answer, took) = wait_at(&node, &gate, GET, Verdict::NoProgress);
    assert_eq!(answer.unwrap().text(), "good");
    assert!(took < Duration::from_millis(500), "{took:?}");
    let stats = plane.stats();
    assert_eq!((stats.balancers[0].endpoints[0].hedges, stats.balancers[0].endpoints[0].moves), (1, 0));
    wait_for("nothing in flight", || (node.table().in_flight(0) == 0).then_some(()));
}

#[test]
fn the_first_try_may_win_the_race() {
    let (gate, other) = (gated(), gated());
    let node = Node::new(&[gate.backend.addr, other.backend.addr], |_| {});
    let _plane = node.serve();
    let table = node.table();
    let addr = node.addr;
    let waiting = std::thread::spawn(move || get(addr, "/"));
    let slot = wait_for("request to wait", || (0..2).find(|s| table.waiting_since(*s).is_some()));
    table.set_verdict(slot, Verdict::NoProgress);
    let (first, second) = if slot == 0 { (&gate, &other) } else { (&other, &gate) };
    wait_for("hedge", || {
        table.beat(clock::now());
        (second.backend.count() == 1).then_some(())
    });
    first.open();
    assert_eq!(waiting.join().unwrap().unwrap().text(), "slow");
    assert_eq!((first.backend.count(), second.backend.count()), (1, 1));
}

#[test]
fn busy_moves_nothing_and_a_post_never_moves() {
    for (request, verdict) in [(GET, Verdict::Busy), (POST, Verdict::Stopped)] {
        let (gate, good) = (gated(), Backend::named("good"));
        let node = Node::new(&[gate.backend.addr, good.addr], |_| {});
        let _plane = node.serve();
        let (answer, took) = wait_at(&node, &gate, request, verdict);
        assert_eq!(answer.unwrap().text(), "slow", "{verdict:?}");
        assert!(took >= Duration::from_millis(700), "{took:?}");
    }
}

#[test]
fn evidence_against_all_is_void_and_without_an_agent_there_is_none() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let node = Node::new(&[one.addr, two.addr], |_| {});
    let _plane = node.serve();
    let table = node.table();
    table.set_verdict(0, Verdict::Stopped);
    table.set_verdict(1, Verdict::NoProgress);
    table.beat(clock::now());
    let names: Vec<String> = (0..40).map(|_| get(node.addr, "/").unwrap().text()).collect();
    assert!(names.contains(&"one".into()) && names.contains(&"two".into()), "{names:?}");
}
