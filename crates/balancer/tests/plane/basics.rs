//! Requests that work.

use std::collections::BTreeSet;

use super::backend::{Backend, reply, wait_for};
use super::client::{Client, get};
use super::setup::Node;

#[test]
fn requests_are_spread_and_connections_kept() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let node = Node::new(&[one.addr, two.addr], |_| {});
    let plane = node.serve();
    let mut client = Client::connect(node.addr);
    let names: BTreeSet<String> = (0..100).map(|_| client.get("/").unwrap().text()).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["one", "two"]);
    let connections = one.connections.load(std::sync::atomic::Ordering::SeqCst);
    assert!(connections <= 2, "{connections} connections for {} requests", one.count());
    let stats = plane.stats();
    assert_eq!(stats.balancers[0].endpoints.iter().map(|e| e.requests).sum::<u64>(), 100);
    assert!(stats.balancers[0].endpoints[0].p99_us.is_some());
    // A client has its answer a moment before it is counted.
    wait_for("all counted", || (node.table().counters(0).good == 100).then_some(()));
    wait_for("nothing in flight", || (node.table().in_flight(0) + node.table().in_flight(1) == 0).then_some(()));
}

#[test]
fn the_backend_sees_who_asked() {
    let backend = Backend::start(|seen, stream| reply(stream, 200, seen.headers.join("\n").as_bytes()));
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let answer = get(node.addr, "/").unwrap();
    assert_eq!(
        answer.text(),
        "Host: test\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: http\nX-Forwarded-Host: test\nVia: 1.1 holdfast"
    );
}
