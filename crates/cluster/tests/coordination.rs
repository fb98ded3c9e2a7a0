//! The embedded engine under the conformance suite, and what is written above any engine.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_cluster::election::{Campaign, Leadership};
use holdfast_cluster::embedded::{Embedded, Options};
use holdfast_cluster::records::{Desired, JobDone, Pause, Records};
use holdfast_cluster::{
    Answer, Clock, Error, KeyValue, LeaseId, LeaseInfo, Listing, Op, Outcome, Store, Txn, Watch, conformance, epoch,
};
use holdfast_policy::Timestamp;
use holdfast_policy::lease::{FencingToken, Lost, Timings};

const WAIT: Duration = Duration::from_secs(20);

async fn open(dir: &Path) -> Arc<dyn Store> {
    Arc::new(Embedded::open(dir.join("coord.db"), Options::default()).await.unwrap())
}

/// Many in the prove lane, a few by default.
fn seeds() -> u64 {
    if std::env::var_os("HOLDFAST_PROVE").is_some() { 300 } else { 10 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_engine_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conformance::run(open(dir.path()).await, "embedded", Duration::from_millis(300)).await;
}

#[tokio::test]
async fn random_histories_are_those_of_the_model() {
    let dir = tempfile::tempdir().unwrap();
    conformance::random_histories(open(dir.path()).await, "embedded", 0..seeds()).await;
}

fn campaign(store: &Arc<dyn Store>, node: &str, nonce: &str) -> Campaign {
    Campaign {
        store: store.clone(),
        key: "/leader/agent".into(),
        node: node.into(),
        nonce: nonce.into(),
        timings: Timings::for_ttl(Duration::from_millis(600)),
        epoch: 3,
        clock: holdfast_cluster::boot_clock(),
        own_node_is_dead: false,
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT, future).await.expect("it happens in time")
}

#[tokio::test]
async fn one_holds_the_role_and_the_next_has_a_higher_token() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let first = soon(campaign(&store, "n1", "a").win()).await.unwrap();
    assert!(first.holds());
    assert!(campaign(&store, "n2", "b").try_win().await.unwrap().is_none());
    let waiting = tokio::spawn(campaign(&store, "n2", "c").win());
    let guarded = Txn::when([first.guard()]).then([Op::put("/x", "1")]);
    assert!(store.txn(guarded.clone()).await.unwrap().succeeded);
    let token = first.token();
    first.resign().await.unwrap();
    let second: Leadership = soon(waiting).await.unwrap().unwrap();
    assert!(second.token() > token && second.token().epoch == 3);
    assert!(!store.txn(guarded).await.unwrap().succeeded, "what the first one still sends is refused");
}

#[tokio::test]
async fn renewals_keep_the_role_longer_than_its_lease() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let held = soon(campaign(&store, "n1", "a").win()).await.unwrap();
    let granted = held.deadline();
    let wait_renewed = async {
        while held.deadline() < granted + Duration::from_millis(1800) {
            assert!(held.holds());
            tokio::task::yield_now().await;
            tokio::time::timeout(Duration::from_millis(20), held.lost()).await.expect_err("it is not lost");
        }
    };
    soon(wait_renewed).await;
}

#[tokio::test]
async fn a_restarted_agent_takes_over_from_its_dead_self_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut long = campaign(&store, "n1", "a");
    // Far longer than the test may take.
    long.timings = Timings::for_ttl(Duration::from_secs(60));
    let dead = soon(long.win()).await.unwrap();
    let token = dead.token();
    drop(dead);
    let mut again = campaign(&store, "n1", "b");
    again.own_node_is_dead = true;
    let held =
        tokio::time::timeout(Duration::from_secs(5), again.win()).await.expect("without waiting a minute").unwrap();
    assert!(held.token() > token);
    let mut stranger = campaign(&store, "n2", "c");
    stranger.own_node_is_dead = true;
    assert!(stranger.try_win().await.unwrap().is_none());
}

/// A store whose answers can be lost: the request is done, nobody hears of it.
struct Deaf {
    inner: Arc<dyn Store>,
    deaf: AtomicBool,
}

