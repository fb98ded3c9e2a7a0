//! From the lease to being active: deadline, fence, token, going on, `promote`. In this order, each before the next.

use holdfast_policy::Timestamp;
use holdfast_policy::standby::{State, Step};

use super::super::Supervisor;
use super::super::action::{Action, Edge, Request};
use super::super::definition::Definition;
use super::super::event::{Role, ShimPhase, ShimState};
use super::super::instance::Instance;

/// After so many failures of `promote` another member may try.
const PROMOTE_TRIES: u32 = 3;

impl Supervisor {
    pub(crate) fn promote(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition, state: &ShimState) {
        if i.member.machine.state() == State::Active {
            // Its lease ran out and was won again: the program must know the newer token.
            if state.phase == ShimPhase::Running && state.token != i.member.machine.token() {
                self.write_token(now, i);
            }
            return;
        }
        if i.member.machine.state() != State::Promoting || state.phase != ShimPhase::Running {
            return;
        }
        let armed = state.deadline.is_some_and(|at| at > now);
        if !armed && self.rules.deadline_before_promote {
            return;
        }
        if !self.others_are_fenced(now, i, definition) {
            return;
        }
        if state.role != Role::Active || state.token != i.member.machine.token() {
            return self.write_token(now, i);
        }
        if state.stopped_at.is_some() && definition.standby().is_some_and(|s| s.is_paused()) {
            return self.ask_again(now, i, Request::Freeze(false));
        }
        i.member.asked = None;
        if i.member.promoted != i.member.machine.token() {
            let argv = definition.standby().and_then(|s| s.promote.clone());
            match self.run_edge(now, i, definition, Edge::Promote, argv) {
                Some(true) => i.member.promoted = i.member.machine.token(),
                Some(false) if i.member.tries >= PROMOTE_TRIES && self.rival(now, i, definition).is_some() => {
                    return self.hand_over(now, i, super::super::instance::Why::HandOver);
                }
                Some(false) | None => return,
            }
            self.tell_acted(now, i, "it is promoted");
        }
        self.take(now, i, Step::Promoted, "it holds the lease, its shim the deadline, its program the token");
        self.arm_probes(now, i);
        self.publish_readiness(now, None, i, |t| t);
    }

    fn write_token(&mut self, now: Timestamp, i: &mut Instance) {
        if let Some(token) = i.member.machine.token() {
            self.ask_again(now, i, Request::Activate(token));
        }
    }

    /// Earlier holders that did not give the lease back are fenced by the command, where there is one; else the time
    /// of their lease and their shims' deadlines have passed.
    fn others_are_fenced(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition) -> bool {
        if i.member.owed.is_empty() {
            return true;
        }
        let argv = definition.standby().and_then(|s| s.fence.clone());
        if self.run_edge(now, i, definition, Edge::Fence, argv) != Some(true) {
            return false;
        }
        i.member.owed.clear();
        self.act(Action::Fenced { instance: i.id.clone() });
        self.tell_acted(now, i, "earlier holders of the lease are fenced");
        true
    }

    /// Of a member that is started when it is needed and holds the lease: fence, restore, then it may be launched.
    pub(crate) fn prepare(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition) -> Option<String> {
        let timings = definition.timings();
        if i.lease_until.is_none_or(|until| until <= now) {
            self.release(now, i);
            return Some("its lease ran out before it was started".into());
        }
        // Nothing of it runs, so there is no deadline to acknowledge before the renewal.
        let due = i.lease_asked.map_or(now, |asked| asked + timings.renew);
        if now >= due {
            i.lease_asked = Some(now);
            self.act(Action::Lease { instance: i.id.clone(), shared: true, timings, asked: now });
        }
        self.wake_at(i.lease_asked.unwrap_or(now) + timings.renew);
        if !self.others_are_fenced(now, i, definition) {
            return Some("waits until earlier holders of the lease are fenced".into());
        }
        if !self.is_mounted(now, i, definition) {
            return Some("waits for its volume to be mounted".into());
        }
        if i.member.restored != i.member.machine.token() {
            let argv = definition.standby().and_then(|s| s.restore.clone());
            if self.run_edge(now, i, definition, Edge::Restore, argv) != Some(true) {
                return Some("waits for its data to be restored".into());
            }
            i.member.restored = i.member.machine.token();
            self.tell_acted(now, i, "its data is there");
        }
        // A launch takes a moment, and the deadline that it is given is that of the last renewal.
        let covered = i.lease_until.is_some_and(|until| until > now + timings.renew);
        (!covered).then(|| "waits for its lease to be renewed".into())
    }
}
