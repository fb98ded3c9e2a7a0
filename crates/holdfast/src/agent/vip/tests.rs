//! Two nodes and a client on a switch of their own, real kernels and packets, one store. Needs root for the namespaces.

mod net;
mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_cluster::embedded::{Embedded, Options};
use holdfast_policy::lease::Timings;
use holdfast_policy::vip::Peers as Found;

use self::net::Net;
use self::node::{Asked, Flaky, Node, Scene};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What a takeover may take beside the lease: a free lease is seen within one sweep of the engine, three probes, one announcement.
const TAKEOVER: Duration = Duration::from_secs(1);

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A scene on a network that this process may make; says why not otherwise.
fn scene() -> Option<Scene> {
    match Net::new(3) {
        Ok(net) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let open = Embedded::open(dir.path().join("coord.db"), Options::default());
            let store = Arc::new(runtime.block_on(open).unwrap());
            Some(Scene { net, store, clear: Arc::new(AtomicBool::new(true)), _runtime: runtime, _dir: dir })
        }
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

/// Until `b` has it and the client knows; both kernels are looked at all the while.
fn measure_takeover(scene: &Scene, began: Instant) -> (Duration, Duration) {
    wait_for("the address at b", || {
        let (a, b) = (scene.net.has(0), scene.net.has(1));
        assert!(!(a && b), "two kernels carry it");
        b
    });
    let added = began.elapsed();
    wait_for("the client's neighbour entry", || scene.net.neighbour(2) == Some(scene.net.mac(1)));
    (added, began.elapsed())
}

#[test]
fn the_address_moves_when_its_node_dies_and_at_once_when_it_leaves() {
    let Some(scene) = scene() else { return };
    let fast = Timings::FAST;
    let a = Node::start(&scene, 0, "a", fast, scene.store.clone());
    wait_for("the address at a", || scene.net.has(0));
    scene.net.learn(2, scene.net.mac(0));
    let b = Node::start(&scene, 1, "b", fast, scene.store.clone());
    wait_for("b to wait for it", || b.state() == "standby" && b.seen().owner.as_deref() == Some("a"));

    let began = Instant::now();
    a.kill();
    let (added, known) = measure_takeover(&scene, began);
    println!("killed, fast: at b after {added:?}, known to the client after {known:?}");
    assert!(known < fast.ttl + TAKEOVER, "{known:?}");
    wait_for("the journal of b", || b.told().iter().any(|t| t.ends_with("ready")));
    let stages: Vec<String> = b.told().into_iter().filter(|t| !t.ends_with("neutral")).collect();
    let want =
        ["owned -> lost detected", "standby -> probing decided", "probing -> owned acted", "owned -> owned ready"];
    assert_eq!(stages, want);

    let a = Node::start(&scene, 0, "a", fast, scene.store.clone());
    wait_for("a to wait for it", || a.state() == "standby");
    assert!(scene.net.has(1), "a node that returns does not take it back");
    let began = Instant::now();
    b.leave();
    wait_for("the address at a", || {
        let (a, b) = (scene.net.has(0), scene.net.has(1));
        assert!(!(a && b), "two kernels carry it");
        a
    });
    wait_for("the client's neighbour entry", || scene.net.neighbour(2) == Some(scene.net.mac(0)));
    let known = began.elapsed();
    println!("left: known to the client after {known:?}");
    assert!(known < TAKEOVER, "{known:?}");
    wait_for("the journal of a", || a.told().iter().any(|t| t.starts_with("probing -> owned")));
    assert!(a.told().iter().all(|t| t.ends_with("neutral")), "a planned one is no incident: {:?}", a.told());
}

#[test]
fn a_new_agent_goes_on_without_a_gap() {
    let Some(scene) = scene() else { return };
    let a = Node::start(&scene, 0, "a", Timings::FAST, scene.store.clone());
    wait_for("the address at a", || scene.net.has(0));
    let b = Node::start(&scene, 1, "b", Timings::FAST, scene.store.clone());
    wait_for("b to wait for it", || b.state() == "standby");
    a.kill();
    let a = Node::start(&scene, 0, "a", Timings::FAST, scene.store.clone());
    // Longer than lease and lifetime, so that it must have been renewed.
    let until = Instant::now() + Timings::FAST.ttl + TAKEOVER;
    wait_for("the lease to pass", || {
        assert!(scene.net.has(0) && !scene.net.has(1), "a gap");
        Instant::now() > until
    });
    assert_eq!((a.state().as_str(), b.state().as_str()), ("owned", "standby"));
}

#[test]
fn an_address_that_a_foreign_host_uses_is_left_alone_until_it_is_free() {
    let Some(scene) = scene() else { return };
    scene.net.add(2);
    let a = Node::start(&scene, 0, "a", Timings::FAST, scene.store.clone());
    wait_for("the conflict to be seen", || a.state() == "conflict");
    assert!(a.seen().reason.is_some_and(|r| r.contains(&scene.net.mac(2))), "{:?}", a.seen());
    assert!(a.told().iter().any(|t| t.contains("-> conflict")), "{:?}", a.told());
    assert!(!scene.net.has(0), "it was claimed all the same");
    scene.net.remove(2);
    wait_for("the address at a", || scene.net.has(0));

    scene.net.add(2);
    scene.net.announce(2);
    wait_for("the other host to be heard", || a.told().iter().any(|t| t.starts_with("owned -> owned")));
    assert!(scene.net.has(0), "the owner of the lease stays");
}

#[test]
fn without_a_store_the_address_stays_only_while_all_others_agree() {
    let Some(scene) = scene() else { return };
    let flaky = Arc::new(Flaky::new(scene.store.clone()));
    let a = Node::start_with(&scene, 0, "a", Timings::FAST, flaky.clone(), Arc::new(Asked(scene.clear.clone())));
    wait_for("the address at a", || scene.net.has(0));
    flaky.away.store(true, Ordering::SeqCst);
    wait_for("safe mode", || a.state() == "safe_mode");
    let until = Instant::now() + Timings::FAST.ttl + TAKEOVER;
    wait_for("the lease to pass", || {
        assert!(scene.net.has(0), "all agreed");
        Instant::now() > until
    });
    scene.clear.store(false, Ordering::SeqCst);
    let began = Instant::now();
    wait_for("the address to go", || !scene.net.has(0));
    assert!(began.elapsed() < Timings::FAST.give_up + TAKEOVER, "{:?}", began.elapsed());
    flaky.away.store(false, Ordering::SeqCst);
    scene.clear.store(true, Ordering::SeqCst);
    wait_for("the address to come back", || scene.net.has(0) && a.state() == "owned");
    let _ = Found::Silent;
}
