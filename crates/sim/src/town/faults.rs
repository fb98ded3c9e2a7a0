//! What goes wrong, and that everything is well again afterwards.

use std::time::Duration;

use holdfast_policy::{InstanceId, Timestamp};

use super::clock::Clock;
use super::judge::Stats;
use super::world::{Happening, Town};

/// Faults happen for so long.
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// When they have stopped everything is as wanted within this time: a machine that was lost often takes nothing new
/// for up to two hours.
const CONVERGENCE: Duration = Duration::from_secs(9_000);
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);
/// And stays so.
pub(super) const STEADY: Duration = Duration::from_secs(60);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Town {
    pub(super) fn play(&mut self) {
        // Everything was off: it comes up in any order.
        for m in 0..self.machines.len() {
            let wait = ms(self.rng.below(20_000));
            self.later(wait, Happening::AgentStarts(m, 1));
        }
        let first = ms(30_000 + self.rng.below(60_000));
        self.later(first, Happening::Fault);
        self.advance(HOUR);
        self.end_faults();
        let deadline = self.now + CONVERGENCE;
        while self.judge.violation.is_none() {
            self.advance(LOOK_EVERY);
            self.look();
            if self.unfinished().is_none() {
                self.advance(STEADY);
                if self.judge.violation.is_some() || self.unfinished().is_none() {
                    return;
                }
            }
            if self.now > deadline {
                let what = self.unfinished().unwrap_or_default();
                self.violate(format!("not as wanted {} s after the last fault: {what}", CONVERGENCE.as_secs()));
            }
        }
    }

    pub(super) fn stats(&self) -> Stats {
        self.judge.stats
    }

    fn any(&mut self) -> usize {
        self.rng.below(self.machines.len() as u64) as usize
    }

    /// Short mostly, now and then longer than every lease.
    fn how_long(&mut self) -> Duration {
        match self.rng.below(4) {
            0 => ms(self.rng.below(1_000)),
            1 | 2 => ms(self.rng.below(9_000)),
            _ => ms(8_000 + self.rng.below(40_000)),
        }
    }

    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let wait = match self.rng.below(5) {
            0 => ms(self.rng.below(2_000)),
            1 => ms(self.rng.below(20_000)),
            _ => ms(20_000 + self.rng.below(120_000)),
        };
        self.later(wait, Happening::Fault);
        let (m, time) = (self.any(), self.how_long());
        let until = self.now + time;
        let name = self.machines[m].name.clone();
        match self.rng.below(24) {
            0..=2 => self.pause(m, until),
            3 => self.pause_agent(m, until),
            4 | 5 => self.agent_dies(m),
            6 => self.lose_power(m, time),
            7 | 8 => self.isolate(m, until),
            9 => {
                self.note(format!("{name}: its way to the store is cut until {until:?}"));
                let store = self.net.store();
                self.net.cut(m, store, until);
                self.net.cut(store, m, until);
            }
            10 => self.cut_one_way(m, until),
            11 => {
                self.note(format!("the store is away until {until:?}"));
                self.store.away(until);
                self.after_store();
            }
            12 => self.away_and_compacted(m, until),
            13 => self.set_back(),
            14 => {
                self.note("the network loses packets and is slow");
                (self.net.lossy_until, self.net.slow_until) = (until, until);
            }
            15 => self.many(time),
            16 | 17 => self.shim_dies(m),
            18 | 19 => self.child_ends(m),
            20 => self.stop_shim(m, time),
            21 => self.hang(m, time),
            22 => {
                let leader = self
                    .machines
                    .iter()
                    .position(|machine| machine.agent.as_ref().is_some_and(|agent| agent.member.leader.is_some()));
                if let Some(leader) = leader {
                    self.pause(leader, until);
                }
            }
            _ => self.split(until),
        }
    }

    pub(super) fn pause(&mut self, m: usize, until: Timestamp) {
        let machine = &mut self.machines[m];
        if !machine.up || machine.frozen {
            return;
        }
        (machine.paused_until, machine.frozen) = (until, true);
        let text = format!("{}: the machine stands still until {until:?}", machine.name);
        self.judge.well_since.remove(&m);
        self.note(text);
        self.at(until, Happening::Resume(m));
    }

    pub(super) fn resume(&mut self, m: usize) {
        let now = self.now;
        if !self.machines[m].frozen || self.machines[m].paused_until > now || !self.machines[m].up {
            return;
        }
        let text = format!("{}: goes on", self.machines[m].name);
        self.note(text);
        self.late_writes(m);
        let machine = &mut self.machines[m];
        machine.frozen = false;
        let local = machine.local(now);
        machine.host.tick(local);
        self.judge.host_moved = true;
        self.judge.well_since.insert(m, now);
        self.settle(m);
    }

    fn pause_agent(&mut self, m: usize, until: Timestamp) {
        let text = format!("{}: the agent stands still until {until:?}", self.machines[m].name);
        self.note(text);
        self.machines[m].agent_paused_until = until;
        self.judge.well_since.insert(m, until);
        self.settle(m);
    }

    pub(super) fn agent_dies(&mut self, m: usize) {
        if self.machines[m].agent.is_none() || !self.machines[m].up {
            return;
        }
        let text = format!("{}: the agent dies", self.machines[m].name);
        self.note(text);
        self.kill_agent(m);
        self.judge.well_since.remove(&m);
        let away = if !self.calm && self.rng.below(4) == 0 { self.rng.below(25_000) } else { 20 + self.rng.below(500) };
        let boot = self.machines[m].boot;
        self.later(ms(away), Happening::AgentStarts(m, boot));
    }

    /// Whatever ran is gone, and with it what was not synced.
    pub(super) fn lose_power(&mut self, m: usize, time: Duration) {
        if !self.machines[m].up {
            return;
        }
        let text = format!("{}: loses power", self.machines[m].name);
        self.note(text);
        self.kill_agent(m);
        let machine = &mut self.machines[m];
        machine.host.reboot();
        machine.launching.clear();
        machine.boot += 1;
        (machine.up, machine.frozen, machine.address) = (false, false, None);
        self.judge.host_moved = true;
        self.judge.well_since.remove(&m);
        self.judge.not_announced(m);
        self.later(ms(1_000) + time, Happening::Boots(m));
    }

    pub(super) fn boot(&mut self, m: usize) {
        let (now, base, wait) = (self.now, ms(3_000 + self.rng.below(10_000)), ms(self.rng.below(3_000)));
        let machine = &mut self.machines[m];
        if machine.up {
            return;
        }
        machine.up = true;
        machine.clock = Clock::new(now, base, machine.clock.ppm);
        // Nobody knows how long the machine was off.
        machine.set_back = machine.set_back.map(|_| machine.clock.local(now));
        let (boot, text) = (machine.boot, format!("{}: boots", machine.name));
        self.note(text);
        self.later(wait, Happening::AgentStarts(m, boot));
    }

    pub(super) fn isolate(&mut self, m: usize, until: Timestamp) {
        let text = format!("{}: is cut off from everybody until {until:?}", self.machines[m].name);
        self.note(text);
        for other in 0..self.net.places() {
            self.net.cut(m, other, until);
            self.net.cut(other, m, until);
        }
    }

    fn cut_one_way(&mut self, m: usize, until: Timestamp) {
        let (hears, all, one) = (self.rng.below(2) == 0, self.rng.below(2) == 0, self.any());
        let text = format!("{}: one way is cut until {until:?} ({hears}, {all})", self.machines[m].name);
        self.note(text);
        for other in (0..self.net.places()).filter(|other| all || *other == one) {
            if hears { self.net.cut(m, other, until) } else { self.net.cut(other, m, until) }
        }
    }

    fn split(&mut self, until: Timestamp) {
        let store_with = self.rng.below(2) as usize;
        let side: Vec<usize> = (0..self.machines.len()).map(|_| self.rng.below(2) as usize).collect();
        self.note(format!("the network splits until {until:?}: {side:?}, the store is with {store_with}"));
        let places = self.net.places();
        let of = |place: usize| side.get(place).copied().unwrap_or(store_with);
        for (one, other) in (0..places).flat_map(|one| (0..places).map(move |other| (one, other))) {
            if of(one) != of(other) {
                self.net.cut(one, other, until);
            }
        }
    }

    /// One is away from the store meanwhile.
    fn away_and_compacted(&mut self, m: usize, until: Timestamp) {
        let text = format!("{}: away from the store until {until:?}, which is compacted", self.machines[m].name);
        self.note(text);
        let store = self.net.store();
        self.net.cut(m, store, until);
        self.net.cut(store, m, until);
        // Something happens that it does not hear of.
        let other = self.any();
        if self.rng.below(2) == 0 && other != m {
            self.agent_dies(other);
        }
        let at = until - ms(10);
        self.at(at, Happening::Compact);
    }

    fn set_back(&mut self) {
        match self.rng.below(6) {
            0 => self.set_back_to_copy(),
            1 => self.store.compact(),
            _ => self.store.snapshot(),
        }
    }

    pub(super) fn set_back_to_copy(&mut self) {
        let now = self.now;
        if self.store.restore(now) {
            self.note(format!("the store is set back to an older copy, revision {}", self.store.revision()));
            self.judge.told_revision = u64::MAX;
            self.after_store();
        }
    }

    /// A rack, or all: at once.
    fn many(&mut self, time: Duration) {
        let until = self.now + time;
        let (how, all) = (self.rng.below(3), self.rng.below(3) == 0);
        let skip = if all { usize::MAX } else { self.any() };
        for m in (0..self.machines.len()).filter(|m| *m != skip) {
            match how {
                0 => {
                    let more = ms(self.rng.below(30_000));
                    self.lose_power(m, time + more);
                }
                1 => self.isolate(m, until),
                _ => self.pause(m, until),
            }
        }
    }

    fn some_instance(&mut self, m: usize) -> Option<InstanceId> {
        if !self.machines[m].up || self.machines[m].frozen {
            return None;
        }
        let ids: Vec<InstanceId> = self.machines[m].host.places.keys().cloned().collect();
        let n = self.rng.below(ids.len() as u64);
        ids.get(n as usize).cloned()
    }

    fn shim_dies(&mut self, m: usize) {
        let Some(id) = self.some_instance(m) else { return };
        if self.machines[m].host.place(&id).shim.is_some() {
            self.end_shim(m, &id);
        }
    }

    pub(super) fn end_shim(&mut self, m: usize, id: &InstanceId) {
        let text = format!("{} {id}: its shim dies", self.machines[m].name);
        self.note(text);
        self.machines[m].host.kill_shim(id);
        self.disconnected(m, id);
        self.judge.host_moved = true;
    }

    fn child_ends(&mut self, m: usize) {
        if let Some(id) = self.some_instance(m) {
            self.end_child(m, &id);
        }
    }

    pub(super) fn end_child(&mut self, m: usize, id: &InstanceId) {
        let text = format!("{} {id}: its process ends", self.machines[m].name);
        self.note(text);
        let local = self.machines[m].local(self.now);
        self.machines[m].host.child_ends(local, id, None);
        self.judge.host_moved = true;
        self.settle(m);
    }

    fn stop_shim(&mut self, m: usize, time: Duration) {
        let Some(id) = self.some_instance(m) else { return };
        let text = format!("{} {id}: shim and program are stopped for {time:?}", self.machines[m].name);
        self.note(text);
        let local = self.machines[m].local(self.now);
        let place = self.machines[m].host.place(&id);
        if place.shim.is_some() {
            place.stopped = Some((local, local + time));
            place.children.iter_mut().for_each(|c| c.hung_until = local + time);
        }
        self.settle(m);
    }

    fn hang(&mut self, m: usize, time: Duration) {
        let Some(id) = self.some_instance(m) else { return };
        let text = format!("{} {id}: hangs for {time:?}", self.machines[m].name);
        self.note(text);
        let local = self.machines[m].local(self.now);
        self.machines[m].host.place(&id).children.iter_mut().for_each(|c| c.hung_until = local + time);
    }

    fn end_faults(&mut self) {
        self.note("the faults are over");
        self.calm = true;
        self.net.heal();
        let now = self.now;
        self.store.away_until = self.store.away_until.min(now);
        self.after_store();
        for m in 0..self.machines.len() {
            // Who was cut off until now was not heard before.
            self.judge.well_since.insert(m, now);
            self.machines[m].paused_until = self.machines[m].paused_until.min(now);
            self.machines[m].agent_paused_until = self.machines[m].agent_paused_until.min(now);
            for place in self.machines[m].host.places.values_mut() {
                place.stopped = None;
                place.children.iter_mut().for_each(|c| c.hung_until = Timestamp::ZERO);
            }
            self.boot(m);
            self.resume(m);
            let boot = self.machines[m].boot;
            self.later(ms(100), Happening::AgentStarts(m, boot));
            self.settle(m);
        }
    }
}
