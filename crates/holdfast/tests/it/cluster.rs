//! Several agents on one machine, each with an address and a data directory of its own, and real etcd.

mod many;
mod security;
mod standby;
mod town;

use std::time::{Duration, Instant};

use crate::proof;
use crate::rate::Rate;
use many::Many;
use town::Town;

/// Beyond the lease: a decision, a launch and its first probe, on a machine on which everything else runs too.
const REPLACED_WITHIN: Duration = Duration::from_secs(if cfg!(debug_assertions) { 12 } else { 3 });
const RATE: u32 = 200;

#[test]
fn a_file_is_applied_for_all_and_any_machine_tells_of_all() {
    let town = Town::start(3, "fast");
    town.apply(0, &town.web(6));
    town.wait_ready(6);
    for n in 0..3 {
        let status = town.sites[n].status();
        assert_eq!(status["services"]["web"]["ready"], 6, "n{}: {status:#}", n + 1);
        assert_eq!(town.instances_on(n).len(), 2, "spread evenly: {status:#}");
    }
    // From another machine, and every machine goes by it.
    town.apply(2, &town.web(3));
    town.wait_ready(3);
    town.sites[1].wait_for("one each", || (0..3).all(|n| town.instances_on(n).len() == 1));
    let answers: std::collections::BTreeSet<String> = (0..200).filter_map(|_| town.who_answers()).collect();
    assert_eq!(answers.len(), 3, "the balancer of n1 sends to all machines: {answers:?}");
}

#[test]
fn what_a_dead_machine_ran_is_placed_elsewhere() {
    let mut town = Town::start(3, "fast");
    town.apply(0, &town.web(6));
    town.wait_ready(6);
    let rate = Rate::start(town.port, town.port, RATE);
    let killed = Instant::now();
    town.kill_machine(2);
    let lease = Duration::from_secs(6);
    let limit = lease + if proof::proving() { Duration::from_secs(2) } else { REPLACED_WITHIN };
    town.sites[0].wait_for("six ready on two machines", || {
        town.ready() == 6 && town.instances_on(2).is_empty() && town.instances_on(0).len() == 3
    });
    let took = killed.elapsed();
    rate.let_pass(100);
    let summary = rate.finish();
    println!(
        "node killed: six ready again after {took:?}, {} of {} requests failed",
        summary.failures.len(),
        summary.sent
    );
    assert!(took < limit, "took {took:?} of {limit:?}");
    summary.none_failed();
    assert_eq!(town.sites[0].status()["nodes"]["n3"]["state"], "lost");
}

#[test]
fn a_store_that_is_away_moves_and_stops_nothing() {
    let town = Town::start(3, "fast");
    town.apply(0, &town.web(3));
    town.wait_ready(3);
    let before = town.pids();
    let rate = Rate::start(town.port, town.port, RATE);
    town.etcd.pause(0);
    // Longer than the lease and every renewal.
    let until = Instant::now() + if proof::proving() { Duration::from_secs(60) } else { Duration::from_secs(14) };
    town.sites[0].wait_for("the agent to say so", || town.sites[0].status()["warnings"].to_string().contains("HF0410"));
    town.sites[0].wait_for("the time to pass", || Instant::now() >= until);
    town.etcd.resume(0);
    town.sites[0].wait_for("etcd to answer again", || town.sites[0].status()["warnings"] == serde_json::json!([]));
    // What was void must stay without effect once evidence counts again.
    let settled = Instant::now() + Duration::from_secs(8);
    town.sites[0].wait_for("a leader to have looked", || Instant::now() >= settled && town.ready() == 3);
    rate.let_pass(100);
    rate.finish().none_failed();
    assert_eq!(town.pids(), before, "nothing was restarted or moved");
}

#[test]
fn a_machine_is_emptied_without_a_failed_request_and_takes_part_again() {
    let town = Town::start(3, "fast");
    town.apply(0, &town.web(3));
    town.wait_ready(3);
    let rate = Rate::start(town.port, town.port, RATE);
    town.sites[0].ok(&["node", "drain", "n2", "--reason", "new disk"]);
    town.sites[0].wait_for("n2 to be empty", || town.instances_on(1).is_empty() && town.ready() == 3);
    let listed = town.sites[0].run(&["node", "list"]).stdout;
    assert!(listed.contains("drained") && listed.contains("new disk"), "{listed}");
    town.sites[2].ok(&["node", "uncordon", "n2"]);
    let yes = town.sites[0].run(&["can-lose", "n2"]);
    let no = town.sites[0].run(&["can-lose", "n9"]);
    rate.let_pass(100);
    rate.finish().none_failed();
    assert_eq!((yes.code, no.code), (0, 64), "{}{}", yes.stdout, no.stderr);
}

