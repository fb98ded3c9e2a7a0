//! What every engine behind [`Store`] must do, as checks that any of them can be put through.
//!
//! Checks use keys of their own and never assume that the store is empty or at a certain revision, so they also run
//! against an engine that others use. They panic with the name of the check.

mod model;
mod scenes;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use model::random_histories;

use crate::{Event, Listing, Outcome, Store, Txn, Watch};

/// What a check works with.
#[derive(Clone)]
pub struct Bench {
    pub store: Arc<dyn Store>,
    /// Of all keys of this check.
    pub prefix: String,
    /// Shortest time to live that the engine grants.
    pub ttl_min: Duration,
}

/// No answer takes longer, or the check has failed.
const PATIENCE: Duration = Duration::from_secs(30);

type Check = fn(Bench) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        /// Every check with its name.
        pub const CHECKS: &[(&str, Check)] = &[$((stringify!($name), |bench| Box::pin(scenes::$name(bench)))),+];
    };
}

checks![
    a_put_counts_versions_and_revisions,
    a_deleted_key_begins_anew,
    guards_compare_as_written,
    guards_on_absent_keys,
    all_guards_must_hold,
    a_transaction_is_one_revision_and_reads_its_own_writes,
    a_transaction_that_changes_nothing_has_no_revision,
    one_key_is_written_once_in_a_transaction,
    bad_requests_are_refused_and_change_nothing,
    only_one_of_many_creates_a_key,
    concurrent_counting_loses_nothing,
    a_list_is_sorted_exact_and_of_one_revision,
    a_lease_takes_its_keys_in_one_revision,
    an_expired_lease_takes_its_keys,
    a_kept_alive_lease_stays,
    a_key_follows_its_last_lease,
    unknown_leases_are_refused,
    a_watch_starts_at_its_revision,
    a_watch_from_now_sees_only_what_comes,
    a_watch_keeps_transactions_whole,
    a_watch_of_a_prefix_sees_no_other_key,
    a_watch_from_the_future_waits,
    a_compacted_watch_is_told,
    compaction_keeps_present_values,
];

/// Puts `store` through every check; `name` makes the keys of this run its own.
pub async fn run(store: Arc<dyn Store>, name: &str, ttl_min: Duration) {
    for (check, scene) in CHECKS {
        let prefix = format!("/conformance/{name}/{check}/");
        let bench = Bench { store: store.clone(), prefix, ttl_min };
        let done = tokio::time::timeout(PATIENCE * 2, tokio::spawn(scene(bench))).await;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => panic!("conformance check {check} failed: {panic}"),
            Err(_) => panic!("conformance check {check} hangs"),
        }
    }
}

impl Bench {
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) async fn txn(&self, txn: Txn) -> Outcome {
        self.store.txn(txn).await.expect("the transaction is answered")
    }

    /// Revision of the put.
    pub(crate) async fn put(&self, name: &str, value: &str) -> u64 {
        self.txn(Txn::always([crate::Op::put(self.key(name), value)])).await.revision
    }

    pub(crate) async fn delete(&self, name: &str) -> u64 {
        self.txn(Txn::always([crate::Op::delete(self.key(name))])).await.revision
    }

    pub(crate) async fn get(&self, name: &str) -> Option<crate::KeyValue> {
        self.store.get(self.key(name)).await.expect("the get is answered")
    }

    pub(crate) async fn list(&self) -> Listing {
        self.store.list(self.prefix.clone()).await.expect("the list is answered")
    }

    pub(crate) async fn watch(&self, from: u64) -> Watch {
        self.store.watch(self.prefix.clone(), from).await.expect("the watch starts")
    }
}

/// The next event that is not progress.
pub(crate) async fn next(watch: &mut Watch) -> Event {
    let next = async {
        loop {
            match watch.next().await {
                Event::Progress { .. } => {}
                event => return event,
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.expect("an event comes")
}
