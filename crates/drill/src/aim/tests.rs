//! Who is struck, by name and by rule.

use std::time::Duration;

use holdfast_config::Targets;
use holdfast_policy::Incarnation;
use holdfast_policy::drill::{Refusal, refusals};

use super::*;
use crate::system::{Plane, Rotation};

fn process(pid: i32) -> Process {
    Process { pid, start_ticks: 7 }
}

fn service(name: &str, first_pid: i32, ready: &[bool], after: &[&str]) -> Service {
    let instance = |(n, ready): (usize, &bool)| Instance {
        id: InstanceId::new(name, n as u32 + 1),
        incarnation: Incarnation { generation: 1, run: 1 },
        state: if *ready { "ready" } else { "starting" }.into(),
        process: Some(process(first_pid + n as i32)),
        shim: Some(process(first_pid + n as i32 + 100)),
        endpoint: Some(SocketAddr::from(([127, 0, 0, 1], 4000 + n as u16))),
        ready_by: ReadyBy::Tcp,
        session_dir: None,
    };
    Service {
        name: name.into(),
        desired: ready.len() as u32,
        min_available: 1,
        after: after.iter().map(|s| (*s).to_owned()).collect(),
        instances: ready.iter().enumerate().map(instance).collect(),
    }
}

fn plane(n: u32, ready: bool) -> Plane {
    Plane {
        id: InstanceId::new("_balancer", n),
        incarnation: Incarnation { generation: 1, run: 1 },
        ready,
        process: process(900 + n as i32),
        control: format!("plane-{n}").into(),
    }
}

/// public -> web -> api -> store; nobody leads to `lonely`.
fn town() -> Status {
    Status {
        agent: Some(process(1)),
        services: vec![
            service("web", 10, &[true, true, false], &["api"]),
            service("api", 20, &[true, true], &["store"]),
            service("store", 30, &[true, true], &[]),
            service("lonely", 40, &[true, true], &[]),
        ],
        balancers: vec![Balancer {
            name: "public".into(),
            service: "web".into(),
            listen: vec!["0.0.0.0:8080".parse().unwrap()],
            endpoints: vec![Rotation { instance: InstanceId::new("web", 1), in_rotation: true, since: None }],
        }],
        planes: vec![plane(1, true), plane(2, true), plane(3, false)],
        tasks: Some(Tasks {
            plane: Plane { id: InstanceId::new("_tasks", 1), process: process(950), ..plane(9, true) },
            listen: "127.0.0.1:9324".parse().unwrap(),
            account: "000000000000".into(),
            workers: vec![("mailer".into(), 2)],
        }),
        ..Status::default()
    }
}

fn drill(fault: Fault, target: Option<&str>) -> Drill {
    Drill {
        name: "d".into(),
        fault,
        target: target.map(str::to_owned),
        hold: Duration::from_secs(1),
        rate: 50,
        balancer: None,
        path: "/".into(),
        targets: Targets::default(),
        latency: Duration::from_millis(5),
        share: 1.0,
        busy_path: None,
        count: 1,
    }
}

fn aim(fault: Fault, target: Option<&str>) -> Result<Aim, String> {
    Aim::take(&drill(fault, target), &town()).map_err(|e| e.to_string())
}

#[test]
fn a_target_may_be_a_service_an_instance_a_balancer_or_left_out() {
    for (target, struck) in [
        (Some("web"), "web-2"),
        (Some("web-1"), "web-1"),
        (Some("public"), "web-2"),
        (None, "web-2"),
        (Some("store"), "store-2"),
    ] {
        let aim = aim(Fault::Kill, target).unwrap();
        assert_eq!((aim.target.as_str(), aim.balancer.as_str()), (struck, "public"), "{target:?}");
        assert_eq!(aim.probe, "127.0.0.1:8080".parse().unwrap(), "a wildcard listener is asked on this machine");
    }
}

