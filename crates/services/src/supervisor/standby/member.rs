//! One member's steps: standing by, giving back the lease, and what follows a fault.

use holdfast_policy::standby::{self, AfterFault, State, Step};
use holdfast_policy::{Timestamp, Transition};

use super::super::Supervisor;
use super::super::action::{Action, Phase, Request};
use super::super::definition::Definition;
use super::super::event::{Role, ShimPhase, ShimState};
use super::super::history::Mark;
use super::super::instance::{Instance, Shim, Then, Why};
use super::super::reconcile::RETRY;
use super::Lost;

const UNMOUNTING: &str = "waits for its volume to be unmounted";

impl Supervisor {
    /// Of an instance whose shim lives.
    pub(crate) fn step_member(&mut self, now: Timestamp, i: &mut Instance) {
        let Some(definition) = i.running.clone().filter(|d| d.standby().is_some()) else { return };
        let Shim::Alive(state) = i.shim.clone() else { return };
        self.settle_machine(now, i, &definition, &state);
        if is_over(now, &state) {
            self.release(now, i);
            let lapsed = matches!(state.phase, ShimPhase::Starting | ShimPhase::Backoff { .. });
            // A restart under the same shim cannot come any more: the deadline of this generation is over.
            if lapsed && i.leave.is_none_or(|l| l.then == Then::SameShim) {
                i.leave = None;
                self.begin_leave(now, i, Why::Stale, Then::End);
            }
            return;
        }
        if i.leave.is_some() {
            return;
        }
        if i.member.acts() {
            self.step_acting(now, i, &definition, &state);
        } else {
            self.stand_by(now, i, &definition, &state);
        }
    }

    /// Its machine follows what is the case.
    fn settle_machine(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition, state: &ShimState) {
        if i.member.machine.state() == State::Absent {
            self.take(now, i, Step::Stage, "it is wanted");
        }
        if i.member.machine.state() == State::Fenced {
            self.take(now, i, Step::Rejoin, "it goes back to stand by");
        }
        let runs = state.phase == ShimPhase::Running && state.role != Role::Dry;
        if runs && matches!(i.member.machine.state(), State::Staged | State::Rejoining) {
            self.take(now, i, Step::Seed, "its program was started");
        }
        let facts = self.facts(now, i, definition, true);
        let prepared = facts.is_some_and(|f| f.prepared);
        match i.member.machine.state() {
            State::Seeding if prepared => self.take(now, i, Step::Settle, "it can take over"),
            State::Standby if state.phase != ShimPhase::Running && state.role != Role::Dry => {
                self.take(now, i, Step::ProvedDead, "its program ended")
            }
            _ => {}
        }
    }

    fn step_acting(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition, state: &ShimState) {
        if i.lease_until.is_none() && self.rules.lease_check {
            return self.regain(now, i, definition);
        }
        if let ShimPhase::Backoff { .. } = state.phase {
            return self.after_fault(now, i, definition, state);
        }
        let braked = self.recent_hand_overs(now, i) >= standby::HAND_OVERS_MAX;
        let rival = !braked && self.rival(now, i, definition).is_some() && self.paused(&i.id).is_none();
        self.keep_hold(now, i, standby::hold(definition.standby().map(|s| s.tier).unwrap_or_default(), rival), state);
        self.promote(now, i, definition, state);
        if i.member.machine.state() == State::Active {
            self.measure(now, i);
            if self.wished_away(now, i, definition) && self.may_act(now, i, "hand over: a switchover is wanted") {
                self.hand_over(now, i, Why::Switchover);
            }
        }
    }

    /// Active without a lease: after a restart of the agent, or because it ran out. Its shim's deadline still counts.
    fn regain(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition) {
        let other = self.groups.get(&i.id.service).and_then(|g| g.holder.as_ref());
        let taken = other.is_some_and(|h| h.member != i.id);
        if self.holders_told && taken {
            return self.begin_leave(now, i, Why::Unleased, Then::End);
        }
        let again = i.lease_asked.map_or(now, |asked| asked + RETRY);
        if now >= again {
            i.lease_asked = Some(now);
            self.act(Action::Lease { instance: i.id.clone(), shared: true, timings: definition.timings(), asked: now });
        }
        self.wake_at(i.lease_asked.unwrap_or(now) + RETRY);
    }

