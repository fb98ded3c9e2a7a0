//! One active on one of three machines, the others stand by: processes and machines that die, stand still, and are cut off.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast_lab::{Direction, Options};
use holdfast_policy::lease::FencingToken;
use holdfast_policy::rng::Rng;
use serde_json::Value;

use crate::proof::{self, Evidence};
use crate::roles::{Roles, parent_of};
use crate::town::{LEASE, MACHINES, Town, kill, name};

const MEMBERS: usize = 3;
/// A program that is stopped is to be found out.
const LIVE: &str = "{ http = \"/healthz\", every = \"300ms\", timeout = \"200ms\", fall = 2 }";
/// A client that got no answer asks again.
const ASKED: Duration = Duration::from_millis(500);
/// As promised: after a fault of the process, and beyond the lease after one of its machine.
const AT_ONCE: Duration = Duration::from_secs(2);
const BEYOND: Duration = Duration::from_secs(2);
/// A town is left for a new one after so many random faults: machines that are lost often are damped.
const FAULTS_A_TOWN: usize = 8;

/// The member that is active.
pub(crate) struct Active {
    pub(crate) id: String,
    pub(crate) node: usize,
    /// As we see it, not as its machine's own process namespace does.
    pub(crate) pid: u32,
}

impl Town {
    fn with_db(more: &str) -> Option<Town> {
        let town = Town::build(&Options { etcd: 3, ..Options::default() })?;
        let db = town.db(&format!("live = {LIVE}\n"), more);
        let web = town.web(1);
        let (_, balancer) = web.split_once("[balancer").expect("there is one");
        town.write(&format!("{db}[balancer{}", balancer.replace("\"web\"", "\"db\"")));
        town.up_all();
        town.wait_standing();
        Some(town)
    }

    /// One active and two that stand by.
    pub(crate) fn db(&self, service: &str, standby: &str) -> String {
        let web = self.web(1);
        let command = web.lines().find(|line| line.starts_with("command")).expect("there is one");
        format!(
            "[service.db]\n{command}\nenv = {{ ORIGIN_ROLES = \"{}\" }}\n\
             ready = {{ http = \"/healthz\", every = \"200ms\" }}\n\
             stop = {{ grace = \"2s\", drain = \"2s\" }}\n{service}\
             standby = {{ count = 2, lease = \"fast\", {standby} }}\n",
            self.roles_file().display()
        )
    }

    fn roles_file(&self) -> PathBuf {
        self.lab.dir().join("roles")
    }

    pub(crate) fn roles(&self) -> Roles {
        Roles::read(&self.roles_file())
    }

    fn members(&self, seer: usize) -> Vec<Value> {
        self.status(seer)["services"]["db"]["instances"].as_array().cloned().unwrap_or_default()
    }

    pub(crate) fn active(&self, seer: usize) -> Option<Active> {
        let found = self.members(seer).into_iter().find(|i| i["state"] == "ready" && i["role"] == "active")?;
        let node = (0..MACHINES).find(|n| found["node"] == name(*n).as_str())?;
        let id = found["id"].as_str()?.to_owned();
        let pid = self.process_of(node, &id)?;
        Some(Active { id, node, pid })
    }

