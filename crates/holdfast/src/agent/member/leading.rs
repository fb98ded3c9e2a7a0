//! The leader: one machine at a time looks at all of them and says what each should run.
//!
//! Everything it knows is in the view; everything it decides is a transaction that only the leader's key lets pass.

mod names;
pub(super) mod town;

use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::authority::ISSUED;
use holdfast_cluster::election::{Campaign, Leadership};
use holdfast_cluster::members::{ADMIN, ASSIGNED, LEADER, LINKS, NODE, STATE, lead, put};
use holdfast_cluster::{Error, Op, TXN_OPS_MAX, Txn, boot_clock};
use holdfast_host::clock;
use holdfast_observe::status::Leading;
use holdfast_policy::membership::{Change, Hold};
use holdfast_policy::placement::{Plan, Planner, Step};

use super::{Member, Seen, nonce};
use crate::agent::agent_event;
use crate::agent::core::Core;
use names::Names;
use town::Town;

/// Between two campaigns; a store that is away is not asked faster.
const AGAIN: Duration = Duration::from_millis(500);
/// A view may change a hundred times a second when much starts at once: it is looked at this often at most.
const GATHER: Duration = Duration::from_millis(5);
/// A plan that was not written is made anew from what is then known.
const WRITE_TIME: Duration = Duration::from_secs(2);

