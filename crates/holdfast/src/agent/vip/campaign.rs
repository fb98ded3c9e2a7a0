//! Getting the lease of an address: its own dead predecessor's at once, a free one after the nodes that are preferred.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_cluster::election::{Campaign, Holder, Leadership};
use holdfast_cluster::{Change, Error, Event, Guard, KeyValue, LeaseId, Op, Order, Result, Store, Txn};
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

/// Whether the owner is quick; under its lease.
fn mode_key(want: &Want) -> String {
    format!("/vip/{}/mode", want.at.address)
}

const QUICK: &[u8] = b"quick";
const SLOW: &[u8] = b"slow";

/// A lease, without what keeps it.
#[derive(Clone, Copy)]
pub(super) struct Held {
    token: u64,
    lease: LeaseId,
}

impl Held {
    pub(super) fn of(leadership: &Leadership) -> Held {
        Held { token: leadership.token().create_revision, lease: leadership.lease() }
    }
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

#[derive(Clone)]
pub(super) struct Before {
    pub(super) node: String,
    revision: u64,
    /// When its lease was seen to be gone.
    pub(super) gone: Option<Timestamp>,
    /// It said that it leaves.
    pub(super) planned: bool,
}

pub(super) struct Campaigner {
    pub(super) context: Context,
    pub(super) want: Want,
    /// Which campaign of this life.
    pub(super) number: u64,
    pub(super) owner: Arc<Mutex<Option<String>>>,
    /// The last holder that a campaign saw: one that is withdrawn while a lease ends leaves it to the next.
    pub(super) before: Arc<Mutex<Option<Before>>>,
    /// Of an owner that is quick.
    pub(super) quick: watch::Sender<Option<u64>>,
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
        while !*self.withdrawn.borrow() {
            match self.attempt().await {
                Ok(Some(leadership)) => {
                    let mut before = self.last().take();
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

    fn last(&self) -> MutexGuard<'_, Option<Before>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease of the last holder is not there.
    fn note_gone(&self) {
        if let Some(before) = &mut *self.last() {
            before.gone.get_or_insert((self.context.clock)());
        }
    }

    async fn attempt(&mut self) -> Result<Option<Leadership>> {
        if let Some(leadership) = self.campaign().resume().await? {
            // What the life before was is not known any more.
            let slow = write(self.context.store.clone(), self.want.clone(), Held::of(&leadership), false).await?;
            return Ok(slow.then_some(leadership));
        }
        let key = key(&self.want);
        let listing = self.context.store.list(key.clone()).await?;
        let says_quick = listing.items.iter().any(|kv| kv.key == mode_key(&self.want) && kv.value == QUICK);
        if let Some(held) = listing.items.into_iter().find(|kv| kv.key == key) {
            self.note(&held);
            self.quick.send_replace(says_quick.then_some(held.create_revision));
            let ended = self.wait_for_end(&key, held.create_revision, listing.revision).await;
            self.quick.send_replace(None);
            if ended? {
                self.note_gone();
            }
            return Ok(None);
        }
        self.note_owner(None);
        self.note_gone();
        // The one that was just lost is not waited for.
        let lost = self.last().as_ref().map(|before| before.node.clone());
        let prefer: Vec<String> = self.want.prefer.iter().filter(|n| Some(*n) != lost.as_ref()).cloned().collect();
        let delay = vip::campaign_delay(vip::rank(&prefer, &self.context.node));
        if tokio::time::timeout(delay, self.withdrawn.wait_for(|w| *w)).await.is_ok_and(|w| w.is_ok()) {
            return Ok(None);
        }
        let claims = &self.context.claims;
        if claims.known().is_none() || !claims.may_claim((self.context.clock)(), self.want.timings.ttl) {
            return Err(Error::Unavailable { reason: "the store was set back, or another answers".into() });
        }
        self.campaign().try_win().await
    }

    fn note(&self, held: &KeyValue) {
        let holder = serde_json::from_slice::<Holder>(&held.value).ok().map(|holder| holder.node);
        let node = holder.map(|holder| holder.split_once('#').map_or(&*holder, |(node, _)| node).to_owned());
        self.note_owner(node.clone());
        *self.last() = node.map(|node| Before { node, revision: held.create_revision, gone: None, planned: false });
    }

    fn note_owner(&self, owner: Option<String>) {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = owner;
    }

    /// Whether it ended; false when it is time to look again.
    async fn wait_for_end(&mut self, key: &str, token: u64, revision: u64) -> Result<bool> {
        let mode = mode_key(&self.want);
        let mut watch = self.context.store.watch(key.to_owned(), revision + 1).await?;
        let mut withdrawn = self.withdrawn.clone();
        loop {
            tokio::select! {
                event = watch.next() => match event {
                    Event::Changes { changes, .. } if changes.iter().any(|c| c.key() == key) => return Ok(true),
                    Event::Changes { changes, .. } => {
                        for change in changes.iter().filter(|c| c.key() == mode) {
                            let says_quick = matches!(change, Change::Put(kv) if kv.value == QUICK);
                            self.quick.send_replace(says_quick.then_some(token));
                        }
                    }
                    Event::Progress { .. } => {}
                    Event::Compacted { .. } | Event::Lost => {
                        return Err(Error::Unavailable { reason: "the watch was lost".into() });
                    }
                },
                _ = withdrawn.wait_for(|w| *w) => return Ok(false),
                () = tokio::time::sleep(LOOK_EVERY) => return Ok(false),
            }
        }
    }

    async fn left(&self, before: &Before) -> bool {
        let said = self.context.store.get(left_key(&self.want)).await;
        let text = format!("{} {}", before.node, before.revision);
        said.is_ok_and(|kv| kv.is_some_and(|kv| kv.value == text.as_bytes()))
    }
}

/// Says whether this owner is quick; false when the lease is not its own any more. A write that nobody answered may arrive
/// later: it then finds that the record is another than it was, and changes nothing.
pub(super) async fn write(store: Arc<dyn Store>, want: Want, held: Held, quick: bool) -> Result<bool> {
    let (owner, mode) = (key(&want), mode_key(&want));
    let known = store.get(mode.clone()).await?.map_or(0, |kv| kv.mod_revision);
    let value = if quick { QUICK } else { SLOW };
    let guards = [Guard::created_at(&owner, held.token), Guard::unchanged(&mode, known)];
    let put = Op::Put { key: mode, value: value.to_vec(), lease: Some(held.lease) };
    if store.txn(Txn::when(guards).then([put])).await?.succeeded {
        return Ok(true);
    }
    match store.get(owner).await? {
        Some(kv) if kv.create_revision == held.token => {
            Err(Error::Unavailable { reason: "the record was written meanwhile".into() })
        }
        _ => Ok(false),
    }
}

/// Ends the lease of an owner that is quick, if it is so still: then anybody may win it.
pub(super) async fn depose(store: &dyn Store, want: &Want, token: u64) -> Result<bool> {
    let (owner, mode) = (key(want), mode_key(want));
    let says_quick = Guard::Value { key: mode.clone(), order: Order::Equal, value: QUICK.to_vec() };
    let guards = [Guard::created_at(&owner, token), says_quick];
    Ok(store.txn(Txn::when(guards).then([Op::delete(owner), Op::delete(mode)])).await?.succeeded)
}

/// Says that it is on purpose, and frees the lease.
pub(super) async fn resign(context: &Context, want: &Want, leadership: Leadership) {
    let text = format!("{} {}", context.node, leadership.token().create_revision);
    let said = context.store.txn(Txn::always([Op::put(left_key(want), text)])).await;
    if let Err(error) = said.map(drop).and(leadership.resign().await) {
        tracing::warn!(address = %want.at, code = error.code(), %error, "the lease of a virtual address runs out by itself");
    }
}
