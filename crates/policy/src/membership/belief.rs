//! One node in the leader's mind: what was heard of it, from whom, and what follows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{
    Admin, DAMPED_FOR, DAMPED_FOR_MAX, EVIDENCE_AGE_MAX, FLAP_WINDOW, FLAPS_MAX, GRACE, Lease, Link, RETURNED_FOR,
    Rules, SILENT_AFTER, Standing, State, View,
};
use crate::backoff::Backoff;
use crate::{NodeId, Timestamp, Transition};

/// Losses remembered; more than that in the window changes nothing but the length of the damping, which is capped.
const LOSSES_KEPT: usize = 16;

/// What all nodes are judged by.
pub(super) struct Court<'a> {
    pub(super) now: Timestamp,
    pub(super) me: &'a NodeId,
    pub(super) ttl: Duration,
    pub(super) rules: Rules,
    pub(super) evidence_from: Timestamp,
    /// No void evidence: a node may be declared lost.
    pub(super) settled: bool,
    /// Members whose word on others is waited for.
    pub(super) witnesses: &'a [NodeId],
}

/// What the links say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Answers,
    /// Somebody looked and nobody got an answer. `heard`: another member than the leader says so too, or there is none.
    Nobody {
        heard: bool,
    },
    Unknown,
}

#[derive(Clone, Debug)]
pub(super) struct Belief {
    state: State,
    boot: Option<Arc<str>>,
    compatible: bool,
    admin: Admin,
    lease: Option<(Lease, Timestamp)>,
    links: BTreeMap<NodeId, (Link, Timestamp)>,
    /// Since when both sources speak against it.
    against_since: Option<Timestamp>,
    /// Since when no answer was heard on any link.
    unheard_since: Option<Timestamp>,
    losses: VecDeque<Timestamp>,
    damped_until: Option<Timestamp>,
    returned: Option<Timestamp>,
    rebooted: bool,
    instances: Option<u32>,
    stable_since: Timestamp,
    /// The brake has let this loss pass long ago.
    pub(super) settled: bool,
    why: String,
}

impl Default for Belief {
    fn default() -> Self {
        Belief {
            state: State::Joining,
            boot: None,
            compatible: true,
            admin: Admin::Open,
            lease: None,
            links: BTreeMap::new(),
            against_since: None,
            unheard_since: None,
            losses: VecDeque::new(),
            damped_until: None,
            returned: None,
            rebooted: false,
            instances: None,
            stable_since: Timestamp::NEVER,
            settled: false,
            why: "not seen yet".into(),
        }
    }
}

impl Belief {
    pub(super) fn known(&mut self, now: Timestamp, boot: Arc<str>, compatible: bool, admin: Admin) {
        if self.boot.as_ref().is_some_and(|known| *known != boot) {
            self.rebooted = true;
            // One that is lost has been counted.
            if !matches!(self.state, State::Lost { .. }) {
                self.count_loss(now);
            }
        }
        self.boot = Some(boot);
        self.compatible = compatible;
        self.admin = admin;
    }

    pub(super) fn lease(&mut self, now: Timestamp, lease: Lease) {
        match self.lease {
            Some((known, _)) if known == lease => {}
            _ => self.lease = Some((lease, now)),
        }
    }

    /// Of one observer only the latest look counts.
    pub(super) fn link(&mut self, now: Timestamp, by: NodeId, link: Link, at: Timestamp) {
        if self.links.get(&by).is_none_or(|(_, known)| *known <= at) && now.since(at) <= EVIDENCE_AGE_MAX {
            self.links.insert(by, (link, at));
        }
    }

    pub(super) fn forget_witness(&mut self, by: &NodeId) {
        self.links.remove(by);
    }

