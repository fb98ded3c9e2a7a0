//! The invariants, by true time and by what runs, whatever holdfast believes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::lease::FencingToken;
use holdfast_policy::{InstanceId, Timestamp};
use holdfast_services::supervisor::EndpointState;

use super::world::Town;

/// A lease renewed for a shim that has been deaf for longer than this is renewed for nobody.
const DEAF_MAX: Duration = Duration::from_secs(12);
/// What happened within this time a leader need not know yet: a lease, a watch that lags, a look.
const NEWS: Duration = Duration::from_secs(20);
/// A machine that was well for so long is heard by everybody who can reach it.
const WELL: Duration = Duration::from_secs(6);
/// After a split the network is told within this time.
const ANNOUNCE: Duration = Duration::from_secs(2);
/// Launches of one instance on one machine within a minute.
const LAUNCHES: usize = 30;

#[derive(Default)]
pub(super) struct Judge {
    pub(super) violation: Option<String>,
    /// Something that runs has changed.
    pub(super) host_moved: bool,
    pub(super) next_expiry: Timestamp,
    pub(super) told_revision: u64,
    /// What each receiver of writes has seen.
    receivers: BTreeMap<Arc<str>, FencingToken>,
    handed: BTreeMap<Arc<str>, FencingToken>,
    /// Since when each machine's lease is there.
    leased: BTreeMap<usize, Timestamp>,
    /// Since when each machine and its agent run.
    pub(super) well_since: BTreeMap<usize, Timestamp>,
    ready: BTreeSet<InstanceId>,
    unready_since: BTreeMap<InstanceId, Timestamp>,
    launches: BTreeMap<(usize, InstanceId), VecDeque<Timestamp>>,
    /// Machines that owe the network an announcement, since when.
    announce: BTreeMap<usize, Timestamp>,
    pub(super) stats: Stats,
}

/// What happened at all, because a run in which nothing did proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Machines called lost.
    pub losses: u64,
    /// Newest tokens handed out.
    pub takeovers: u64,
    /// Writes of processes that were frozen, refused by their receivers.
    pub refused: u64,
    /// Claims of the virtual address.
    pub announced: u64,
}

impl Judge {
    pub(super) fn announce_due(&mut self, now: Timestamp, m: usize) {
        self.announce.entry(m).or_insert(now);
    }

    pub(super) fn announced(&mut self, m: usize) {
        self.stats.announced += 1;
        self.announce.remove(&m);
    }

    pub(super) fn not_announced(&mut self, m: usize) {
        self.announce.remove(&m);
    }
}

impl Town {
    /// After everything that changes what runs.
    pub(super) fn look(&mut self) {
        self.look_at_exclusive();
        self.look_at_address();
        self.look_at_ready();
        self.look_at_launches();
    }

    /// Of a fenced or redundant service one process acts, at most; what is frozen counts from its resume.
    fn look_at_exclusive(&mut self) {
        let mut acting: BTreeMap<Arc<str>, (usize, InstanceId)> = BTreeMap::new();
        let mut found = None;
        let mut writes = Vec::new();
        for (m, machine) in self.machines.iter().enumerate().filter(|(_, machine)| machine.up && !machine.frozen) {
            for (id, place) in &machine.host.places {
                if place.children.len() > 1 {
                    found = Some(format!("{id} runs more than once on {}", machine.name));
                }
                let acts =
                    place.stopped.is_none() && place.children.iter().any(|c| c.fenced && (c.active || !c.member));
                if !acts {
                    continue;
                }
                if let Some((other, one)) = acting.insert(id.service.clone(), (m, id.clone())) {
                    let other = &self.machines[other].name;
                    let what = format!("{one} on {other} and {id} on {} act at the same time", machine.name);
                    found.get_or_insert(what);
                }
                writes.push((id.clone(), place.token));
            }
        }
        for (id, token) in writes {
            let Some(token) = token else { continue };
            let highest = self.judge.receivers.entry(id.service.clone()).or_default();
            if token < *highest {
                let what = format!("{id} is the one that acts, and its token {token} is below {highest}");
                found.get_or_insert(what);
            }
            *highest = token.max(*highest);
        }
        if let Some(found) = found {
            self.violate(found);
        }
    }

