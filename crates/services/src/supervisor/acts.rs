//! What holdfast does to running instances of its own accord, one service at a time: liveness restarts through the
//! brake, replacements by the rollout rule, and the leaving of what is not wanted any more.

use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::brake::{self, Failing, Peers, Verdict};
use holdfast_policy::rollout::{self, Candidate, Next};
use holdfast_policy::standby::Tier;
use holdfast_policy::{InstanceId, Timestamp, Transition};

use super::Supervisor;
use super::action::{EndpointState, Phase};
use super::definition::Definition;
use super::event::ShimPhase;
use super::history::Mark;
use super::instance::{Instance, Shim, Then, Why};

/// An instance restarted for its liveness counts as away until it is ready again, but not for longer than this:
/// one that never returns must not keep holdfast from helping the others.
const ACT_SETTLE: Duration = Duration::from_secs(120);

/// What depends on an unwanted instance gets this long to leave before it: longer than any sensible drain and grace.
const ORDER_PATIENCE: Duration = Duration::from_secs(180);

impl Supervisor {
    pub(crate) fn act_on_service(&mut self, now: Timestamp, name: &Arc<str>) {
        let Some(definition) = self.services.get(name).cloned() else { return };
        let ids: Vec<InstanceId> =
            self.of_service(name).map(|i| i.id.clone()).filter(|id| self.wanted(id).is_some()).collect();
        self.restart_hung(now, &definition, &ids);
        match definition.standby() {
            Some(_) => self.act_on_group(now, &definition, &ids),
            None => self.replace_due(now, &definition, &ids),
        }
    }

    /// Journals once what a pause keeps from being done.
    pub(crate) fn may_act(&mut self, now: Timestamp, i: &mut Instance, what: &'static str) -> bool {
        let Some(pause) = self.paused(&i.id) else { return true };
        let reason = format!("paused ({}): it would {what}", pause.reason);
        self.hold(now, i, "paused", reason);
        false
    }

    pub(crate) fn hold(&mut self, now: Timestamp, i: &mut Instance, rule: &'static str, reason: String) {
        if i.life.held != Some(rule) {
            i.life.held = Some(rule);
            let transition = Transition::new(i.shown, "held", reason);
            self.tell(now, i, transition, Mark::NONE);
        }
    }

    fn restart_hung(&mut self, now: Timestamp, definition: &Definition, ids: &[InstanceId]) {
        for id in ids {
            let Some(i) = self.instances.get(id) else { continue };
            let failed = i.life.live_failed.is_some() && i.leave.is_none();
            let runs = matches!(&i.shim, Shim::Alive(s) if s.phase == ShimPhase::Running);
            let Some(first_miss) = i.life.live.first_miss().filter(|_| failed && runs) else { continue };
            let failing = Failing { first_miss, usable: i.life.published == Some(EndpointState::Ready) };
            let peers = self.peers(now, definition, i, ids);
            let verdict = if self.rules.liveness_brake { brake::decide(now, failing, peers) } else { Verdict::Restart };
            self.with(id, |s, i| s.on_brake(now, i, verdict, peers));
        }
    }

    fn peers(&self, now: Timestamp, definition: &Definition, failing: &Instance, ids: &[InstanceId]) -> Peers {
        let live = definition.service.live.as_ref();
        let (every, timeout) = live.map_or((Duration::ZERO, Duration::ZERO), |p| (p.every, p.timeout));
        let mut peers = Peers {
            max_unavailable: definition.service.max_unavailable,
            min_available: self.min_available_here(definition),
            last_restart: self.liveness_restarts.get(definition.service.name.as_str()).copied(),
            ..Peers::default()
        };
        for other in ids.iter().filter(|id| **id != failing.id).filter_map(|id| self.instances.get(id)) {
            peers.acting += u32::from(other.acting.is_some_and(|t| now.since(t) < ACT_SETTLE));
            // Standbys that are paused or not started can witness nothing, and were never meant to.
            if definition.standby().is_some_and(|s| s.tier != Tier::Hot) {
                continue;
            }
            peers.others += 1;
            peers.witnesses +=
                u32::from(other.child_runs() && other.life.live.witnesses(&failing.life.live, now, every, timeout));
            peers.usable += u32::from(other.usable());
        }
        let elsewhere = self.elsewhere(definition);
        peers.others += elsewhere.started;
        // Their own machines look after them: ready there, by newer news than this instance's silence.
        peers.witnesses += elsewhere.ready;
        peers.usable += elsewhere.ready;
        peers
    }

    fn on_brake(&mut self, now: Timestamp, i: &mut Instance, verdict: Verdict, peers: Peers) {
        match verdict {
            Verdict::Restart => {
                if self.may_act(now, i, "be restarted: liveness failed") {
                    self.liveness_restarts.insert(i.id.service.clone(), now);
                    let transition = Transition::new(i.shown, i.shown, "the brake allows the restart")
                        .with("others", peers.others)
                        .with("witnesses", peers.witnesses)
                        .with("acting", peers.acting)
                        .with("usable", peers.usable);
                    self.tell(now, i, transition, Mark::phase(Phase::Decided));
                    self.begin_leave(now, i, Why::Liveness, Then::SameShim);
                }
            }
            Verdict::CommonCause { trial_at } => {
                self.wake_at(trial_at);
                let others = peers.others;
                let reason = format!(
                    "not restarted: none of the {others} other instances has passed liveness since it began to miss, so the cause is probably shared"
                );
                self.hold(now, i, "common_cause", reason);
            }
            Verdict::TooManyAtOnce => {
                self.wake_at(now + ACT_SETTLE);
                let reason = format!(
                    "not restarted yet: {} of at most {} are away already",
                    peers.acting, peers.max_unavailable
                );
                self.hold(now, i, "max_unavailable", reason);
            }
            Verdict::MinAvailable => {
                let reason = format!(
                    "not restarted: {} others are ready, min_available is {}",
                    peers.usable, peers.min_available
                );
                self.hold(now, i, "min_available", reason);
            }
        }
    }

