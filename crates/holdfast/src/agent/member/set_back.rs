//! When the shared store was set back to an older copy, as an agent that died meanwhile has to know: what the copy does not know
//! of lives for one lease more, and a new agent would claim it at once.

use std::time::Duration;

use holdfast_cluster::{Op, Store};
use holdfast_host::clock;
use holdfast_policy::Timestamp;
use serde::{Deserialize, Serialize};

use super::SET_BACK;

#[derive(Serialize, Deserialize)]
struct Record {
    boot_id: String,
    at_ns: u64,
}

pub(super) fn put(at: Timestamp) -> Option<Op> {
    let record = Record { boot_id: clock::boot_id().to_owned(), at_ns: at.as_nanos() };
    serde_json::to_vec(&record).ok().map(|value| Op::put(SET_BACK, value))
}

/// Of another boot it is not known how long ago it was: it counts from now, once.
pub(super) async fn kept(local: &dyn Store, ttl: Duration) -> Option<Timestamp> {
    let now = clock::now();
    let kept = local.get(SET_BACK.into()).await.ok().flatten()?;
    let record: Option<Record> = serde_json::from_slice(&kept.value).ok();
    let at = match record {
        Some(record) if clock::same_boot(&record.boot_id) => Timestamp::from_nanos(record.at_ns),
        _ => now,
    };
    let ops = match now < at + ttl {
        true => put(at),
        false => Some(Op::delete(SET_BACK)),
    };
    if let Some(op) = ops
        && let Err(error) = local.txn(holdfast_cluster::Txn::always([op])).await
    {
        tracing::warn!(%error, "when the shared store was set back is not kept");
    }
    (now < at + ttl).then_some(at)
}