    pub(super) fn instances(&mut self, count: u32) {
        self.instances = Some(count);
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn removing(&self) -> bool {
        self.admin == Admin::Removing
    }

    /// Suspect or lost: since when.
    pub(super) fn away_since(&self) -> Option<Timestamp> {
        match self.state {
            State::Suspect { since } | State::Lost { since } => Some(since),
            _ => None,
        }
    }

    pub(super) fn lost(&self) -> bool {
        matches!(self.state, State::Lost { .. })
    }

    /// Nobody hears it, however short that may be.
    pub(super) fn unheard(&self) -> bool {
        self.unheard_since.is_some()
    }

    /// Its word on others is waited for: it holds its lease and can be heard.
    pub(super) fn may_testify(&self) -> bool {
        let holds = matches!(self.lease, Some((Lease::Present, _)));
        holds && !self.unheard() && !matches!(self.state, State::Lost { .. } | State::Joining)
    }

    pub(super) fn judge(&mut self, court: &Court<'_>, name: &NodeId) -> Option<Transition> {
        let now = court.now;
        let reach = if name == court.me { Reach::Answers } else { self.reach(court, name) };
        self.unheard_since = match reach {
            Reach::Nobody { .. } => self.unheard_since.or(Some(now)),
            Reach::Answers => None,
            Reach::Unknown => self.unheard_since,
        };
        let (next, why) = self.next_state(court, reach);
        while self.losses.front().is_some_and(|at| now.since(*at) >= FLAP_WINDOW) {
            self.losses.pop_front();
        }
        let changed = std::mem::discriminant(&next) != std::mem::discriminant(&self.state);
        let transition = changed.then(|| {
            let links = format!("{reach:?}").to_lowercase();
            let lease = self.lease.map_or("unknown", |(l, _)| if l == Lease::Present { "present" } else { "gone" });
            Transition::new(self.state.name(), next.name(), why.clone())
                .with("lease", lease)
                .with("links", links)
                .with("losses", self.losses.len())
        });
        if changed {
            // Dead when this leader came, and empty: somebody has dealt with it.
            self.settled =
                self.state == State::Joining && matches!(next, State::Lost { .. }) && self.instances == Some(0);
        }
        self.state = next;
        self.why = why;
        self.stable_since = match self.standing() {
            Standing::Open if self.stable_since == Timestamp::NEVER => now,
            Standing::Open => self.stable_since,
            _ => Timestamp::NEVER,
        };
        transition
    }

    /// Only what was seen lately and after the last void counts.
    fn reach(&self, court: &Court<'_>, name: &NodeId) -> Reach {
        let counts = |at: Timestamp| court.now.since(at) <= EVIDENCE_AGE_MAX && at >= court.evidence_from;
        let fresh: Vec<(&NodeId, Link)> =
            self.links.iter().filter(|(_, (_, at))| counts(*at)).map(|(by, (link, _))| (by, *link)).collect();
        if fresh.iter().any(|(_, link)| *link == Link::Answers) {
            return Reach::Answers;
        }
        if !fresh.iter().any(|(by, _)| *by == court.me) {
            return Reach::Unknown;
        }
        let mut others = court.witnesses.iter().filter(|w| *w != court.me && *w != name).peekable();
        let heard = others.peek().is_none() || others.any(|w| fresh.iter().any(|(by, _)| *by == w));
        Reach::Nobody { heard }
    }

    fn next_state(&mut self, court: &Court<'_>, reach: Reach) -> (State, String) {
        let now = court.now;
        let gone = match self.lease {
            Some((Lease::Gone, since)) => Some(since),
            _ => None,
        };
        let nobody = match reach {
            Reach::Nobody { heard: true } => true,
            // Nobody else has said a word since: a whole lease later the leader's own eyes are enough.
            Reach::Nobody { heard: false } => gone.is_some_and(|since| now.since(since) >= court.ttl),
            _ => false,
        };
        let against = match court.rules.two_sources {
            true => gone.is_some() && nobody,
            false => gone.is_some() || nobody,
        };
        self.against_since = if against { self.against_since.or(Some(now)) } else { None };
        if let State::Lost { since } = self.state {
            // A lease alone is no reason to believe in it again.
            if reach != Reach::Answers {
                return (State::Lost { since }, self.why.clone());
            }
            self.returned = Some(now);
            self.damped_until = self.damping(now, court.rules);
            if gone.is_some() {
                return self.suspect(now, "it answers again, its lease is gone");
            }
        }
        if court.settled && self.against_since.is_some_and(|since| now.since(since) >= GRACE) {
            self.count_loss(now);
            return (State::Lost { since: now }, "its lease is gone and no member can reach it".into());
        }
        if gone.is_some() {
            return match self.state {
                State::Joining => (State::Joining, "its lease is gone".into()),
                _ => self.suspect(now, "its lease is gone, which one source says"),
            };
        }
        let silent = self.unheard_since.is_some_and(|since| now.since(since) >= SILENT_AFTER);
        if silent && self.state != State::Joining {
            return self.suspect(now, "its agent does not answer, its lease is there");
        }
        if self.state == State::Joining && (self.lease.is_none() || reach != Reach::Answers) {
            let why = if self.lease.is_none() { "no lease yet" } else { "its agent has not answered yet" };
            return (State::Joining, why.into());
        }
        self.well(now, court.rules)
    }

    fn suspect(&self, now: Timestamp, why: &str) -> (State, String) {
        let since = match self.state {
            State::Suspect { since } => since,
            _ => now,
        };
        (State::Suspect { since }, why.into())
    }

    /// Nothing speaks against it.
    fn well(&mut self, now: Timestamp, rules: Rules) -> (State, String) {
        if std::mem::take(&mut self.rebooted) {
            self.returned = Some(now);
            self.damped_until = self.damping(now, rules).max(self.damped_until);
        }
        if !self.compatible {
            return (State::Incompatible, "its release is more than one away from the leader's".into());
        }
        if let Some(until) = self.damped_until {
            if now < until {
                return (State::Damped { until }, format!("lost {} times lately", self.losses.len()));
            }
            self.damped_until = None;
        }
        if let Some(since) = self.returned {
            if now.since(since) < RETURNED_FOR {
                return (State::Returned { since }, "it is back".into());
            }
            self.returned = None;
        }
        (State::Ready, "lease and links are well".into())
    }

    /// What people took out first went away on purpose.
    fn count_loss(&mut self, now: Timestamp) {
        if self.admin != Admin::Open {
            return;
        }
        self.losses.push_back(now);
        if self.losses.len() > LOSSES_KEPT {
            self.losses.pop_front();
        }
    }

    fn damping(&self, now: Timestamp, rules: Rules) -> Option<Timestamp> {
        let lately = self.losses.iter().filter(|at| now.since(**at) < FLAP_WINDOW).count();
        let beyond = lately.checked_sub(FLAPS_MAX).filter(|_| rules.damping)?;
        let backoff = Backoff { base: DAMPED_FOR, factor: 2.0, max: DAMPED_FOR_MAX, jitter: 0.0 };
        Some(now + backoff.nominal(u32::try_from(beyond).unwrap_or(u32::MAX)))
    }

    fn standing(&self) -> Standing {
        match (self.state, self.admin) {
            (State::Lost { .. }, _) => Standing::Lost,
            (_, Admin::Draining | Admin::Removing) => Standing::Draining,
            (State::Suspect { .. }, _) => Standing::Suspect,
            (State::Ready, Admin::Open) => Standing::Open,
            _ => Standing::Closed,
        }
    }

    pub(super) fn view(&self, name: &NodeId) -> View {
        let standing = self.standing();
        View {
            node: name.clone(),
            state: self.state,
            admin: self.admin,
            drained: matches!(self.admin, Admin::Draining | Admin::Removing) && self.instances == Some(0),
            standing,
            stable_since: self.stable_since,
            why: self.why.clone(),
        }
    }
}
