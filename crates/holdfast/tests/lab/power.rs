//! Machines that lose their power: one of them, and all of them.

use std::time::{Duration, Instant};

use holdfast_lab::Options;
use holdfast_policy::rng::Rng;

use crate::proof::{self, Evidence};
use crate::town::{LEASE, MACHINES, REPLICAS, Town, name, none_failed};

/// Beyond the lease, as promised.
const BEYOND: Duration = Duration::from_secs(2);

#[test]
fn what_a_machine_without_power_ran_is_ready_elsewhere_within_a_lease() {
    let mut evidence = Evidence::new("lab", "what_a_machine_without_power_ran_is_ready_elsewhere_within_a_lease");
    let (mut times, mut sent, mut longest) = (Vec::new(), 0, Duration::ZERO);
    for round in 0..proof::size(3, 100) {
        // A machine that is lost again and again is damped, so each town loses each of two machines once.
        let Some(town) = Town::ready() else { return };
        let load = town.probe(0);
        let victim = 1 + round % 2;
        let name = name(victim);
        let killed = Instant::now();
        town.lab.machine(victim).kill_all().expect("kill");
        town.wait("everything ready on two machines", || {
            let all = town.instances(0);
            all.len() == REPLICAS && all.iter().all(|i| i.node != name && i.state == "ready")
        });
        let took = killed.elapsed();
        let found = none_failed(&format!("{name} without power, all ready after {took:?}"), load);
        (sent, longest) = (sent + found.sent, longest.max(found.longest_gap));
        times.push(took);
        assert_eq!(town.standing(0)[&name], "lost");
        assert!((0..MACHINES).any(|n| n != victim && town.count_told(n, &format!("node/{name}"), "lost") > 0));
    }
    times.sort();
    let worst = times.last().copied().unwrap_or_default();
    evidence.condition("repetitions", times.len());
    evidence.figure("machine without power: GETs failed through the other balancer", "0", format!("0 of {sent}"));
    evidence.figure("all replicas ready again, median", "-", format!("{:?}", times[times.len() / 2]));
    evidence.figure("all replicas ready again, worst", "<= 8 s", format!("{worst:?}"));
    evidence.tell();
    println!("ready again: {times:?}; longest time without an answer {longest:?}");
    if proof::proving() {
        assert!(worst <= LEASE + BEYOND, "{worst:?}");
    }
}

/// As a machine does at boot: the line that `docs/how-to/run-at-boot.md` has for the crontab. Nobody looks at its outcome.
fn init(town: &Town, n: usize) -> holdfast_lab::Process {
    town.lab.machine(n).spawn(&town.typed(n, &["up", "-d"]), &[]).expect("it starts")
}

#[test]
fn after_a_black_out_everything_comes_up_in_any_order_and_without_hands() {
    let mut evidence = Evidence::new("lab", "after_a_black_out_everything_comes_up_in_any_order_and_without_hands");
    let options = Options { etcd: 3, etcd_on_nodes: true, ..Options::default() };
    let mut times = Vec::new();
    let Some(town) = Town::ready_with(&options) else { return };
    let mut random = Random::new();
    for round in 0..proof::size(1, 10) {
        let before: Vec<String> = town.instances(0).into_iter().map(|i| format!("{}@{}", i.id, i.node)).collect();
        let mut order: Vec<usize> = (0..MACHINES).collect();
        random.shuffle(&mut order);
        for n in &order {
            town.lab.machine(*n).kill_all().expect("kill");
            // Its wrapper has ended with the machine.
            town.lab.etcd(*n).kill().expect("reaped");
        }
        random.shuffle(&mut order);
        let began = Instant::now();
        let mut ups = Vec::new();
        for n in &order {
            town.lab.machine(*n).boot().expect("boot");
            // Whichever its init system happens to start first.
            if random.below(2) == 0 {
                town.lab.etcd(*n).start().expect("etcd starts");
                ups.push(init(&town, *n));
            } else {
                ups.push(init(&town, *n));
                town.lab.etcd(*n).start().expect("etcd starts");
            }
            hold_for(Duration::from_millis(random.below(3000)));
        }
        town.wait("everything ready again, as all machines see it", || {
            (0..MACHINES).all(|n| town.is_settled(n, REPLICAS))
        });
        times.push(began.elapsed());
        println!("black out {round}: booted as {order:?}, all ready after {:?}", began.elapsed());
        let after: Vec<String> = town.instances(0).into_iter().map(|i| format!("{}@{}", i.id, i.node)).collect();
        assert_eq!(after, before, "everything is where it was");
        town.wait_settled(REPLICAS);
        let loads = [town.probe(0), town.probe(1)];
        hold_for(Duration::from_secs(2));
        for (n, load) in loads.into_iter().enumerate() {
            none_failed(&format!("after the black out, balancer {}", n + 1), load);
        }
    }
    times.sort();
    evidence.condition("repetitions", times.len());
    evidence.figure("black start: all ready, worst", "-", format!("{:?}", times.last().copied().unwrap_or_default()));
    evidence.tell();
}

fn hold_for(length: Duration) {
    std::thread::sleep(length);
}

/// The order of boots; the same for the same `HOLDFAST_SEED`.
struct Random(Rng);

impl Random {
    fn new() -> Random {
        let seed = std::env::var("HOLDFAST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        println!("HOLDFAST_SEED={seed}");
        Random(Rng::from_seed(seed))
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0.below(n)
    }

    fn shuffle(&mut self, all: &mut [usize]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}
