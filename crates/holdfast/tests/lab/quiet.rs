//! The promise: on starved machines that lose packets, with a store that is slow, healthy machines are left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_lab::{Error, Machine, Options, Process};
use holdfast_policy::rng::Rng;

use crate::proof::{self, Evidence};
use crate::town::{MACHINES, REPLICAS, Town, kill, name, none_failed};

/// Asks for the short form, which is no part of the test lane: five minutes without an idle core.
const ASKED: &str = "HOLDFAST_LAB_QUIET";

/// Wall time under these conditions: when it is asked for, and in the proof.
const MINUTES: (u64, u64) = (5, 30);

/// As the promise states it, and how long between two of them.
const STALL: Duration = Duration::from_millis(200);
const BETWEEN_MS: (u64, u64) = (500, 2500);

const LOSS_PERCENT: f64 = 1.0;

/// Of the etcd member that leads: a sync waits for a tenth of a second and more.
const WRITES_PER_S: u32 = 30;

const SPIN: &[&str] = &["sh", "-c", "while :; do :; done"];

#[test]
fn healthy_machines_are_left_alone_when_everything_is_slow() {
    if !proof::proving() && std::env::var_os(ASKED).is_none() {
        return println!("skipped: it takes five minutes; {ASKED}=1 asks for it");
    }
    let Some(town) = Town::build(&Options { etcd: 3, ..Options::default() }) else { return };
    town.write(&(town.web(REPLICAS) + &town.db("", "tier = \"hot\"")));
    town.up_all();
    town.wait_settled(REPLICAS);
    town.wait_standing();
    let lab = &town.lab;
    let (pids, placed) = (town.pids(0), town.placements());
    let agents: Vec<u32> = (0..MACHINES).map(|n| town.agent_pid(n).expect("an agent")).collect();
    let before = town.leader(0);
    let time = Duration::from_secs(60 * proof::size(MINUTES.0, MINUTES.1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let burners: Vec<Process> = (0..cores).map(|_| lab.client().spawn(SPIN, &[]).expect("a burner")).collect();
    let machines: Vec<&Machine> = lab.machines().iter().chain(lab.etcd_machines()).map(|m| &**m).collect();
    let losses = lab.loss_among(&machines, LOSS_PERCENT).expect("loss");
    let leader = lab.etcd_leader().expect("etcd has a leader");
    let slow = match lab.etcd(leader).machine().slow_disk(WRITES_PER_S) {
        Err(Error::Skipped { reason }) => {
            println!("no slow disk in this run: {reason}");
            None
        }
        other => Some(other.expect("slow")),
    };
    let stalls = Stalls::begin(agents.clone());
    let loads = [town.probe(0), town.probe(1)];
    let until = Instant::now() + time;
    let mut doubts = 0;
    town.hold_while(time, "every instance is the same process", || {
        // A look costs a processor that everything needs.
        hold_for(Duration::from_secs(1).min(until.saturating_duration_since(Instant::now())));
        let standing = town.standing(0);
        doubts += standing.values().filter(|state| *state == "suspect").count();
        // Under such conditions an answer may be missing; a wrong one may not be there.
        let now = town.pids(0);
        standing.values().all(|state| state != "lost") && (now.is_empty() || now == pids)
    });
    let made = stalls.end();
    drop((slow, losses, burners));
    let sent: u64 = loads
        .into_iter()
        .enumerate()
        .map(|(n, load)| none_failed(&format!("starved, balancer {}", n + 1), load).sent)
        .sum();
    town.wait_settled(REPLICAS);
    assert_eq!(town.pids(0), pids, "restarted or moved");
    let replaced = town.placements() - placed;
    town.roles().never_two();
    let takeovers = town.roles().tokens().len() - 1;
    let lost = (0..MACHINES)
        .flat_map(|n| town.journal(n))
        .filter(|t| t.subject.starts_with("node/") && t.to == "lost")
        .count();
    let elections = (0..MACHINES).map(|n| town.count_told(n, "cluster/leader", "leader")).sum::<usize>();
    println!(
        "{made} stalls; {doubts} looks saw a suspect; led by {before:?} and then {:?}, {elections} elections",
        town.leader(0)
    );
    if takeovers > 0 {
        let told = (0..MACHINES).flat_map(|n| town.journal(n).into_iter().map(move |told| (n, told)));
        let mut told: Vec<_> = told.filter(|(_, t)| t.subject.contains("db")).collect();
        told.sort_by_key(|(_, t)| t.boot_ns);
        told.iter().for_each(|(n, t)| println!("{} {}: {} {}: {}", t.boot_ns, name(*n), t.subject, t.to, t.reason));
    }
    let mut evidence = Evidence::new("lab", "healthy_machines_are_left_alone_when_everything_is_slow");
    evidence.condition("minutes", time.as_secs() / 60);
    evidence.condition("stalls_of_200_ms", made);
    evidence.figure("all cores saturated, stalls, 1 % loss, slow etcd disk: re-placements", "0", replaced);
    evidence.figure("machines taken for lost", "0", lost);
    evidence.figure("takeovers of a hot standby", "0", takeovers);
    evidence.figure("GETs failed", "0", format!("0 of {sent}"));
    evidence.figure("elections of a leader", "-", elections);
    evidence.tell();
    assert_eq!((replaced, lost, takeovers), (0, 0, 0));
    assert_eq!((0..MACHINES).map(|n| town.agent_pid(n).expect("an agent")).collect::<Vec<_>>(), agents);
    // The conditions are over, and what is wrong is still found.
    lab.machine(2).kill_all().expect("kill");
    town.wait("a machine without power to be lost", || town.standing(0)["node3"] == "lost");
}

/// Agents are stopped and continued, one at a time.
struct Stalls {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u32>,
}

impl Stalls {
    fn begin(agents: Vec<u32>) -> Stalls {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut random = Rng::from_seed(7);
            let mut made = 0;
            while !flag.load(Ordering::Relaxed) {
                hold_for(Duration::from_millis(BETWEEN_MS.0 + random.below(BETWEEN_MS.1 - BETWEEN_MS.0)));
                let agent = agents[random.below(agents.len() as u64) as usize];
                kill(agent, "STOP");
                hold_for(STALL);
                kill(agent, "CONT");
                made += 1;
            }
            made
        });
        Stalls { stop, thread }
    }

    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

fn hold_for(length: Duration) {
    std::thread::sleep(length);
}
