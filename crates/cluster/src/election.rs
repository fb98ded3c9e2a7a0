//! Holding a role: a key that lives under a lease, kept by renewals, lost at a deadline of our own.
//!
//! Written once above [`Store`]; no engine's own lock or election calls are used. What a holder does carries its
//! [`FencingToken`], and its writes to the store carry [`Leadership::guard`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_policy::lease::{Action, FencingToken, Keeper, Lost, Timings};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::{Clock, Error, Event, Guard, KeyValue, LeaseId, Op, Response, Result, Store, Txn};

/// Pause after a campaign that the store did not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Timers and leases run on different clocks, so the keeper looks at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub version: u32,
    pub node: String,
    /// Different for each campaign: tells after an unanswered request whether it was ours that won.
    pub nonce: String,
}

pub struct Campaign {
    pub store: Arc<dyn Store>,
    pub key: String,
    pub node: String,
    pub nonce: String,
    pub timings: Timings,
    pub epoch: u64,
    pub clock: Clock,
    /// The caller has proof that an earlier holder of this node is dead (it holds the data directory's lock), so
    /// that one's lease is ended instead of waited for.
    pub own_node_is_dead: bool,
}

/// What one attempt led to.
enum Attempt {
    Won(Leadership),
    /// Held by another; watch from this revision on.
    Held(KeyValue, u64),
}

