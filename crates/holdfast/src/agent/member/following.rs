//! Does here what the shared store says: the applied file, this machine's share, pauses, restarts asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_cluster::members::{ASSIGNED, Assignment, View, put};
use holdfast_cluster::records::Pause;
use holdfast_cluster::{Guard, Txn};
use holdfast_host::clock;
use holdfast_services::supervisor::Placement;

use super::{Member, remote};
use crate::agent::core::{Core, InForce};

/// What could not be done is tried again after this, although nothing changed.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Done {
    /// Revision of the file, and scales, that were put in force.
    desired: Option<(u64, BTreeMap<String, u32>)>,
    assignment: Assignment,
    placement: Option<Placement>,
    pauses: BTreeMap<String, Pause>,
    /// Requests to restart, by target. What was there at the first look is history.
    restarts: Option<BTreeMap<String, String>>,
    /// The store has nothing of what is in force here.
    lost: bool,
}

pub(super) async fn run(member: Arc<Member>, core: Arc<Core>) {
    let mut seen = member.watch_seen();
    let mut heard = member.watch_heard();
    let mut applied = core.watch_in_force();
    let mut done = Done { assignment: member.kept_assignment().await, ..Done::default() };
    loop {
        let tried = step(&member, &core, &mut done).await;
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            changed = heard.changed() => if changed.is_err() { return },
            changed = applied.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if !tried => {}
        }
        seen.mark_unchanged();
        heard.mark_unchanged();
    }
}

/// False when something has to be tried again.
async fn step(member: &Arc<Member>, core: &Arc<Core>, done: &mut Done) -> bool {
    let seen = member.seen();
    // Before the first look there is only what was kept.
    if seen.view.revision == 0 {
        return true;
    }
    // What is meant for this name may be another's.
    if !member.admitted.load(Ordering::Acquire) {
        return false;
    }
    // What was applied a moment ago may not have been seen yet.
    let lost = |f: &InForce| seen.view.desired.is_none() && seen.view.revision >= f.desired.revision;
    if core.in_force().is_some_and(|f| lost(&f)) {
        done.lost = true;
        return keep_on(member, &seen.view, &done.assignment).await;
    }
    if std::mem::take(&mut done.lost) {
        member.set_trouble(None);
    }
    let mut good = true;
    let own = seen.view.assigned.get(&*member.name.0).map(|own| (**own).clone()).unwrap_or_default();
    if own.instances != done.assignment.instances {
        member.keep_assignment(&own).await;
        done.assignment = own;
    }
    place(member, core, done).await;
    if let Some((desired, revision)) = &seen.view.desired {
        let wanted = Some((*revision, seen.view.scales.clone()));
        if done.desired != wanted {
            match core.follow(desired, *revision).await {
                true => done.desired = wanted,
                false => good = false,
            }
        }
    }
    // A new file may name services that the share was not told for.
    place(member, core, done).await;
    pause(core, done, &seen.view.pauses).await;
    restart(core, done, &seen.view.restarts).await;
    good
}

/// A store without a file has lost its data: nobody takes a file back. What runs goes on, and this machine's share is put
/// back, so that the next leader finds everything where it is.
async fn keep_on(member: &Member, view: &View, kept: &Assignment) -> bool {
    let trouble = "etcd has lost what was applied: what runs goes on; holdfast up -d puts the file back".to_owned();
    if member.trouble().as_ref() != Some(&trouble) {
        tracing::error!(code = "HF0332", "{trouble}");
        member.set_trouble(Some(trouble));
    }
    if view.assigned.contains_key(&*member.name.0) || kept.instances.is_empty() {
        return true;
    }
    let put_back = async {
        let absent = Guard::absent(format!("{ASSIGNED}{}", member.name));
        member.store.txn(Txn::when([absent]).then([put(ASSIGNED, &member.name.0, kept)?])).await
    };
    put_back.await.is_ok()
}

async fn place(member: &Arc<Member>, core: &Arc<Core>, done: &mut Done) {
    let Some(in_force) = core.in_force() else { return };
    let placement = remote::placement(member, &in_force.config);
    if done.placement.as_ref() != Some(&placement) && core.services.place(Some(placement.clone())).await.is_ok() {
        done.placement = Some(placement);
    }
    core.remotes_changed();
}

async fn pause(core: &Core, done: &mut Done, wanted: &BTreeMap<String, Pause>) {
    for (key, pause) in wanted {
        if done.pauses.get(key) == Some(pause) {
            continue;
        }
        let left = pause.until_wall_ms.map(|until| Duration::from_millis(until.saturating_sub(clock::wall_ms())));
        // A service that has nothing here has nothing to pause.
        if left != Some(Duration::ZERO) {
            let _ = core.services.pause(pause.name.as_deref(), left, &pause.reason, &pause.by).await;
        }
        done.pauses.insert(key.clone(), pause.clone());
    }
    let over: Vec<String> = done.pauses.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
    for key in over {
        if let Some(pause) = done.pauses.remove(&key) {
            let _ = core.services.resume(pause.name.as_deref()).await;
        }
    }
}

async fn restart(core: &Core, done: &mut Done, wanted: &BTreeMap<String, String>) {
    let Some(known) = &done.restarts else {
        done.restarts = Some(wanted.clone());
        return;
    };
    for (target, nonce) in wanted {
        if known.get(target) != Some(nonce) {
            let _ = core.services.restart(target).await;
        }
    }
    done.restarts = Some(wanted.clone());
}