impl Deaf {
    fn answer<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        Box::pin(async move {
            let result = answer.await;
            if self.deaf.load(Ordering::SeqCst) { Err(Error::Unavailable { reason: "deaf".into() }) } else { result }
        })
    }
}

impl Store for Deaf {
    fn get(&self, key: String) -> Answer<'_, Option<KeyValue>> {
        self.answer(self.inner.get(key))
    }
    fn list(&self, prefix: String) -> Answer<'_, Listing> {
        self.inner.list(prefix)
    }
    fn txn(&self, txn: Txn) -> Answer<'_, Outcome> {
        self.answer(self.inner.txn(txn))
    }
    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseInfo> {
        self.inner.grant(ttl)
    }
    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, Duration> {
        self.answer(self.inner.keep_alive(lease))
    }
    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.inner.revoke(lease)
    }
    fn watch(&self, prefix: String, from: u64) -> Answer<'_, Watch> {
        self.inner.watch(prefix, from)
    }
    fn compact(&self, revision: u64) -> Answer<'_, ()> {
        self.inner.compact(revision)
    }
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_found_by_reading_again() {
    let dir = tempfile::tempdir().unwrap();
    let deaf = Arc::new(Deaf { inner: open(dir.path()).await, deaf: AtomicBool::new(true) });
    let store: Arc<dyn Store> = deaf.clone();
    let held = soon(campaign(&store, "n1", "a").win()).await.unwrap();
    deaf.deaf.store(false, Ordering::SeqCst);
    let kv = store.get("/leader/agent".into()).await.unwrap().unwrap();
    assert_eq!(kv.create_revision, held.token().create_revision);
}

#[tokio::test]
async fn unanswered_renewals_lose_the_role_before_the_lease_ends() {
    let dir = tempfile::tempdir().unwrap();
    let deaf = Arc::new(Deaf { inner: open(dir.path()).await, deaf: AtomicBool::new(false) });
    let store: Arc<dyn Store> = deaf.clone();
    let held = soon(campaign(&store, "n1", "a").win()).await.unwrap();
    deaf.deaf.store(true, Ordering::SeqCst);
    assert_eq!(soon(held.lost()).await, Lost::Unanswered);
    assert!(!held.holds());
    deaf.deaf.store(false, Ordering::SeqCst);
    assert!(!held.holds(), "it does not come back");
}

#[tokio::test]
async fn a_key_taken_away_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let held = soon(campaign(&store, "n1", "a").win()).await.unwrap();
    store.txn(Txn::always([Op::delete("/leader/agent")])).await.unwrap();
    assert_eq!(soon(held.lost()).await, Lost::Revoked);
}

#[tokio::test]
async fn the_epoch_rises_above_every_token_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let token = |epoch, create_revision| FencingToken { epoch, create_revision };
    assert_eq!(epoch::settle(&*store, []).await.unwrap(), 1);
    assert_eq!(epoch::settle(&*store, [token(1, 1)]).await.unwrap(), 1, "one of our own");
    assert_eq!(epoch::settle(&*store, [token(1, 1_000_000)]).await.unwrap(), 2, "restored from an older copy");
    assert_eq!(epoch::settle(&*store, [token(7, 5), token(3, 9)]).await.unwrap(), 8);
    assert_eq!(epoch::settle(&*store, [token(8, 2)]).await.unwrap(), 8);
    let fresh = tempfile::tempdir().unwrap();
    let recreated = open(fresh.path()).await;
    assert_eq!(epoch::settle(&*recreated, [token(8, 2)]).await.unwrap(), 9);
}