impl Campaign {
    /// Waits until the role is ours; dropping the future gives the campaign up (its lease runs out by itself).
    pub async fn win(self) -> Result<Leadership> {
        loop {
            match self.attempt().await {
                Ok(Attempt::Won(leadership)) => return Ok(leadership),
                Ok(Attempt::Held(holder, revision)) => self.wait_for_end(&holder, revision).await?,
                Err(Error::Unavailable { reason }) => {
                    tracing::warn!(key = %self.key, %reason, "no answer to a campaign; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Goes on with the lease of this node's dead predecessor while it lives, under the same token: the role has no gap in
    /// which another could win it. `None` when there is nothing to go on with.
    pub async fn resume(&self) -> Result<Option<Leadership>> {
        let sent = (self.clock)();
        let Some(found) = self.store.get(self.key.clone()).await? else { return Ok(None) };
        let ours = serde_json::from_slice::<Holder>(&found.value).is_ok_and(|h| h.node == self.node);
        let Some(lease) = found.lease.filter(|_| ours && self.own_node_is_dead) else { return Ok(None) };
        match self.store.keep_alive(lease).await {
            Ok(_) => {}
            Err(Error::LeaseNotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        let still = self.store.get(self.key.clone()).await?;
        let same = still.is_some_and(|kv| kv.create_revision == found.create_revision);
        Ok(same.then(|| self.lead(lease, found.create_revision, sent)))
    }

    /// One try: `None` when another holds the role.
    pub async fn try_win(self) -> Result<Option<Leadership>> {
        match self.attempt().await? {
            Attempt::Won(leadership) => Ok(Some(leadership)),
            Attempt::Held(..) => Ok(None),
        }
    }

    async fn attempt(&self) -> Result<Attempt> {
        let sent = (self.clock)();
        let lease = self.store.grant(self.timings.ttl).await?.id;
        let holder = Holder { version: 1, node: self.node.clone(), nonce: self.nonce.clone() };
        let value =
            serde_json::to_vec(&holder).map_err(|e| Error::Record { key: self.key.clone(), reason: e.to_string() })?;
        let claim = Txn::when([Guard::absent(&self.key)])
            .then([Op::Put { key: self.key.clone(), value, lease: Some(lease) }])
            .otherwise([Op::get(&self.key)]);
        let (found, revision) = match self.store.txn(claim).await {
            Ok(outcome) if outcome.succeeded => return Ok(Attempt::Won(self.lead(lease, outcome.revision, sent))),
            Ok(outcome) => (first_get(outcome.responses), outcome.revision),
            Err(Error::Unavailable { .. }) => {
                let listing = self.store.list(self.key.clone()).await?;
                (listing.items.into_iter().find(|kv| kv.key == self.key), listing.revision)
            }
            Err(error) => return Err(error),
        };
        match found {
            Some(kv) if kv.lease == Some(lease) => Ok(Attempt::Won(self.lead(lease, kv.create_revision, sent))),
            Some(kv) => {
                self.let_go(lease).await;
                Ok(Attempt::Held(kv, revision))
            }
            None => {
                self.let_go(lease).await;
                Err(Error::Unavailable { reason: "the claim was not made".into() })
            }
        }
    }

    async fn let_go(&self, lease: LeaseId) {
        if let Err(error) = self.store.revoke(lease).await {
            tracing::debug!(key = %self.key, %error, "an unused lease runs out by itself");
        }
    }

    async fn wait_for_end(&self, held: &KeyValue, revision: u64) -> Result<()> {
        let by_own_node = serde_json::from_slice::<Holder>(&held.value).is_ok_and(|h| h.node == self.node);
        if let (true, true, Some(lease)) = (self.own_node_is_dead, by_own_node, held.lease) {
            tracing::info!(key = %self.key, "ending the lease of this node's dead predecessor");
            return match self.store.revoke(lease).await {
                Ok(()) | Err(Error::LeaseNotFound(_)) => Ok(()),
                Err(error) => Err(error),
            };
        }
        let mut watch = self.store.watch(self.key.clone(), revision + 1).await?;
        loop {
            match watch.next().await {
                Event::Changes { changes, .. } if changes.iter().any(|c| c.key() == self.key) => return Ok(()),
                Event::Changes { .. } | Event::Progress { .. } => {}
                Event::Compacted { .. } | Event::Lost => {
                    tokio::time::sleep(PAUSE).await;
                    return Ok(());
                }
            }
        }
    }

    fn lead(&self, lease: LeaseId, create_revision: u64, sent: holdfast_policy::Timestamp) -> Leadership {
        let keeper = Arc::new(Mutex::new(Keeper::new(self.timings, sent)));
        let (lost, lost_seen) = watch::channel(None);
        let renewal = Renewal {
            store: self.store.clone(),
            clock: self.clock.clone(),
            key: self.key.clone(),
            lease,
            create_revision,
            keeper: keeper.clone(),
            lost,
        };
        Leadership {
            token: FencingToken { epoch: self.epoch, create_revision },
            key: self.key.clone(),
            lease,
            store: self.store.clone(),
            clock: self.clock.clone(),
            keeper,
            lost: lost_seen,
            task: tokio::spawn(renewal.run()),
        }
    }
}

fn first_get(responses: Vec<Response>) -> Option<KeyValue> {
    responses.into_iter().find_map(|r| match r {
        Response::Get(found) => found,
        _ => None,
    })
}

/// The role, while it lasts. Dropping it stops the renewals; [`Leadership::resign`] gives it up at once.
pub struct Leadership {
    token: FencingToken,
    key: String,
    lease: LeaseId,
    store: Arc<dyn Store>,
    clock: Clock,
    keeper: Arc<Mutex<Keeper>>,
    lost: watch::Receiver<Option<Lost>>,
    task: JoinHandle<()>,
}

impl Leadership {
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn token(&self) -> FencingToken {
        self.token
    }

    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// Ask right before each side effect.
    pub fn holds(&self) -> bool {
        lock(&self.keeper).holds((self.clock)())
    }

    /// When it is lost unless a renewal is acknowledged first; what shims of fenced instances get as their deadline.
    pub fn deadline(&self) -> holdfast_policy::Timestamp {
        lock(&self.keeper).deadline()
    }

    /// For every transaction that only the holder may make.
    pub fn guard(&self) -> Guard {
        Guard::created_at(&self.key, self.token.create_revision)
    }

    /// Resolves when the role is lost; it never comes back on this value.
    pub async fn lost(&self) -> Lost {
        let mut seen = self.lost.clone();
        match seen.wait_for(Option::is_some).await {
            Ok(lost) => lost.unwrap_or(Lost::Unanswered),
            Err(_) => Lost::Unanswered,
        }
    }

    pub async fn resign(self) -> Result<()> {
        self.task.abort();
        lock(&self.keeper).revoked();
        match self.store.revoke(self.lease).await {
            Ok(()) | Err(Error::LeaseNotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(keeper: &Mutex<Keeper>) -> MutexGuard<'_, Keeper> {
    keeper.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Renewal {
    store: Arc<dyn Store>,
    clock: Clock,
    key: String,
    lease: LeaseId,
    create_revision: u64,
    keeper: Arc<Mutex<Keeper>>,
    lost: watch::Sender<Option<Lost>>,
}

impl Renewal {
    async fn run(self) {
        loop {
            let now = (self.clock)();
            let (action, next) = {
                let mut keeper = lock(&self.keeper);
                (keeper.poll(now), keeper.next_deadline())
            };
            match action {
                Some(Action::Renew) => self.renew(now).await,
                Some(Action::Stop(lost)) => {
                    tracing::warn!(key = %self.key, reason = lost.reason(), "the role is lost");
                    self.lost.send_replace(Some(lost));
                    return;
                }
                None => tokio::time::sleep(now.until(next).clamp(Duration::from_millis(1), LOOK_EVERY)).await,
            }
        }
    }

    async fn renew(&self, now: holdfast_policy::Timestamp) {
        lock(&self.keeper).sent(now);
        let left = now.until(lock(&self.keeper).deadline());
        let answer = tokio::time::timeout(left, self.renewed()).await;
        let mut keeper = lock(&self.keeper);
        match answer {
            Ok(Ok(true)) => keeper.acknowledged((self.clock)()),
            Ok(Ok(false) | Err(Error::LeaseNotFound(_))) => keeper.revoked(),
            Ok(Err(error)) => {
                tracing::warn!(key = %self.key, %error, "a renewal failed; trying again");
                keeper.failed((self.clock)());
            }
            Err(_) => keeper.failed((self.clock)()),
        }
    }

    /// False when the key is no longer ours although the lease lives.
    async fn renewed(&self) -> Result<bool> {
        self.store.keep_alive(self.lease).await?;
        let found = self.store.get(self.key.clone()).await?;
        Ok(found.is_some_and(|kv| kv.create_revision == self.create_revision))
    }
}
