//! Roles, fencing tokens and the epoch, on any engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_cluster::election::{Campaign, Leadership};
use holdfast_cluster::{
    Answer, Clock, Error, KeyValue, LeaseId, LeaseInfo, Listing, Op, Outcome, Store, Txn, Watch, epoch,
};
use holdfast_policy::Timestamp;
use holdfast_policy::lease::{FencingToken, Lost, Timings};

const WAIT: Duration = Duration::from_secs(30);

/// An engine to put a scene on.
#[derive(Clone)]
pub(crate) struct Site {
    pub store: Arc<dyn Store>,
    /// Short, but long enough for renewals on a busy machine.
    pub ttl: Duration,
}

impl Site {
    fn campaign(&self, store: &Arc<dyn Store>, node: &str, nonce: &str) -> Campaign {
        Campaign {
            store: store.clone(),
            key: "/leader/agent".into(),
            node: node.into(),
            nonce: nonce.into(),
            timings: Timings::for_ttl(self.ttl),
            epoch: 3,
            clock: holdfast_cluster::boot_clock(),
            own_node_is_dead: false,
        }
    }
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT, future).await.expect("it happens in time")
}

pub(crate) async fn one_holds_the_role_and_the_next_has_a_higher_token(site: Site) {
    let store = site.store.clone();
    let first = soon(site.campaign(&store, "n1", "a").win()).await.unwrap();
    assert!(first.holds());
    assert!(site.campaign(&store, "n2", "b").try_win().await.unwrap().is_none());
    let waiting = tokio::spawn(site.campaign(&store, "n2", "c").win());
    let guarded = Txn::when([first.guard()]).then([Op::put("/x", "1")]);
    assert!(store.txn(guarded.clone()).await.unwrap().succeeded);
    let token = first.token();
    first.resign().await.unwrap();
    let second: Leadership = soon(waiting).await.unwrap().unwrap();
    assert!(second.token() > token && second.token().epoch == 3);
    assert!(!store.txn(guarded).await.unwrap().succeeded, "what the first one still sends is refused");
}

pub(crate) async fn renewals_keep_the_role_longer_than_its_lease(site: Site) {
    let store = site.store.clone();
    let held = soon(site.campaign(&store, "n1", "a").win()).await.unwrap();
    let granted = held.deadline();
    let wait_renewed = async {
        while held.deadline() < granted + site.ttl * 3 {
            assert!(held.holds());
            tokio::task::yield_now().await;
            tokio::time::timeout(Duration::from_millis(20), held.lost()).await.expect_err("it is not lost");
        }
    };
    soon(wait_renewed).await;
}

pub(crate) async fn a_restarted_agent_takes_over_from_its_dead_self_at_once(site: Site) {
    let store = site.store.clone();
    let mut long = site.campaign(&store, "n1", "a");
    // Far longer than the test may take.
    long.timings = Timings::for_ttl(Duration::from_secs(60));
    let dead = soon(long.win()).await.unwrap();
    let token = dead.token();
    drop(dead);
    let mut again = site.campaign(&store, "n1", "b");
    again.own_node_is_dead = true;
    let held =
        tokio::time::timeout(Duration::from_secs(5), again.win()).await.expect("without waiting a minute").unwrap();
    assert!(held.token() > token);
    let mut stranger = site.campaign(&store, "n2", "c");
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

pub(crate) async fn a_claim_whose_answer_was_lost_is_found_by_reading_again(site: Site) {
    let deaf = Arc::new(Deaf { inner: site.store.clone(), deaf: AtomicBool::new(true) });
    let store: Arc<dyn Store> = deaf.clone();
    let held = soon(site.campaign(&store, "n1", "a").win()).await.unwrap();
    deaf.deaf.store(false, Ordering::SeqCst);
    let kv = store.get("/leader/agent".into()).await.unwrap().unwrap();
    assert_eq!(kv.create_revision, held.token().create_revision);
}

pub(crate) async fn unanswered_renewals_lose_the_role_before_the_lease_ends(site: Site) {
    let deaf = Arc::new(Deaf { inner: site.store.clone(), deaf: AtomicBool::new(false) });
    let store: Arc<dyn Store> = deaf.clone();
    let held = soon(site.campaign(&store, "n1", "a").win()).await.unwrap();
    deaf.deaf.store(true, Ordering::SeqCst);
    assert_eq!(soon(held.lost()).await, Lost::Unanswered);
    assert!(!held.holds());
    deaf.deaf.store(false, Ordering::SeqCst);
    assert!(!held.holds(), "it does not come back");
}

pub(crate) async fn a_key_taken_away_is_noticed(site: Site) {
    let store = site.store.clone();
    let held = soon(site.campaign(&store, "n1", "a").win()).await.unwrap();
    store.txn(Txn::always([Op::delete("/leader/agent")])).await.unwrap();
    assert_eq!(soon(held.lost()).await, Lost::Revoked);
}

pub(crate) async fn a_holder_whose_clock_jumped_past_its_deadline_stops_before_anything_else(site: Site) {
    let store = site.store.clone();
    let skipped = Arc::new(AtomicU64::new(0));
    let (ahead, boot) = (skipped.clone(), holdfast_cluster::boot_clock());
    let clock: Clock = Arc::new(move || boot() + Duration::from_millis(ahead.load(Ordering::SeqCst)));
    let held = soon(Campaign { clock, ..site.campaign(&store, "n1", "a") }.win()).await.unwrap();
    assert!(held.holds() && held.deadline() > Timestamp::ZERO);
    skipped.store(60_000, Ordering::SeqCst);
    assert!(!held.holds(), "asked right after a suspended machine woke up");
    soon(held.lost()).await;
}

pub(crate) async fn the_epoch_rises_above_every_token_found(store: Arc<dyn Store>, recreated: Arc<dyn Store>) {
    let token = |epoch, create_revision| FencingToken { epoch, create_revision };
    assert_eq!(epoch::settle(&*store, None, []).await.unwrap(), 1);
    assert_eq!(epoch::settle(&*store, None, [token(1, 1)]).await.unwrap(), 1, "one of our own");
    assert_eq!(epoch::settle(&*store, None, [token(1, 1_000_000)]).await.unwrap(), 2, "restored from an older copy");
    assert_eq!(epoch::settle(&*store, None, [token(7, 5), token(3, 9)]).await.unwrap(), 8);
    assert_eq!(epoch::settle(&*store, None, [token(8, 2)]).await.unwrap(), 8);
    assert_eq!(epoch::settle(&*recreated, None, [token(8, 2)]).await.unwrap(), 9);
    assert_eq!(epoch::settle(&*recreated, Some("a"), []).await.unwrap(), 10, "nobody knows who kept it");
    assert_eq!(epoch::settle(&*recreated, Some("a"), [token(9, 2)]).await.unwrap(), 10);
    assert_eq!(epoch::settle(&*recreated, Some("b"), []).await.unwrap(), 11, "a copy, whoever has seen what");
}
