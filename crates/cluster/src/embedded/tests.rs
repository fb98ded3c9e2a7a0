//! What only the embedded engine promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_policy::Timestamp;

use super::{Embedded, Options};
use crate::{Change, Error, Event, Guard, Op, Store, Txn};

fn put(n: usize) -> Txn {
    Txn::always([Op::put(format!("/k/{n}"), "v")])
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening_with_the_same_revision() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("coord.db");
    let store = Embedded::open(&path, Options::default()).await.unwrap();
    let last = store.txn(put(1)).await.unwrap().revision;
    store.close().await;
    assert!(matches!(store.txn(put(2)).await, Err(Error::Local(_))), "closed");
    let again = Embedded::open(&path, Options::default()).await.unwrap();
    assert_eq!(again.revision().await.unwrap(), last);
    assert_eq!(again.get("/k/1".into()).await.unwrap().unwrap().create_revision, last);
}

/// A clock that the test moves.
fn hand_clock() -> (Arc<AtomicU64>, crate::Clock) {
    let ms = Arc::new(AtomicU64::new(1_000_000));
    let hand = ms.clone();
    (ms, Arc::new(move || Timestamp::from_millis(hand.load(Ordering::SeqCst))))
}

async fn wait_gone(store: &Embedded, key: &str) {
    let wait = async {
        while store.get(key.into()).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the key of an expired lease goes");
}

#[tokio::test]
async fn leases_run_by_the_given_clock_and_start_anew_at_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("coord.db");
    let (ms, clock) = hand_clock();
    let options = Options { clock, ..Options::default() };
    let store = Embedded::open(&path, options.clone()).await.unwrap();
    let lease = store.grant(Duration::from_secs(10)).await.unwrap().id;
    store.txn(Txn::always([Op::Put { key: "/l".into(), value: vec![1], lease: Some(lease) }])).await.unwrap();
    ms.fetch_add(9_000, Ordering::SeqCst);
    store.close().await;
    drop(store);

    ms.fetch_add(60_000, Ordering::SeqCst);
    let store = Embedded::open(&path, options).await.unwrap();
    ms.fetch_add(9_000, Ordering::SeqCst);
    assert!(store.keep_alive(lease).await.is_ok(), "a full time from the restart on");
    ms.fetch_add(9_999, Ordering::SeqCst);
    assert!(store.get("/l".into()).await.unwrap().is_some());
    ms.fetch_add(1, Ordering::SeqCst);
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseNotFound(_))), "exactly at its deadline");
    wait_gone(&store, "/l").await;
}

#[tokio::test]
async fn engine_time_goes_on_across_restarts_and_never_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("coord.db");
    let (ms, clock) = hand_clock();
    let options = Options { clock, ..Options::default() };
    let mut before = Timestamp::ZERO;
    for round in 0..5 {
        let store = Embedded::open(&path, options.clone()).await.unwrap();
        assert!(store.engine_time() >= before);
        ms.fetch_add(1_700, Ordering::SeqCst);
        store.txn(put(round)).await.unwrap();
        ms.fetch_add(300, Ordering::SeqCst);
        store.txn(put(round + 100)).await.unwrap();
        before = store.engine_time();
        store.close().await;
        // A reboot: boot time starts again from nothing.
        ms.store(1_000, Ordering::SeqCst);
    }
    assert!(before >= Timestamp::from_millis(8_000));
}

#[tokio::test]
async fn history_is_bounded_by_itself_and_an_old_watch_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_revisions_max: 100, ..Options::default() };
    let store = Embedded::open(dir.path().join("coord.db"), options).await.unwrap();
    let first = store.txn(put(0)).await.unwrap().revision;
    for n in 0..200 {
        store.txn(put(n % 7)).await.unwrap();
    }
    let mut watch = store.watch("/k/".into(), first).await.unwrap();
    let Event::Compacted { compacted } = watch.next().await else { panic!("expected Compacted") };
    assert!(compacted > first);
    assert_eq!(watch.next().await, Event::Lost, "nothing comes after it");
}

#[tokio::test]
async fn history_is_bounded_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_bytes_max: 64 << 10, ..Options::default() };
    let store = Embedded::open(dir.path().join("coord.db"), options).await.unwrap();
    let first = store.txn(put(0)).await.unwrap().revision;
    for _ in 0..40 {
        store.txn(Txn::always([Op::put("/big", vec![7u8; 8 << 10])])).await.unwrap();
    }
    let mut watch = store.watch(String::new(), first).await.unwrap();
    assert!(matches!(watch.next().await, Event::Compacted { .. }));
    let now = store.revision().await.unwrap();
    let mut watch = store.watch(String::new(), now).await.unwrap();
    assert!(matches!(watch.next().await, Event::Changes { .. }), "the newest revision is always kept");
}

async fn wait_given_up(watch: &crate::Watch) {
    let wait = async {
        while !watch.is_given_up() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the watcher is given up");
}

#[tokio::test]
async fn a_watcher_that_takes_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { watch_queue_max: 2, watch_stall_max: Duration::from_millis(50), ..Options::default() };
    let store = Embedded::open(dir.path().join("coord.db"), options).await.unwrap();
    let mut watch = store.watch("/k/".into(), 0).await.unwrap();
    for n in 0..10 {
        store.txn(put(n)).await.unwrap();
    }
    wait_given_up(&watch).await;
    let mut seen = 0;
    while watch.next().await != Event::Lost {
        seen += 1;
    }
    assert!((2..10).contains(&seen), "{seen}");
}

#[tokio::test]
async fn a_quiet_watch_tells_its_progress_and_closing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { progress_every: Duration::from_millis(20), ..Options::default() };
    let store = Embedded::open(dir.path().join("coord.db"), options).await.unwrap();
    let revision = store.txn(put(1)).await.unwrap().revision;
    let mut watch = store.watch("/other/".into(), revision).await.unwrap();
    assert_eq!(watch.next().await, Event::Progress { revision });
    store.close().await;
    let wait = async { while watch.next().await != Event::Lost {} };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("Lost after close");
}

#[tokio::test]
async fn a_watch_across_many_revisions_gets_each_once_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path().join("coord.db"), Options::default()).await.unwrap();
    let mut watch = store.watch("/k/".into(), 2).await.unwrap();
    let writers: Vec<_> = (0..8)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    store.txn(put(w * 100 + n)).await.unwrap();
                }
            })
        })
        .collect();
    let mut last = 1;
    for _ in 0..800 {
        let Event::Changes { revision, changes } = watch.next().await else { panic!("expected changes") };
        assert_eq!(revision, last + 1);
        assert!(matches!(&changes[..], [Change::Put(kv)] if kv.mod_revision == revision));
        last = revision;
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_failed_guard_writes_nothing_and_makes_no_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path().join("coord.db"), Options::default()).await.unwrap();
    let before = store.revision().await.unwrap();
    let outcome = store.txn(Txn::when([Guard::present("/x")]).then([Op::put("/x", "1")])).await.unwrap();
    assert!(!outcome.succeeded);
    assert_eq!((outcome.revision, store.revision().await.unwrap()), (before, before));
}
