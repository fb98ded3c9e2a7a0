//! Each row of the replay table, as a client sees it.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use holdfast_balancer::snapshot::BalancerSnapshot;
use holdfast_policy::balance::Algorithm;

use super::backend::{Backend, reply, wait_for};
use super::client::{Answer, Client, get};
use super::setup::Node;

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Takes requests and closes without an answer.
fn dies() -> Backend {
    Backend::start(|_, stream| {
        let _ = stream.shutdown(std::net::Shutdown::Both);
        false
    })
}

/// Every server in turn, however it failed before.
fn even(b: &mut BalancerSnapshot) {
    b.algorithm = Algorithm::RoundRobin;
    b.eject.enabled = false;
}

fn post(addr: SocketAddr, extra: &str) -> Answer {
    Client::connect(addr)
        .send(format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n{extra}\r\nhi"))
        .answer()
        .unwrap()
}

#[test]
fn a_refused_connection_goes_to_another_server_and_ejects_at_once() {
    let good = Backend::named("good");
    let node = Node::new(&[nobody(), good.addr], |_| {});
    let plane = node.serve();
    for _ in 0..50 {
        assert_eq!(post(node.addr, "").status, 200, "a POST that was never sent may be sent");
    }
    let stats = plane.stats();
    let dead = &stats.balancers[0].endpoints[0];
    assert!((1..=2).contains(&dead.connect_failures), "{dead:?}");
    assert!(dead.ejected_ms > 0 && dead.ejections == 1, "{dead:?}");
    assert_eq!(node.table().counters(0).failed, 0);
}

#[test]
fn a_get_is_sent_once_more_elsewhere_and_a_post_is_not() {
    let (bad, good) = (dies(), Backend::named("good"));
    let node = Node::new(&[bad.addr, good.addr], even);
    let _plane = node.serve();
    for _ in 0..30 {
        assert_eq!(get(node.addr, "/").unwrap().status, 200);
    }
    assert!(bad.count() > 0);
    let statuses: Vec<u16> = (0..30).map(|_| post(node.addr, "").status).collect();
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
    let before = bad.count() + good.count();
    post(node.addr, "");
    assert_eq!(bad.count() + good.count(), before + 1, "sent exactly once");
    for _ in 0..30 {
        assert_eq!(post(node.addr, "Idempotency-Key: k1\r\n").status, 200);
    }
}

#[test]
fn a_get_never_goes_to_a_third_after_two_died() {
    let (one, two, good) = (dies(), dies(), Backend::named("good"));
    let node = Node::new(&[one.addr, two.addr, good.addr], even);
    let _plane = node.serve();
    let statuses: Vec<u16> = (0..60).map(|_| get(node.addr, "/").unwrap().status).collect();
    assert!(statuses.contains(&502), "two deaths are an answer: {statuses:?}");
    assert!(one.count() + two.count() + good.count() <= 120);
}

#[test]
fn retry_switched_off_is_off() {
    let good = Backend::named("good");
    let node = Node::new(&[nobody(), good.addr], |b| {
        b.retry.enabled = false;
        b.eject.enabled = false;
    });
    let _plane = node.serve();
    let statuses: Vec<u16> = (0..40).map(|_| get(node.addr, "/").unwrap().status).collect();
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
}

#[test]
fn listed_statuses_are_retried_for_idempotent_requests_only() {
    let bad = Backend::start(|_, stream| reply(stream, 503, b"later"));
    let good = Backend::named("good");
    let node = Node::new(&[bad.addr, good.addr], |b| {
        b.retry.statuses = vec![503];
        even(b);
    });
    let _plane = node.serve();
    for _ in 0..30 {
        assert_eq!(get(node.addr, "/").unwrap().text(), "good");
    }
    assert!((0..30).any(|_| post(node.addr, "").status == 503));
}

#[test]
fn gateway_errors_in_a_row_eject_but_never_the_last_one() {
    let bad = Backend::start(|_, stream| reply(stream, 502, b"bad"));
    let good = Backend::named("good");
    let node = Node::new(&[bad.addr, good.addr], |b| b.algorithm = Algorithm::RoundRobin);
    let plane = node.serve();
    let failed = (0..40).filter(|_| get(node.addr, "/").unwrap().status == 502).count();
    assert_eq!(failed, 5);
    assert!(plane.stats().balancers[0].endpoints[0].ejected_ms > 0);
    drop(plane);
    let node = Node::new(&[bad.addr], |_| {});
    let plane = node.serve();
    for _ in 0..20 {
        assert_eq!(get(node.addr, "/").unwrap().text(), "bad", "its own answer, not one of ours");
    }
    assert_eq!(plane.stats().balancers[0].endpoints[0].ejections, 0);
}

#[test]
fn the_only_server_gets_a_second_try_when_it_had_closed_a_kept_connection() {
    // Answers once on each connection and closes without saying so.
    let backend = Backend::start(|_, stream| {
        let _ = reply(stream, 200, b"ok");
        let _ = stream.shutdown(std::net::Shutdown::Both);
        false
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let mut client = Client::connect(node.addr);
    for i in 0..400 {
        assert_eq!(client.get("/").map(|a| a.status), Some(200), "request {i}");
    }
}

#[test]
fn the_pooled_connection_race_loses_no_get() {
    // Closes after each answer, a moment later, so that some requests cross the close.
    let racy = || {
        let n = Arc::new(AtomicU64::new(0));
        Backend::start(move |_, stream| {
            let _ = reply(stream, 200, b"ok");
            for _ in 0..(n.fetch_add(1, SeqCst) % 7) * 200 {
                std::hint::spin_loop();
            }
            let _ = stream.shutdown(std::net::Shutdown::Both);
            false
        })
    };
    let (one, two) = (racy(), racy());
    let node = Node::new(&[one.addr, two.addr], |_| {});
    let plane = node.serve();
    let mut client = Client::connect(node.addr);
    for i in 0..1000 {
        assert_eq!(client.get("/").map(|a| a.status), Some(200), "request {i}");
    }
    let stats = plane.stats();
    assert!(stats.balancers[0].endpoints.iter().all(|e| e.ejections == 0), "closing is no fault: {stats:?}");
}

#[test]
fn a_body_that_is_held_is_sent_again_whole() {
    let bad = dies();
    let good = Backend::start(|seen, stream| reply(stream, 200, &seen.body));
    let node = Node::new(&[bad.addr, good.addr], even);
    let _plane = node.serve();
    for size in [10usize, 60_000] {
        for _ in 0..10 {
            let body = vec![b'x'; size];
            let mut client = Client::connect(node.addr);
            client.send(format!("PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n\r\n"));
            client.send(&body);
            let answer = client.answer().unwrap();
            assert!(answer.status == 200 && answer.seen.body == body, "{size}: {}", answer.status);
        }
    }
    for _ in 0..10 {
        let mut client = Client::connect(node.addr);
        client.send("PUT / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(client.answer().unwrap().text(), "abc");
    }
}

/// Answers with a head that promises `length` bytes, and dies after the first few.
fn dies_within_its_answer(length: usize) -> Backend {
    Backend::start(move |_, stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nhalf");
        let _ = stream.shutdown(std::net::Shutdown::Both);
        false
    })
}

#[test]
fn a_small_answer_that_breaks_off_is_asked_for_elsewhere() {
    let (bad, good) = (dies_within_its_answer(100), Backend::named("good"));
    let node = Node::new(&[bad.addr, good.addr], even);
    let _plane = node.serve();
    for _ in 0..30 {
        assert_eq!(get(node.addr, "/").unwrap().text(), "good");
    }
    assert!(bad.count() > 0);
    let statuses: Vec<u16> = (0..30).map(|_| post(node.addr, "").status).collect();
    assert!(
        statuses.contains(&502) && !statuses.contains(&0),
        "an error that is whole, and no second POST: {statuses:?}"
    );
    let failed = statuses.iter().filter(|s| **s == 502).count() as u64;
    // The last one is counted after its client has it.
    wait_for("each 502 to be counted", || (node.table().counters(0).failed == failed).then_some(()));
}

#[test]
fn a_small_answer_that_comes_in_pieces_is_whole() {
    let backend = Backend::start(|seen, stream| {
        let body = [b'x'; 5000];
        let _ =
            write!(stream, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        for piece in body.chunks(1700) {
            hold_a_moment();
            let _ = stream.write_all(piece);
        }
        seen.nth < 5
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let mut client = Client::connect(node.addr);
    for _ in 0..3 {
        let answer = client.get("/").unwrap();
        assert!(answer.status == 200 && answer.seen.body == [b'x'; 5000]);
    }
    assert_eq!(backend.connections.load(SeqCst), 1, "kept alive");
}

/// Long enough for what was written to be read by itself.
fn hold_a_moment() {
    std::thread::sleep(std::time::Duration::from_millis(5));
}

#[test]
fn a_request_waits_a_moment_for_an_instance_that_is_being_started_again() {
    let addr = nobody();
    let node = Node::new(&[addr], |_| {});
    let _plane = node.serve();
    let waiting = std::thread::spawn({
        let to = node.addr;
        move || get(to, "/")
    });
    wait_for("the first try", || (node.table().ejection(0).failures > 0).then_some(()));
    let _back = Backend::at(addr, |_, stream| reply(stream, 200, b"back"));
    assert_eq!(waiting.join().unwrap().unwrap().text(), "back");
    assert_eq!(node.table().counters(0).failed, 0);
}

#[test]
fn all_dead_is_an_answer_and_not_a_storm() {
    let node = Node::new(&[nobody(), nobody()], |_| {});
    let plane = node.serve();
    for _ in 0..100 {
        assert_eq!(get(node.addr, "/").unwrap().status, 502);
    }
    let stats = plane.stats();
    let tries: u64 = stats.balancers[0].endpoints.iter().map(|e| e.requests).sum();
    // Some 19 rests, 25 with all the jitter one way, fill the second in which they are allowed; each tries both again. Those
    // who rest, five at most, try both before that too.
    assert!(tries <= 100 + 5 + 2 * 25, "{tries} tries for 100 requests");
}

#[test]
fn a_server_that_speaks_no_http_is_a_bad_gateway() {
    let backend = Backend::start(|_, stream| stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").is_ok());
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let answer = get(node.addr, "/").unwrap();
    assert_eq!((answer.status, answer.text().starts_with("HF0523")), (502, true));
}
