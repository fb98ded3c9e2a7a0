//! The invariants, checked from outside after every event.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::{Incarnation, InstanceId, Timestamp};
use holdfast_services::supervisor::EndpointState;

use crate::host::{Child, Host, Note, Place};
use crate::leases::Lease;

/// Launches of one instance within [`LAUNCH_WINDOW`] that need no explanation; each fault that hit it explains two more.
const LAUNCHES: usize = 8;
const LAUNCH_WINDOW: Duration = Duration::from_secs(60);

/// An instance killed for its liveness and not ready again counts as away for this long.
const AWAY: Duration = Duration::from_secs(110);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Instances of the service beside this one.
    pub(crate) others: u32,
    pub(crate) min_available: u32,
    pub(crate) max_unavailable: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Judge {
    pub(crate) violation: Option<String>,
    published: BTreeMap<InstanceId, (Incarnation, EndpointState)>,
    launches: BTreeMap<InstanceId, VecDeque<Timestamp>>,
    hits: BTreeMap<InstanceId, VecDeque<Timestamp>>,
    /// Acts of people and of whole machines, which touch every instance.
    asked: VecDeque<Timestamp>,
    pub(crate) first_life_of_boot: u64,
    /// Killed for their liveness and not ready since.
    away: BTreeMap<InstanceId, Timestamp>,
}

impl Judge {
    pub(crate) fn violate(&mut self, now: Timestamp, what: String) {
        self.violation.get_or_insert(format!("at {now:?}: {what}"));
    }

    /// A new agent publishes anew.
    pub(crate) fn forget_published(&mut self) {
        self.published.clear();
        self.away.clear();
    }

    pub(crate) fn hit(&mut self, now: Timestamp, id: &InstanceId) {
        self.hits.entry(id.clone()).or_default().push_back(now);
    }

    pub(crate) fn asked(&mut self, now: Timestamp) {
        self.asked.push_back(now);
    }

    /// No two copies of one instance; a fenced one only under its lease.
    pub(crate) fn look(&mut self, now: Timestamp, host: &Host, leases: &BTreeMap<InstanceId, Timestamp>) {
        for (id, place) in &host.places {
            if place.children.len() > 1 {
                let lives: Vec<String> = place.children.iter().map(|c| c.incarnation.to_string()).collect();
                self.violate(now, format!("{id} runs more than once: {}", lives.join(" and ")));
            }
            let fenced = place.children.iter().any(|c| c.fenced && !c.member);
            if fenced && leases.get(id).is_none_or(|until| *until <= now) {
                self.violate(now, format!("{id} is fenced and runs without its lease"));
            }
        }
    }

    /// Of a redundant service: one active at most, under the lease and a deadline. What a stopped shim cannot end is
    /// for the fencing command, before another becomes active.
    pub(crate) fn look_at_actives(&mut self, now: Timestamp, host: &Host, shared: &BTreeMap<Arc<str>, Lease>) {
        let acts = |(_, place): &(&InstanceId, &Place)| place.children.iter().any(|c| c.active);
        let active: Vec<(&InstanceId, &Place)> = host.places.iter().filter(acts).collect();
        if let [(one, _), (two, _), ..] = active[..]
            && one.service == two.service
        {
            self.violate(now, format!("{one} and {two} are active at the same time"));
        }
        for (id, place) in active {
            let Some(shim) = place.shim.as_ref().filter(|_| !place.is_stopped(now)) else { continue };
            let holder = shared.get(&id.service).and_then(|lease| lease.holder.as_ref());
            if !holder.is_some_and(|(h, until)| h.member == *id && *until > now) {
                self.violate(now, format!("{id} is active without the lease"));
            }
            if shim.state.deadline.is_none() {
                self.violate(now, format!("{id} is active and its shim has no deadline"));
            }
        }
    }

    pub(crate) fn stale_command(&mut self, now: Timestamp, note: &Note) {
        let Note::Stale(id, meant, own) = note;
        self.violate(now, format!("{id}: a command for {meant} was applied to {own}"));
    }

    pub(crate) fn launched(&mut self, now: Timestamp, id: &InstanceId) {
        let window = |times: &mut VecDeque<Timestamp>| {
            while times.front().is_some_and(|t| now.since(*t) > LAUNCH_WINDOW) {
                times.pop_front();
            }
            times.len()
        };
        window(&mut self.asked);
        let explained = window(self.hits.entry(id.clone()).or_default()) * 2 + self.asked.len() * 2;
        let launches = self.launches.entry(id.clone()).or_default();
        launches.push_back(now);
        let count = window(launches);
        if count > LAUNCHES + explained {
            self.violate(now, format!("{id} was launched {count} times within a minute; faults explain {explained}"));
        }
    }

    pub(crate) fn published(
        &mut self,
        now: Timestamp,
        id: &InstanceId,
        incarnation: Incarnation,
        state: EndpointState,
        child: Option<&Child>,
        limits: Option<Limits>,
    ) {
        let before = self.published.insert(id.clone(), (incarnation, state));
        match state {
            EndpointState::Ready => {
                self.away.remove(id);
                if child.is_some_and(|c| !c.passed) {
                    self.violate(now, format!("{id} {incarnation} is published as ready and never answered"));
                }
            }
            EndpointState::NotReady => {
                let served = before.is_some_and(|(i, s)| {
                    i == incarnation && matches!(s, EndpointState::Ready | EndpointState::Suspect)
                });
                if served && child.is_some_and(|c| !c.refused) {
                    self.violate(now, format!("{id} {incarnation} was withdrawn for its silence alone"));
                }
            }
            EndpointState::Draining => {
                let was_ready = before.is_some_and(|(_, s)| s == EndpointState::Ready);
                let left = self.ready_of(id);
                if let Some(limits) = limits.filter(|l| was_ready && left < l.min_available) {
                    let needed = limits.min_available;
                    self.violate(
                        now,
                        format!("{id} was taken away by holdfast: {left} are left, min_available is {needed}"),
                    );
                }
            }
            EndpointState::Standby => {
                self.away.remove(id);
            }
            EndpointState::Suspect => {}
            EndpointState::Gone => {
                self.published.remove(id);
            }
        }
    }

    fn ready_of(&self, id: &InstanceId) -> u32 {
        let ready = |(other, (_, state)): &(&InstanceId, &(Incarnation, EndpointState))| {
            other.service == id.service && *state == EndpointState::Ready
        };
        u32::try_from(self.published.iter().filter(ready).count()).unwrap_or(u32::MAX)
    }

    /// `own`: it hangs, or did a moment ago. `shared`: all of its service stall, or did a moment ago.
    pub(crate) fn killed(&mut self, now: Timestamp, id: &InstanceId, own: bool, shared: bool, limits: Limits) {
        if shared && !own && limits.others > 0 {
            self.violate(now, format!("{id} was killed for a stall that all instances of its service share"));
        }
        let still_away = |(other, at): &(&InstanceId, &Timestamp)| {
            let wanted = other.ordinal <= limits.others + 1;
            other.service == id.service && *other != id && wanted && now.since(**at) < AWAY
        };
        let away = self.away.iter().filter(still_away).count();
        if away >= limits.max_unavailable as usize {
            self.violate(now, format!("{id} was killed while {away} others were away for their liveness"));
        }
        self.away.insert(id.clone(), now);
    }
}
