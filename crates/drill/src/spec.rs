//! Which drills there are: those of the file, or without any a catalogue made for what the file runs.

use std::time::Duration;

use holdfast_config::{Balancer, Config, Drill, Fault, Kind, Service, Targets, Work};
use holdfast_policy::drill::{Blast, Goals};

/// Catalogue drills hold a lasting fault this long: enough to see detection, ejection and the way back.
const HOLD: Duration = Duration::from_secs(5);
const RATE: u32 = 50;
/// Latency and stalls in the catalogue: more than anyone waits for, less than usual time limits.
const LATENCY: Duration = Duration::from_millis(300);

/// A drill with what it must reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub drill: Drill,
    pub goals: Goals,
    /// Requests in flight on what was struck at that moment are lost with it and do not count against `failed`.
    pub forgives_in_flight: bool,
}

impl Spec {
    /// A drill of the file: judged by the file's targets alone.
    pub fn declared(drill: &Drill) -> Spec {
        // A client whose send had no answer sends it again; what happened to it before is nobody's failure.
        let forgives_in_flight = drill.fault.hits_tasks();
        Spec { drill: drill.clone(), goals: goals_of(&drill.targets), forgives_in_flight }
    }
}

/// What a fault takes away.
pub fn blast(fault: Fault) -> Blast {
    match fault {
        Fault::Kill | Fault::Hang | Fault::Busy | Fault::CrashLoop | Fault::ShimKill => Blast::Instance,
        Fault::Latency | Fault::Errors | Fault::Reset | Fault::NoAnswer => Blast::Instance,
        Fault::DependencyStall => Blast::Service,
        Fault::BalancerKill | Fault::BalancerHang => Blast::Plane,
        Fault::AgentKill => Blast::Control,
        Fault::TasksKill | Fault::TasksHang | Fault::TasksDiskFull => Blast::Tasks,
        Fault::WorkerKill | Fault::Poison => Blast::Program,
        Fault::WorkerHang => Blast::Place,
    }
}

/// True when the fault is one blow; false when it is held and then undone.
pub fn is_blow(fault: Fault) -> bool {
    use holdfast_config::Fault::{AgentKill, BalancerKill, CrashLoop, Kill, Poison, ShimKill, TasksKill, WorkerKill};
    matches!(fault, Kill | CrashLoop | ShimKill | BalancerKill | AgentKill | TasksKill | WorkerKill | Poison)
}

/// The drills of the file; when it declares none, each fault that applies to each service behind a balancer.
pub fn catalogue(config: &Config) -> Vec<Spec> {
    if !config.drills.is_empty() {
        return config.drills.values().map(Spec::declared).collect();
    }
    generated(config)
}

/// By the name in the file, or by that of a catalogue drill (`kill-web`) whether or not the file declares others.
pub fn named(config: &Config, name: &str) -> Option<Spec> {
    let declared = config.drills.get(name).map(Spec::declared);
    declared.or_else(|| generated(config).into_iter().find(|s| s.drill.name == name))
}

/// What can be asked for by name.
pub fn names(config: &Config) -> Vec<String> {
    let made = generated(config).into_iter().map(|s| s.drill.name);
    let mut names: Vec<String> = config.drills.keys().cloned().chain(made).collect();
    names.sort();
    names.dedup();
    names
}

fn generated(config: &Config) -> Vec<Spec> {
    let mut specs = Vec::new();
    let mut done: Vec<&str> = Vec::new();
    for balancer in config.balancers.values() {
        let Some(service) = config.services.get(&balancer.service) else { continue };
        if !done.contains(&service.name.as_str()) {
            done.push(&service.name);
            specs.extend(for_service(config, balancer, service));
        }
    }
    if let Some(balancer) = config.balancers.values().next() {
        let mut faults = vec![Fault::AgentKill];
        if config.node.balancer_processes >= 2 {
            faults.extend([Fault::BalancerKill, Fault::BalancerHang]);
        }
        specs.extend(faults.into_iter().map(|fault| make(config, balancer, fault, None)));
    }
    specs.extend(for_tasks(config));
    specs
}

/// Those that cost a user's messages nothing but time. A plane that stands still or refuses is asked for by the file only.
fn for_tasks(config: &Config) -> Vec<Spec> {
    let mut specs = Vec::new();
    if config.tasks.is_some() {
        specs.push(make_queued(Fault::TasksKill, None));
    }
    for worker in config.workers.values().filter(|w| matches!(w.work, Work::Program(_))) {
        for fault in [Fault::WorkerKill, Fault::Poison] {
            specs.push(make_queued(fault, Some(&worker.name)));
        }
    }
    specs
}

/// What holdfast promises of queues: nothing confirmed is lost, and nothing that was done is done again.
fn make_queued(fault: Fault, target: Option<&str>) -> Spec {
    let targets = Targets { lost: Some(0), twice: Some(0), failed: Some(0), ..Targets::default() };
    let spec = Spec::declared(&drill(fault, target, None, targets));
    let recover = Some(Duration::from_secs(30));
    Spec { goals: Goals { recover, restarts: Some(0), ..spec.goals }, ..spec }
}

