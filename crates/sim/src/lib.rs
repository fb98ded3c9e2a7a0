//! The real Supervisor on a simulated host and store, driven by a seed: kills at every step, late and repeated events,
//! lost connections, stalls, a slow prober, reboots; and clients behind a balancer of the real policies. A seed and a
//! commit reproduce every run.
//!
//! [`run`] gives the first invariant that was broken, if any. Each safety rule of [`Rules`] can be switched off; the
//! tests show that every one is missed soon, which is what makes a clean run worth something.

mod agent;
mod faults;
mod host;
mod judge;
mod leases;
mod rules;
pub mod scenario;
mod town;
mod traffic;
mod world;

pub use rules::Rules;
pub use town::{Stats, TownReport, TownRules, run_scenario, run_town};

/// What became of one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub seed: u64,
    pub steps: u64,
    /// Events that the Supervisor handled.
    pub events: u64,
    /// Requests of clients, and how often one was sent once more.
    pub requests: u64,
    pub retries: u64,
    /// The first invariant that did not hold, and when.
    pub violation: Option<String>,
    /// The last things that happened before it.
    pub tail: Vec<String>,
}

/// `steps` faults, then none until everything must be as wanted again.
pub fn run(seed: u64, rules: Rules, steps: u64) -> Report {
    play(world::World::new(seed, rules), seed, steps)
}

/// As [`run`], with one redundant service and nothing else: who is active, and under what.
pub fn run_standby(seed: u64, rules: Rules, steps: u64) -> Report {
    play(world::World::redundant(seed, rules), seed, steps)
}

fn play(mut world: world::World, seed: u64, steps: u64) -> Report {
    world.play(steps);
    Report {
        seed,
        steps,
        events: world.handled,
        requests: world.traffic.ledger.asked,
        retries: world.traffic.ledger.again,
        violation: world.judge.violation.take(),
        tail: world.tail.into_iter().collect(),
    }
}

/// Faults in an ordinary run: some minutes of simulated time.
pub const STEPS: u64 = 60;
