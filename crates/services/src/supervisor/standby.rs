//! Redundant services: which member is active, and how another takes over. The rules are in [`holdfast_policy::standby`].
//!
//! One lease for all members of a service. It is renewed only while the shim of its holder acknowledges each deadline,
//! and given back only when the holder's program is proved dead; so whoever wins it is alone.

mod claim;
mod edges;
mod group;
mod member;
mod mount;
mod promote;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::lease::FencingToken;
use holdfast_policy::standby::{self, State, Step};
use holdfast_policy::{InstanceId, Timestamp, Transition};

use super::Supervisor;
use super::action::{Edge, Request};
use super::definition::Definition;
use super::event::{Holder, Role, ShimState, Wish};
use super::history::Mark;
use super::instance::Instance;

/// A service as seen through its lease.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) holder: Option<Holder>,
    /// Newest token that was ever seen.
    pub(crate) newest: Option<FencingToken>,
    /// Who held the lease last.
    pub(crate) last: Option<InstanceId>,
    pub(crate) wish: Option<Wish>,
    /// Since when nobody serves, and why.
    pub(crate) lost: Option<Lost>,
    pub(crate) takeover: Option<Takeover>,
    /// Unplanned takeovers within the window.
    pub(crate) hand_overs: VecDeque<Timestamp>,
    /// Since when the preferred member could take over.
    pub(crate) preferred_since: Option<Timestamp>,
    /// The failback over this token was asked for.
    pub(crate) failback_over: Option<FencingToken>,
}

#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub(crate) at: Timestamp,
    pub(crate) member: InstanceId,
    pub(crate) planned: bool,
}

/// The last time that the active member changed or came back.
#[derive(Clone, Debug, PartialEq)]
pub struct Takeover {
    pub from: InstanceId,
    pub to: InstanceId,
    /// Switchover, not failover.
    pub planned: bool,
    pub at: Timestamp,
    /// From the fault, or from the last request that the old one got, until the new one was ready.
    pub rto: Duration,
    /// Age of the new one's data at the fault; `None` where holdfast does not keep the data.
    pub rpo: Option<Duration>,
}

/// One member's part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    pub(crate) machine: standby::Member<FencingToken>,
    /// When it last gave the lease back: what was asked before says nothing.
    pub(crate) released: Option<Timestamp>,
    /// Under which token it held it: news of that lease are old.
    pub(crate) gave_back: Option<FencingToken>,
    /// Earlier holders that may still be active.
    pub(crate) owed: Vec<String>,
    /// Since when it could claim the free lease.
    pub(crate) could_claim: Option<Timestamp>,
    pub(crate) job: Option<Running>,
    /// What `tries` counts.
    pub(crate) trying: Option<Edge>,
    pub(crate) tries: u32,
    pub(crate) job_after: Timestamp,
    /// What keeps a takeover from going on, for people.
    pub(crate) trouble: Option<String>,
    /// Tokens under which these edges are done.
    pub(crate) promoted: Option<FencingToken>,
    pub(crate) restored: Option<FencingToken>,
    pub(crate) mounted: Option<FencingToken>,
    /// As the file was when its volume was mounted.
    pub(crate) volume_of: Option<Arc<Definition>>,
    /// Its volume was seen to be away since it last was mounted.
    pub(crate) unmounted: bool,
    /// Its program is proved dead, and the lease given back as soon as its volume is unmounted.
    pub(crate) releasing: bool,
    pub(crate) demoted: bool,
    pub(crate) syncing: Option<Running>,
    pub(crate) sync_after: Timestamp,
    pub(crate) sync_failures: u32,
    /// Role or pause last asked for.
    pub(crate) asked: Option<(Request, Timestamp)>,
    pub(crate) hold_asked: Option<Timestamp>,
    /// The next launch is a dry start.
    pub(crate) dry: bool,
    pub(crate) dry_after: Option<Timestamp>,
    pub(crate) dry_result: Option<(Timestamp, bool)>,
    /// Why it cannot take over, as last journaled.
    pub(crate) unable: Option<standby::Ineligible>,
}

#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) edge: Edge,
    pub(crate) name: String,
    pub(crate) since: Timestamp,
    pub(crate) ended: Option<(bool, String)>,
}

impl Member {
    /// What the shim of before this agent says.
    pub(crate) fn adopt(&mut self, state: &ShimState) {
        let active = state.token.filter(|_| state.role == Role::Active);
        if state.role != Role::None {
            self.machine = standby::Member::adopted(active, state.token);
            // It was made active before this agent, with all that belongs to it.
            (self.promoted, self.restored, self.mounted) = (active, active, active);
        }
    }

    pub(crate) fn stands_by(&self) -> bool {
        self.machine.state() == State::Standby
    }

    pub(crate) fn is_promoting(&self) -> bool {
        self.machine.state() == State::Promoting
    }

    pub(crate) fn acts(&self) -> bool {
        self.machine.state().needs_token()
    }
}

impl Instance {
    /// Whether requests may go to it, as far as its role is concerned.
    pub(crate) fn serves(&self) -> bool {
        self.running.as_ref().is_none_or(|d| d.standby().is_none()) || self.member.machine.state() == State::Active
    }

    /// Its volume is to be unmounted before it may go.
    pub(crate) fn has_volume(&self) -> bool {
        self.member.releasing || self.member.volume_of.is_some() && !self.member.unmounted && self.member.acts()
    }

    /// It is stopped on purpose until it is needed.
    pub(crate) fn is_paused(&self) -> bool {
        let paused = self.running.as_ref().and_then(|d| d.standby()).is_some_and(|s| s.is_paused());
        paused && !self.member.acts() && self.shim.state().is_some_and(|s| s.stopped_at.is_some())
    }
}

impl Supervisor {
    pub(crate) fn is_member(&self, i: &Instance) -> bool {
        let known = i.running.as_ref().or_else(|| self.services.get(&i.id.service));
        known.is_some_and(|d| d.standby().is_some())
    }

    pub(crate) fn group(&mut self, i: &Instance) -> &mut Group {
        self.groups.entry(i.id.service.clone()).or_default()
    }

    /// One step of its machine, journaled. An illegal one is a fault of this program: told, and not taken.
    pub(crate) fn take(&mut self, now: Timestamp, i: &mut Instance, step: Step, why: &'static str) {
        let from = i.member.machine.state();
        match i.member.machine.step(step) {
            Ok(to) => {
                let transition = Transition::new(from.name(), to.name(), why);
                self.tell(now, i, transition, Mark::NONE);
                self.dirty = true;
            }
            Err(illegal) => {
                debug_assert!(false, "{}: {illegal:?} ({why})", i.id);
                let transition = Transition::new(from.name(), from.name(), format!("refused: {illegal:?}"));
                self.tell(now, i, transition, Mark::NONE);
            }
        }
    }
}