    fn after_fault(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition, state: &ShimState) {
        if i.member.machine.state() == State::Active {
            self.take(now, i, Step::RestartHere, "its program ended");
        }
        let rival = self.rival(now, i, definition).filter(|_| self.paused(&i.id).is_none());
        let tier = definition.standby().map(|s| s.tier).unwrap_or_default();
        let recent = self.recent_hand_overs(now, i);
        match standby::after_fault(tier, state.failures, rival.is_some(), recent) {
            AfterFault::HandOver => {
                self.group(i).hand_overs.push_back(now);
                self.hand_over(now, i, Why::HandOver);
            }
            // The hold was for another member that cannot take over any more.
            AfterFault::RestartHere => self.keep_hold(now, i, std::time::Duration::ZERO, state),
        }
    }

    fn recent_hand_overs(&mut self, now: Timestamp, i: &Instance) -> u32 {
        let times = &mut self.group(i).hand_overs;
        while times.front().is_some_and(|at| now.since(*at) > standby::HAND_OVER_WINDOW) {
            times.pop_front();
        }
        u32::try_from(times.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn hand_over(&mut self, now: Timestamp, i: &mut Instance, why: Why) {
        if i.member.machine.state() != State::Draining {
            self.take(now, i, Step::Drain, why.reason());
        }
        if why == Why::Switchover {
            let member = i.id.clone();
            self.group(i).lost = Some(Lost { at: now, member, planned: true });
        }
        self.begin_leave(now, i, why, Then::End);
    }

    fn keep_hold(&mut self, now: Timestamp, i: &mut Instance, wanted: std::time::Duration, state: &ShimState) {
        let again = i.member.hold_asked.map_or(now, |asked| asked + RETRY);
        if state.hold == wanted {
            i.member.hold_asked = None;
        } else if now >= again {
            i.member.hold_asked = Some(now);
            self.command(i, Request::Hold(wanted));
            self.wake_at(now + RETRY);
        }
    }

    pub(crate) fn command(&mut self, i: &Instance, request: Request) {
        self.act(Action::Command { instance: i.id.clone(), incarnation: i.life.incarnation, request });
    }

    /// Not active: kept fresh, paused where its tier says so, and on the look-out for the lease.
    fn stand_by(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition, state: &ShimState) {
        if state.role == Role::Dry {
            return self.watch_dry_start(now, i, state);
        }
        let pauses = definition.standby().is_some_and(|s| s.is_paused());
        let ready = i.life.ready.state() == holdfast_policy::health::Readiness::Ready;
        if pauses && state.phase == ShimPhase::Running && ready && state.stopped_at.is_none() {
            self.ask_again(now, i, Request::Freeze(true));
        }
        self.keep_synced(now, i, definition);
        self.claim(now, i, definition);
    }

    /// Sends a request now, or when the last one was sent long enough ago.
    pub(crate) fn ask_again(&mut self, now: Timestamp, i: &mut Instance, request: Request) {
        let again = i.member.asked.filter(|(of, _)| *of == request).map_or(now, |(_, at)| at + RETRY);
        if now >= again {
            i.member.asked = Some((request, now));
            self.command(i, request);
        }
        self.wake_at(again.max(now + RETRY));
    }

    /// Gives the lease back. Only for a program that is proved dead and that its shim will not start again.
    pub(crate) fn release(&mut self, now: Timestamp, i: &mut Instance) {
        let acted = i.member.acts();
        if !acted && i.lease_until.is_none() && !i.member.releasing {
            return;
        }
        let unmounted = self.is_unmounted(now, i);
        i.member.releasing = !unmounted;
        if !unmounted {
            return;
        }
        i.member.gave_back = i.token.or(i.member.gave_back);
        (i.lease_until, i.lease_asked, i.token) = (None, None, None);
        i.member.released = Some(now);
        i.member.owed.clear();
        (i.member.job, i.member.trouble) = (None, None);
        self.act(Action::ReleaseLease { instance: i.id.clone(), shared: true });
        if acted {
            self.take(now, i, Step::ProvedDead, "its program is proved dead: the lease is given back");
        }
        self.dirty = true;
    }

    /// Shim and program are proved dead.
    pub(crate) fn member_gone(&mut self, now: Timestamp, i: &mut Instance) {
        let Some(definition) = i.running.clone().filter(|d| d.standby().is_some()) else { return };
        let on_demand = definition.standby().is_some_and(|s| s.is_started_when_needed());
        let leaves = i.leave.is_some_and(|l| matches!(l.why, Why::HandOver | Why::Switchover | Why::Unwanted));
        if i.member.acts() {
            self.note_fault(i, now, true);
            if on_demand && !leaves && i.lease_until.is_some() {
                if i.member.machine.state() == State::Active {
                    self.take(now, i, Step::RestartHere, "its shim is gone, and its program with it");
                }
            } else {
                self.release(now, i);
            }
        } else {
            self.release(now, i);
        }
        if matches!(i.member.machine.state(), State::Seeding | State::Standby) && !on_demand {
            self.take(now, i, Step::ProvedDead, "its program is gone");
        }
        i.member.asked = None;
        i.member.hold_asked = None;
    }

    /// What keeps an absent member from being launched, in words.
    pub(crate) fn member_obstacle(&mut self, now: Timestamp, i: &mut Instance, d: &Definition) -> Option<String> {
        if i.member.releasing {
            self.release(now, i);
            if i.member.releasing {
                return Some(UNMOUNTING.into());
            }
        }
        for (state, step, why) in
            [(State::Absent, Step::Stage, "it is wanted"), (State::Fenced, Step::Rejoin, "it goes back to stand by")]
        {
            if i.member.machine.state() == state {
                self.take(now, i, step, why);
            }
        }
        let standby = d.standby()?;
        if !standby.is_started_when_needed() {
            return None;
        }
        // What an earlier life of this machine's agent left.
        if !i.member.acts() && !self.is_unmounted(now, i) {
            return Some(UNMOUNTING.into());
        }
        if matches!(i.member.machine.state(), State::Staged | State::Rejoining | State::Seeding) {
            self.take(now, i, Step::Settle, "it is staged");
        }
        if i.member.acts() {
            return self.prepare(now, i, d);
        }
        self.keep_synced(now, i, d);
        if self.dry_start_due(now, i, d) {
            return None;
        }
        self.claim(now, i, d);
        Some(format!("stands by ({}): it is started when it is needed", standby.tier.name()))
    }

    pub(crate) fn role_at_launch(&self, i: &Instance, definition: &Definition) -> Role {
        match definition.standby() {
            None => Role::None,
            Some(_) if i.member.dry => Role::Dry,
            Some(_) if i.member.acts() => Role::Active,
            Some(_) => Role::Standby,
        }
    }

    pub(crate) fn tell_acted(&mut self, now: Timestamp, i: &mut Instance, what: &'static str) {
        let mark = if i.incident.is_some() { Mark::phase(Phase::Acted) } else { Mark::NONE };
        self.tell(now, i, Transition::new("promoting", "promoting", what), mark);
    }
}

/// Its program is dead for sure, and its shim will not start it again by itself.
fn is_over(now: Timestamp, state: &ShimState) -> bool {
    let lapsed = state.deadline.is_some_and(|at| at <= now);
    match state.phase {
        ShimPhase::Stopped | ShimPhase::Finished { .. } => true,
        ShimPhase::Starting | ShimPhase::Backoff { .. } => lapsed,
        _ => false,
    }
}
