//! All services of a node as one synchronous machine: events in, actions out, no clock and no I/O.
//!
//! Level-triggered: each event updates what is known, then [`Supervisor`] compares it with what is wanted and takes
//! the next step of each instance. Only shims start and restart children; the Supervisor launches shims, tells
//! them what is wanted, asks for probes, and publishes to balancers who may be used.

mod action;
mod acts;
mod definition;
mod event;
mod history;
mod instance;
mod observed;
mod order;
mod placed;
mod probing;
mod reconcile;
mod standby;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use holdfast_policy::rng::Rng;
use holdfast_policy::{InstanceId, Timestamp};

pub use action::{Action, Edge, EndpointState, Entry, Job, Launch, Phase, Probe, ProbeKind, Request};
pub use definition::Definition;
pub use event::{Event, Exit, Finished, Holder, Outcome, Record, Role, ShimPhase, ShimState, Target, Wish};
pub use placed::{Elsewhere, Placed, Placement, Word, kept_share, share};
pub use status::{InstanceStatus, PauseStatus, ServiceStatus, StandbyStatus, Status, Takeover};

use history::History;
use instance::{Instance, Shim};
use standby::Group;

/// Safety rules that the simulator can switch off, to show that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What belongs to another incarnation is dropped.
    pub incarnation_check: bool,
    /// No generation is launched before the absence of the last one is proved.
    pub absence_proof: bool,
    /// [`holdfast_policy::brake`].
    pub liveness_brake: bool,
    /// Silence makes a suspect, which balancers use when nothing better is left; it never takes the last one away.
    pub last_instance_rule: bool,
    /// A fenced child is granted no time beyond its lease.
    pub restart_grant: bool,
    /// A member of a redundant service is active only under its lease.
    pub lease_check: bool,
    /// Its shim acknowledges a deadline before it is promoted.
    pub deadline_before_promote: bool,
    /// A lease is renewed only when the shim has acknowledged the last deadline.
    pub acknowledged_renewal: bool,
}

impl Rules {
    pub const ALL: Rules = Rules {
        incarnation_check: true,
        absence_proof: true,
        liveness_brake: true,
        last_instance_rule: true,
        restart_grant: true,
        lease_check: true,
        deadline_before_promote: true,
        acknowledged_renewal: true,
    };
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pause {
    until: Option<Timestamp>,
    since: Timestamp,
    reason: String,
}

pub struct Supervisor {
    rules: Rules,
    rng: Rng,
    services: BTreeMap<Arc<str>, Arc<Definition>>,
    scale: BTreeMap<Arc<str>, u32>,
    /// `None`: everything runs on this machine.
    placement: Option<Placement>,
    revision: u64,
    /// What is wanted was told.
    told: bool,
    instances: BTreeMap<InstanceId, Instance>,
    /// Of instances that are not there now: their ports and generations stay theirs.
    records: BTreeMap<InstanceId, Record>,
    pauses: BTreeMap<Target, Pause>,
    /// Redundant services: who is active.
    groups: BTreeMap<Arc<str>, Group>,
    /// Who holds their leases was told; nobody claims before.
    holders_told: bool,
    stopping: bool,
    /// Nothing is launched before it is known what was there.
    adopted: bool,
    /// Last liveness restart of each service.
    liveness_restarts: BTreeMap<Arc<str>, Timestamp>,
    actions: VecDeque<Action>,
    /// Probes by time; entries that no longer match their prober are skipped.
    timers: BTreeSet<(Timestamp, InstanceId, ProbeKind)>,
    /// When the next step by time is due.
    wake: Timestamp,
    dirty: bool,
    /// The node-wide rate of fast probes: when the next may start.
    fast_slot: Timestamp,
    history: History,
}

impl Supervisor {
    pub fn new(rules: Rules, seed: u64) -> Self {
        Supervisor {
            rules,
            rng: Rng::from_seed(seed),
            services: BTreeMap::new(),
            scale: BTreeMap::new(),
            placement: None,
            revision: 0,
            told: false,
            instances: BTreeMap::new(),
            records: BTreeMap::new(),
            pauses: BTreeMap::new(),
            groups: BTreeMap::new(),
            holders_told: false,
            stopping: false,
            adopted: false,
            liveness_restarts: BTreeMap::new(),
            actions: VecDeque::new(),
            timers: BTreeSet::new(),
            wake: Timestamp::NEVER,
            dirty: false,
            fast_slot: Timestamp::ZERO,
            history: History::default(),
        }
    }

    pub fn handle(&mut self, now: Timestamp, event: Event) {
        self.observe(now, event);
        if self.dirty || now >= self.wake {
            self.reconcile(now);
        }
        self.run_probes(now);
        if self.dirty {
            self.reconcile(now);
        }
    }

    /// When to call `handle` with [`Event::Tick`] unless something happens first.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let probe = self.timers.first().map_or(Timestamp::NEVER, |(at, ..)| *at);
        let next = self.wake.min(probe);
        (next != Timestamp::NEVER).then_some(next)
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The last decisions about an instance or a service, oldest first.
    pub fn explain(&self, subject: &str) -> Vec<Entry> {
        self.history.of(subject)
    }

    /// Where an instance listens.
    pub(crate) fn host_of(&self, id: &InstanceId) -> IpAddr {
        self.services.get(&id.service).map_or(IpAddr::from([127, 0, 0, 1]), |d| d.service.host)
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.wake = self.wake.min(at);
    }

    /// Calls `step` with the instance taken out, so that it may use the Supervisor too, and puts it back.
    fn with<R>(&mut self, id: &InstanceId, step: impl FnOnce(&mut Self, &mut Instance) -> R) -> Option<R> {
        let mut instance = self.instances.remove(id)?;
        let result = step(self, &mut instance);
        self.instances.insert(id.clone(), instance);
        Some(result)
    }

    fn instance_or_new(&mut self, id: &InstanceId, shim: Shim) {
        if !self.instances.contains_key(id) {
            let record = self.records.remove(id).unwrap_or_else(|| Record::new(id.clone()));
            self.instances.insert(id.clone(), Instance::new(record, shim));
        }
    }

    fn replicas(&self, definition: &Definition) -> u32 {
        let name = definition.service.name.as_str();
        self.scale.get(name).copied().unwrap_or(definition.service.replicas)
    }

    /// At least one may be replaced at a time, or a service scaled down to its minimum could never change.
    fn min_available(&self, definition: &Definition) -> u32 {
        // The members of a redundant service take each other's place; how many are ready says nothing.
        if definition.service.standby.is_some() {
            return 0;
        }
        definition.service.min_available.min(self.replicas(definition).saturating_sub(1))
    }

    /// The definition of an instance that should be there.
    fn wanted(&self, id: &InstanceId) -> Option<Arc<Definition>> {
        let definition = self.services.get(&id.service)?;
        (!self.stopping && self.is_wanted_here(definition, id)).then(|| definition.clone())
    }

    fn paused(&self, id: &InstanceId) -> Option<&Pause> {
        let of_service = || self.pauses.get(&Target::Service(id.service.clone()));
        let of_instance = || self.pauses.get(&Target::Instance(id.clone()));
        self.pauses.get(&Target::All).or_else(of_service).or_else(of_instance)
    }
}