#[tokio::test]
async fn records_read_back_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(dir.path().join("coord.db"), Options::default()).await.unwrap();
    let records = Records::new(Arc::new(embedded.clone()));
    assert!(records.desired().await.unwrap().is_none());
    let desired = Desired {
        version: 1,
        toml: "[service.web]\n".into(),
        source: "/srv/holdfast.toml".into(),
        node: "n1".into(),
        applied_wall_ms: 5,
    };
    let revision = records.set_desired(&desired, Some(0)).await.unwrap();
    let stale = records.set_desired(&desired, Some(0)).await;
    assert!(matches!(stale, Err(Error::Changed { found, .. }) if found == revision), "{stale:?}");
    records.set_scale("web", Some(5)).await.unwrap();
    let pause = Pause {
        version: 1,
        name: Some("web".into()),
        since_wall_ms: 1,
        until_wall_ms: Some(10),
        reason: "upgrade".into(),
        by: "ann".into(),
    };
    records.pause(&pause).await.unwrap();
    let done = JobDone { version: 1, definition: "abc".into(), finished_wall_ms: 9 };
    records.set_job_done("migrate", &done).await.unwrap();
    embedded.close().await;

    let records = Records::new(open(dir.path()).await);
    assert_eq!(records.desired().await.unwrap(), Some((desired, revision)));
    assert_eq!(records.scales().await.unwrap().get("web"), Some(&5));
    assert_eq!(records.pauses().await.unwrap(), std::slice::from_ref(&pause));
    assert_eq!(records.job_done("migrate").await.unwrap(), Some(done));
    assert!(pause.covers("web", 9) && !pause.covers("web", 10) && !pause.covers("db", 9));
    assert!(records.resume(Some("web")).await.unwrap() && !records.resume(None).await.unwrap());
    records.set_scale("web", None).await.unwrap();
    assert!(records.scales().await.unwrap().is_empty() && records.pauses().await.unwrap().is_empty());
}

#[tokio::test]
async fn generations_rise_strictly_whoever_asks() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::new(open(dir.path()).await);
    assert_eq!(records.next_generation("web-1", 0).await.unwrap(), 1);
    assert_eq!(records.next_generation("web-1", 40).await.unwrap(), 41, "above what lies in the run directory");
    assert_eq!(records.next_generation("web-2", 0).await.unwrap(), 1);
    let askers: Vec<_> = (0..4)
        .map(|_| {
            let records = records.clone();
            tokio::spawn(async move { records.next_generation("web-1", 0).await.unwrap() })
        })
        .collect();
    let mut got = Vec::new();
    for asker in askers {
        got.push(asker.await.unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, [42, 43, 44, 45]);
}

#[tokio::test]
async fn ports_belong_to_one_instance_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::new(open(dir.path()).await);
    let any = |_| true;
    let askers: Vec<_> = (1..=4)
        .map(|n| {
            let records = records.clone();
            tokio::spawn(
                async move { records.assign_port(&format!("web-{n}"), 20_000..=20_003, 0, any).await.unwrap() },
            )
        })
        .collect();
    let mut got = Vec::new();
    for asker in askers {
        got.push(asker.await.unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, [20_000, 20_001, 20_002, 20_003]);
    let full = records.assign_port("web-5", 20_000..=20_003, 0, any).await;
    assert_eq!(full.unwrap_err().code(), "HF0414");
    let kept = records.ports().await.unwrap()["web-3"];
    assert_eq!(
        records.assign_port("web-3", 20_000..=20_003, 0, |_| false).await.unwrap(),
        kept,
        "its own is not asked about"
    );
    records.release_port("web-3").await.unwrap();
    assert_eq!(records.assign_port("web-5", 20_000..=20_003, 0, any).await.unwrap(), kept);
    assert_eq!(
        records.assign_port("web-5", 21_000..=21_010, 0, |p| p > 21_004).await.unwrap(),
        21_005,
        "the range moved"
    );
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store.txn(Txn::always([Op::put("/desired", r#"{"version":2,"toml":[]}"#)])).await.unwrap();
    let refused = Records::new(store).desired().await.unwrap_err();
    assert_eq!(refused.code(), "HF0402");
}

#[tokio::test]
async fn a_holder_whose_clock_jumped_past_its_deadline_stops_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let skipped = Arc::new(AtomicU64::new(0));
    let (ahead, boot) = (skipped.clone(), holdfast_cluster::boot_clock());
    let clock: Clock = Arc::new(move || boot() + Duration::from_millis(ahead.load(Ordering::SeqCst)));
    let held = soon(Campaign { clock, ..campaign(&store, "n1", "a") }.win()).await.unwrap();
    assert!(held.holds() && held.deadline() > Timestamp::ZERO);
    skipped.store(5_000, Ordering::SeqCst);
    assert!(!held.holds(), "asked right after a suspended machine woke up");
    soon(held.lost()).await;
}
