//! Named limits and what a client sees at them.

use std::io::Read;
use std::time::{Duration, Instant};

use holdfast_policy::balance::State;

use super::backend::{Backend, reply, wait_for};
use super::client::{Client, get};
use super::setup::Node;

#[test]
fn heads_and_bodies_over_their_limit_are_refused() {
    let backend = Backend::named("ok");
    let node = Node::new(&[backend.addr], |b| {
        b.limits.header_bytes = 4096;
        b.limits.headers = 10;
        b.limits.body_bytes = Some(1000);
    });
    let _plane = node.serve();
    let status = |text: String| Client::connect(node.addr).send(text).answer().map(|a| (a.status, a.text()));
    let head = |extra: &str| format!("GET / HTTP/1.1\r\nHost: t\r\n{extra}\r\n");
    assert_eq!(status(head(&"A: b\r\n".repeat(9))).unwrap().0, 200);
    let (code, text) = status(head(&"A: b\r\n".repeat(10))).unwrap();
    assert!(code == 431 && text.starts_with("HF0521"), "{text}");
    assert_eq!(status(head(&format!("A: {}\r\n", "x".repeat(5000)))).unwrap().0, 431);
    let post =
        |length: usize| format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    assert_eq!(status(post(1000)).unwrap().0, 200);
    assert_eq!(status(post(1001)).unwrap().0, 413);
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n{}\r\n0\r\n\r\n",
        "x".repeat(2048)
    );
    assert_eq!(status(chunked).unwrap().0, 413);
}

#[test]
fn a_head_that_does_not_come_is_408_and_an_idle_connection_is_closed_silently() {
    let backend = Backend::named("ok");
    let node = Node::new(&[backend.addr], |b| {
        b.timeouts.request_head_ms = 300;
        b.timeouts.keep_alive_ms = 300;
    });
    let _plane = node.serve();
    let answer = Client::connect(node.addr).send("GET / HT").answer().unwrap();
    assert_eq!(answer.status, 408);
    let mut idle = Client::connect(node.addr);
    assert_eq!(idle.get("/").unwrap().status, 200);
    let mut rest = Vec::new();
    idle.reader().read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn a_silent_server_is_504_after_the_first_byte_limit() {
    let backend = Backend::start(|_, _| {
        std::thread::sleep(Duration::from_secs(3));
        false
    });
    let node = Node::new(&[backend.addr], |b| b.timeouts.first_byte_ms = 300);
    let _plane = node.serve();
    let started = Instant::now();
    let answer = get(node.addr, "/").unwrap();
    assert_eq!((answer.status, answer.text().starts_with("HF0524")), (504, true));
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn the_total_limit_covers_the_body() {
    let backend = Backend::start(|seen, stream| {
        use std::io::Write;
        let length = if seen.line.contains("/small") { 100 } else { 100_000 };
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(100));
            if stream.write_all(b"x").is_err() {
                break;
            }
        }
        false
    });
    let node = Node::new(&[backend.addr], |b| b.timeouts.total_ms = 500);
    let _plane = node.serve();
    let started = Instant::now();
    let mut client = Client::connect(node.addr);
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    let mut bytes = Vec::new();
    let _ = client.reader().read_to_end(&mut bytes);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(String::from_utf8_lossy(&bytes).starts_with("HTTP/1.1 200"), "what had begun is cut");
    let started = Instant::now();
    assert_eq!(get(node.addr, "/small").unwrap().status, 504, "nothing had reached the client");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn connections_over_the_limit_get_503() {
    let backend = Backend::named("ok");
    let node = Node::new(&[backend.addr], |b| b.limits.connections = 2);
    let _plane = node.serve();
    let mut held: Vec<Client> = (0..2).map(|_| Client::connect(node.addr)).collect();
    for client in &mut held {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    let answer = Client::connect(node.addr).answer().unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    held.pop();
    wait_for("a free place", || (get(node.addr, "/")?.status == 200).then_some(()));
}

#[test]
fn not_ready_is_obeyed_even_by_the_last_and_suspect_is_used_when_nothing_is_left() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let mut node = Node::new(&[one.addr, two.addr], |b| {
        b.endpoints[0].state = State::NotReady;
        b.endpoints[0].retry_after_s = 7;
        b.endpoints[1].state = State::Suspect;
    });
    let plane = node.serve();
    assert_eq!(get(node.addr, "/").unwrap().text(), "two");
    let mut client = Client::connect(node.addr);
    assert_eq!(client.get("/").unwrap().text(), "two");
    plane.apply(node.next(|b| b.endpoints[1].state = State::Draining)).unwrap();
    let answer = client.get("/").unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")));
    assert!(answer.text().starts_with("HF0525"));
    plane.apply(node.next(|b| b.endpoints[0].state = State::Ready)).unwrap();
    assert_eq!(client.get("/").unwrap().text(), "one", "the same connection all along");
}

#[test]
fn requests_in_flight_at_an_instance_are_bounded() {
    let backend = Backend::start(|_, stream| {
        std::thread::sleep(Duration::from_millis(300));
        reply(stream, 200, b"ok")
    });
    let node = Node::new(&[backend.addr], |b| b.limits.in_flight = Some(1));
    let _plane = node.serve();
    let addr = node.addr;
    let first = std::thread::spawn(move || get(addr, "/").unwrap().status);
    wait_for("first in flight", || (node.table().in_flight(0) == 1).then_some(()));
    let second = get(node.addr, "/").unwrap();
    assert!(second.status == 503 && second.text().starts_with("HF0526"));
    assert_eq!(first.join().unwrap(), 200);
}