    /// Before its shim ends it, what was frozen writes once more.
    pub(super) fn late_writes(&mut self, m: usize) {
        let machine = &self.machines[m];
        let acts = |c: &crate::host::Child| c.fenced && (c.active || !c.member);
        let late: Vec<(InstanceId, Option<FencingToken>)> = machine
            .host
            .places
            .iter()
            .filter(|(_, place)| place.children.iter().any(acts))
            .map(|(id, place)| (id.clone(), place.token))
            .collect();
        for (id, token) in late {
            let highest = self.judge.receivers.get(&id.service).copied().unwrap_or_default();
            if token.unwrap_or_default() >= highest {
                continue;
            }
            match self.rules.receiver {
                true => self.judge.stats.refused += 1,
                false => self.violate(format!("a write of {id} under {token:?} is taken after {highest}")),
            }
        }
    }

    fn look_at_address(&mut self) {
        let now = self.now;
        let carries = |m: &&super::world::Machine| m.up && !m.frozen && m.address.is_some_and(|end| end > now);
        let carriers: Vec<String> = self.machines.iter().filter(carries).map(|m| m.name.clone()).collect();
        if carriers.len() > 1 {
            self.violate(format!("the address is in the kernels of {}", carriers.join(" and ")));
        }
        let silent = self.judge.announce.iter().find(|(_, since)| now.since(**since) > ANNOUNCE).map(|(m, _)| *m);
        if let Some(m) = silent {
            let machine = &self.machines[m];
            if machine.agent_runs(now) && now.since(machine.paused_until.max(machine.agent_paused_until)) > ANNOUNCE {
                let name = machine.name.clone();
                self.violate(format!("{name} kept the address through a split, and nobody was told afterwards"));
            }
            self.judge.announce.remove(&m);
        }
    }

    /// Of all machines, at this very moment. What an agent that stands still has called ready goes on to serve, and so does
    /// what one has left that died.
    fn ready_now(&self) -> BTreeSet<InstanceId> {
        let mut ready = BTreeSet::new();
        for machine in self.machines.iter().filter(|machine| machine.up && !machine.frozen) {
            let local = machine.local(self.now);
            for (id, place) in machine.host.places.iter().filter(|(_, place)| place.stopped.is_none()) {
                let answers = place.children.iter().any(|c| local >= c.ready_at && local >= c.hung_until);
                let serves = match &machine.agent {
                    Some(agent) => {
                        let called = agent.published.get(id).is_some_and(|(_, state)| *state == EndpointState::Ready);
                        called && !place.children.is_empty()
                    }
                    None => answers,
                };
                ready.extend(serves.then(|| id.clone()));
            }
        }
        ready
    }

    fn look_at_ready(&mut self) {
        let (now, ready) = (self.now, self.ready_now());
        let gone: Vec<InstanceId> = self.judge.ready.difference(&ready).cloned().collect();
        for id in gone {
            self.judge.unready_since.insert(id, now);
        }
        self.judge.ready = ready;
    }

