//! The checks of [`super::CHECKS`].

use std::time::Duration;

use super::{Bench, next};
use crate::{Change, Error, Event, Guard, LeaseId, Op, Order, Response, Txn};

pub(super) async fn a_put_counts_versions_and_revisions(bench: Bench) {
    let first = bench.put("k", "1").await;
    let second = bench.put("k", "2").await;
    let kv = bench.get("k").await.expect("it was put");
    assert!(second > first);
    assert_eq!((kv.value.as_slice(), kv.create_revision, kv.mod_revision, kv.version), (&b"2"[..], first, second, 2));
}

pub(super) async fn a_deleted_key_begins_anew(bench: Bench) {
    let first = bench.put("k", "1").await;
    let gone = bench.txn(Txn::always([Op::delete(bench.key("k"))])).await;
    assert_eq!(gone.responses, [Response::Deleted(1)]);
    assert!(gone.revision > first && bench.get("k").await.is_none());
    let again = bench.put("k", "2").await;
    let kv = bench.get("k").await.expect("it was put again");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (again, again, 1));
}

pub(super) async fn guards_compare_as_written(bench: Bench) {
    let created = bench.put("k", "b").await;
    let modified = bench.put("k", "m").await;
    let key = bench.key("k");
    let value = |order, value: &str| Guard::Value { key: key.clone(), order, value: value.into() };
    let created_at = |order, revision| Guard::CreateRevision { key: key.clone(), order, revision };
    let modified_at = |order, revision| Guard::ModRevision { key: key.clone(), order, revision };
    let version = |order, version| Guard::Version { key: key.clone(), order, version };
    let table = [
        (value(Order::Equal, "m"), true),
        (value(Order::Equal, "x"), false),
        (value(Order::NotEqual, "x"), true),
        (value(Order::Greater, "a"), true),
        (value(Order::Less, "a"), false),
        (value(Order::Less, "ma"), true),
        (created_at(Order::Equal, created), true),
        (created_at(Order::Equal, modified), false),
        (created_at(Order::Less, modified), true),
        (modified_at(Order::Equal, modified), true),
        (modified_at(Order::Greater, created), true),
        (modified_at(Order::NotEqual, modified), false),
        (version(Order::Equal, 2), true),
        (version(Order::Greater, 2), false),
        (version(Order::Less, 3), true),
    ];
    for (guard, want) in table {
        assert_eq!(bench.txn(Txn::when([guard.clone()])).await.succeeded, want, "{guard:?}");
    }
}

pub(super) async fn guards_on_absent_keys(bench: Bench) {
    let key = bench.key("absent");
    let value = |order| Guard::Value { key: key.clone(), order, value: b"x".to_vec() };
    let table = [
        (Guard::absent(&key), true),
        (Guard::present(&key), false),
        (Guard::unchanged(&key, 0), true),
        (Guard::Version { key: key.clone(), order: Order::Less, version: 1 }, true),
        (value(Order::Equal), false),
        (value(Order::NotEqual), false),
        (value(Order::Less), false),
    ];
    for (guard, want) in table {
        assert_eq!(bench.txn(Txn::when([guard.clone()])).await.succeeded, want, "{guard:?}");
    }
}

pub(super) async fn all_guards_must_hold(bench: Bench) {
    bench.put("a", "1").await;
    let guards = [Guard::present(bench.key("a")), Guard::present(bench.key("b"))];
    let txn = Txn::when(guards).then([Op::put(bench.key("then"), "")]).otherwise([Op::put(bench.key("else"), "")]);
    assert!(!bench.txn(txn).await.succeeded);
    assert!(bench.get("then").await.is_none() && bench.get("else").await.is_some());
}

pub(super) async fn a_transaction_is_one_revision_and_reads_its_own_writes(bench: Bench) {
    bench.put("old", "1").await;
    let outcome = bench
        .txn(Txn::always([
            Op::get(bench.key("a")),
            Op::put(bench.key("a"), "1"),
            Op::put(bench.key("b"), "2"),
            Op::get(bench.key("a")),
            Op::delete(bench.key("old")),
            Op::List { prefix: bench.prefix.clone() },
        ]))
        .await;
    let [
        Response::Get(None),
        Response::Put,
        Response::Put,
        Response::Get(Some(a)),
        Response::Deleted(1),
        Response::List(list),
    ] = &outcome.responses[..]
    else {
        panic!("{:?}", outcome.responses)
    };
    assert_eq!(a.mod_revision, outcome.revision);
    let keys: Vec<&str> = list.iter().map(|kv| kv.key.as_str()).collect();
    assert_eq!(keys, [bench.key("a"), bench.key("b")]);
    assert!(list.iter().all(|kv| kv.create_revision == outcome.revision && kv.mod_revision == outcome.revision));
}

