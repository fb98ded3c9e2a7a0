//! Getting the lease of an address: its own dead predecessor's at once, a free one after the nodes that are preferred.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_cluster::election::{Campaign, Holder, Leadership};
use holdfast_cluster::{Error, Event, KeyValue, Op, Result, Txn};
use holdfast_policy::Timestamp;
use holdfast_policy::vip;
use tokio::sync::watch;

use super::{Context, Want};

/// Between two tries while the store does not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// A watch that says nothing may have been lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Who has the lease.
pub(super) fn key(want: &Want) -> String {
    format!("/vip/{}", want.at.address)
}

/// Who gave it up on purpose last: `NODE TOKEN`.
fn left_key(want: &Want) -> String {
    format!("/vip-left/{}", want.at.address)
}

/// The lease, and what was seen of the holder before.
pub(super) struct Won {
    pub(super) leadership: Leadership,
    pub(super) before: Option<Before>,
}

pub(super) struct Before {
    pub(super) node: String,
    revision: u64,
    /// When its lease was seen to be gone.
    pub(super) gone: Timestamp,
    /// It said that it leaves.
    pub(super) planned: bool,
}

pub(super) struct Campaigner {
    pub(super) context: Context,
    pub(super) want: Want,
    /// Which campaign of this life.
    pub(super) number: u64,
    pub(super) owner: Arc<Mutex<Option<String>>>,
    pub(super) withdrawn: watch::Receiver<bool>,
}

impl Campaigner {
    fn campaign(&self) -> Campaign {
        let Context { store, clock, holder: node, epoch, life, .. } = self.context.clone();
        Campaign {
            store,
            key: key(&self.want),
            nonce: format!("{node}/{life}/{}", self.number),
            node,
            timings: self.want.timings,
            epoch,
            clock,
            own_node_is_dead: true,
        }
    }

    /// `None` when it was withdrawn. An attempt under way is always seen through, so that no lease is left behind.
    pub(super) async fn run(mut self) -> Option<Won> {
        let mut before: Option<Before> = None;
        while !*self.withdrawn.borrow() {
            match self.attempt(&mut before).await {
                Ok(Some(leadership)) => {
                    if let Some(before) = &mut before {
                        before.planned = self.left(before).await;
                    }
                    return Some(Won { leadership, before });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(address = %self.want.at, %error, "no answer to a campaign; trying again");
                    let _ = tokio::time::timeout(PAUSE, self.withdrawn.wait_for(|w| *w)).await;
                }
            }
        }
        None
    }

    async fn attempt(&mut self, before: &mut Option<Before>) -> Result<Option<Leadership>> {
        if let Some(leadership) = self.campaign().resume().await? {
            return Ok(Some(leadership));
        }
        let key = key(&self.want);
        let listing = self.context.store.list(key.clone()).await?;
        if let Some(held) = listing.items.into_iter().find(|kv| kv.key == key) {
            *before = self.note(&held);
            self.wait_for_end(&key, listing.revision).await?;
            if let Some(before) = before {
                before.gone = (self.context.clock)();
            }
            return Ok(None);
        }
        self.note_owner(None);
        let delay = vip::campaign_delay(vip::rank(&self.want.prefer, &self.context.node));
        if tokio::time::timeout(delay, self.withdrawn.wait_for(|w| *w)).await.is_ok_and(|w| w.is_ok()) {
            return Ok(None);
        }
        self.campaign().try_win().await
    }

    fn note(&self, held: &KeyValue) -> Option<Before> {
        let holder = serde_json::from_slice::<Holder>(&held.value).ok()?.node;
        let node = holder.split_once('#').map_or(holder.as_str(), |(node, _)| node).to_owned();
        self.note_owner(Some(node.clone()));
        Some(Before { node, revision: held.create_revision, gone: (self.context.clock)(), planned: false })
    }

    fn note_owner(&self, owner: Option<String>) {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = owner;
    }

    async fn wait_for_end(&mut self, key: &str, revision: u64) -> Result<()> {
        let mut watch = self.context.store.watch(key.to_owned(), revision + 1).await?;
        let mut withdrawn = self.withdrawn.clone();
        loop {
            tokio::select! {
                event = watch.next() => match event {
                    Event::Changes { changes, .. } if changes.iter().any(|c| c.key() == key) => return Ok(()),
                    Event::Changes { .. } | Event::Progress { .. } => {}
                    Event::Compacted { .. } | Event::Lost => {
                        return Err(Error::Unavailable { reason: "the watch was lost".into() });
                    }
                },
                _ = withdrawn.wait_for(|w| *w) => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => return Ok(()),
            }
        }
    }

    async fn left(&self, before: &Before) -> bool {
        let said = self.context.store.get(left_key(&self.want)).await;
        let text = format!("{} {}", before.node, before.revision);
        said.is_ok_and(|kv| kv.is_some_and(|kv| kv.value == text.as_bytes()))
    }
}

/// Says that it is on purpose, and frees the lease.
pub(super) async fn resign(context: &Context, want: &Want, leadership: Leadership) {
    let text = format!("{} {}", context.node, leadership.token().create_revision);
    let said = context.store.txn(Txn::always([Op::put(left_key(want), text)])).await;
    if let Err(error) = said.map(drop).and(leadership.resign().await) {
        tracing::warn!(address = %want.at, code = error.code(), %error, "the lease of a virtual address runs out by itself");
    }
}
