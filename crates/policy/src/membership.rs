//! What the leader believes about each node, and whether its belief may move anything.
//!
//! The lease in the coordination store is one source, the agent links of all members are the other. Either alone
//! makes a suspect, which keeps what it runs; only both together make a node lost. When many nodes look dead at
//! once, or the evidence is the observer's own fault, the belief is shown but [`Hold`] says that nothing moves.

mod belief;
mod brake;
mod event;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{NodeId, Timestamp, Transition};

use belief::Belief;

pub use event::{Admin, Event, Lease, Link};
pub use view::{Change, Hold, Standing, State, View};

/// Both sources must agree for this long. Short, because the lease has taken its whole time already; long enough for
/// an answer that is under way to arrive.
pub const GRACE: Duration = Duration::from_millis(500);
/// Members look at each other once a second; what is older than two looks and some delay says nothing. With
/// [`SILENT_AFTER`] it is 4 s, the shortest that a lease of the fast profile outlives its holder: who dies together is
/// suspect together before the first of them is lost, so that the brake sees them all.
pub const EVIDENCE_AGE_MAX: Duration = Duration::from_millis(2500);
/// Nobody heard an answer for this long: a suspect, although the lease is there.
pub const SILENT_AFTER: Duration = Duration::from_millis(1500);
/// [`Membership::tick`] is due this often.
pub const TICK: Duration = Duration::from_millis(250);
/// A tick this late says that the observer was stopped: what it has heard and not heard is void.
pub const LATE_AFTER: Duration = Duration::from_secs(2);
/// After an election everybody is looked at anew within this time (a look takes a second).
pub const LOOK_AROUND: Duration = Duration::from_millis(1200);
/// Everybody renews within this share of a lease: a store that was away shorter has missed nobody.
pub const STORE_BLINK_SHARE: u32 = 3;
/// A lost node that answers again takes nothing new before it has been well for this long.
pub const RETURNED_FOR: Duration = Duration::from_secs(10);
/// Losses of one node within [`FLAP_WINDOW`] after which it is damped.
pub const FLAPS_MAX: usize = 3;
pub const FLAP_WINDOW: Duration = Duration::from_secs(3600);
/// The first damping; doubled with each further loss.
pub const DAMPED_FOR: Duration = Duration::from_secs(300);
pub const DAMPED_FOR_MAX: Duration = Duration::from_secs(2 * 3600);
/// The brake: one node may always be lost, and of many one in this many at once.
pub const BRAKE_SHARE: usize = 3;
/// A loss that the brake let pass for this long is dealt with; it does not add to later ones.
pub const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// Releases that work together, either way.
pub const RELEASE_SKEW_MAX: u32 = 1;

/// Safety rules that a simulation can switch off, to show that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A node is lost only when lease *and* links say so.
    pub two_sources: bool,
    /// Too many at once: nothing moves.
    pub brake: bool,
    /// Evidence from before an election or a pause of the observer, or from a store that was away, counts for nothing.
    pub void_evidence: bool,
    /// A node that comes and goes takes nothing new.
    pub damping: bool,
}

impl Rules {
    pub const ALL: Rules = Rules { two_sources: true, brake: true, void_evidence: true, damping: true };
}

#[derive(Clone, Debug)]
pub struct Membership {
    me: NodeId,
    release: u32,
    ttl: Duration,
    rules: Rules,
    nodes: BTreeMap<NodeId, Belief>,
    /// Links looked at earlier count for nothing.
    evidence_from: Timestamp,
    void: Option<(String, Timestamp)>,
    store_away: Option<Timestamp>,
    brake: brake::Brake,
    last_seen: Timestamp,
    last_judged: Timestamp,
}

impl Membership {
    /// `me` leads; `release` is its own; `ttl` is that of the nodes' leases.
    pub fn new(now: Timestamp, me: NodeId, release: u32, ttl: Duration, rules: Rules) -> Membership {
        let mut membership = Membership {
            me,
            release,
            ttl,
            rules,
            nodes: BTreeMap::new(),
            evidence_from: Timestamp::ZERO,
            void: None,
            store_away: None,
            brake: brake::Brake::default(),
            last_seen: now,
            last_judged: now,
        };
        membership.apply(now, Event::Elected);
        membership
    }