pub(super) async fn a_transaction_that_changes_nothing_has_no_revision(bench: Bench) {
    let last = bench.put("k", "1").await;
    let reads = bench.txn(Txn::always([Op::get(bench.key("k")), Op::delete(bench.key("none"))])).await;
    assert_eq!(reads.responses[1], Response::Deleted(0));
    let next = bench.put("k", "2").await;
    assert!(reads.revision >= last);
    assert!(next > reads.revision, "{last} {} {next}", reads.revision);
}

pub(super) async fn one_key_is_written_once_in_a_transaction(bench: Bench) {
    let key = bench.key("k");
    let twice = Txn::always([Op::put(&key, "1"), Op::put(&key, "2")]);
    let put_and_delete = Txn::always([Op::put(&key, "1"), Op::delete(&key)]);
    let put_and_sweep = Txn::always([Op::DeletePrefix { prefix: bench.prefix.clone() }, Op::put(&key, "1")]);
    for txn in [twice, put_and_delete, put_and_sweep] {
        let answer = bench.store.txn(txn).await;
        assert!(matches!(answer, Err(Error::DuplicateKey { .. })), "{answer:?}");
    }
    assert!(bench.list().await.items.is_empty());
}

pub(super) async fn bad_requests_are_refused_and_change_nothing(bench: Bench) {
    let empty = bench.store.txn(Txn::always([Op::put("", "x")])).await;
    assert!(matches!(empty, Err(Error::EmptyKey)), "{empty:?}");
    let large = vec![0u8; crate::VALUE_BYTES_MAX + 1];
    let large = bench.store.txn(Txn::always([Op::put(bench.key("large"), large)])).await;
    assert!(matches!(large, Err(Error::TooLarge { .. })), "{large:?}");
    let many = (0..=crate::TXN_OPS_MAX).map(|n| Op::put(bench.key(&n.to_string()), "x"));
    let many = bench.store.txn(Txn::always(many)).await;
    assert!(matches!(many, Err(Error::TooManyOps { .. })), "{many:?}");
    let lease = Some(LeaseId(i64::MAX - 7));
    let no_lease = [Op::put(bench.key("a"), "x"), Op::Put { key: bench.key("b"), value: vec![], lease }];
    let no_lease = bench.store.txn(Txn::always(no_lease)).await;
    assert!(matches!(no_lease, Err(Error::LeaseNotFound(_))), "{no_lease:?}");
    assert!(bench.list().await.items.is_empty(), "nothing of a refused transaction stays");
}

pub(super) async fn only_one_of_many_creates_a_key(bench: Bench) {
    let tries = (0..16).map(|n| {
        let bench = bench.clone();
        tokio::spawn(async move {
            let claim = Txn::when([Guard::absent(bench.key("k"))]).then([Op::put(bench.key("k"), n.to_string())]);
            bench.txn(claim).await.succeeded
        })
    });
    let mut winners = 0;
    for attempt in tries.collect::<Vec<_>>() {
        winners += u32::from(attempt.await.expect("the attempt ends"));
    }
    assert_eq!(winners, 1);
}

