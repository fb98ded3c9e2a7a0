//! What the town runs: equals, one that must never run twice, and one with standbys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{Check, Command, Port, Probe, Service, Standby, Stop, Warm};
use holdfast_policy::health::Thresholds;
use holdfast_policy::placement;
use holdfast_policy::rng::Rng;
use holdfast_policy::standby::Tier;
use holdfast_services::supervisor::Definition;

fn service(name: &str, replicas: u32) -> Service {
    let probe = Probe {
        check: Check::Tcp,
        every: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        thresholds: Thresholds::default(),
        within: Duration::from_secs(30),
    };
    Service {
        replicas,
        port: Port::Assigned,
        ready: Some(probe),
        stop: Stop { command: None, signal: 15, grace: Duration::from_secs(2), drain: Duration::ZERO },
        min_available: replicas.saturating_sub(1),
        ..Service::new(name, Command::Argv(vec![name.into()]))
    }
}

pub(super) fn services(rng: &mut Rng, machines: u32) -> BTreeMap<Arc<str>, Arc<Definition>> {
    let mut all = vec![service("web", 2 + rng.below(3) as u32)];
    let which = rng.below(4);
    if which != 0 {
        let mut ledger = service("ledger", 1);
        (ledger.fenced, ledger.min_available) = (true, 0);
        all.push(ledger);
    }
    if which != 1 {
        let mut standby = Standby::new(Tier::Hot, (1 + rng.below(2) as u32).min(machines - 1));
        standby.fence = (rng.below(3) == 0).then(|| vec!["fence".to_owned()]);
        standby.promote = (rng.below(2) == 0).then(|| vec!["promote".to_owned()]);
        if rng.below(4) == 0 {
            (standby.tier, standby.warm) = (Tier::Warm, Warm::Stopped);
        }
        let mut db = service("db", standby.count + 1);
        (db.fenced, db.min_available, db.standby) = (true, 0, Some(standby));
        all.push(db);
    }
    defined(all)
}

/// Equals, and one active member with two hot standbys.
pub(super) fn of_scenarios(replicas: u32) -> BTreeMap<Arc<str>, Arc<Definition>> {
    let standby = Standby::new(Tier::Hot, 2);
    let mut db = service("db", standby.count + 1);
    (db.fenced, db.min_available, db.standby) = (true, 0, Some(standby));
    defined(vec![service("web", replicas), db])
}

fn defined(all: Vec<Service>) -> BTreeMap<Arc<str>, Arc<Definition>> {
    all.into_iter().map(|s| (Arc::from(s.name.as_str()), Arc::new(Definition::new(s)))).collect()
}

/// As `agent::member::leading::town::service`.
pub(super) fn placed(service: &Service) -> placement::Service {
    placement::Service {
        min_available: service.min_available,
        max_unavailable: service.max_unavailable,
        surge: !service.fenced,
        distinct: service.standby.is_some(),
        crowd_alone: true,
        ..placement::Service::new(&service.name, service.replicas)
    }
}
