//! Tells the Supervisor who holds the leases of redundant services, and what is wanted, after each change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::{Error, Event as Told, KeyValue, Store, epoch};
use holdfast_host::clock;
use holdfast_policy::InstanceId;
use holdfast_policy::lease::FencingToken;
use tokio::sync::mpsc;

use super::{Holder, LEASES, Owed, STANDBY, Wanted, unknown_epoch};
use crate::supervisor::{self, Event, Wish};

/// After an engine that does not answer.
const AGAIN: Duration = Duration::from_millis(500);
/// All is read again this often, whatever watches say.
const LOOK_EVERY: Duration = Duration::from_secs(60);

pub(super) async fn run(store: Arc<dyn Store>, epoch: Arc<epoch::Current>, results: mpsc::Sender<Event>) {
    loop {
        if let Err(error) = follow(&*store, &epoch, &results).await {
            tracing::debug!(%error, "leases are not watched at present");
        }
        if results.is_closed() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Until a watch ends: lists, tells, and lists again whenever something changed. There are few keys.
async fn follow(store: &dyn Store, epoch: &epoch::Current, results: &mpsc::Sender<Event>) -> Result<(), Error> {
    let first = store.list(LEASES.into()).await?;
    let mut leases = store.watch(LEASES.into(), first.revision + 1).await?;
    let mut wishes = store.watch(STANDBY.into(), first.revision + 1).await?;
    loop {
        let known = epoch.known().ok_or_else(unknown_epoch)?;
        let listed = (store.list(LEASES.into()).await?.items, store.list(STANDBY.into()).await?.items);
        if epoch.known() != Some(known) {
            continue;
        }
        if results.send(snapshot(known, listed.0, listed.1)).await.is_err() {
            return Ok(());
        }
        loop {
            let told = tokio::select! {
                told = leases.next() => told,
                told = wishes.next() => told,
                () = tokio::time::sleep(LOOK_EVERY) => break,
            };
            match told {
                Told::Changes { .. } => break,
                Told::Progress { .. } => {}
                Told::Compacted { .. } | Told::Lost => return Ok(()),
            }
        }
    }
}

fn snapshot(epoch: u64, leases: Vec<KeyValue>, standby: Vec<KeyValue>) -> Event {
    let holder = |kv: KeyValue| -> Option<(Arc<str>, supervisor::Holder)> {
        let name = kv.key.strip_prefix(LEASES)?.to_owned();
        let holder: Holder = serde_json::from_slice(&kv.value).ok()?;
        let member: InstanceId = holder.member?.parse().ok()?;
        // The key of a plainly fenced instance has its own name.
        (*member.service == *name).then_some(())?;
        let token = FencingToken { epoch, create_revision: kv.create_revision };
        Some((name.into(), supervisor::Holder { member, node: holder.node, token }))
    };
    let (wall, now) = (clock::wall_ms(), clock::now());
    let wish = |kv: KeyValue| -> Option<(Arc<str>, Wish)> {
        let name = kv.key.strip_prefix(STANDBY)?.strip_suffix("/wish")?.to_owned();
        let wanted: Wanted = serde_json::from_slice(&kv.value).ok()?;
        // Bounded, whatever the clock of its author says.
        let left = Duration::from_millis(wanted.until_wall_ms.saturating_sub(wall)).min(super::WISH_TIME);
        let wish = Wish {
            to: wanted.to.and_then(|to| to.parse().ok()),
            over: wanted.over.and_then(|over| over.parse().ok()),
            force: wanted.force,
            until: now + left,
        };
        (!left.is_zero()).then_some((name.into(), wish))
    };
    let last = |kv: &KeyValue| -> Option<(Arc<str>, InstanceId)> {
        let name = kv.key.strip_prefix(STANDBY)?.strip_suffix("/owed")?;
        Some((name.into(), Owed::last(&kv.value)?))
    };
    let last: BTreeMap<_, _> = standby.iter().filter_map(last).collect();
    let holders: BTreeMap<_, _> = leases.into_iter().filter_map(holder).collect();
    let wishes: BTreeMap<_, _> = standby.into_iter().filter_map(wish).collect();
    Event::Holders { holders, last, wishes }
}