#[test]
fn a_change_goes_round_the_machines_one_at_a_time() {
    let town = Town::start(3, "fast");
    town.apply(0, &town.web(3));
    town.wait_ready(3);
    let before = town.pids();
    let rate = Rate::start(town.port, town.port, RATE);
    town.apply(1, &town.web(3).replace("ORIGIN_NAME = \"a\"", "ORIGIN_NAME = \"b\""));
    let mut fewest = 3;
    town.sites[0].wait_for("three new instances", || {
        let status = town.sites[0].api("/v1/status");
        let ready = status["services"]["web"]["ready"].as_u64().unwrap_or(0);
        if ready < fewest {
            println!("{ready} ready: {:#}", status["services"]["web"]["instances"]);
        }
        fewest = fewest.min(ready);
        let now = town.pids();
        town.ready() == 3 && now.len() == 3 && now.iter().all(|(id, pid)| before.get(id) != Some(pid))
    });
    rate.let_pass(100);
    rate.finish().none_failed();
    assert!(fewest >= 2, "min_available of all machines together: {fewest} were ready");
}

#[test]
fn an_agent_that_dies_moves_nothing_and_a_leader_that_dies_has_a_successor() {
    let town = Town::start(3, "fast");
    town.apply(0, &town.web(3));
    town.wait_ready(3);
    let before = town.pids();
    let leader = town.leader();
    crate::site::kill(town.sites[leader].pid_of_agent(), "KILL");
    town.sites[leader]
        .wait_for("the agent to be back", || town.sites[leader].api("/v1/ping") != serde_json::Value::Null);
    town.sites[0].wait_for("a leader again", || town.has_leader() && town.ready() == 3);
    assert_eq!(town.pids(), before);
    town.sites[0].ok(&["scale", "web=4"]);
    town.wait_ready(4);
}

#[test]
fn two_agents_cannot_be_one_machine() {
    let town = Town::start(1, "fast");
    let twin = town.twin(0);
    let ran = twin.run(&["up", "-d", "--timeout", "1s"]);
    twin.wait_for("the twin to be told apart", || {
        twin.status()["warnings"].to_string().contains("another agent is a member as `n1`")
    });
    assert!(town.sites[0].status()["warnings"] == serde_json::json!([]), "{}", ran.stderr);
}

