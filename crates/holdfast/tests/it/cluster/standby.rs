//! One active on one of three machines, the others stand by: process and machine faults, and never two.

use std::time::{Duration, Instant};

use super::town::Town;
use crate::proof::{self, Evidence};
use crate::site::{PATIENCE, get, kill};
use crate::standby::roles::Roles;

const LEASE: Duration = Duration::from_secs(6);

fn start(tier: &str) -> Town {
    let town = Town::start(3, "fast");
    town.apply(0, &town.db(2, tier));
    town.sites[0].wait_for("one active and two that stand by", || {
        let states: Vec<String> =
            town.instances_of(0).iter().map(|i| i["state"].as_str().unwrap_or_default().to_owned()).collect();
        let standing = states.iter().filter(|s| *s == "standby" || *s == "pending").count();
        town.active(0).is_some() && states.len() == 3 && standing == 2
    });
    town
}

/// From now until a GET through n1's balancer is answered by another than `before`.
fn until_served_by_another(town: &Town, before: &str) -> Duration {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if matches!(get(town.port, "/who"), Ok((200, name)) if name != before) {
            return began.elapsed();
        }
        crate::site::wait_a_moment();
    }
    panic!("nobody took over from {before}: {:#}\n{}", town.sites[0].status(), town.sites[0].agent_log());
}

fn wait_standby(town: &Town, members: usize) {
    town.sites[0].wait_for("the others to stand by", || {
        let standing = town.instances_of(0).iter().filter(|i| i["state"] == "standby").count();
        town.active(0).is_some() && standing == members
    });
}

#[test]
fn a_hot_standby_on_another_machine_takes_over_from_a_dead_process_at_once() {
    let town = start("tier = \"hot\"");
    let mut times = Vec::new();
    for _ in 0..proof::size(3, 10) {
        let (active, node) = town.active(0).expect("one is active");
        let pid = town.sites[node].child_of(&active).expect("it runs there");
        kill(pid, "KILL");
        times.push(until_served_by_another(&town, &active));
        wait_standby(&town, 2);
    }
    let worst = times.iter().max().copied().unwrap_or_default();
    let mut evidence = Evidence::new("cluster", "a_hot_standby_on_another_machine_takes_over");
    evidence.figure(
        "active of a hot standby, process killed: served by another machine after, worst ms",
        "<= 2000",
        worst.as_millis(),
    );
    evidence.tell();
    println!("hot, process killed: {times:?}");
    Roles::read(&town.roles_file()).never_two();
    assert!(worst < Duration::from_secs(2), "{times:?}");
}

#[test]
fn a_hot_standby_takes_over_from_a_dead_machine_when_its_lease_is_over() {
    let mut town = start("tier = \"hot\"");
    // n1 has the balancer, so the active must be elsewhere.
    if town.active(0).is_some_and(|(_, node)| node == 0) {
        town.sites[0].ok(&["switchover", "db"]);
        town.sites[0].wait_for("another machine to be active", || town.active(0).is_some_and(|(_, node)| node != 0));
    }
    wait_standby(&town, 2);
    let (active, node) = town.active(0).expect("one is active");
    town.kill_machine(node);
    let took = until_served_by_another(&town, &active);
    let mut evidence = Evidence::new("cluster", "a_hot_standby_takes_over_from_a_dead_machine");
    evidence.figure(
        "active of a hot standby, machine killed: served by another after ms (lease 6 s)",
        "<= 8000",
        took.as_millis(),
    );
    evidence.tell();
    println!("hot, machine killed: {took:?}");
    Roles::read(&town.roles_file()).never_two();
    let limit = LEASE + Duration::from_secs(proof::size(12, 2));
    assert!(took < limit, "{took:?}");
}

#[test]
fn a_switchover_between_machines_loses_no_request() {
    let town = start("tier = \"hot\"");
    let rate = crate::rate::Rate::start(town.port, town.port, 100);
    for _ in 0..2 {
        let (before, _) = town.active(0).expect("one is active");
        wait_standby(&town, 2);
        town.sites[1].ok(&["switchover", "db"]);
        town.sites[0].wait_for("another to be active", || town.active(0).is_some_and(|(id, _)| id != before));
    }
    rate.let_pass(100);
    rate.finish().none_failed();
    Roles::read(&town.roles_file()).never_two();
}

#[test]
fn a_store_that_is_away_ends_an_active_and_brings_it_back() {
    let town = start("tier = \"hot\"");
    let roles = || Roles::read(&town.roles_file());
    let before = roles().tokens();
    town.etcd.pause(0);
    // Nobody can renew: the shim ends it before anybody else could be active.
    town.sites[0].wait_for("nobody to serve", || get(town.port, "/who").is_ok_and(|(status, _)| status != 200));
    town.etcd.resume(0);
    town.sites[0].wait_for("one to serve again", || matches!(get(town.port, "/who"), Ok((200, _))));
    let after = roles().tokens();
    assert!(after.last() > before.last() || after == before, "tokens never go back: {before:?} {after:?}");
    roles().never_two();
}
