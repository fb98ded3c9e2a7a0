//! Who may take over, and when it claims the lease.

use holdfast_policy::lease::FencingToken;
use holdfast_policy::standby::{self, Facts, State};
use holdfast_policy::{InstanceId, Timestamp, Transition};

use super::super::Supervisor;
use super::super::action::{Action, Phase};
use super::super::definition::Definition;
use super::super::event::{Role, ShimPhase};
use super::super::history::Mark;
use super::super::instance::{Instance, Shim};

impl Supervisor {
    pub(crate) fn facts(&self, now: Timestamp, i: &Instance, definition: &Definition, forced: bool) -> Option<Facts> {
        let standby = definition.standby()?;
        let running = |s: &super::super::event::ShimState| s.phase == ShimPhase::Running && s.role != Role::Dry;
        let prepared = match &i.shim {
            Shim::Absent => standby.is_started_when_needed() && now >= i.launch_after,
            Shim::Alive(state) if running(state) && !standby.is_started_when_needed() => {
                let was_ready = i.life.first_ready.is_some();
                let ready = i.life.ready.state() == holdfast_policy::health::Readiness::Ready;
                was_ready && if standby.is_paused() { state.stopped_at.is_some() } else { ready }
            }
            _ => false,
        };
        // The data of who was active last is the newest there is, and before the first there is none.
        let last = self.groups.get(&i.id.service).and_then(|g| g.last.as_ref());
        let own = self.holders_told && last.is_none_or(|last| *last == i.id);
        Some(Facts {
            tier: standby.tier,
            prepared,
            leaving: i.leave.is_some() || self.wanted(&i.id).is_none() || self.paused(&i.id).is_some(),
            age: i.record.synced.map(|at| now.since(at)),
            max_staleness: standby.max_staleness,
            forced: forced || own,
        })
    }

    pub(crate) fn can_take_over(&self, now: Timestamp, i: &Instance, definition: &Definition) -> bool {
        self.facts(now, i, definition, false).is_some_and(|f| standby::eligible(f).is_ok())
    }

    /// Another member that could take over from `i` now.
    pub(crate) fn rival(&self, now: Timestamp, i: &Instance, definition: &Definition) -> Option<InstanceId> {
        let able = |other: &&Instance| other.id != i.id && self.can_take_over(now, other, definition);
        let here = self.of_service(&i.id.service).find(able).map(|other| other.id.clone());
        here.or_else(|| self.elsewhere(definition).able.map(|n| InstanceId::new(i.id.service.clone(), n)))
    }

    /// Claims the lease of the service when it is free and this member's turn has come.
    pub(crate) fn claim(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition) {
        if !self.holders_told || i.member.machine.state() != State::Standby || i.lease_until.is_some() {
            return;
        }
        let group = self.groups.get(&i.id.service).cloned().unwrap_or_default();
        let wish = group.wish.clone().filter(|w| w.holds(now, group.newest.as_ref()));
        let forced = wish.as_ref().is_some_and(|w| w.force && w.to.as_ref() == Some(&i.id));
        let Some(facts) = self.facts(now, i, definition, forced) else { return };
        let delay = match &group.holder {
            // Won by an agent that died before it could use it. One that was given back is nobody's before that is heard:
            // who claimed it at once would be quicker than those who are meant to take over.
            Some(holder) if holder.member == i.id && i.member.gave_back != Some(holder.token) => {
                std::time::Duration::ZERO
            }
            Some(_) if self.rules.lease_check => {
                i.member.could_claim = None;
                return;
            }
            _ => {
                let last = group.last.as_ref() == Some(&i.id);
                standby::claim_delay(i.id.ordinal, facts, group.last.is_none(), last)
            }
        };
        if let Err(why) = standby::eligible(facts) {
            self.cannot(now, i, why);
            i.member.could_claim = None;
            return;
        }
        i.member.unable = None;
        if let Some(wish) = wish.filter(|w| group.holder.is_none() && !w.lets_claim(&i.id, group.last.as_ref())) {
            return self.wake_at(wish.until);
        }
        let at = *i.member.could_claim.get_or_insert(now) + delay;
        let again = i.lease_asked.map_or(at, |asked| at.max(asked + standby::CLAIM_AGAIN));
        if now < again {
            return self.wake_at(again);
        }
        i.lease_asked = Some(now);
        if !self.rules.lease_check {
            let newest = group.newest.max(i.member.machine.highest()).unwrap_or_default();
            let token = FencingToken { create_revision: newest.create_revision + 1, ..newest };
            return self.on_lease_held(now, i, now + definition.timings().give_up, token, Vec::new());
        }
        self.act(Action::Lease { instance: i.id.clone(), shared: true, timings: definition.timings(), asked: now });
        self.wake_at(now + standby::CLAIM_AGAIN);
    }

