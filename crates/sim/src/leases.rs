//! The coordination store as far as redundant services see it: one lease for all members, who owes what, wishes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::lease::{FencingToken, Timings};
use holdfast_policy::{InstanceId, Timestamp};
use holdfast_services::supervisor::{Edge, Event, Holder, Job, Wish};

use crate::world::{Happening, World};

/// A lease renewed for a shim that has been deaf for longer than this is renewed for nobody.
const DEAF_MAX: Duration = Duration::from_secs(12);

#[derive(Debug, Default)]
pub(crate) struct Lease {
    pub(crate) holder: Option<(Holder, Timestamp)>,
    owed: Vec<InstanceId>,
    last: Option<InstanceId>,
    wish: Option<Wish>,
}

impl World {
    pub(crate) fn hold(&mut self, instance: InstanceId, timings: Timings) {
        if self.now < self.store_down_until {
            return;
        }
        self.end_leases();
        let (now, service) = (self.now, instance.service.clone());
        let deaf = self.host.place(&instance).deaf_since(now).is_some_and(|at| now.since(at) > DEAF_MAX);
        let lease = self.shared.entry(service).or_default();
        let other = lease.holder.as_ref().filter(|(h, _)| h.member != instance).map(|(h, _)| h.member.clone());
        if let Some(other) = other {
            return self.tell(Event::LeaseLost { instance, reason: format!("{other} holds its lease") });
        }
        let claimed = lease.holder.is_none();
        self.store_revision += u64::from(claimed);
        let token = match &lease.holder {
            Some((holder, _)) => holder.token,
            None => FencingToken { epoch: 1, create_revision: self.store_revision },
        };
        lease.last = Some(instance.clone());
        lease.holder = Some((Holder { member: instance.clone(), node: "n".into(), token }, now + timings.ttl));
        if !lease.owed.contains(&instance) {
            lease.owed.push(instance.clone());
        }
        let owed = lease.owed.iter().filter(|m| **m != instance).map(ToString::to_string).collect();
        if deaf && !claimed {
            let what = format!("the lease of {instance} is renewed, and nobody could end it");
            self.judge.violate(now, what);
        }
        self.later(timings.ttl, Happening::LeaseEnds);
        self.tell(Event::LeaseHeld { instance, until: now + timings.give_up, asked: now, token, owed });
        if claimed {
            self.tell_holders();
        }
    }

    pub(crate) fn give_back(&mut self, instance: &InstanceId) {
        let Some(lease) = self.shared.get_mut(&instance.service) else { return };
        if self.now >= self.store_down_until && lease.holder.as_ref().is_some_and(|(h, _)| h.member == *instance) {
            lease.holder = None;
            lease.owed.retain(|m| m != instance);
            self.tell_holders();
        }
    }

    pub(crate) fn end_leases(&mut self) {
        let now = self.now;
        let over = |lease: &&mut Lease| lease.holder.as_ref().is_some_and(|(_, until)| *until <= now);
        let ended = self.shared.values_mut().filter(over).map(|lease| lease.holder = None).count();
        if ended > 0 {
            self.note("a lease runs out");
            self.tell_holders();
        }
    }

    pub(crate) fn fenced(&mut self, instance: &InstanceId) {
        if let Some(lease) = self.shared.get_mut(&instance.service) {
            lease.owed.retain(|m| m == instance);
        }
    }

    pub(crate) fn want(&mut self, service: Arc<str>, to: InstanceId, over: FencingToken) {
        let wish = Wish { to: Some(to), over: Some(over), force: false, until: self.now + Duration::from_secs(60) };
        self.shared.entry(service).or_default().wish = Some(wish);
        self.tell_holders();
    }

    /// All there is, to the agent that lives, in order.
    pub(crate) fn tell_holders(&mut self) {
        let holder = |(name, lease): (&Arc<str>, &Lease)| Some((name.clone(), lease.holder.as_ref()?.0.clone()));
        let wish = |(name, lease): (&Arc<str>, &Lease)| Some((name.clone(), lease.wish.clone()?));
        let holders: BTreeMap<_, _> = self.shared.iter().filter_map(holder).collect();
        let wishes: BTreeMap<_, _> = self.shared.iter().filter_map(wish).collect();
        let last = |(name, lease): (&Arc<str>, &Lease)| Some((name.clone(), lease.last.clone()?));
        let last: BTreeMap<_, _> = self.shared.iter().filter_map(last).collect();
        let watch = InstanceId::new("watch", 0);
        self.tell_in_order(&watch, Event::Holders { holders, last, wishes });
    }

    pub(crate) fn start_job(&mut self, job: Job) {
        let wait = Duration::from_millis(5 + self.rng.below(200));
        let success = self.calm() || self.rng.below(5) > 0;
        self.later(wait, Happening::CommandEnds(self.life, job, success));
    }

    pub(crate) fn command_ends(&mut self, life: u64, job: Job, success: bool) {
        if job.edge == Edge::Fence && success {
            // The machine of whoever owes is off, whatever its shim can or cannot do.
            let owing: Vec<InstanceId> = job.fence.split(',').filter_map(|m| m.parse().ok()).collect();
            for id in owing {
                self.note(&format!("{id}: is fenced"));
                self.judge.hit(self.now, &id);
                self.host.place(&id).children.clear();
                self.host.kill_shim(&id);
                self.disconnected(&id);
            }
        }
        if life == self.life {
            let detail = if success { "exit code 0" } else { "exit code 1" };
            self.tell(Event::JobEnded { instance: job.instance, name: job.name, success, detail: detail.into() });
        }
    }
}
