//! Snapshots, faults, several processes, and the end of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use holdfast_balancer::error::Error;
use holdfast_balancer::fault::{Fault, Kind};
use holdfast_host::clock;
use holdfast_policy::Incarnation;
use holdfast_policy::balance::Verdict;
use holdfast_policy::balance::ewma::SILENCE_MIN;

use super::backend::{Backend, wait_for};
use super::client::{Client, get};
use super::setup::{Node, endpoint};

#[test]
fn an_older_snapshot_is_refused_and_a_newer_epoch_taken() {
    let backend = Backend::named("ok");
    let mut node = Node::new(&[backend.addr], |_| {});
    let plane = node.serve();
    let old = node.snapshot.clone();
    let applied = plane.apply(node.next(|_| {})).unwrap();
    assert!(applied.persisted && applied.missing.is_empty());
    match plane.apply(&old) {
        Err(Error::Refused { code, .. }) => assert_eq!(code, "HF0503"),
        other => panic!("{other:?}"),
    }
    node.snapshot.epoch += 1;
    node.snapshot.seq = 0;
    assert!(plane.apply(&node.snapshot).is_ok());
    assert_eq!((plane.stats().epoch, plane.stats().seq), (2, 0));
    let mut bad = node.next(|_| {}).clone();
    bad.balancers[0].endpoints[0].slot = 60_000;
    assert!(plane.apply(&bad).is_err());
    assert_eq!(get(node.addr, "/").unwrap().text(), "ok");
}

#[test]
fn a_plane_that_starts_without_an_agent_serves_what_it_served() {
    let backend = Backend::named("ok");
    let node = Node::new(&[backend.addr], |_| {});
    drop(node.serve());
    let plane = node.start(1);
    assert_eq!(get(node.addr, "/").unwrap().text(), "ok");
    assert_eq!(plane.stats().seq, 1);
}

#[test]
fn new_endpoints_are_used_at_once_on_old_connections() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let mut node = Node::new(&[one.addr], |_| {});
    let plane = node.serve();
    let mut client = Client::connect(node.addr);
    assert_eq!(client.get("/").unwrap().text(), "one");
    let addr = two.addr;
    plane.apply(node.next(|b| b.endpoints = vec![endpoint(2, addr)])).unwrap();
    assert_eq!(client.get("/").unwrap().text(), "two");
}

#[test]
fn what_one_process_learns_the_other_obeys_until_a_new_incarnation() {
    let (dead, good) = (Backend::named("dead"), Backend::named("good"));
    dead.kill();
    let mut node = Node::new(&[dead.addr, good.addr], |_| {});
    let (first, second) = (node.serve(), node.start(2));
    second.apply(&node.snapshot).unwrap();
    wait_for("ejection", || {
        get(node.addr, "/")?;
        (first.stats().balancers[0].endpoints[0].ejections > 0).then_some(())
    });
    assert!(second.stats().balancers[0].endpoints[0].ejected_ms > 0);
    assert_ne!(first.stats().process, second.stats().process);
    let tries = || first.stats().balancers[0].endpoints[0].requests + second.stats().balancers[0].endpoints[0].requests;
    let before = tries();
    for _ in 0..40 {
        assert_eq!(get(node.addr, "/").unwrap().text(), "good");
    }
    assert_eq!(tries(), before, "nobody tries it again");
    let fresh = Backend::named("fresh");
    let addr = fresh.addr;
    let next = node.next(|b| {
        b.endpoints[0].addr = addr;
        b.endpoints[0].incarnation = Incarnation { generation: 1, run: 2 };
    });
    first.apply(next).unwrap();
    second.apply(next).unwrap();
    wait_for("fresh instance in rotation", || (get(node.addr, "/")?.text() == "fresh").then_some(()));
}

#[test]
fn faults_hit_and_vanish_by_themselves() {
    let backend = Backend::named("ok");
    let node = Node::new(&[backend.addr], |_| {});
    let plane = node.serve();
    let fault = |kind, ms| Fault {
        id: "drill".into(),
        balancer: "public".into(),
        instance: Some("web-1".into()),
        kind,
        share: 1.0,
        until_boot_ns: (clock::now() + Duration::from_millis(ms)).as_nanos(),
    };
    let set = |f: Fault| plane.ask(async |mut c: holdfast_balancer::control::Client| c.fault(f).await).unwrap();
    set(fault(Kind::Error(500), 60_000));
    let answer = get(node.addr, "/").unwrap();
    assert_eq!((answer.status, answer.text().starts_with("HF0527")), (500, true));
    set(fault(Kind::Reset, 60_000));
    assert_eq!(get(node.addr, "/").unwrap().status, 502);
    assert_eq!(plane.stats().faults.len(), 1, "the same id replaces");
    set(fault(Kind::LatencyMs(300), 60_000));
    let started = std::time::Instant::now();
    assert_eq!(get(node.addr, "/").unwrap().status, 200);
    assert!(started.elapsed() >= Duration::from_millis(300));
    plane.ask(async |mut c: holdfast_balancer::control::Client| c.clear_fault("drill").await).unwrap();
    assert_eq!(get(node.addr, "/").unwrap().status, 200);
    set(fault(Kind::Error(500), 200));
    wait_for("end of the fault", || (get(node.addr, "/")?.status == 200).then_some(()));
    assert!(plane.stats().faults.is_empty());
}

