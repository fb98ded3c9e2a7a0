//! The scenarios that the simulator plays from many seeds, here on real machines.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use holdfast_lab::{Direction, Fault as Held, Options, Process};
use holdfast_sim::scenario::{Edge, Fault, REPLICAS, Role, Scenario, What, Who};

use crate::proof::{self, Evidence};
use crate::roles::parent_of;
use crate::town::{MACHINES, Town, kill};

/// Those that the test lane has time for: the others are told by tests of their own.
const SHORT: [&str; 2] = ["leader", "processes"];

fn town() -> Option<Town> {
    let town = Town::build(&Options { etcd: 3, ..Options::default() })?;
    town.write(&(town.web(REPLICAS as usize) + &town.db("", "tier = \"hot\"")));
    town.up_all();
    town.wait_settled(REPLICAS as usize);
    town.wait_standing();
    Some(town)
}

#[test]
fn every_scenario_ends_on_real_machines_as_in_the_simulator() {
    let mut evidence = Evidence::new("lab", "every_scenario_ends_on_real_machines_as_in_the_simulator");
    let mut played = Vec::new();
    for scenario in Scenario::all().expect("they can be read") {
        if !proof::proving() && !SHORT.contains(&scenario.name.as_str()) {
            continue;
        }
        let Some(town) = town() else { return };
        println!("{}: {}", scenario.name, scenario.says);
        let snapshot = town.lab.etcd_snapshot().expect("a snapshot");
        Play { town: &town, snapshot, held: BTreeMap::new(), ups: Vec::new() }.play(&scenario);
        played.push(scenario.name.clone());
    }
    evidence.condition("scenarios", played.join(", "));
    evidence.figure("scenarios of the simulator, played by real machines: not as wanted afterwards", "0", "0");
    evidence.tell();
}

/// What is undone when a fault ends.
enum Undo {
    PowerOn(usize),
    Resume(usize),
    Heal(Held),
    StoreUp,
}

struct Play<'a> {
    town: &'a Town,
    snapshot: std::path::PathBuf,
    held: BTreeMap<usize, Undo>,
    /// As an init system starts them; nobody waits for their outcome, because other machines may still be off.
    ups: Vec<Process>,
}

impl Play<'_> {
    fn play(mut self, scenario: &Scenario) {
        let town = self.town;
        let (pids, active) = (town.pids(0), town.active(0).map(|active| (active.node, active.pid)));
        let began = Instant::now();
        for (at, edge, n) in scenario.edges() {
            hold_until(began + at);
            match edge {
                Edge::Begins => self.begin(n, &scenario.faults[n]),
                Edge::Ends => self.end(n),
            }
        }
        town.wait_settled(REPLICAS as usize);
        town.wait_standing();
        if !scenario.moves {
            assert_eq!(town.pids(0), pids, "{}: moved or restarted", scenario.name);
            let now = town.active(0).map(|active| (active.node, active.pid));
            assert_eq!(now, active, "{}: another is active", scenario.name);
        }
        let frozen = match scenario.faults.iter().any(|fault| fault.what == What::Pause) {
            // What a machine that stood still writes before its shims end it is refused by who looks at tokens.
            true => town.roles().refused_tokens(),
            false => Default::default(),
        };
        assert_eq!(town.roles().overlaps_without(&frozen), [], "{}: two were active", scenario.name);
        assert!(town.roles().refused_tokens().is_subset(&frozen), "{}: a token went backwards", scenario.name);
    }

    fn who(&self, fault: &Fault) -> usize {
        let seer = || (0..MACHINES).find(|n| self.town.lab.machine(*n).is_on()).expect("one is on");
        match fault.on {
            Who::Machine(n) => n - 1,
            Who::Role(Role::Leader) => self.town.leader(seer()).expect("one leads"),
            Who::Role(Role::Active) | Who::Nobody => self.active().0,
        }
    }

    /// Machine and process of the active member.
    fn active(&self) -> (usize, u32) {
        let mut found = None;
        self.town.wait("one to be active", || {
            found = (0..MACHINES)
                .filter(|n| self.town.lab.machine(*n).is_on())
                .find_map(|n| self.town.active(n))
                .map(|active| (active.node, active.pid));
            found.is_some()
        });
        found.expect("just seen")
    }

    fn begin(&mut self, n: usize, fault: &Fault) {
        let lab = &self.town.lab;
        let node = || self.who(fault);
        let cut = |direction| Undo::Heal(lab.machine(node()).isolate(direction).expect("cut off"));
        let undo = match fault.what {
            What::PowerOff => {
                let node = node();
                lab.machine(node).kill_all().expect("kill");
                Some(Undo::PowerOn(node))
            }
            What::Pause => {
                let node = node();
                lab.machine(node).pause().expect("pause");
                Some(Undo::Resume(node))
            }
            What::Isolate => Some(cut(Direction::Both)),
            What::IsolateIn => Some(cut(Direction::In)),
            What::IsolateOut => Some(cut(Direction::Out)),
            What::CutStore => Some(Undo::Heal(lab.machine(node()).isolate_from_etcd().expect("cut off"))),
            What::KillAgent => {
                kill(self.town.agent_pid(node()).expect("it has an agent"), "KILL");
                None
            }
            What::KillActive => {
                kill(self.active().1, "KILL");
                None
            }
            What::KillShim => {
                kill(parent_of(self.active().1), "KILL");
                None
            }
            What::StoreDown => {
                lab.members().iter().for_each(|member| member.kill().expect("kill"));
                Some(Undo::StoreUp)
            }
            What::StoreRestored => {
                lab.etcd_restore(&self.snapshot, "restored").expect("restore");
                None
            }
        };
        self.held.extend(undo.map(|undo| (n, undo)));
    }

    fn end(&mut self, n: usize) {
        let lab = &self.town.lab;
        match self.held.remove(&n) {
            Some(Undo::PowerOn(node)) => {
                lab.machine(node).boot().expect("boot");
                let up = lab.machine(node).spawn(&self.town.typed(node, &["up", "-d"]), &[]);
                self.ups.push(up.expect("it starts"));
            }
            Some(Undo::Resume(node)) => lab.machine(node).resume().expect("resume"),
            Some(Undo::Heal(held)) => held.heal(),
            Some(Undo::StoreUp) => {
                lab.members().iter().for_each(|member| member.start().expect("start"));
                lab.wait_for_etcd(holdfast_lab::ETCD_READY_LIMIT).expect("etcd is back");
            }
            None => {}
        }
    }
}

fn hold_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// A scenario that cannot be told apart from another shows less than it says.
#[test]
fn the_short_scenarios_are_scenarios() {
    let all = Scenario::all().expect("they can be read");
    assert!(SHORT.iter().all(|name| all.iter().any(|scenario| scenario.name == *name)));
    assert!(all.iter().all(|scenario| scenario.edges().iter().all(|(at, ..)| *at < Duration::from_secs(600))));
}