    /// The process of an instance: its environment says whose it is.
    fn process_of(&self, node: usize, id: &str) -> Option<u32> {
        let wanted = format!("HOLDFAST_INSTANCE={id}");
        let is_its = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            program.ends_with("examples/origin") && environment.split(|b| *b == 0).any(|v| v == wanted.as_bytes())
        };
        self.lab.machine(node).pids().into_iter().find(is_its)
    }

    /// One is active and all others can take over, as all machines see it.
    pub(crate) fn wait_standing(&self) {
        self.wait("one active and two that stand by", || {
            (0..MACHINES).all(|n| {
                let (all, nodes) = (self.members(n), self.standing(n));
                all.len() == MEMBERS
                    && all.iter().filter(|i| i["state"] == "standby").count() == MEMBERS - 1
                    && nodes.len() == MACHINES
                    && nodes.values().all(|state| state == "ready")
                    && self.active(n).is_some()
            })
        });
    }

    /// A machine that is not asked through its balancer is active.
    fn wait_active_elsewhere(&self, than: usize) -> Active {
        if self.active(than).is_some_and(|active| active.node == than) {
            self.ok(than, &["switchover", "db"]);
        }
        self.wait_standing();
        self.active(than).filter(|active| active.node != than).expect("another machine is active")
    }

    /// Until a GET through a machine's balancer is answered by another process than the one that was active.
    fn until_served_by_another(&self, through: usize, before: &Active) -> Duration {
        let began = Instant::now();
        self.wait(&format!("another than {} with pid {} to serve", before.id, before.pid), || {
            let served = self.get_within(through, "/who", ASKED);
            served.is_some_and(|name| name != before.id || !runs(before.pid))
        });
        began.elapsed()
    }
}

/// A process that has ended, or waits to be reaped, serves nobody.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