#[test]
fn a_request_under_a_fault_waits_like_a_real_one() {
    let (silent, good) = (Backend::named("silent"), Backend::named("good"));
    let node = Node::new(&[silent.addr, good.addr], |_| {});
    let plane = node.serve();
    let fault = Fault {
        id: "drill".into(),
        balancer: "public".into(),
        instance: Some("web-1".into()),
        kind: Kind::NoAnswer,
        share: 1.0,
        until_boot_ns: (clock::now() + Duration::from_secs(60)).as_nanos(),
    };
    plane.ask(async |mut c: holdfast_balancer::control::Client| c.fault(fault).await).unwrap();
    let (table, addr) = (node.table(), node.addr);
    let stop = Arc::new(AtomicBool::new(false));
    let waiting = std::thread::spawn({
        let stop = stop.clone();
        // Those that the other one answers are followed by the next, until one has waited.
        move || while get(addr, "/").is_some_and(|a| a.status == 200) && !stop.load(SeqCst) {}
    });
    wait_for("a longer silence than is usual", || {
        (table.silent_for(0, clock::now())? > 2 * SILENCE_MIN && table.in_flight(0) == 1).then_some(())
    });
    for _ in 0..30 {
        assert_eq!(get(addr, "/").unwrap().text(), "good", "the one with a request that waits costs more");
    }
    assert_eq!((table.in_flight(0), silent.count()), (1, 0));
    // The agent sees that it waits without progress, and the request is asked for elsewhere too.
    table.set_verdict(0, Verdict::NoProgress);
    stop.store(true, SeqCst);
    wait_for("the answer of the other", || {
        table.beat(clock::now());
        waiting.is_finished().then_some(())
    });
    assert_eq!(plane.stats().balancers[0].endpoints[0].hedges, 1);
}

#[test]
fn sockets_for_a_new_address_come_by_the_control_socket() {
    let backend = Backend::named("ok");
    let mut node = Node::new(&[backend.addr], |_| {});
    let plane = node.serve();
    let sockets = holdfast_host::listen::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
    let addr = sockets[0].local_addr().unwrap();
    let applied = plane.apply(node.next(|b| b.listen.push(addr))).unwrap();
    assert_eq!(applied.missing, [addr]);
    plane.ask(async |mut c: holdfast_balancer::control::Client| c.listeners(&sockets).await).unwrap();
    assert_eq!(get(addr, "/").unwrap().text(), "ok");
    assert_eq!(get(node.addr, "/").unwrap().text(), "ok");
}

#[test]
fn a_removed_balancer_ends_its_connections() {
    let backend = Backend::named("ok");
    let mut node = Node::new(&[backend.addr], |_| {});
    let plane = node.serve();
    let mut client = Client::connect(node.addr);
    assert_eq!(client.get("/").unwrap().status, 200);
    let mut next = node.next(|_| {}).clone();
    next.balancers.clear();
    plane.apply(&next).unwrap();
    assert!(client.get("/").is_none_or(|a| a.status == 503));
}

#[test]
fn a_full_disk_keeps_nothing_from_being_used() {
    let backend = Backend::named("ok");
    let mut node = Node::new(&[backend.addr], |_| {});
    let plane = node.serve();
    // A directory in the place of the kept snapshot fails every write, as a full disk would.
    let kept = plane.dir.join("snapshot.json");
    let _ = std::fs::remove_file(plane.dir.join("snapshot.json.spare"));
    std::fs::create_dir(plane.dir.join("snapshot.json.spare")).unwrap();
    let _ = std::fs::remove_file(&kept);
    let applied = plane.apply(node.next(|_| {})).unwrap();
    assert!(!applied.persisted);
    assert_eq!(plane.stats().seq, 2);
    assert_eq!(get(node.addr, "/").unwrap().text(), "ok");
}