    /// Journaled once while nobody is active, because then people ask.
    fn cannot(&mut self, now: Timestamp, i: &mut Instance, why: standby::Ineligible) {
        if i.member.unable != Some(why) {
            i.member.unable = Some(why);
            let transition = Transition::new(i.shown, i.shown, format!("it cannot take over: {}", why.reason()));
            self.tell(now, i, transition, Mark::NONE);
        }
    }

    pub(crate) fn on_lease_held(
        &mut self,
        now: Timestamp,
        i: &mut Instance,
        until: Timestamp,
        token: FencingToken,
        owed: Vec<String>,
    ) {
        self.dirty = true;
        if !self.is_member(i) {
            (i.lease_until, i.token) = (Some(until), Some(token));
            return;
        }
        let stale = i.member.stands_by() && i.member.machine.highest().is_some_and(|h| token <= h);
        (i.lease_until, i.token) = (Some(until), Some(token));
        if stale && self.rules.lease_check {
            // A lease that could not be given back, or a store that went back: the next claim gets a newer token.
            let text = format!("HF0340: {token} is not newer than a token that it had before: it is given back");
            self.tell(now, i, Transition::new("standby", "standby", text), Mark::NONE);
            return self.release(now, i);
        }
        match i.member.machine.state() {
            state if state.needs_token() => drop(i.member.machine.renew(token)),
            State::Standby => match i.member.machine.win(token) {
                Ok(_) => self.won(now, i, token, owed),
                Err(_) => self.release(now, i),
            },
            // It died while the claim was on its way: it has nothing to be active with.
            _ => self.release(now, i),
        }
    }

    fn won(&mut self, now: Timestamp, i: &mut Instance, token: FencingToken, owed: Vec<String>) {
        i.member.owed = owed;
        (i.member.tries, i.member.job_after, i.member.job) = (0, now, None);
        (i.member.could_claim, i.member.demoted) = (None, false);
        let age = i.record.synced.map(|at| now.since(at));
        let lost = self.group(i).lost.clone();
        if let Some(lost) = &lost {
            let mut detected = Transition::new("standby", "standby", format!("{} is not active any more", lost.member));
            if let Some(age) = age {
                detected = detected.with("data_age_ms", age.as_millis());
            }
            let phase = if lost.planned { Mark::NONE } else { Mark::phase(Phase::Detected) };
            self.tell(now, i, detected.with("planned", lost.planned), phase.at(lost.at.min(now)));
        }
        let decided = Transition::new("standby", "promoting", "it won the lease of the service")
            .with("token", token)
            .with("owed", i.member.owed.join(","));
        let mark = if lost.is_some_and(|l| !l.planned) { Mark::phase(Phase::Decided) } else { Mark::NONE };
        self.tell(now, i, decided, mark);
    }

    pub(crate) fn on_member_lease_lost(&mut self, now: Timestamp, i: &mut Instance, reason: String) {
        self.dirty = true;
        i.member.could_claim = None;
        let held = i.lease_until.take().is_some();
        i.token = None;
        if held || i.member.acts() {
            let transition = Transition::new("leased", "unleased", reason);
            self.tell(now, i, transition, Mark::phase(Phase::Detected));
        }
    }
}
