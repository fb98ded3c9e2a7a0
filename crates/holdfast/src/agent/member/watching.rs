//! Keeps the view of the shared store: list, watch from there, and again when the watch ends.

use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::members::View;
use holdfast_cluster::{Error, epoch};
use holdfast_host::clock;
use holdfast_policy::backoff::Backoff;
use holdfast_policy::lease::FencingToken;
use holdfast_policy::rng::Rng;

use super::{Member, Seen};
use crate::agent::agent_event;
use crate::agent::core::Core;

const AGAIN: Backoff =
    Backoff { base: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(2), jitter: 0.3 };

/// How far the store has come is kept this often at most, so that an older copy is noticed also by an agent that was off
/// meanwhile.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// Whether it answers is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn run(member: Arc<Member>, core: Arc<Core>) {
    let mut rng = Rng::from_seed(clock::now().as_nanos());
    let mut failures = 0u32;
    tokio::spawn(tell_contact(member.clone(), core.clone()));
    loop {
        match round(&member, &core).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::debug!(%error, failures, "the shared store does not answer");
            }
        }
        // What was seen stays: it is how things were.
        member.seen.send_modify(|seen| Arc::make_mut(seen).fresh = false);
        tokio::time::sleep(AGAIN.delay(failures, &mut rng)).await;
    }
}

/// A watch looks for another member by itself for as long as it takes, so it does not say that none answers. Lease and
/// watch together do.
async fn tell_contact(member: Arc<Member>, core: Arc<Core>) {
    let mut present = true;
    // A new agent has not asked yet.
    tokio::time::sleep(member.cluster.lease.renew).await;
    loop {
        let answers = member.in_touch(clock::now());
        match (std::mem::replace(&mut present, answers), answers) {
            (true, false) => {
                tell(&core, "present", "away", "the shared store does not answer; what runs goes on, nothing is moved");
            }
            (false, true) => tell(&core, "away", "present", "the shared store answers again"),
            _ => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One list and the watch after it, until that ends.
async fn round(member: &Member, core: &Core) -> Result<(), Error> {
    follow(member).await?;
    let listing = member.store.list(String::new()).await?;
    member.touch();
    notice_older_copy(member, core, listing.revision).await?;
    let mut view = View::of(&listing);
    let mut watch = member.store.watch(String::new(), listing.revision + 1).await?;
    member.seen.send_replace(Arc::new(Seen { view: view.clone(), fresh: true }));
    let mut kept = clock::now();
    loop {
        let event = watch.next().await;
        if !view.apply(&event) {
            return Ok(());
        }
        member.touch();
        if clock::now().since(kept) >= KEEP_EVERY {
            kept = clock::now();
            member.keep_token(member.newest(view.revision), None).await;
        }
        member.seen.send_replace(Arc::new(Seen { view: view.clone(), fresh: true }));
    }
}

impl Member {
    /// The highest token that can have been handed out at this revision.
    fn newest(&self, revision: u64) -> FencingToken {
        FencingToken { epoch: self.highest_token().epoch, create_revision: revision }
    }
}

/// Another cluster than before may be an older copy of it: nothing is claimed there before its epoch is known.
async fn follow(member: &Member) -> Result<(), Error> {
    let answers = member.etcd.cluster_id().await?;
    if member.etcd.followed() != Some(answers) {
        member.epoch.forget();
        member.etcd.follow(answers);
    }
    Ok(())
}

/// A store that was set back to an older copy would hand out tokens a second time: a new epoch starts above all of them.
async fn notice_older_copy(member: &Member, core: &Core, revision: u64) -> Result<(), Error> {
    // Any token up to what was seen may have been handed out.
    let known = member.newest(member.seen().view.revision).max(member.highest_token());
    let of = member.etcd.followed().map(epoch::name_of);
    let epoch = epoch::settle(&*member.store, of.as_deref(), [known]).await?;
    let set_back = epoch::is_copy(known.epoch, epoch).then(clock::now);
    if set_back.is_some() && known.epoch > 0 {
        let reason =
            format!("the shared store is an older copy (revision {revision}, {known} was seen): epoch {epoch}");
        tell(core, "present", "restored", &reason);
    }
    member.keep_token(FencingToken { epoch, create_revision: revision }, set_back).await;
    member.epoch.learn(epoch, set_back);
    Ok(())
}

fn tell(core: &Core, from: &'static str, to: &'static str, reason: &str) {
    tracing::warn!(to, reason, "shared store");
    core.journal.append(agent_event(core, "cluster/store").change(from, to, reason.to_owned()));
}
