//! What happens to three machines, told once for the simulator and for a lab of real ones.
//!
//! A scenario runs on [`MACHINES`] machines with [`REPLICAS`] equals (`web`) and one active member with two hot standbys (`db`).
//! It begins when everything is as wanted, and is over when everything is so again.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

pub const MACHINES: usize = 3;
pub const REPLICAS: u32 = 6;

/// Files of `scenarios`, without their ending.
const FILES: [(&str, &str); 9] = [
    ("black_start", include_str!("../scenarios/black_start.toml")),
    ("isolate", include_str!("../scenarios/isolate.toml")),
    ("leader", include_str!("../scenarios/leader.toml")),
    ("pause", include_str!("../scenarios/pause.toml")),
    ("power_off", include_str!("../scenarios/power_off.toml")),
    ("processes", include_str!("../scenarios/processes.toml")),
    ("short", include_str!("../scenarios/short.toml")),
    ("store_away", include_str!("../scenarios/store_away.toml")),
    ("store_restored", include_str!("../scenarios/store_restored.toml")),
];

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    #[serde(skip)]
    pub name: String,
    pub says: String,
    /// Whether an instance may change its machine, and another member become active.
    pub moves: bool,
    #[serde(rename = "fault")]
    pub faults: Vec<Fault>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Since the beginning of the scenario.
    #[serde(default)]
    at_s: u64,
    /// How long it lasts.
    #[serde(default)]
    for_s: u64,
    #[serde(rename = "do")]
    pub what: What,
    #[serde(default)]
    pub on: Who,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    PowerOff,
    /// The whole machine stands still; its clocks go on.
    Pause,
    Isolate,
    /// Nothing reaches it.
    IsolateIn,
    /// Nothing of it arrives.
    IsolateOut,
    /// From the store only.
    CutStore,
    /// At once, and it is started again.
    KillAgent,
    KillActive,
    KillShim,
    StoreDown,
    /// Set back to a copy that was taken when the scenario began.
    StoreRestored,
}

impl What {
    fn lasts(self) -> bool {
        let at_once = [What::KillAgent, What::KillActive, What::KillShim, What::StoreRestored];
        !at_once.contains(&self)
    }

    fn strikes_a_machine(self) -> bool {
        !matches!(self, What::KillActive | What::KillShim | What::StoreDown | What::StoreRestored)
    }
}

/// The machine that it strikes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Who {
    /// From 1 on.
    Machine(usize),
    #[default]
    Nobody,
    Role(Role),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one that leads when the fault begins.
    Leader,
    /// The one with the active member of `db`.
    Active,
}

impl Fault {
    pub fn at(&self) -> Duration {
        Duration::from_secs(self.at_s)
    }

    pub fn ends(&self) -> Duration {
        Duration::from_secs(self.at_s + self.for_s)
    }
}

/// A fault begins, or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    Begins,
    Ends,
}

impl Scenario {
    /// All that there are.
    pub fn all() -> anyhow::Result<Vec<Scenario>> {
        FILES.iter().map(|(name, text)| Scenario::read(name, text)).collect()
    }

    fn read(name: &str, text: &str) -> anyhow::Result<Scenario> {
        let mut scenario: Scenario = toml::from_str(text).with_context(|| format!("scenario {name}"))?;
        name.clone_into(&mut scenario.name);
        for (n, fault) in scenario.faults.iter().enumerate() {
            let wrong = |what: &str| format!("scenario {name}, fault {}: {what}", n + 1);
            if fault.what.lasts() == (fault.for_s == 0) {
                bail!(wrong("for_s is for faults that last, and for all of these"));
            }
            if fault.what.strikes_a_machine() == (fault.on == Who::Nobody) {
                bail!(wrong("on is for faults of machines, and for all of these"));
            }
            if matches!(fault.on, Who::Machine(n) if !(1..=MACHINES).contains(&n)) {
                bail!(wrong("there is no such machine"));
            }
        }
        Ok(scenario)
    }

    /// In order of time: which fault, and whether it begins. What begins together begins before anything ends.
    pub fn edges(&self) -> Vec<(Duration, Edge, usize)> {
        let mut edges = Vec::new();
        for (n, fault) in self.faults.iter().enumerate() {
            edges.push((fault.at(), Edge::Begins, n));
            edges.extend((fault.ends() > fault.at()).then_some((fault.ends(), Edge::Ends, n)));
        }
        edges.sort_by_key(|(at, edge, n)| (*at, *edge == Edge::Ends, *n));
        edges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_scenarios() {
        let all = Scenario::all().expect("they are");
        assert!(all.iter().all(|s| !s.faults.is_empty() && !s.says.is_empty()));
        let files = std::fs::read_dir("scenarios").expect("the folder").count();
        assert_eq!(files, all.len(), "one of the files is not read");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let read = |fault: &str| Scenario::read("x", &format!("says = \"x\"\nmoves = true\n[[fault]]\n{fault}"));
        assert!(read("do = \"pause\"\non = \"leader\"\nfor_s = 3").is_ok());
        for bad in [
            "do = \"pause\"\non = \"leader\"",
            "do = \"pause\"\nfor_s = 3",
            "do = \"pause\"\non = 4\nfor_s = 3",
            "do = \"kill_active\"\nfor_s = 3",
            "do = \"store_down\"\non = 1\nfor_s = 3",
            "do = \"burn\"",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn edges_come_in_order() {
        let text = "says = \"x\"\nmoves = true\n[[fault]]\ndo = \"pause\"\non = 1\nfor_s = 3\n[[fault]]\nat_s = 1\ndo = \"kill_active\"";
        let edges = Scenario::read("x", text).expect("good").edges();
        let secs: Vec<(u64, Edge, usize)> = edges.iter().map(|(at, e, n)| (at.as_secs(), *e, *n)).collect();
        assert_eq!(secs, [(0, Edge::Begins, 0), (1, Edge::Begins, 1), (3, Edge::Ends, 0)]);
    }
}
