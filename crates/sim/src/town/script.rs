//! A scenario, played by the simulated machines.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_policy::rng::Rng;
use holdfast_policy::{Incarnation, InstanceId};

use super::faults::{LOOK_EVERY, STEADY};
use super::wanted;
use super::world::{Happening, Town};
use super::{TownReport, TownRules, report};
use crate::scenario::{Edge, Fault, MACHINES, REPLICAS, Role, Scenario, What, Who};

/// Until everything runs for the first time, and until everything is as wanted again: what was lost is spread one at a time.
const PATIENCE: Duration = Duration::from_secs(300);

/// `seed` makes clocks, delays and the order of everything that happens at the same time.
pub fn run_scenario(seed: u64, scenario: &Scenario, rules: TownRules) -> TownReport {
    let mut town = Town::of(Rng::from_seed(seed), MACHINES, |_| wanted::of_scenarios(REPLICAS), rules);
    town.calm = true;
    town.act_out(scenario);
    report(seed, town)
}

impl Town {
    fn act_out(&mut self, scenario: &Scenario) {
        for m in 0..self.machines.len() {
            let wait = Duration::from_millis(self.rng.below(2_000));
            self.later(wait, Happening::AgentStarts(m, 1));
        }
        // Who comes first gets more, until it is spread again.
        self.finish("at the beginning", Town::is_even);
        self.store.snapshot();
        let (began, placed, active) = (self.now, self.placed(), self.on_active());
        let mut struck = BTreeMap::new();
        for (at, edge, n) in scenario.edges() {
            self.advance((began + at).since(self.now));
            let fault = &scenario.faults[n];
            match edge {
                Edge::Begins => {
                    let on = self.who(fault);
                    struck.insert(n, on);
                    self.inject(fault, on);
                }
                Edge::Ends => self.relieve(fault, struck.get(&n).copied().flatten()),
            }
        }
        self.finish("after the last fault", |_| true);
        self.advance(STEADY);
        if !scenario.moves && (self.placed() != placed || self.on_active() != active) {
            self.violate("something was moved or restarted although everything came back in time");
        }
    }

    fn is_even(&self) -> bool {
        let placed = self.placed();
        let of = |m: usize| placed.keys().filter(|(on, id)| *on == m && *id.service == *"web").count();
        let counts: Vec<usize> = (0..MACHINES).map(of).collect();
        counts.iter().max() == counts.iter().min()
    }

    fn finish(&mut self, when: &str, good: impl Fn(&Town) -> bool) {
        let deadline = self.now + PATIENCE;
        while self.judge.violation.is_none() {
            self.advance(LOOK_EVERY);
            self.look();
            let what = self.unfinished();
            if what.is_none() && good(self) {
                return;
            }
            if self.now > deadline {
                let what = what.unwrap_or_else(|| "not spread evenly".into());
                self.violate(format!("not as wanted {} s {when}: {what}", PATIENCE.as_secs()));
            }
        }
    }

    /// Every instance that runs, and as which process.
    fn placed(&self) -> BTreeMap<(usize, InstanceId), Vec<Incarnation>> {
        let all = self.machines.iter().enumerate().flat_map(|(m, machine)| {
            let of = move |(id, place): (&InstanceId, &crate::host::Place)| {
                ((m, id.clone()), place.children.iter().map(|c| c.incarnation).collect())
            };
            machine.host.places.iter().map(of)
        });
        all.filter(|(_, children): &(_, Vec<Incarnation>)| !children.is_empty()).collect()
    }

    fn on_active(&self) -> Option<(usize, InstanceId)> {
        self.machines.iter().enumerate().find_map(|(m, machine)| {
            let found = machine.host.places.iter().find(|(_, place)| place.children.iter().any(|c| c.active));
            found.map(|(id, _)| (m, id.clone()))
        })
    }

    fn who(&self, fault: &Fault) -> Option<usize> {
        match fault.on {
            Who::Machine(n) => Some(n - 1),
            Who::Role(Role::Leader) => {
                let leads = |m: &super::world::Machine| m.agent.as_ref().is_some_and(|a| a.member.leader.is_some());
                self.machines.iter().position(leads)
            }
            Who::Role(Role::Active) => self.on_active().map(|(m, _)| m),
            Who::Nobody => None,
        }
    }

    fn inject(&mut self, fault: &Fault, on: Option<usize>) {
        let until = self.now + (fault.ends() - fault.at());
        let store = self.net.store();
        match (fault.what, on) {
            (What::PowerOff, Some(m)) => self.lose_power(m, fault.ends() - fault.at()),
            (What::Pause, Some(m)) => self.pause(m, until),
            (What::Isolate, Some(m)) => self.isolate(m, until),
            (What::IsolateIn, Some(m)) => (0..=store).for_each(|from| self.net.cut(from, m, until)),
            (What::IsolateOut, Some(m)) => (0..=store).for_each(|to| self.net.cut(m, to, until)),
            (What::CutStore, Some(m)) => {
                self.net.cut(m, store, until);
                self.net.cut(store, m, until);
            }
            (What::KillAgent, Some(m)) => self.agent_dies(m),
            (What::KillActive, _) => self.strike_active(|town, m, id| town.end_child(m, &id)),
            (What::KillShim, _) => self.strike_active(|town, m, id| town.end_shim(m, &id)),
            (What::StoreDown, _) => {
                self.store.away(until);
                self.after_store();
            }
            (What::StoreRestored, _) => self.set_back_to_copy(),
            (what, None) => self.violate(format!("nobody is there for {what:?}")),
        }
    }

    /// All but a loss of power end by themselves.
    fn relieve(&mut self, fault: &Fault, on: Option<usize>) {
        if let (What::PowerOff, Some(m)) = (fault.what, on) {
            self.boot(m);
        }
    }

    fn strike_active(&mut self, strike: impl FnOnce(&mut Town, usize, InstanceId)) {
        match self.on_active() {
            Some((m, id)) => strike(self, m, id),
            None => self.violate("nobody is active"),
        }
    }
}