pub(super) async fn run(member: Arc<Member>, core: Arc<Core>) {
    loop {
        // Who is no member leads nobody.
        let mut seen = member.watch_seen();
        let name = member.name.to_string();
        let is_member = seen.wait_for(|s| s.fresh && s.view.alive.contains_key(&name));
        if is_member.await.is_err() {
            return;
        }
        let campaign = Campaign {
            store: member.store.clone(),
            key: LEADER.into(),
            node: member.name.to_string(),
            nonce: nonce(),
            timings: member.cluster.lease,
            epoch: member.highest_token().epoch,
            clock: boot_clock(),
            own_node_is_dead: true,
        };
        tokio::select! {
            won = campaign.win() => match won {
                Ok(leadership) => {
                    member.keep_token(leadership.token(), None).await;
                    member.count(|leading| *leading = Some(Leading::default()));
                    lead(&member, &core, leadership).await;
                    member.count(|leading| *leading = None);
                    member.set_unnamed(Vec::new());
                }
                Err(error) => tracing::debug!(%error, "cannot campaign for the lead"),
            },
            () = core.leaving() => return,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn lead(member: &Arc<Member>, core: &Arc<Core>, leadership: Leadership) {
    tell(core, "cluster/leader", "follower", "leader", format!("elected with token {}", leadership.token()));
    let mut town = Town::new(clock::now(), member);
    let mut planner = Planner::default();
    let mut names = Names::new();
    let mut seen = member.watch_seen();
    let mut heard = member.watch_heard();
    let mut told_hold = Hold::No;
    seen.mark_changed();
    loop {
        let next = town.next_deadline().min(names.next_deadline(clock::now()));
        tokio::select! {
            lost = leadership.lost() => {
                tell(core, "cluster/leader", "leader", "follower", lost.reason().to_owned());
                return;
            }
            changed = seen.changed() => if changed.is_err() { return },
            changed = heard.changed() => if changed.is_err() { return },
            () = names.changed() => {}
            () = tokio::time::sleep(clock::now().until(next)) => {}
            () = core.leaving() => {
                let _ = leadership.resign().await;
                return;
            }
        }
        tokio::time::sleep(GATHER).await;
        let now = clock::now();
        let news = seen.borrow_and_update().clone();
        heard.mark_unchanged();
        let changes = town.look(now, &news, &member.heard(), member.in_touch(now));
        changes.into_iter().for_each(|change| tell_change(core, change));
        let hold = town.hold(now);
        if hold != told_hold {
            tell_hold(core, &hold);
            told_hold = hold.clone();
        }
        let Some(in_force) = core.in_force().filter(|f| current(&f.desired.revision, &news)) else { continue };
        let config = core.scaled(&in_force.config);
        names.look(now, member, core, &news, &config, hold != Hold::No);
        let plan = town.plan(now, &news, &config, &mut planner);
        let spent = u64::try_from(clock::now().since(now).as_micros()).unwrap_or(u64::MAX);
        member.count(|leading| {
            if let Some(leading) = leading {
                leading.passes += 1;
                leading.pass_sum_us += spent;
                leading.pass_max_us = leading.pass_max_us.max(spent);
            }
        });
        if !plan.is_idle() {
            tracing::info!("plan: {plan}");
        }
        let forgotten = town.forgotten(&news);
        if let Err(error) = carry_out(member, &leadership, core, &news, &config, &plan, &forgotten).await {
            tracing::warn!(%error, "the plan was not written; it is made anew");
        }
        core.set_held(plan.held.iter().map(|h| (h.instance.to_string(), h.why.clone())).collect());
    }
}

/// The file that this machine goes by is the one that the store has.
fn current(revision: &u64, seen: &Seen) -> bool {
    seen.fresh && seen.view.desired.as_ref().is_some_and(|(_, stored)| stored == revision)
}

/// Writes every assignment that the plan changes, in as few transactions as etcd allows. One that is refused means
/// that another leads.
async fn carry_out(
    member: &Member,
    leadership: &Leadership,
    core: &Core,
    seen: &Seen,
    config: &holdfast_config::Config,
    plan: &Plan,
    forgotten: &[String],
) -> Result<(), Error> {
    let before = &seen.view.assigned;
    let after = lead::carried_out(before, plan, &town::turns(seen, config), clock::wall_ms());
    let mut ops = Vec::new();
    for (node, assignment) in &after {
        if before.get(node).map(|known| &**known) != Some(assignment) {
            ops.push(put(ASSIGNED, node, assignment)?);
        }
    }
    for node in forgotten {
        ops.retain(|op| !matches!(op, Op::Put { key, .. } if *key == format!("{ASSIGNED}{node}")));
        ops.extend([NODE, ADMIN, STATE, LINKS, ASSIGNED, ISSUED].map(|kind| Op::delete(format!("{kind}{node}"))));
    }
    if ops.is_empty() {
        return Ok(());
    }
    for some in ops.chunks(TXN_OPS_MAX) {
        if !leadership.holds() {
            return Err(Error::Unavailable { reason: "the lead ended".into() });
        }
        let txn = Txn::when([leadership.guard()]).then(some.iter().cloned());
        let written = tokio::time::timeout(WRITE_TIME, leadership.store().txn(txn)).await;
        let outcome = written.map_err(|_| Error::Unavailable { reason: "no answer to a plan".into() })??;
        member.count(|leading| leading.iter_mut().for_each(|leading| leading.writes += 1));
        if !outcome.succeeded {
            return Err(Error::Unavailable { reason: "another leads".into() });
        }
    }
    for planned in &plan.steps {
        let (from, to) = match &planned.step {
            Step::Place { node, .. } => ("unplaced".to_owned(), node.to_string()),
            Step::Move { from, to, .. } => (from.to_string(), to.to_string()),
            Step::Remove { node, .. } => (node.to_string(), "nowhere".to_owned()),
        };
        let event = agent_event(core, &format!("instance/{}", planned.step.instance()));
        let event = event.change("", "placed", format!("{}: {}", planned.step, planned.reason));
        let event = event.with("from", from).with("to", to);
        core.journal.append(event.with(holdfast_observe::incident::STAGE, "neutral"));
    }
    for node in forgotten {
        tell(core, &format!("node/{node}"), "drained", "removed", "it is empty, as was asked for".into());
    }
    Ok(())
}

fn tell_change(core: &Core, change: Change) {
    let subject = change.node.map_or_else(|| "cluster/brake".to_owned(), |node| format!("node/{node}"));
    let transition = change.transition;
    tracing::warn!(subject, from = transition.from, to = transition.to, reason = %transition.reason, "membership");
    let mut event = agent_event(core, &subject).change(transition.from, transition.to, transition.reason.to_string());
    for (name, value) in &transition.inputs {
        event = event.with(name, value);
    }
    core.journal.append(event);
}

fn tell_hold(core: &Core, hold: &Hold) {
    let (to, reason) = match hold {
        Hold::No => ("moving", "the evidence holds: instances are moved where it is needed".to_owned()),
        Hold::Brake { why } => ("braked", why.clone()),
        Hold::Void { why, .. } => ("waiting", why.clone()),
    };
    tell(core, "cluster/planner", "", to, reason);
}

fn tell(core: &Core, subject: &str, from: &'static str, to: &'static str, reason: String) {
    tracing::info!(subject, to, reason, "cluster");
    core.journal.append(agent_event(core, subject).change(from, to, reason));
}