    /// Holdfast takes a ready instance away: enough others are ready, or stopped being so too lately to be known.
    pub(super) fn judge_taken(&mut self, m: usize, id: &InstanceId) {
        let Some(definition) = self.services.get(&id.service).cloned() else { return };
        let was_ready = self.machines[m]
            .agent
            .as_ref()
            .is_some_and(|agent| agent.published.get(id).is_some_and(|(_, state)| *state == EndpointState::Ready));
        let service = &definition.service;
        if service.standby.is_some() || !was_ready {
            return;
        }
        let ready = self.ready_now();
        let mut left = 0;
        for ordinal in 1..=service.replicas {
            let other = InstanceId::new(id.service.clone(), ordinal);
            let counts =
                if ordinal == id.ordinal { self.is_ready_elsewhere(m, &other) } else { ready.contains(&other) };
            let lately = self.judge.unready_since.get(&other).is_some_and(|at| self.now.since(*at) < NEWS);
            left += u32::from(counts || lately);
        }
        let needed = service.min_available.min(service.replicas.saturating_sub(1));
        if left < needed {
            let name = self.machines[m].name.clone();
            self.violate(format!("{id} is taken away on {name}: {left} others are ready, {needed} are to be"));
        }
    }

    fn is_ready_elsewhere(&self, m: usize, id: &InstanceId) -> bool {
        self.machines.iter().enumerate().filter(|(other, _)| *other != m).any(|(_, machine)| {
            machine
                .agent
                .as_ref()
                .is_some_and(|agent| agent.published.get(id).is_some_and(|(_, state)| *state == EndpointState::Ready))
        })
    }

    /// A program is to be given this token. One that a machine stood still over comes late, and its shim starts nothing
    /// under it: whether it acts is looked at elsewhere.
    pub(super) fn note_token(&mut self, id: &InstanceId, token: FencingToken) {
        let handed = self.judge.handed.entry(id.service.clone()).or_default();
        self.judge.stats.takeovers += u64::from(token > *handed);
        *handed = token.max(*handed);
    }

    pub(super) fn judge_renewal(&mut self, m: usize, id: &InstanceId) {
        let machine = &mut self.machines[m];
        let local = machine.local(self.now);
        let place = machine.host.place(id);
        let deaf = place.deaf_since(local).is_some_and(|at| local.since(at) > DEAF_MAX) && !place.children.is_empty();
        if deaf {
            self.violate(format!("the lease of {id} is renewed, and nobody could end it"));
        }
    }

    pub(super) fn note_leases(&mut self) {
        let now = self.now;
        for (m, machine) in self.machines.iter().enumerate() {
            match self.store.get(&machine.alive_key) {
                Some(_) => drop(self.judge.leased.entry(m).or_insert(now)),
                None => drop(self.judge.leased.remove(&m)),
            }
        }
    }

    /// The leader `m` calls a machine lost.
    pub(super) fn judge_lost(&mut self, m: usize, node: &str) {
        self.judge.stats.losses += 1;
        let now = self.now;
        let Some(lost) = self.machines.iter().position(|machine| machine.name == node) else { return };
        if self.judge.leased.get(&lost).is_some_and(|since| now.since(*since) > NEWS) {
            return self.violate(format!("{node} is called lost, and its lease is there"));
        }
        let well = self.judge.well_since.get(&lost).is_some_and(|since| now.since(*since) > WELL);
        let before = now - WELL;
        let linked =
            self.net.is_linked(before, m, lost) && now.since(self.net.lossy_until.max(self.net.slow_until)) > WELL;
        if well && linked && self.machines[lost].agent_runs(now) {
            self.violate(format!("{node} is called lost, and its agent answers the leader"));
        }
    }

    fn look_at_launches(&mut self) {
        let now = self.now;
        let mut found = None;
        for (m, machine) in self.machines.iter().enumerate() {
            for (id, generation) in &machine.launching {
                let times = self.judge.launches.entry((m, id.clone())).or_default();
                // One entry a generation; its number is what tells them apart.
                let known = times.len() as u64;
                if *generation > known {
                    times.push_back(now);
                }
                let lately = times.iter().filter(|at| now.since(**at) < Duration::from_secs(60)).count();
                if lately > LAUNCHES {
                    found = Some(format!("{id} is launched again and again on {}", machine.name));
                }
            }
        }
        if let Some(found) = found {
            self.violate(found);
        }
    }
}
