//! What concerns all members of a redundant service: the lease as others see it, wishes, failback, measures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_config::Failback;
use holdfast_policy::standby::{self, State};
use holdfast_policy::{InstanceId, Timestamp, Transition};

use super::super::Supervisor;
use super::super::action::{Action, EndpointState};
use super::super::definition::Definition;
use super::super::event::{Holder, Wish};
use super::super::instance::{Instance, Shim, Why};
use super::{Lost, Takeover};

impl Supervisor {
    pub(crate) fn on_holders(
        &mut self,
        now: Timestamp,
        mut holders: BTreeMap<Arc<str>, Holder>,
        mut last: BTreeMap<Arc<str>, InstanceId>,
        mut wishes: BTreeMap<Arc<str>, Wish>,
    ) {
        self.holders_told = true;
        self.dirty = true;
        let known: BTreeSet<Arc<str>> =
            self.groups.keys().chain(holders.keys()).chain(last.keys()).chain(wishes.keys()).cloned().collect();
        for name in known {
            let (holder, wish) = (holders.remove(&name), wishes.remove(&name));
            let seen = self.groups.entry(name.clone()).or_default();
            seen.last = last.remove(&name).or(seen.last.take());
            if let Some(holder) = &holder {
                seen.newest = seen.newest.max(Some(holder.token));
                seen.last = Some(holder.member.clone());
            } else if let (Some(before), None) = (&seen.holder, &seen.lost) {
                // It ran out, or its holder is on another node.
                seen.lost = Some(Lost { at: now, member: before.member.clone(), planned: wish.is_some() });
            }
            (seen.holder, seen.wish) = (holder, wish);
        }
    }

    /// Replacements, wishes and failback; each member's own steps are taken elsewhere.
    pub(crate) fn act_on_group(&mut self, now: Timestamp, definition: &Arc<Definition>, ids: &[InstanceId]) {
        self.replace_members(now, definition, ids);
        self.fail_back(now, definition);
    }

    /// Those that stand by first, one after the other; the active one last, after a switchover where that is possible.
    fn replace_members(&mut self, now: Timestamp, definition: &Arc<Definition>, ids: &[InstanceId]) {
        let all: Vec<&Instance> = ids.iter().filter_map(|id| self.instances.get(id)).collect();
        let settled = |i: &&&Instance| i.leave.is_none() && (i.member.stands_by() || i.member.acts());
        if all.iter().filter(settled).count() < all.len() {
            // A lost shim cannot wait: its member is no use.
            let orphan = all.iter().find(|i| i.leave.is_none() && matches!(i.shim, Shim::Orphaned { .. }));
            if let Some(id) = orphan.map(|i| i.id.clone()) {
                self.replace(now, definition, &id);
            }
            let stuck = all_idle_due(self, definition, ids);
            if let Some(id) = stuck {
                self.replace(now, definition, &id);
            }
            return;
        }
        let due: Vec<&&Instance> = all.iter().filter(|i| self.why_due(i, definition).is_some()).collect();
        let Some(next) = due.iter().find(|i| !i.member.acts()).or(due.first()) else { return };
        let (id, acts) = (next.id.clone(), next.member.acts());
        let rival = self.instances.get(&id).and_then(|i| self.rival(now, i, definition));
        if acts && rival.is_some() {
            self.with(&id, |s, i| {
                if s.may_act(now, i, "hand over to be replaced") {
                    s.hand_over(now, i, Why::Switchover);
                }
            });
        } else {
            self.replace(now, definition, &id);
        }
    }

    fn fail_back(&mut self, now: Timestamp, definition: &Definition) {
        let Some(standby) = definition.standby().filter(|s| s.failback == Failback::Preferred) else { return };
        let name: Arc<str> = definition.service.name.as_str().into();
        let first = InstanceId::new(name.clone(), 1);
        let able = self.instances.get(&first).is_some_and(|i| self.can_take_over(now, i, definition));
        let Some(group) = self.groups.get_mut(&name) else { return };
        let away = group.holder.as_ref().filter(|h| h.member != first).map(|h| h.token);
        let Some(over) = away.filter(|_| able) else {
            group.preferred_since = None;
            return;
        };
        let since = *group.preferred_since.get_or_insert(now);
        if !standby::failback_due(now, Some(since), standby.stable_for) {
            return self.wake_at(since + standby.stable_for);
        }
        if group.failback_over != Some(over) {
            group.failback_over = Some(over);
            let why = format!("failback to {first}: it has been able to take over for long enough");
            let transition = Transition::new("sticky", "failback", why);
            self.journal(now, &name, None, transition, None);
            self.act(Action::Want { service: name, to: first, over });
        }
    }

    /// A wish that is about this active member and that can be fulfilled.
    pub(crate) fn wished_away(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition) -> bool {
        let Some(group) = self.groups.get(&i.id.service) else { return false };
        let about_it = |w: &&Wish| {
            w.holds(now, group.newest.as_ref()) && w.over == i.member.machine.token() && w.to.as_ref() != Some(&i.id)
        };
        let Some(wish) = group.wish.as_ref().filter(about_it) else { return false };
        match &wish.to {
            // A member on another node knows for itself; one that cannot claim lets the wish run out.
            Some(to) => self.instances.get(to).is_none_or(|other| {
                self.facts(now, other, definition, wish.force).is_some_and(|f| standby::eligible(f).is_ok())
            }),
            None => self.rival(now, i, definition).is_some(),
        }
    }

    /// The active program died on its own, or everything it served is over.
    pub(crate) fn note_fault(&mut self, i: &mut Instance, at: Timestamp, own: bool) {
        let state = i.member.machine.state();
        if !self.is_member(i) || !state.needs_token() {
            return;
        }
        let (member, planned) = (i.id.clone(), !own && state == State::Draining);
        self.group(i).lost.get_or_insert(Lost { at, member, planned });
        self.dirty = true;
    }

    /// The active one serves: what was lost before is over, and what it cost is known.
    pub(crate) fn measure(&mut self, now: Timestamp, i: &mut Instance) {
        if i.life.published != Some(EndpointState::Ready) {
            return;
        }
        let synced = i.record.synced;
        let group = self.group(i);
        let Some(lost) = group.lost.take() else { return };
        let takeover = Takeover {
            from: lost.member.clone(),
            to: i.id.clone(),
            planned: lost.planned,
            at: now,
            rto: now.since(lost.at),
            rpo: if lost.member == i.id { None } else { synced.map(|at| lost.at.since(at)) },
        };
        group.takeover = Some(takeover.clone());
        let what = if takeover.planned { "switchover" } else { "failover" };
        let mut transition = Transition::new("lost", "active", format!("{what} from {} to {}", lost.member, i.id))
            .with("rto_ms", takeover.rto.as_millis());
        if let Some(rpo) = takeover.rpo {
            transition = transition.with("rpo_ms", rpo.as_millis());
        }
        let name = i.id.service.clone();
        self.journal(now, &name, None, transition, i.last_entry);
    }
}

/// An instance whose replacement is what the others wait for, such as one of a definition that never gets ready.
fn all_idle_due(s: &Supervisor, definition: &Definition, ids: &[InstanceId]) -> Option<InstanceId> {
    let all = || ids.iter().filter_map(|id| s.instances.get(id));
    if all().any(|i| i.leave.is_some()) {
        return None;
    }
    let unsettled = |i: &&Instance| !i.member.stands_by() && !i.member.acts() && s.why_due(i, definition).is_some();
    all().find(unsettled).map(|i| i.id.clone())
}
