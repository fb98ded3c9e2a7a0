//! Coordination: [`Store`] with etcd's semantics, its embedded engine, and what is written once above it.
//!
//! Revisions count transactions that changed something. A lease takes its keys with it in one revision. A watch starts
//! at a revision and says so when it cannot. An [`Error::Unavailable`] answer to a write means that nobody knows whether
//! it happened: put a nonce in the value and read again.

pub mod authority;
pub mod conformance;
pub mod election;
pub mod embedded;
pub mod epoch;
mod error;
pub mod etcd;
pub mod keys;
pub mod members;
pub mod records;
mod types;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use embedded::Embedded;
pub use error::Error;
pub use etcd::Etcd;
use holdfast_policy::Timestamp;
pub use types::{
    Change, Event, Guard, KeyValue, LeaseId, LeaseInfo, Listing, Op, Order, Outcome, Response, Txn, Watch,
};

pub type Result<T> = std::result::Result<T, Error>;
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Boot time, or simulated time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

pub fn boot_clock() -> Clock {
    Arc::new(holdfast_host::clock::now)
}

/// Operations in one branch of a transaction, as in etcd.
pub const TXN_OPS_MAX: usize = 128;

/// A value; etcd refuses requests over 1.5 MiB.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Narrow on purpose: election, records and membership are written above it, once for every engine.
pub trait Store: Send + Sync + 'static {
    fn get(&self, key: String) -> Answer<'_, Option<KeyValue>>;

    /// Keys that start with `prefix`, in key order, as of one revision. The empty prefix lists everything.
    fn list(&self, prefix: String) -> Answer<'_, Listing>;

    /// If every guard holds, `then`, else `otherwise`: atomically, in one revision.
    fn txn(&self, txn: Txn) -> Answer<'_, Outcome>;

    /// The answer says which time to live was granted; an engine may grant more than asked.
    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseInfo>;

    /// Starts the time to live anew and tells it. [`Error::LeaseNotFound`] when it is over.
    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, Duration>;

    /// Deletes its keys in one revision.
    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()>;

    /// Changes under `prefix` from revision `from` on, that one included; 0 is from now on.
    fn watch(&self, prefix: String, from: u64) -> Answer<'_, Watch>;

    /// Forgets history up to `revision`; present values stay.
    fn compact(&self, revision: u64) -> Answer<'_, ()>;
}