fn for_service(config: &Config, balancer: &Balancer, service: &Service) -> Vec<Spec> {
    use holdfast_config::Fault::{CrashLoop, Errors, Hang, Kill, Latency, NoAnswer, Reset, ShimKill};
    let mut specs = Vec::new();
    // The rule of the last instance would refuse each of them.
    if service.replicas > service.min_available.max(1) {
        for fault in [Kill, Hang, CrashLoop, Latency, Errors, Reset, NoAnswer, ShimKill] {
            specs.push(make(config, balancer, fault, Some(&service.name)));
        }
    }
    for name in service.after.keys() {
        let is_service = config.services.get(name).is_some_and(|s| s.kind == Kind::Service && s.replicas > 0);
        if is_service {
            specs.push(make(config, balancer, Fault::DependencyStall, Some(name)));
        }
    }
    specs
}

fn make(config: &Config, balancer: &Balancer, fault: Fault, target: Option<&str>) -> Spec {
    let drill = drill(fault, target, Some(&balancer.name), Targets::default());
    let forgives_in_flight = fault == Fault::BalancerKill;
    Spec { goals: default_goals(config, balancer, fault), drill, forgives_in_flight }
}

fn drill(fault: Fault, target: Option<&str>, balancer: Option<&str>, targets: Targets) -> Drill {
    Drill {
        name: target.map_or_else(|| fault.name().to_owned(), |target| format!("{}-{target}", fault.name())),
        fault,
        target: target.map(str::to_owned),
        hold: HOLD,
        rate: RATE,
        balancer: balancer.map(str::to_owned),
        path: "/".to_owned(),
        targets,
        latency: LATENCY,
        share: 1.0,
        busy_path: None,
        count: 1,
    }
}

fn goals_of(targets: &Targets) -> Goals {
    Goals {
        detect: targets.detect,
        recover: targets.recover,
        failed: targets.failed,
        p99: targets.p99,
        lost: targets.lost,
        twice: targets.twice,
        done: targets.done,
        ..Goals::default()
    }
}

/// What holdfast promises where the file says nothing: no failed GET while a second instance lives.
fn default_goals(config: &Config, balancer: &Balancer, fault: Fault) -> Goals {
    let half_second = Some(Duration::from_millis(500));
    let soon = Some(Duration::from_secs(30));
    let none_failed = Goals { failed: Some(0), ..Goals::default() };
    match fault {
        Fault::Kill => Goals { detect: half_second, recover: soon, restarts: Some(0), ..none_failed },
        Fault::ShimKill => Goals { recover: soon, restarts: Some(0), ..none_failed },
        Fault::CrashLoop => Goals { detect: half_second, restarts: Some(0), ..none_failed },
        Fault::Hang => Goals { rotate_out: half_second, restarts: Some(0), ..none_failed },
        Fault::Busy | Fault::Latency | Fault::Reset => Goals { restarts: Some(0), ..none_failed },
        // One that takes requests, answers none of them and passes its probes cannot be told from a busy one: those that
        // it has wait as long as the file allows. How many is measured, not promised.
        Fault::NoAnswer => Goals { restarts: Some(0), ..Goals::default() },
        Fault::Errors => Goals { failed: Some(errors_let_through(config, balancer)), restarts: Some(0), ..none_failed },
        // With every instance of a dependency gone its users may fail; restarting them would help nobody.
        Fault::DependencyStall => Goals { restarts: Some(0), ..Goals::default() },
        Fault::BalancerKill => Goals { recover: soon, restarts: Some(0), ..none_failed },
        // Connections that the stopped process holds wait with it: how long is measured, not promised.
        Fault::BalancerHang => Goals { restarts: Some(0), ..Goals::default() },
        Fault::AgentKill => Goals { recover: soon, restarts: Some(0), ..none_failed },
        // Made by `make_queued`: no balancer stands in front of a queue.
        Fault::WorkerKill | Fault::WorkerHang | Fault::Poison => Goals::default(),
        Fault::TasksKill | Fault::TasksHang | Fault::TasksDiskFull => Goals::default(),
    }
}

/// Answers with an error status reach the client unless the file has them retried. Each balancer process lets
/// `gateway_errors` of them through before it ejects the instance, and again after each ejection that ends
/// while the fault is held (they last base, 2 base, 4 base, …).
fn errors_let_through(config: &Config, balancer: &Balancer) -> u64 {
    if balancer.retry.enabled && balancer.retry.statuses.contains(&crate::aim::ERROR_STATUS) {
        return 0;
    }
    let mut rounds = 1u64;
    let (mut ejected, mut length) = (Duration::ZERO, balancer.eject.base.max(Duration::from_millis(1)));
    while ejected + length < HOLD {
        ejected += length;
        length = (length * 2).min(balancer.eject.max.max(length));
        rounds += 1;
    }
    rounds * u64::from(balancer.eject.gateway_errors) * u64::from(config.node.balancer_processes)
}

#[cfg(test)]
mod tests;
