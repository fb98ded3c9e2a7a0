//! Several agents on one machine, each with an address and a data directory of its own, and real etcd.

mod security;
mod town;

use std::time::{Duration, Instant};

use crate::proof;
use crate::rate::Rate;
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
        fewest = fewest.min(town.ready());
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
