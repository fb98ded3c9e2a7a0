//! Members that are killed, stopped and restarted under reads, writes, leases and watches.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::election::Campaign;
use holdfast_cluster::etcd::fixture::{self, Cluster, Spec};
use holdfast_cluster::etcd::{Etcd, Options};
use holdfast_cluster::{Change, Error, Event, Guard, Op, Store, Txn, Watch};
use holdfast_policy::lease::Timings;
use tokio::time::{Instant, timeout};

use crate::roles::soon;

fn put(key: &str, value: &str) -> Txn {
    Txn::always([Op::put(key, value)])
}

/// Which member leads, by its place among the endpoints.
async fn leader(etcd: &Etcd) -> usize {
    let wait = async {
        loop {
            let all = etcd.status().await;
            let leads = |s: &holdfast_cluster::etcd::EndpointStatus| s.status.as_ref().is_ok_and(|s| s.is_leader());
            if let Some(index) = all.iter().position(leads) {
                return index;
            }
        }
    };
    soon(wait).await
}

/// `first` comes first, so that it is asked until it fails.
fn starting_at(cluster: &Cluster, first: usize) -> Options {
    let mut options = cluster.options();
    options.endpoints.rotate_left(first);
    options
}

async fn next_change(watch: &mut Watch) -> (u64, Vec<Change>) {
    soon(async {
        loop {
            match watch.next().await {
                Event::Changes { revision, changes } => return (revision, changes),
                Event::Progress { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await
}

/// Until it is acknowledged; what may or may not have happened is written again.
async fn eventually_put(store: &dyn Store, key: &str) -> u64 {
    soon(async {
        loop {
            match store.txn(put(key, "x")).await {
                Ok(outcome) => return outcome.revision,
                Err(Error::Unavailable { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

/// Writes `/w/N` for rising N, each tried once; those that were acknowledged.
async fn write_many(etcd: Etcd, from: u32, count: u32) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for n in from..from + count {
        let key = format!("/w/{n:04}");
        match etcd.txn(Txn::when([Guard::absent(&key)]).then([Op::put(&key, "x")])).await {
            Ok(outcome) => {
                assert!(outcome.succeeded, "{key}: tried once, and there already");
                acknowledged.insert(key);
            }
            Err(Error::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leaders_lose_no_acknowledged_write_and_no_event() {
    let mut cluster = Cluster::start(Spec::new(3));
    let etcd = Etcd::open(cluster.options()).await.unwrap();
    let mut watch = etcd.watch("/w/".into(), 0).await.unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..2 {
        let writers: Vec<_> =
            (0..3).map(|w| tokio::spawn(write_many(etcd.clone(), round * 900 + w * 300, 40))).collect();
        let victim = leader(&etcd).await;
        cluster.kill(victim);
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
        eventually_put(&etcd, &format!("/after/{round}")).await;
        cluster.restart(victim);
    }
    let listing = soon(etcd.list("/w/".into())).await.unwrap();
    let present: BTreeSet<String> = listing.items.into_iter().map(|kv| kv.key).collect();
    assert!(acknowledged.is_subset(&present), "lost: {:?}", acknowledged.difference(&present));
    assert!(acknowledged.len() > 60, "most writes go on: {}", acknowledged.len());
    let (mut seen, mut last) = (BTreeSet::new(), 0);
    while seen.len() < present.len() {
        let (revision, changes) = next_change(&mut watch).await;
        assert!(revision > last, "revisions rise");
        last = revision;
        for change in changes {
            assert!(matches!(&change, Change::Put(kv) if kv.version == 1), "{change:?}");
            assert!(seen.insert(change.key().to_owned()), "told twice: {change:?}");
        }
    }
    assert_eq!(seen, present);
}

#[tokio::test]
async fn a_watch_goes_on_elsewhere_when_its_member_dies() {
    let mut cluster = Cluster::start(Spec::new(3));
    let etcd = Etcd::open(cluster.options()).await.unwrap();
    let mut watch = etcd.watch("/k".into(), 0).await.unwrap();
    let mut want = vec![eventually_put(&etcd, "/k").await];
    assert_eq!(next_change(&mut watch).await.0, want[0]);
    cluster.kill(0);
    want.extend([eventually_put(&etcd, "/k").await, eventually_put(&etcd, "/k").await]);
    let (mut seen, last) = (Vec::new(), *want.last().unwrap());
    while seen.last() != Some(&last) {
        seen.push(next_change(&mut watch).await.0);
    }
    assert!(want[1..].iter().all(|revision| seen.contains(revision)), "{want:?} {seen:?}");
}

#[tokio::test]
async fn a_stopped_member_costs_one_request_time_and_then_others_are_asked() {
    let cluster = Cluster::start(Spec::new(3));
    let watcher = Etcd::open(cluster.options()).await.unwrap();
    let stopped = (leader(&watcher).await + 1) % 3;
    let request_timeout = Duration::from_millis(700);
    let etcd = Etcd::open(Options { request_timeout, ..starting_at(&cluster, stopped) }).await.unwrap();
    etcd.txn(put("/a", "1")).await.unwrap();
    cluster.pause(stopped);
    let began = Instant::now();
    let unknown = etcd.txn(put("/unknown", "1")).await;
    assert!(matches!(unknown, Err(Error::Unavailable { .. })), "{unknown:?}");
    assert!(began.elapsed() >= request_timeout && began.elapsed() < request_timeout * 4, "{:?}", began.elapsed());
    let known = soon(etcd.txn(put("/known", "1"))).await.unwrap();
    assert!(known.succeeded);
    // A fresh handle meets the stopped member with a read.
    let reader = Etcd::new(Options { request_timeout, ..starting_at(&cluster, stopped) }).unwrap();
    assert!(soon(reader.get("/known".into())).await.unwrap().is_some(), "a read is tried elsewhere");
    cluster.resume(stopped);
    // Nothing was claimed about it, so either is right, but it must be the same for everybody from now on.
    let settled =
        soon(etcd.txn(Txn::when([Guard::absent("/unknown")]).then([Op::put("/unknown", "2")]))).await.unwrap();
    let value = soon(etcd.get("/unknown".into())).await.unwrap().unwrap().value;
    assert!(value == b"1" || settled.succeeded, "{value:?}");
}

#[tokio::test]
async fn a_renewal_does_not_wait_for_a_stopped_member() {
    let cluster = Cluster::start(Spec::new(3));
    let watcher = Etcd::open(cluster.options()).await.unwrap();
    let stopped = (leader(&watcher).await + 1) % 3;
    // So long that whoever waits for it has lost every lease.
    let request_timeout = Duration::from_secs(20);
    let etcd = Etcd::open(Options { request_timeout, ..starting_at(&cluster, stopped) }).await.unwrap();
    let lease = etcd.grant(Timings::FAST.ttl).await.unwrap().id;
    cluster.pause(stopped);
    let began = Instant::now();
    let left = soon(etcd.keep_alive(lease)).await.unwrap();
    assert!(left <= Timings::FAST.ttl && began.elapsed() < request_timeout / 2, "{:?}", began.elapsed());
    // A definite answer counts from whoever it comes.
    etcd.revoke(lease).await.unwrap();
    assert!(matches!(soon(etcd.keep_alive(lease)).await, Err(Error::LeaseNotFound(_))));
    cluster.resume(stopped);
}

#[tokio::test]
async fn a_watch_leaves_a_stopped_member_and_misses_nothing() {
    let cluster = Cluster::start(Spec::new(3));
    let writer = Etcd::open(cluster.options()).await.unwrap();
    let stopped = (leader(&writer).await + 1) % 3;
    let writer = Etcd::open(starting_at(&cluster, (stopped + 1) % 3)).await.unwrap();
    let impatient = Options {
        watch_silence_max: Duration::from_millis(500),
        request_timeout: Duration::from_millis(700),
        ..starting_at(&cluster, stopped)
    };
    let etcd = Etcd::open(impatient).await.unwrap();
    let mut watch = etcd.watch("/k".into(), 0).await.unwrap();
    let first = eventually_put(&writer, "/k").await;
    assert_eq!(next_change(&mut watch).await.0, first);
    cluster.pause(stopped);
    let second = eventually_put(&writer, "/k").await;
    assert_eq!(next_change(&mut watch).await.0, second);
    cluster.resume(stopped);
}

#[tokio::test]
async fn a_quiet_watch_stays_where_it_is() {
    let cluster = Cluster::start(Spec::new(1));
    let options = Options { watch_silence_max: Duration::from_millis(50), ..cluster.options() };
    let etcd = Etcd::open(options).await.unwrap();
    let mut watch = etcd.watch("/k".into(), 0).await.unwrap();
    let silence = timeout(Duration::from_millis(800), watch.next()).await;
    assert!(silence.is_err(), "nothing is told while nothing happens: {silence:?}");
    let revision = eventually_put(&etcd, "/k").await;
    assert_eq!(next_change(&mut watch).await.0, revision);
}

#[tokio::test]
async fn a_watch_and_its_handle_outlive_a_restart_of_etcd() {
    let mut cluster = Cluster::start(Spec::new(1));
    let etcd = Etcd::open(cluster.options()).await.unwrap();
    let mut watch = etcd.watch("/k".into(), 0).await.unwrap();
    let first = eventually_put(&etcd, "/k").await;
    assert_eq!(next_change(&mut watch).await.0, first);
    cluster.restart(0);
    let second = etcd.txn(put("/k", "2")).await.expect("a connection that died meanwhile is no failure").revision;
    assert_eq!(next_change(&mut watch).await.0, second);
}

#[tokio::test]
async fn a_watch_is_told_of_compaction_while_it_was_cut_off() {
    let mut cluster = Cluster::start(Spec::new(3));
    let etcd = Etcd::open(cluster.options()).await.unwrap();
    let cut_off = (leader(&etcd).await + 1) % 3;
    let only = Options::new([cluster.endpoints()[cut_off].clone()]);
    let mut watch = Etcd::open(only).await.unwrap().watch("/k".into(), 0).await.unwrap();
    let first = eventually_put(&etcd, "/k").await;
    assert_eq!(next_change(&mut watch).await.0, first);
    // History that the watch has seen may go.
    etcd.compact(first).await.unwrap();
    let second = eventually_put(&etcd, "/k").await;
    assert_eq!(next_change(&mut watch).await.0, second);
    cluster.kill(cut_off);
    eventually_put(&etcd, "/k").await;
    let last = eventually_put(&etcd, "/k").await;
    soon(etcd.compact(last)).await.unwrap();
    cluster.restart(cut_off);
    assert_eq!(soon(watch.next()).await, Event::Compacted { compacted: last });
    assert_eq!(watch.next().await, Event::Lost);
}

#[tokio::test]
async fn without_a_quorum_nothing_is_claimed_and_it_heals() {
    let mut cluster = Cluster::start(Spec::new(3));
    let request_timeout = Duration::from_millis(700);
    let etcd = Etcd::open(Options { request_timeout, ..cluster.options() }).await.unwrap();
    cluster.kill(1);
    cluster.kill(2);
    let began = Instant::now();
    let write = etcd.txn(put("/a", "1")).await;
    assert!(matches!(write, Err(Error::Unavailable { .. })), "{write:?}");
    let read = etcd.get("/a".into()).await;
    assert!(matches!(read, Err(Error::Unavailable { .. })), "reads go through the quorum: {read:?}");
    assert!(began.elapsed() < request_timeout * 8, "{:?}", began.elapsed());
    cluster.restart(1);
    eventually_put(&etcd, "/a").await;
}

#[tokio::test]
async fn a_watch_outlives_the_quorum() {
    let mut cluster = Cluster::start(Spec::new(3));
    let etcd = Etcd::open(cluster.options()).await.unwrap();
    let mut watch = etcd.watch("/k".into(), 0).await.unwrap();
    let first = eventually_put(&etcd, "/k").await;
    cluster.kill(1);
    cluster.kill(2);
    assert_eq!(next_change(&mut watch).await.0, first);
    cluster.restart(1);
    let second = eventually_put(&etcd, "/k").await;
    let mut seen = first;
    while seen < second {
        seen = next_change(&mut watch).await.0;
    }
    assert_eq!(seen, second);
}

/// Which members of 3.4 do every ten minutes only.
#[tokio::test]
async fn a_quiet_watch_tells_its_progress() {
    for binary in fixture::binaries().into_iter().filter(|binary| !fixture::version(binary).starts_with("3.4.")) {
        let arguments = vec!["--experimental-watch-progress-notify-interval=100ms".into()];
        let cluster = Cluster::start(Spec { binary, arguments, ..Spec::new(1) });
        let etcd = Etcd::open(cluster.options()).await.unwrap();
        let mut watch = etcd.watch("/quiet".into(), 0).await.unwrap();
        let elsewhere = eventually_put(&etcd, "/k").await;
        let reached = async {
            loop {
                match watch.next().await {
                    Event::Progress { revision } if revision >= elsewhere => return revision,
                    Event::Progress { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        assert_eq!(soon(reached).await, elsewhere);
        let revision = eventually_put(&etcd, "/quiet").await;
        assert_eq!(next_change(&mut watch).await.0, revision);
    }
}

#[tokio::test]
async fn with_no_member_at_all_it_says_so_in_time() {
    let mut cluster = Cluster::start(Spec::new(1));
    let options = Options { request_timeout: Duration::from_millis(500), ..cluster.options() };
    let etcd = Etcd::open(options.clone()).await.unwrap();
    cluster.kill(0);
    let write = soon(etcd.txn(put("/a", "1"))).await.unwrap_err();
    assert_eq!(write.code(), "HF0410", "{write}");
    assert!(write.to_string().contains(&cluster.endpoints()[0]), "it names who was asked: {write}");
    let opened = soon(Etcd::open(options)).await.err().unwrap();
    assert_eq!(opened.code(), "HF0426", "{opened}");
    let status = etcd.status().await;
    assert!(status.len() == 1 && status[0].status.is_err());
}

#[tokio::test]
async fn a_role_outlives_the_leader_of_etcd() {
    let mut cluster = Cluster::start(Spec::new(3));
    let etcd = Etcd::open(cluster.options()).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(etcd.clone());
    let campaign = Campaign {
        store,
        key: "/leader/agent".into(),
        node: "n1".into(),
        nonce: "a".into(),
        // An election of etcd takes one to three seconds, and two thirds of this are left for it.
        timings: Timings::for_ttl(Duration::from_secs(15)),
        epoch: 1,
        clock: holdfast_cluster::boot_clock(),
        own_node_is_dead: false,
    };
    let held = soon(campaign.win()).await.unwrap();
    let victim = leader(&etcd).await;
    let before = held.deadline();
    cluster.kill(victim);
    let wait_renewed = async {
        while held.deadline() <= before {
            timeout(Duration::from_millis(20), held.lost()).await.expect_err("it is not lost");
        }
    };
    soon(wait_renewed).await;
    assert!(held.holds());
}