pub(super) async fn concurrent_counting_loses_nothing(bench: Bench) {
    bench.put("n", "0").await;
    let workers = (0..8).map(|_| {
        let bench = bench.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                count_up(&bench).await;
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.expect("the worker ends");
    }
    assert_eq!(bench.get("n").await.expect("it is there").value, b"80");
}

async fn count_up(bench: &Bench) {
    loop {
        let kv = bench.get("n").await.expect("it is there");
        let value: u64 = String::from_utf8_lossy(&kv.value).parse().expect("a number");
        let txn =
            Txn::when([Guard::unchanged(&kv.key, kv.mod_revision)]).then([Op::put(&kv.key, (value + 1).to_string())]);
        if bench.txn(txn).await.succeeded {
            return;
        }
    }
}

pub(super) async fn a_list_is_sorted_exact_and_of_one_revision(bench: Bench) {
    for name in ["b/2", "b/1", "b", "a", "b%", "b_", "bé", "c", "B/1"] {
        bench.put(name, "x").await;
    }
    let listing = bench.store.list(bench.key("b")).await.expect("the list is answered");
    let names: Vec<&str> = listing.items.iter().map(|kv| &kv.key[bench.prefix.len()..]).collect();
    assert_eq!(names, ["b", "b%", "b/1", "b/2", "b_", "bé"], "in byte order, nothing else");
    assert!(listing.items.iter().all(|kv| kv.mod_revision <= listing.revision));
    let next = bench.put("b", "y").await;
    assert!(next > listing.revision);
}

/// Long enough not to expire during a check.
const LONG: Duration = Duration::from_secs(600);

async fn put_leased(bench: &Bench, name: &str, lease: Option<LeaseId>) -> u64 {
    bench.txn(Txn::always([Op::Put { key: bench.key(name), value: b"x".to_vec(), lease }])).await.revision
}

pub(super) async fn a_lease_takes_its_keys_in_one_revision(bench: Bench) {
    let lease = bench.store.grant(LONG).await.expect("it is granted").id;
    put_leased(&bench, "a", Some(lease)).await;
    let last = put_leased(&bench, "b", Some(lease)).await;
    assert_eq!(bench.get("b").await.expect("it was put").lease, Some(lease));
    let mut watch = bench.watch(last + 1).await;
    bench.store.revoke(lease).await.expect("it is revoked");
    let Event::Changes { changes, .. } = next(&mut watch).await else { panic!("expected changes") };
    let mut gone: Vec<&str> = changes.iter().map(Change::key).collect();
    gone.sort_unstable();
    assert_eq!(gone, [bench.key("a"), bench.key("b")], "both in one revision");
    assert!(bench.list().await.items.is_empty());
    assert!(matches!(bench.store.revoke(lease).await, Err(Error::LeaseNotFound(_))));
}

pub(super) async fn an_expired_lease_takes_its_keys(bench: Bench) {
    let granted = bench.store.grant(bench.ttl_min).await.expect("it is granted");
    assert!(granted.ttl >= bench.ttl_min);
    let put = put_leased(&bench, "k", Some(granted.id)).await;
    let mut watch = bench.watch(put + 1).await;
    let Event::Changes { changes, .. } = next(&mut watch).await else { panic!("expected changes") };
    assert_eq!(changes, [Change::Delete { key: bench.key("k") }]);
    assert!(matches!(bench.store.keep_alive(granted.id).await, Err(Error::LeaseNotFound(_))));
}

pub(super) async fn a_kept_alive_lease_stays(bench: Bench) {
    let lease = bench.store.grant(bench.ttl_min).await.expect("it is granted");
    put_leased(&bench, "k", Some(lease.id)).await;
    let until = tokio::time::Instant::now() + lease.ttl * 3;
    while tokio::time::Instant::now() < until {
        let left = bench.store.keep_alive(lease.id).await.expect("it lives");
        assert!(left > Duration::ZERO && left <= lease.ttl);
        assert!(bench.get("k").await.is_some());
        tokio::time::sleep(lease.ttl / 5).await;
    }
}

pub(super) async fn a_key_follows_its_last_lease(bench: Bench) {
    let first = bench.store.grant(LONG).await.expect("it is granted").id;
    let second = bench.store.grant(LONG).await.expect("it is granted").id;
    assert_ne!(first, second);
    put_leased(&bench, "moved", Some(first)).await;
    put_leased(&bench, "moved", Some(second)).await;
    put_leased(&bench, "freed", Some(first)).await;
    put_leased(&bench, "freed", None).await;
    bench.store.revoke(first).await.expect("it is revoked");
    assert_eq!(bench.list().await.items.len(), 2, "neither hangs on the first lease any more");
    bench.store.revoke(second).await.expect("it is revoked");
    let left = bench.list().await.items;
    assert_eq!((left.len(), left[0].lease), (1, None));
}

pub(super) async fn unknown_leases_are_refused(bench: Bench) {
    let none = LeaseId(i64::MAX - 11);
    assert!(matches!(bench.store.keep_alive(none).await, Err(Error::LeaseNotFound(_))));
    assert!(matches!(bench.store.revoke(none).await, Err(Error::LeaseNotFound(_))));
}

pub(super) async fn a_watch_starts_at_its_revision(bench: Bench) {
    bench.put("k", "0").await;
    let from = bench.put("k", "1").await;
    let then = bench.put("k", "2").await;
    let gone = bench.delete("k").await;
    let mut watch = bench.watch(from).await;
    for want in [from, then] {
        let Event::Changes { revision, changes } = next(&mut watch).await else { panic!("expected changes") };
        let [Change::Put(kv)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((revision, kv.mod_revision), (want, want));
    }
    let deleted = Event::Changes { revision: gone, changes: vec![Change::Delete { key: bench.key("k") }] };
    assert_eq!(next(&mut watch).await, deleted);
    let live = bench.put("k", "3").await;
    assert!(
        matches!(next(&mut watch).await, Event::Changes { revision, .. } if revision == live),
        "history, then live"
    );
}

pub(super) async fn a_watch_from_now_sees_only_what_comes(bench: Bench) {
    bench.put("before", "x").await;
    let mut watch = bench.watch(0).await;
    let after = bench.put("after", "x").await;
    assert!(matches!(next(&mut watch).await, Event::Changes { revision, .. } if revision == after));
}

pub(super) async fn a_watch_keeps_transactions_whole(bench: Bench) {
    let mut watch = bench.watch(0).await;
    for round in 0..20 {
        let ops = (0..5).map(|n| Op::put(bench.key(&n.to_string()), round.to_string()));
        bench.txn(Txn::always(ops)).await;
    }
    for _ in 0..20 {
        let Event::Changes { changes, revision } = next(&mut watch).await else { panic!("expected changes") };
        assert_eq!(changes.len(), 5, "revision {revision}");
    }
}

pub(super) async fn a_watch_of_a_prefix_sees_no_other_key(bench: Bench) {
    let mut watch = bench.store.watch(bench.key("in/"), 0).await.expect("the watch starts");
    bench.txn(Txn::always([Op::put(bench.key("in/a"), "1"), Op::put(bench.key("out/a"), "1")])).await;
    bench.put("in", "1").await;
    bench.put("out/b", "1").await;
    let last = bench.put("in/b", "1").await;
    let Event::Changes { changes, .. } = next(&mut watch).await else { panic!("expected changes") };
    assert!(matches!(&changes[..], [Change::Put(kv)] if kv.key == bench.key("in/a")), "{changes:?}");
    assert!(matches!(next(&mut watch).await, Event::Changes { revision, .. } if revision == last));
}

pub(super) async fn a_watch_from_the_future_waits(bench: Bench) {
    let now = bench.put("k", "0").await;
    let mut watch = bench.watch(now + 3).await;
    let revisions = [bench.put("k", "1").await, bench.put("k", "2").await, bench.put("k", "3").await];
    let want = revisions.into_iter().find(|r| *r >= now + 3).expect("three writes reach it");
    assert!(matches!(next(&mut watch).await, Event::Changes { revision, .. } if revision == want));
}

pub(super) async fn a_compacted_watch_is_told(bench: Bench) {
    let first = bench.put("k", "1").await;
    let mut last = first;
    for n in 0..5 {
        last = bench.put("k", &n.to_string()).await;
    }
    bench.store.compact(last).await.expect("it is compacted");
    let mut watch = bench.watch(first).await;
    let Event::Compacted { compacted } = next(&mut watch).await else { panic!("expected Compacted") };
    assert!(compacted >= last);
    assert_eq!(watch.next().await, Event::Lost, "it is over");
    let again = bench.store.compact(first).await;
    assert!(matches!(again, Err(Error::Compacted { .. })), "{again:?}");
    let future = bench.store.compact(last + 1_000_000).await;
    assert!(matches!(future, Err(Error::FutureRevision { .. })), "{future:?}");
}

pub(super) async fn compaction_keeps_present_values(bench: Bench) {
    let created = bench.put("k", "1").await;
    let last = bench.put("k", "2").await;
    bench.store.compact(last).await.expect("it is compacted");
    let kv = bench.get("k").await.expect("it is still there");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (created, last, 2));
    let mut watch = bench.watch(last + 1).await;
    let live = bench.put("k", "3").await;
    assert!(matches!(next(&mut watch).await, Event::Changes { revision, .. } if revision == live));
}