fn worst(times: &[Duration]) -> Duration {
    times.iter().max().copied().unwrap_or_default()
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[test]
fn a_hot_standby_takes_over_from_dead_processes_and_machines() {
    let mut evidence = Evidence::new("lab", "a_hot_standby_takes_over_from_dead_processes_and_machines");
    let (mut process, mut machine, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..proof::size(2, 100) {
        let Some(town) = Town::with_db("tier = \"hot\"") else { return };
        let load = town.probe(0);
        let active = town.active(0).expect("one is active");
        kill(active.pid, "KILL");
        process.push(town.until_served_by_another(0, &active));
        town.wait_standing();
        assert_ne!(town.active(0).map(|now| now.id), Some(active.id), "another member was ready to take over");
        // The prober goes through the balancer of the first machine.
        let active = town.wait_active_elsewhere(0);
        town.lab.machine(active.node).kill_all().expect("kill");
        machine.push(town.until_served_by_another(0, &active));
        let found = load.finish().expect("the prober works");
        gaps.push(found.longest_gap);
        println!(
            "round {round}: process {:?}, machine {:?}; {} of {} requests failed meanwhile",
            process[round], machine[round], found.failed, found.sent
        );
        town.roles().never_two();
    }
    evidence.condition("repetitions of each", process.len());
    let told = |times: &[Duration]| format!("{:?} / {:?}", median(times), worst(times));
    evidence.figure(
        "active of a hot standby, process killed: served by another, median / worst",
        "<= 2 s",
        told(&process),
    );
    evidence.figure("active of a hot standby, machine without power: the same", "<= 8 s (lease 6 s)", told(&machine));
    evidence.tell();
    println!("process {process:?}\nmachine {machine:?}");
    assert!(worst(&process) <= AT_ONCE, "{process:?}");
    assert!(!proof::proving() || worst(&machine) <= LEASE + BEYOND, "{machine:?}");
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    KillActive,
    StopActive,
    KillShimAndAgent,
    KillShim,
    StopAgent,
    KillMachine,
    PauseMachine,
    Isolate(Direction),
}

const FAULTS: [Fault; 10] = [
    Fault::KillActive,
    Fault::StopActive,
    Fault::KillShimAndAgent,
    Fault::KillShim,
    Fault::StopAgent,
    Fault::KillMachine,
    Fault::PauseMachine,
    Fault::Isolate(Direction::Both),
    Fault::Isolate(Direction::In),
    Fault::Isolate(Direction::Out),
];

/// What the random faults led to.
#[derive(Default)]
struct Found {
    longest: (Duration, String),
    overlaps: usize,
    /// Tokens of programs that were frozen with their machine.
    frozen: BTreeSet<FencingToken>,
    dead_after: Vec<Duration>,
    stale: usize,
}

impl Found {
    fn strike(&mut self, town: &Town, fault: Fault, what: &str) {
        // The first machine is asked: what would silence it strikes another.
        let whole = matches!(fault, Fault::KillMachine | Fault::PauseMachine | Fault::Isolate(_) | Fault::StopAgent);
        let active = match whole {
            true => town.wait_active_elsewhere(0),
            false => town.active(0).expect("one is active"),
        };
        let machine = town.lab.machine(active.node);
        let began = Instant::now();
        let mut cut = None;
        let mut agent = None;
        match fault {
            Fault::KillActive => kill(active.pid, "KILL"),
            Fault::StopActive => kill(active.pid, "STOP"),
            Fault::KillShim => kill(parent_of(active.pid), "KILL"),
            Fault::KillShimAndAgent => {
                kill(town.agent_pid(active.node).expect("it has an agent"), "KILL");
                kill(parent_of(active.pid), "KILL");
            }
            Fault::StopAgent => {
                agent = town.agent_pid(active.node);
                kill(agent.expect("it has an agent"), "STOP");
            }
            Fault::KillMachine => machine.kill_all().expect("kill"),
            Fault::PauseMachine => {
                self.frozen.extend(town.roles().tokens().into_iter().max());
                machine.pause().expect("pause");
            }
            Fault::Isolate(direction) => cut = Some(machine.isolate(direction).expect("cut off")),
        }
        town.until_served_by_another(0, &active);
        let took = began.elapsed();
        println!("{what}: {fault:?} on {}: served by another after {took:?}", name(active.node));
        if took > self.longest.0 {
            self.longest = (took, format!("{fault:?}"));
        }
        if let Some(cut) = cut {
            cut.heal();
        }
        // Its own watchdog may have replaced it.
        if let Some(agent) = agent.filter(|agent| runs(*agent)) {
            kill(agent, "CONT");
        }
        match fault {
            Fault::KillMachine => {
                machine.boot().expect("boot");
                town.ok(active.node, &["up", "-d"]);
            }
            Fault::PauseMachine => {
                let resumed = Instant::now();
                machine.resume().expect("resume");
                town.wait("the old active to be dead", || !runs(active.pid));
                self.dead_after.push(resumed.elapsed());
            }
            _ => {}
        }
        town.wait_standing();
    }

    fn count(&mut self, town: &Town) {
        let roles = town.roles();
        self.overlaps += roles.overlaps_without(&self.frozen).len();
        self.stale += roles.refused();
        // What wrote with an old token is a program that was frozen, and no other.
        assert!(roles.refused_tokens().is_subset(&self.frozen), "{:?}", roles.refused_tokens());
        self.frozen.clear();
    }
}

#[test]
fn random_faults_of_processes_machines_and_links_never_make_two_actives_nor_none_for_good() {
    let mut evidence = Evidence::new("lab", "random_faults_of_processes_machines_and_links");
    let seed = std::env::var("HOLDFAST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(3);
    println!("HOLDFAST_SEED={seed}");
    let mut rng = Rng::from_seed(seed);
    let count = proof::size(5, 100);
    let mut found = Found::default();
    let mut town = None;
    for n in 0..count {
        if n % FAULTS_A_TOWN == 0 {
            if let Some(old) = town.take() {
                found.count(&old);
            }
            town = Town::with_db("tier = \"hot\"");
        }
        let Some(town) = &town else { return };
        let fault = FAULTS[rng.below(FAULTS.len() as u64) as usize];
        found.strike(town, fault, &format!("fault {n}"));
    }
    if let Some(town) = &town {
        found.count(town);
    }
    evidence.condition("seed", seed);
    evidence.figure(
        "hot standby, random faults (kill, stop, pause, cut off, shim and agent): actives at the same time",
        "0",
        format!("{} of {count} faults", found.overlaps),
    );
    evidence.figure("longest time until one served again", "-", format!("{:?} ({})", found.longest.0, found.longest.1));
    let dead = format!("{:?} of {}", worst(&found.dead_after), found.dead_after.len());
    evidence.figure("paused machine: from its resumption until its old active was dead, worst", "-", dead);
    evidence.figure("stale writes that a receiver which checks tokens accepted", "0", 0);
    evidence.figure("stale writes that one which does not check would have accepted", "-", found.stale);
    evidence.tell();
    assert_eq!(found.overlaps, 0);
}