#[test]
fn one_agent_leads_fifty_machines_and_two_thousand_instances() {
    let (machines, services, each) = proof::size((20, 10, 40), (50, 50, 40));
    let instances = services * each;
    let town = Town::with(1, "default", None);
    let mut many = Many::start(&town.etcd.endpoints(), "town", machines);
    let services: String = (1..=services)
        .map(|n| format!("[service.s{n}x]\ncommand = [\"/bin/true\"]\nreplicas = {each}\non = {{ sim = \"yes\" }}\n"))
        .collect();
    town.write(&services);
    let ran = town.sites[0].run(&["up", "-d"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let ready = || {
        let status = town.sites[0].api("/v1/status");
        let all = status["services"].as_object().cloned().unwrap_or_default();
        all.values().map(|s| s["ready"].as_u64().unwrap_or(0)).sum::<u64>()
    };
    town.sites[0].wait_for("all of them", || ready() == instances as u64);
    let leading = || town.sites[0].api("/v1/status")["agent"]["leading"].clone();
    let (before, theirs) = (leading(), many.writes());
    // Nothing happens now: nobody should write anything.
    let idle = Duration::from_secs(proof::size(5, 30));
    many::hold_still(idle);
    let after = leading();
    let stays = after["passes"].as_u64() >= before["passes"].as_u64() && after != serde_json::Value::Null;
    assert!(stays, "the lead was lost: {before} {after}\n{}", town.sites[0].agent_log());
    let written =
        many.writes() - theirs + after["writes"].as_u64().unwrap_or(0) - before["writes"].as_u64().unwrap_or(0);
    let worst_ms = after["pass_max_us"].as_u64().unwrap_or(u64::MAX) as f64 / 1000.0;
    let mean_ms = after["pass_sum_us"].as_f64().unwrap_or(0.0) / 1000.0 / after["passes"].as_f64().unwrap_or(1.0);
    let per_node = written as f64 / idle.as_secs_f64() / machines as f64;
    let mut evidence = proof::Evidence::new("cluster", "one_agent_leads_fifty_machines");
    evidence.condition("machines", machines);
    evidence.condition("instances", instances);
    evidence.figure("reconcile pass of the leader, worst ms", "< 200", format!("{worst_ms:.1}"));
    evidence.figure("reconcile pass of the leader, mean ms", "-", format!("{mean_ms:.1}"));
    evidence.figure("etcd writes when idle, per machine and second", "< 1", format!("{per_node:.3}"));
    evidence.tell();
    println!(
        "{machines} machines, {instances} instances: pass {mean_ms:.1} ms mean, {worst_ms:.1} ms worst; {per_node:.3} writes/s idle"
    );
    many.stop();
    assert!(per_node < 1.0, "{per_node} writes a second and machine");
    if proof::proving() {
        assert!(worst_ms < 200.0, "{worst_ms} ms");
    }
}

#[test]
fn a_machine_that_was_alone_becomes_the_first_of_a_cluster() {
    let town = Town::empty(2, "fast");
    let web = town.web(2).replace("on = { node = \"n1\" }\n", "");
    town.write_alone(&web);
    town.sites[0].up();
    let rate = Rate::start(town.port, town.port, RATE);
    rate.let_pass(50);
    let refused = town.sites[0].run(&["cluster", "migrate"]);
    assert_eq!(refused.code, 5, "{}{}", refused.stdout, refused.stderr);
    town.write(&town.web(2));
    let refused = town.sites[0].run(&["up", "-d"]);
    assert!(refused.stderr.contains("HF0333"), "{}", refused.stderr);
    town.sites[0].ok(&["cluster", "migrate"]);
    town.sites[0].wait_for("n1 to be a member with all that it ran", || {
        town.sites[0].api("/v1/status")["nodes"]["n1"]["state"] == "ready" && town.ready() == 2
    });
    town.sites[1].up();
    town.wait_for_all();
    let again = town.sites[0].run(&["cluster", "migrate"]);
    assert_eq!(again.code, 5, "{}{}", again.stdout, again.stderr);
    rate.let_pass(100);
    let summary = rate.finish();
    if !summary.failures.is_empty() {
        println!("{}", town.sites[0].agent_log());
    }
    summary.none_failed();
}

#[test]
fn holdfast_runs_etcd_and_replaces_a_member_whose_disk_is_lost() {
    let mut town = Town::managed(3, "fast");
    town.apply(0, &town.web(3));
    town.wait_ready(3);
    let members = |town: &Town| -> Vec<serde_json::Value> {
        serde_json::from_str(&town.sites[0].run(&["cluster", "members", "--json"]).stdout).unwrap_or_default()
    };
    let well = |town: &Town| members(town).iter().filter(|m| m["answers"] == true && m["name"] != "").count();
    town.sites[0].wait_for("three members", || well(&town) == 3);
    let snapshot = town.sites[0].path().join("snapshot.db");
    town.sites[0].ok(&["cluster", "snapshot", &snapshot.to_string_lossy()]);
    assert!(std::fs::metadata(&snapshot).is_ok_and(|m| m.len() > 1000));
    let rate = Rate::start(town.port, town.port, RATE);
    town.kill_machine(2);
    std::fs::remove_dir_all(town.sites[2].data().join("etcd")).expect("its data was there");
    town.sites[0].wait_for("two members to go on", || well(&town) == 2 && town.ready() == 3);
    town.sites[2].up();
    town.sites[0].wait_for("a new member in its place", || well(&town) == 3);
    town.wait_for_all();
    rate.let_pass(100);
    rate.finish().none_failed();
    // An agent that is replaced keeps the member that it started.
    let before = members(&town);
    crate::site::kill(town.sites[1].pid_of_agent(), "KILL");
    town.sites[1].wait_for("its agent to be back", || town.sites[1].api("/v1/ping") != serde_json::Value::Null);
    town.wait_for_all();
    assert_eq!(members(&town).len(), before.len());
    assert!(town.sites[1].living().iter().filter(|(_, text)| text.contains("--initial-cluster")).count() == 1);
}

#[test]
fn a_store_that_lost_everything_fails_no_request_and_gets_it_back() {
    let town = Town::start(3, "fast");
    town.apply(0, &town.web(3));
    town.wait_ready(3);
    let rate = Rate::start(town.port, town.port, RATE);
    town.etcd.etcdctl(&["del", "--prefix", "/holdfast/town/"]);
    town.sites[0].wait_for("the agent to say so", || {
        town.sites[0].status()["warnings"].to_string().contains("has lost what was applied")
    });
    town.sites[0].up();
    town.sites[0].wait_for("three ready and a leader", || town.ready() == 3 && town.has_leader());
    town.wait_for_all();
    rate.let_pass(200);
    rate.finish().none_failed();
}
