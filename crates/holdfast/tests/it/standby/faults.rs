//! Random faults, one after the other: never two actives, and never none for good.

use std::time::{Duration, Instant};

use holdfast_policy::rng::Rng;

use super::roles::parent_of;
use crate::proof::{Evidence, size};
use crate::site::{Site, free_port, kill};

/// What is done to whom; each is chosen at random.
const FAULTS: [&str; 7] = [
    "kill the active",
    "kill its shim",
    "kill both",
    "kill the agent",
    "kill all three",
    "stop the active",
    "switchover",
];

fn strike(site: &Site, fault: &str) {
    let active = site.active();
    let Some(pid) = site.child_of(&active) else { return };
    let shim = parent_of(pid);
    match fault {
        "kill the active" => kill(pid, "KILL"),
        "kill its shim" => kill(shim, "KILL"),
        "kill both" => {
            kill(shim, "KILL");
            kill(pid, "KILL");
        }
        "kill the agent" => kill(site.pid_of_agent(), "KILL"),
        "kill all three" => {
            kill(site.pid_of_agent(), "KILL");
            kill(shim, "KILL");
            kill(pid, "KILL");
        }
        "stop the active" => kill(pid, "STOP"),
        _ => drop(site.run(&["switchover", "db"])),
    }
}

#[test]
fn random_faults_never_make_two_actives_nor_none_for_good() {
    let site = super::hot(free_port(), "");
    let seed = std::env::var("HOLDFAST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    let mut rng = Rng::from_seed(seed);
    let count = size(12, 100);
    let mut longest = (Duration::ZERO, "");
    for n in 0..count {
        let fault = FAULTS[rng.below(FAULTS.len() as u64) as usize];
        let before = site.child_of(&site.active());
        let began = Instant::now();
        strike(&site, fault);
        let moved = fault != "kill the agent";
        site.wait_for(&format!("recovery from fault {n} of seed {seed}: {fault}"), || {
            let now = site.serving().and_then(|id| site.child_of(&id));
            now.is_some() && (!moved || now != before)
        });
        longest = longest.max((began.elapsed(), fault));
        site.wait_for(&format!("a standby after fault {n} of seed {seed}: {fault}"), || {
            ["db-1", "db-2"].iter().any(|id| site.seen(id)["state"] == "standby")
        });
    }
    let roles = site.roles();
    let mut evidence = Evidence::new("standby", "random_faults_never_make_two_actives_nor_none_for_good");
    let told = format!("{} of {count} faults", roles.overlaps().len());
    evidence.figure("hot standby, random faults: actives at the same time", "0", told);
    evidence.figure(
        "longest time until one served again",
        "-",
        format!("{} ms ({})", longest.0.as_millis(), longest.1),
    );
    evidence.tell();
    println!(
        "{count} faults with {} tokens; longest recovery {} ms ({})",
        roles.tokens().len(),
        longest.0.as_millis(),
        longest.1
    );
    roles.never_two();
}