    pub(crate) fn why_due(&self, i: &Instance, definition: &Definition) -> Option<(Why, Then)> {
        if i.leave.is_some() {
            return None;
        }
        match i.shim {
            Shim::Orphaned { .. } => Some((Why::ShimLost, Then::End)),
            Shim::Alive(_) if i.record.definition != definition.hash => Some((Why::Changed, Then::End)),
            Shim::Alive(_) if i.restart_asked => Some((Why::Asked, Then::SameShim)),
            _ => None,
        }
    }

    fn replace_due(&mut self, now: Timestamp, definition: &Definition, ids: &[InstanceId]) {
        let min_available = self.min_available_here(definition);
        let turns = self.turns(definition);
        for _ in 0..ids.len() {
            let candidates: Vec<Candidate> = ids
                .iter()
                .filter_map(|id| self.instances.get(id))
                .map(|i| Candidate {
                    due: self.why_due(i, definition).is_some(),
                    usable: i.usable(),
                    acting: i.acting.is_some() || i.leave.is_some(),
                })
                .collect();
            let next = match rollout::next(&candidates, turns, min_available) {
                Next::Replace(n) if turns == 0 && !candidates[n].acting => Next::WaitForActing,
                next => next,
            };
            match next {
                Next::Done => return,
                Next::Replace(n) => {
                    if !self.replace(now, definition, &ids[n]) {
                        return;
                    }
                }
                Next::WaitForActing => {
                    return self.wait_in_line(now, definition, ids, "waits its turn: another is being replaced");
                }
                Next::WaitForAvailable => {
                    return self.wait_in_line(
                        now,
                        definition,
                        ids,
                        "waits: too few others are ready for it to be replaced",
                    );
                }
            }
        }
    }

    /// False when a pause forbids it.
    pub(crate) fn replace(&mut self, now: Timestamp, definition: &Definition, id: &InstanceId) -> bool {
        let replaced = self.with(id, |s, i| {
            let Some((why, then)) = s.why_due(i, definition) else { return false };
            // A person asked for this restart, so a pause does not stand against it.
            if why != Why::Asked && !s.may_act(now, i, "be replaced") {
                return false;
            }
            i.life.held = None;
            s.begin_leave(now, i, why, then);
            true
        });
        replaced == Some(true)
    }

    fn wait_in_line(&mut self, now: Timestamp, definition: &Definition, ids: &[InstanceId], reason: &'static str) {
        for id in ids {
            self.with(id, |s, i| {
                if s.why_due(i, definition).is_some() {
                    s.hold(now, i, reason, reason.to_owned());
                }
            });
        }
    }

    /// Instances beyond the number wanted, of removed services, or all of them when everything stops.
    pub(crate) fn leave_unwanted(&mut self, now: Timestamp) {
        // Before it is known what is wanted, nothing is unwanted.
        if !self.told && !self.stopping {
            return;
        }
        let ids: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|i| i.leave.is_none() && matches!(i.shim, Shim::Alive(_) | Shim::Orphaned { .. }))
            .map(|i| i.id.clone())
            .filter(|id| self.wanted(id).is_none())
            .collect();
        for id in ids.iter().rev() {
            let surplus = !self.stopping && self.services.contains_key(&id.service);
            if (surplus && !self.may_shrink(id)) || self.waits_for_dependents(now, id) {
                continue;
            }
            self.with(id, |s, i| {
                if s.stopping || s.may_act(now, i, "be stopped: not wanted any more") {
                    s.begin_leave(now, i, Why::Unwanted, Then::End);
                }
            });
        }
    }

    /// Whoever depends on it goes first, but nobody waits for ever.
    fn waits_for_dependents(&mut self, now: Timestamp, id: &InstanceId) -> bool {
        let needed = self.still_needed_by(&id.service).is_some();
        let Some(i) = self.instances.get_mut(id) else { return false };
        let until = *i.unwanted_since.get_or_insert(now) + ORDER_PATIENCE;
        if needed && now < until {
            self.wake_at(until);
        }
        needed && now < until
    }

    /// A ready surplus instance leaves only while enough ready ones stay.
    fn may_shrink(&self, id: &InstanceId) -> bool {
        let Some(definition) = self.services.get(&id.service) else { return true };
        let usable = |wanted: bool| {
            let same = |i: &&Instance| i.usable() && self.wanted(&i.id).is_some() == wanted;
            self.of_service(&id.service).filter(same).count()
        };
        let leaves_capacity = self.instances.get(id).is_some_and(Instance::usable);
        let min_available = self.min_available_here(definition);
        !leaves_capacity || rollout::may_leave(usable(false), usable(true), min_available) > 0
    }
}