#[test]
fn what_is_not_there_is_said() {
    for (fault, target, because) in [
        (Fault::Kill, Some("nobody"), "there is no `nobody`"),
        (Fault::Kill, Some("web-9"), "there is no `web-9`"),
        (Fault::Hang, Some("lonely"), "no balancer leads to lonely"),
        (Fault::Busy, Some("web"), "`busy_path`"),
        (Fault::DependencyStall, None, "names no target"),
    ] {
        let said = aim(fault, target).unwrap_err();
        assert!(said.contains(because), "{said}");
    }
}

#[test]
fn each_fault_strikes_what_it_says() {
    let blow = |fault, target| aim(fault, target).unwrap().blow;
    assert!(matches!(blow(Fault::Kill, Some("web-1")), Blow::Kill(p) if p == process(10)));
    assert!(matches!(blow(Fault::ShimKill, Some("web-1")), Blow::Kill(p) if p == process(110)));
    assert!(matches!(blow(Fault::AgentKill, None), Blow::Kill(p) if p == process(1)));
    assert!(matches!(blow(Fault::BalancerKill, None), Blow::Kill(p) if p == process(902)), "the last ready one");
    assert!(matches!(blow(Fault::BalancerHang, Some("_balancer-1")), Blow::Stop(p) if p == [process(901)]));
    assert!(matches!(blow(Fault::DependencyStall, Some("store")), Blow::Stop(p) if p == [process(30), process(31)]));
    let Blow::Spoil { controls, instance, kind } = blow(Fault::Errors, Some("web-1")) else { panic!("not spoiled") };
    assert_eq!((controls.len(), instance.to_string().as_str()), (3, "web-1"), "in every process");
    assert_eq!(kind, PlaneFaultKind::Errors(503));
}

#[test]
fn facts_tell_the_target_from_the_rest() {
    let mut town = town();
    town.open_incidents = vec!["lonely-1".into(), "web-3".into(), "instance/_balancer-1".into(), "store-1".into()];
    let aim = Aim::take(&drill(Fault::Kill, Some("api")), &town).unwrap();
    let facts = aim.facts(&town);
    assert_eq!((facts.desired, facts.ready, facts.planes), (2, 2, 2));
    assert_eq!(facts.not_ready_elsewhere, vec!["web"]);
    assert_eq!(facts.open_incidents, vec!["web-3", "instance/_balancer-1"], "its own, its balancer's, holdfast's");
    let reasons = refusals(blast(Fault::Kill), &facts, false);
    assert!(reasons.contains(&Refusal::NotReadyElsewhere(vec!["web".into()])), "{reasons:?}");
}

#[test]
fn a_drill_of_queues_looks_at_the_plane_and_the_places_and_not_at_services() {
    let blow = |fault, target| aim(fault, target).unwrap().blow;
    assert!(matches!(blow(Fault::TasksKill, None), Blow::Kill(p) if p == process(950)));
    assert!(matches!(blow(Fault::TasksHang, None), Blow::Stop(p) if p == [process(950)]));
    assert!(matches!(blow(Fault::WorkerKill, Some("mailer")), Blow::Victims(1)));
    assert!(aim(Fault::Poison, Some("nobody")).unwrap_err().contains("no worker `nobody` with programs"));
    let refused = |count, change: fn(&mut Status)| {
        let mut town = town();
        change(&mut town);
        let drill = Drill { count, ..drill(Fault::WorkerHang, Some("mailer")) };
        refusals(blast(Fault::WorkerHang), &Aim::take(&drill, &town).unwrap().facts(&town), false)
    };
    assert_eq!(refused(1, |_| {}), vec![], "a web instance that is not ready is none of its business");
    assert_eq!(refused(2, |_| {}), vec![Refusal::TooFewLeft { left: 0, min_available: 1 }]);
    let incident = refused(1, |town| town.open_incidents = vec!["instance/_tasks-1".into(), "web-3".into()]);
    assert_eq!(incident, vec![Refusal::OpenIncident("instance/_tasks-1".into())]);
    let down = refused(1, |town| town.tasks.as_mut().unwrap().plane.ready = false);
    assert!(down.contains(&Refusal::Degraded { desired: 2, ready: 0 }), "{down:?}");
}
