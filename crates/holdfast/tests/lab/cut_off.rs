//! Machines that are cut off from others, or stand still, and come back.

use std::time::{Duration, Instant};

use holdfast_lab::Direction;

use crate::proof::{self, Evidence};
use crate::town::{LEASE, MACHINES, REPLICAS, Town, name, none_failed};

/// A machine that came back is watched for so long: what flaps would do so within it. Ten seconds after its return the
/// planner may begin to use it again.
const CALM: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Beyond the lease, as promised; and how often a lease is renewed in the fast profile.
const BEYOND: Duration = Duration::from_secs(2);
const RENEWAL: Duration = Duration::from_secs(2);

fn calm() -> Duration {
    proof::size(CALM.0, CALM.1)
}

impl Town {
    /// All that ran on a machine is ready on the two others, as the machine `seer` sees it.
    fn is_moved_from(&self, n: usize, seer: usize) -> bool {
        let (name, all) = (name(n), self.instances(seer));
        all.len() == REPLICAS && all.iter().all(|i| i.node != name && i.state == "ready")
    }

    /// After a machine came back: it has dropped what was moved, each instance runs once, and nothing flaps.
    fn wait_healed(&self) {
        self.wait("everything ready, once, as all machines see it", || {
            (0..MACHINES).all(|n| self.is_settled(n, REPLICAS)) && self.running() == REPLICAS
        });
        if proof::proving() {
            // What is spread anew goes back one at a time.
            self.wait_settled(REPLICAS);
        }
        let (pids, placed) = (self.pids(0), self.placements());
        self.hold_while(calm(), "nothing moves any more", || self.pids(0) == pids && self.running() == REPLICAS);
        assert_eq!(self.placements(), placed);
    }

    /// Instances that run, whatever anybody believes.
    fn running(&self) -> usize {
        (0..MACHINES).map(|n| self.origins(n)).sum()
    }
}

#[test]
fn a_machine_that_is_cut_off_is_replaced_and_drops_what_was_moved() {
    let mut evidence = Evidence::new("lab", "a_machine_that_is_cut_off_is_replaced_and_drops_what_was_moved");
    let directions = [Direction::Both, Direction::In, Direction::Out];
    let (mut sent, mut times) = (0, Vec::new());
    for round in 0..proof::size(1, 10) {
        let Some(town) = Town::ready() else { return };
        // A third loss of one machine would be damped: the one with a balancer takes a turn.
        for (direction, victim) in directions.into_iter().zip([2, 1, 2]) {
            let name = name(victim);
            let load = town.probe(0);
            let began = Instant::now();
            let fault = town.lab.machine(victim).isolate(direction).expect("inject");
            town.wait(&format!("{name} replaced"), || town.is_moved_from(victim, 0));
            let took = began.elapsed();
            assert_eq!(town.standing(0)[&name], "lost");
            fault.heal();
            town.wait_healed();
            let found =
                none_failed(&format!("round {round}: {name} cut off {direction:?}, replaced after {took:?}"), load);
            sent += found.sent;
            // What cannot hear still renews once more: etcd hears it, and it does not hear that.
            let limit = LEASE + BEYOND + if direction == Direction::In { RENEWAL } else { Duration::ZERO };
            assert!(!proof::proving() || took <= limit, "{direction:?}: {took:?} of {limit:?}");
            times.push(took);
        }
    }
    let worst = times.iter().max().copied().unwrap_or_default();
    evidence.condition("repetitions", times.len());
    evidence.figure(
        "machine cut off (both ways, in, out): GETs failed through the other balancer",
        "0",
        format!("0 of {sent}"),
    );
    evidence.figure("replaced, worst", "<= 8 s (10 s where it can still be heard)", format!("{worst:?}"));
    evidence.tell();
}

#[test]
fn a_machine_that_only_etcd_misses_keeps_what_it_runs() {
    let mut evidence = Evidence::new("lab", "a_machine_that_only_etcd_misses_keeps_what_it_runs");
    let Some(town) = Town::ready() else { return };
    let mut sent = 0;
    for victim in (0..MACHINES).cycle().skip(1).take(proof::size(2, 10)) {
        let name = name(victim);
        let (pids, placed) = (town.pids(0), town.placements());
        let loads = [town.probe(0), town.probe(1)];
        let seer = (victim + 1) % MACHINES;
        let fault = town.lab.machine(victim).isolate_from_etcd().expect("inject");
        town.wait(&format!("{name} suspect"), || town.standing(seer)[&name] == "suspect");
        town.hold_while(LEASE * 2, "a suspect keeps what it runs", || town.standing(seer)[&name] == "suspect");
        assert!(town.status(victim)["warnings"].to_string().contains("HF0410"), "it says so itself");
        fault.heal();
        town.wait_settled(REPLICAS);
        town.hold_while(calm(), "nothing moves afterwards", || town.pids(0) == pids);
        for (n, load) in loads.into_iter().enumerate() {
            sent += none_failed(&format!("{name} without etcd, balancer {}", n + 1), load).sent;
        }
        assert_eq!(town.placements(), placed, "moved although it answered");
        assert!((0..MACHINES).all(|n| town.count_told(n, &format!("node/{name}"), "lost") == 0));
    }
    evidence.figure("machine cut off from etcd only: GETs failed through both balancers", "0", format!("0 of {sent}"));
    evidence.figure("instances moved or restarted", "0", "0");
    evidence.tell();
}

#[test]
fn a_machine_that_stood_still_is_replaced_and_drops_what_was_moved() {
    let mut evidence = Evidence::new("lab", "a_machine_that_stood_still_is_replaced_and_drops_what_was_moved");
    let mut sent = 0;
    for round in 0..proof::size(1, 10) {
        let Some(town) = Town::ready() else { return };
        let victim = 1 + round % 2;
        let name = name(victim);
        let load = town.probe(0);
        let began = Instant::now();
        match town.lab.machine(victim).pause() {
            Err(holdfast_lab::Error::Skipped { reason }) => return println!("skipped: {reason}"),
            other => other.expect("pause"),
        }
        town.wait(&format!("{name} replaced"), || town.is_moved_from(victim, 0));
        let took = began.elapsed();
        // It knows nothing of the time that has passed.
        town.lab.machine(victim).resume().expect("resume");
        town.wait_healed();
        sent += none_failed(&format!("round {round}: {name} paused, replaced after {took:?}"), load).sent;
    }
    evidence.figure(
        "machine paused for longer than the lease: GETs failed through the other balancer",
        "0",
        format!("0 of {sent}"),
    );
    evidence.tell();
}
