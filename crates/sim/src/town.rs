//! Several machines: the real Supervisors, membership, planner, lease keepers and virtual addresses of all of them, on
//! simulated hosts with drifting clocks, a simulated network and a simulated store with etcd's semantics.

mod address;
mod agent;
mod calls;
mod clock;
mod ending;
mod faults;
mod judge;
mod lead;
mod member;
mod net;
mod script;
mod store;
mod wanted;
mod world;

use holdfast_policy::{membership, placement, vip};
use holdfast_services::supervisor;

pub use judge::Stats;
pub use script::run_scenario;

/// The safety rules, each to be switched off alone.
#[derive(Clone, Copy, Debug)]
pub struct TownRules {
    pub supervisor: supervisor::Rules,
    pub membership: membership::Rules,
    pub planner: placement::Rules,
    pub vip: vip::Rules,
    /// Who takes writes compares tokens.
    pub receiver: bool,
    /// A watch whose history is gone lists again.
    pub relist: bool,
    /// A store that was set back to an older copy starts a new epoch, whoever notices first: its state names the store that
    /// kept it. Without, only an agent that has seen a higher token notices.
    pub new_epoch: bool,
}

impl TownRules {
    pub const ALL: TownRules = TownRules {
        supervisor: supervisor::Rules::ALL,
        membership: membership::Rules::ALL,
        planner: placement::Rules::ALL,
        vip: vip::Rules { kernel_lifetime: true, announce_after_split: true, promise: true, mode: true },
        receiver: true,
        relist: true,
        new_epoch: true,
    };

    /// Rules that the issue does not name, for `--without`; not all of them are missed soon.
    pub const WITHOUT_MORE: [(&'static str, TownRules); 6] = {
        let all = TownRules::ALL;
        let lease = supervisor::Rules { lease_check: false, ..all.supervisor };
        let unarmed = supervisor::Rules { deadline_before_promote: false, ..all.supervisor };
        let promise = vip::Rules { promise: false, ..all.vip };
        let void = membership::Rules { void_evidence: false, ..all.membership };
        let budget = placement::Rules { budget: false, ..all.planner };
        [
            ("lease check", TownRules { supervisor: lease, ..all }),
            ("deadline before promote", TownRules { supervisor: unarmed, ..all }),
            ("promise", TownRules { vip: promise, ..all }),
            ("void evidence", TownRules { membership: void, ..all }),
            ("budget", TownRules { planner: budget, ..all }),
            ("new epoch after a restore", TownRules { new_epoch: false, ..all }),
        ]
    };

    pub const WITHOUT: [(&'static str, TownRules); 8] = {
        let all = TownRules::ALL;
        let shim = supervisor::Rules { restart_grant: false, ..all.supervisor };
        let acknowledged = supervisor::Rules { acknowledged_renewal: false, ..all.supervisor };
        let one_source = membership::Rules { two_sources: false, ..all.membership };
        let no_brake = membership::Rules { brake: false, ..all.membership };
        let silent = vip::Rules { announce_after_split: false, ..all.vip };
        let for_ever = vip::Rules { kernel_lifetime: false, ..all.vip };
        [
            ("token check", TownRules { receiver: false, ..all }),
            ("shim deadline", TownRules { supervisor: shim, ..all }),
            ("acknowledged deadline before renewal", TownRules { supervisor: acknowledged, ..all }),
            ("two-source rule", TownRules { membership: one_source, ..all }),
            ("mass-failure brake", TownRules { membership: no_brake, ..all }),
            ("re-list after compaction", TownRules { relist: false, ..all }),
            ("announce after split", TownRules { vip: silent, ..all }),
            ("kernel lifetime", TownRules { vip: for_ever, ..all }),
        ]
    };
}

/// What became of one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TownReport {
    pub seed: u64,
    pub machines: usize,
    /// Events that the Supervisors handled.
    pub events: u64,
    /// Requests to the store.
    pub requests: u64,
    pub simulated_secs: u64,
    pub stats: Stats,
    pub violation: Option<String>,
    pub tail: Vec<String>,
}

/// One simulated hour with faults, then none until everything is as wanted again.
pub fn run_town(seed: u64, rules: TownRules) -> TownReport {
    let mut town = world::Town::new(seed, rules);
    town.play();
    report(seed, town)
}

fn report(seed: u64, mut town: world::Town) -> TownReport {
    TownReport {
        seed,
        machines: town.machines.len(),
        events: town.handled,
        requests: town.requests,
        simulated_secs: town.now.as_millis() / 1000,
        stats: town.stats(),
        violation: town.judge.violation.take(),
        tail: town.tail.into_iter().collect(),
    }
}