    /// Takes what happened, and judges anew; looks come in squares of the number of nodes and wait for the next tick.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Change> {
        let mut changes = self.notice_pause(now);
        let waits = matches!(event, Event::Link { .. });
        self.apply(now, event);
        if !waits {
            changes.extend(self.judge(now));
        }
        changes
    }

    /// Judges anew; due every [`TICK`].
    pub fn tick(&mut self, now: Timestamp) -> Vec<Change> {
        let mut changes = self.notice_pause(now);
        changes.extend(self.judge(now));
        changes
    }

    pub fn next_deadline(&self) -> Timestamp {
        self.last_judged + TICK
    }

    /// Whether anything may be moved. The store being away is void evidence too.
    pub fn hold(&self, now: Timestamp) -> Hold {
        if let Some((why, until)) = self.void.as_ref().filter(|(_, until)| *until > now) {
            return Hold::Void { why: why.clone(), until: *until };
        }
        match self.brake.engaged() {
            Some(why) => Hold::Brake { why },
            None => Hold::No,
        }
    }

    pub fn views(&self) -> Vec<View> {
        self.nodes.iter().map(|(name, belief)| belief.view(name)).collect()
    }

    pub fn state(&self, node: &NodeId) -> Option<State> {
        self.nodes.get(node).map(Belief::state)
    }

    fn apply(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Known { node, boot, release, admin } => {
                let compatible = release.abs_diff(self.release) <= RELEASE_SKEW_MAX;
                self.nodes.entry(node).or_default().known(now, boot, compatible, admin);
            }
            Event::Forgotten { node } => {
                self.nodes.remove(&node);
                self.nodes.values_mut().for_each(|belief| belief.forget_witness(&node));
            }
            Event::Lease { node, lease } => {
                if let Some(belief) = self.nodes.get_mut(&node) {
                    belief.lease(now, lease);
                }
            }
            Event::Link { node, by, link, at } => {
                // Only members are heard, so that nobody can fill the memory with names.
                let member = by == self.me || self.nodes.contains_key(&by);
                if let Some(belief) = self.nodes.get_mut(&node).filter(|_| member) {
                    belief.link(now, by, link, at.min(now));
                }
            }
            Event::Instances { node, count } => {
                if let Some(belief) = self.nodes.get_mut(&node) {
                    belief.instances(count);
                }
            }
            Event::Elected => self.void(now, "this leader was just elected", now + LOOK_AROUND),
            Event::StoreAway => {
                self.store_away.get_or_insert(now);
            }
            Event::StoreBack => {
                let away = self.store_away.take().map_or(Duration::ZERO, |since| now.since(since));
                if away >= self.ttl / STORE_BLINK_SHARE {
                    self.void(now, "the coordination store was away, and every node may renew first", now + self.ttl);
                }
            }
            Event::BrakeOff { until } => self.brake.off(until),
        }
    }

    fn notice_pause(&mut self, now: Timestamp) -> Vec<Change> {
        let gap = now.since(self.last_seen);
        self.last_seen = self.last_seen.max(now);
        if gap < LATE_AFTER {
            return Vec::new();
        }
        // What stopped it may have stopped the store as well, and then everybody has to renew first.
        self.void(now, "this leader was stopped for a while", now + self.ttl / STORE_BLINK_SHARE + LOOK_AROUND);
        let transition = Transition::new("watching", "late", "its own loop was stopped; evidence from before is void");
        vec![Change { node: None, transition: transition.with("gap_ms", gap.as_millis()) }]
    }

    /// What is known of links counts for nothing, and nothing moves before `until`.
    fn void(&mut self, now: Timestamp, why: &str, until: Timestamp) {
        if !self.rules.void_evidence {
            return;
        }
        self.evidence_from = self.evidence_from.max(now);
        match &mut self.void {
            Some((_, known)) if *known >= until => {}
            void => *void = Some((why.to_owned(), until)),
        }
    }

    fn judge(&mut self, now: Timestamp) -> Vec<Change> {
        self.last_judged = now;
        if self.store_away.is_some_and(|since| now.since(since) >= self.ttl / STORE_BLINK_SHARE) {
            self.void(now, "the coordination store is away", now + LOOK_AROUND);
        }
        let settled = self.void.as_ref().is_none_or(|(_, until)| *until <= now);
        let others: Vec<NodeId> = self.nodes.iter().filter(|(_, b)| b.may_testify()).map(|(n, _)| n.clone()).collect();
        let court = belief::Court {
            now,
            me: &self.me,
            ttl: self.ttl,
            rules: self.rules,
            evidence_from: self.evidence_from,
            settled,
            witnesses: &others,
        };
        let mut changes = Vec::new();
        for (name, belief) in &mut self.nodes {
            changes.extend(belief.judge(&court, name).map(|t| Change { node: Some(name.clone()), transition: t }));
        }
        let transition = self.brake.judge(now, self.rules.brake, &mut self.nodes);
        changes.extend(transition.map(|transition| Change { node: None, transition }));
        changes
    }
}

#[cfg(test)]
mod tests;
