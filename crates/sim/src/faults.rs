//! What goes wrong, and what people ask for meanwhile.

use std::sync::Arc;
use std::time::Duration;

use holdfast_config::Value;
use holdfast_policy::InstanceId;
use holdfast_services::supervisor::{Definition, Event, Target};

use crate::world::{Happening, World};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl World {
    pub(crate) fn fault(&mut self) {
        let Some(id) = self.any_instance() else { return };
        let seconds = self.rng.below(40);
        let until = self.now + ms(seconds * 1000 + self.rng.below(1000));
        if self.redundant && self.rng.below(4) == 0 {
            return self.redundant_fault(&id, until);
        }
        match self.rng.below(22) {
            0 | 1 => self.child_dies(&id, None),
            2 => self.child_dies(&id, Some(0)),
            3 | 4 => self.child_hangs(&id, until),
            5 => self.child_refuses(&id, until),
            6 | 7 => self.stall(&id, until),
            8 | 9 => self.shim_dies(&id),
            10 | 11 => self.agent_dies(),
            12 => self.disconnect(&id),
            13 => self.machine_dies(),
            14 => self.disk_full_until = until,
            15 => {
                self.note("the store is gone for a while");
                self.store_down_until = until;
            }
            16 => self.prober_late_until = until,
            17 => self.change(&id.service),
            18 => self.rescale(&id.service),
            19 => {
                self.note("a restart is asked for");
                let target = if self.rng.below(2) == 0 { Target::Service(id.service) } else { Target::Instance(id) };
                self.judge.asked(self.now);
                self.feed(Event::Restart { target });
            }
            20 => self.pause(&id, until),
            _ => self.everything_restarts(&id),
        }
    }

    /// What only members of a redundant service meet.
    fn redundant_fault(&mut self, id: &InstanceId, until: holdfast_policy::Timestamp) {
        if self.rng.below(2) == 0 {
            let token = self.shared.get(&id.service).and_then(|l| l.holder.as_ref()).map(|(h, _)| h.token);
            self.note(&format!("{id}: a switchover to it is asked for"));
            return self.want(id.service.clone(), id.clone(), token.unwrap_or_default());
        }
        self.note(&format!("{id}: its shim and its program are stopped until {until:?}"));
        let now = self.now;
        let place = self.host.place(id);
        if place.shim.is_some() {
            place.stopped = Some((now, until));
            place.children.iter_mut().for_each(|c| c.hung_until = until);
        }
    }

    /// The connection to a shim that is gone ends.
    pub(crate) fn disconnected(&mut self, id: &InstanceId) {
        let place = self.host.place(id);
        let generation = place.left.as_ref().map_or(0, |s| s.incarnation.generation);
        if self.connected.remove(id) && self.supervisor.is_some() {
            self.tell_in_order(id, Event::ShimLost { instance: id.clone(), generation });
        }
    }

    fn any_instance(&mut self) -> Option<InstanceId> {
        let ids: Vec<InstanceId> = self.host.places.keys().cloned().collect();
        let n = self.rng.below(ids.len() as u64);
        ids.get(usize::try_from(n).ok()?).cloned()
    }

    fn child_dies(&mut self, id: &InstanceId, code: Option<i32>) {
        let text = format!("{id}: its process ends");
        self.note(&text);
        self.judge.hit(self.now, id);
        self.host.child_ends(self.now, id, code);
    }

    fn child_hangs(&mut self, id: &InstanceId, until: holdfast_policy::Timestamp) {
        let text = format!("{id}: hangs until {until:?}");
        self.note(&text);
        self.host.place(id).children.iter_mut().for_each(|c| c.hung_until = until);
    }

    fn child_refuses(&mut self, id: &InstanceId, until: holdfast_policy::Timestamp) {
        let text = format!("{id}: says that it is not ready until {until:?}");
        self.note(&text);
        self.host.place(id).children.iter_mut().for_each(|c| c.refuses_until = until);
    }

    /// All instances of a service fall silent together. Not twice within seconds: an instance that happened not to be
    /// asked between two stalls looks, to anybody outside, as if it alone had been silent throughout.
    fn stall(&mut self, id: &InstanceId, until: holdfast_policy::Timestamp) {
        if self.stall_of(&id.service).is_some_and(|(_, last)| self.now.since(last) < ms(8000)) {
            return;
        }
        let text = format!("{}: all stall until {until:?}", id.service);
        self.note(&text);
        self.stalls.insert(id.service.clone(), (self.now, until));
    }

    fn shim_dies(&mut self, id: &InstanceId) {
        let Some(shim) = &self.host.place(id).shim else { return };
        let generation = shim.state.incarnation.generation;
        let text = format!("{id}: its shim dies");
        self.note(&text);
        self.judge.hit(self.now, id);
        self.host.kill_shim(id);
        if self.connected.remove(id) && self.supervisor.is_some() {
            self.tell_in_order(id, Event::ShimLost { instance: id.clone(), generation });
        }
    }

    fn disconnect(&mut self, id: &InstanceId) {
        let Some(shim) = &self.host.place(id).shim else { return };
        let generation = shim.state.incarnation.generation;
        let text = format!("{id}: the connection to its shim ends");
        self.note(&text);
        if self.connected.remove(id) && self.supervisor.is_some() {
            self.tell_in_order(id, Event::ShimLost { instance: id.clone(), generation });
        }
    }

    fn agent_dies(&mut self) {
        if self.supervisor.is_none() {
            return;
        }
        self.kill_agent();
        self.judge.asked(self.now);
        let away = if self.rng.below(3) == 0 { self.rng.below(20_000) } else { self.rng.below(300) };
        self.later(ms(away), Happening::AgentStarts);
    }

    /// Power loss: what was not written is gone, and so is everything that ran.
    fn machine_dies(&mut self) {
        self.note("the machine goes down and up");
        let ids: Vec<InstanceId> = self.host.places.keys().cloned().collect();
        ids.iter().for_each(|id| self.judge.hit(self.now, id));
        self.kill_agent();
        self.host.reboot();
        self.boot += 1;
        self.launching.clear();
        self.judge.first_life_of_boot = self.life + 1;
        let away = 1000 + self.rng.below(5000);
        self.later(ms(away), Happening::AgentStarts);
    }

    fn change(&mut self, name: &Arc<str>) {
        let Some(definition) = self.desired.get(name).cloned() else { return };
        let mut service = definition.service.clone();
        let text = format!("{name}: the file changes");
        self.note(&text);
        service.env.insert("VERSION".into(), Value::Plain(self.rng.next_u64().to_string()));
        let mut changed = Definition::new(service);
        changed.balanced = definition.balanced;
        if self.rng.below(3) == 0 {
            self.host.bad_definition = Some(changed.hash);
        }
        self.desired.insert(name.clone(), Arc::new(changed));
        self.judge.asked(self.now);
        self.apply();
    }

    fn rescale(&mut self, name: &Arc<str>) {
        let replicas = 1 + self.rng.below(4) as u32;
        let Some(definition) = self.desired.get(name) else { return };
        if definition.service.fenced || &**name == "job" {
            return;
        }
        let text = format!("{name}: scaled to {replicas}");
        self.note(&text);
        self.scale.insert(name.clone(), replicas);
        self.judge.asked(self.now);
        self.feed(Event::Scale { service: name.clone(), replicas: Some(replicas) });
    }

    fn pause(&mut self, id: &InstanceId, until: holdfast_policy::Timestamp) {
        let target = match self.rng.below(3) {
            0 => Target::All,
            1 => Target::Service(id.service.clone()),
            _ => Target::Instance(id.clone()),
        };
        let text = format!("{target} is paused until {until:?}");
        self.note(&text);
        self.feed(Event::Pause { target, until: Some(until), reason: "test".into() });
    }

    /// Several at once: the agent, a shim and its child.
    fn everything_restarts(&mut self, id: &InstanceId) {
        self.agent_dies();
        self.shim_dies(id);
        if self.rng.below(2) == 0 {
            self.host.place(id).children.clear();
        }
    }

    /// From now on everything works; a bad version is replaced by a good one.
    pub(crate) fn end_faults(&mut self) {
        self.note("the faults are over");
        self.faults_over = true;
        self.stalls.clear();
        (self.disk_full_until, self.store_down_until, self.prober_late_until) = Default::default();
        for place in self.host.places.values_mut() {
            place.stopped = None;
            for child in &mut place.children {
                (child.hung_until, child.refuses_until, child.crashes) =
                    (Default::default(), Default::default(), false);
            }
        }
        self.host.bad_definition = None;
        if self.supervisor.is_none() {
            self.later(ms(10), Happening::AgentStarts);
        }
    }
}
