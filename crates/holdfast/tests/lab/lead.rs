//! The leader's agent dies or stands still: another leads, and no request notices.

use std::time::{Duration, Instant};

use crate::proof::{self, Evidence};
use crate::town::{LEASE, MACHINES, REPLICAS, Town, kill, name, none_failed};

/// Beyond the lease: the store has ended it, and all others have seen that.
const BEYOND: Duration = Duration::from_secs(3);

#[test]
fn a_leader_that_dies_or_stands_still_has_a_successor_and_no_request_fails() {
    let mut evidence = Evidence::new("lab", "a_leader_that_dies_or_stands_still_has_a_successor_and_no_request_fails");
    let (mut killed, mut stopped, mut sent) = (Vec::new(), Vec::new(), 0);
    for _ in 0..proof::size(1, 25) {
        let Some(town) = Town::ready() else { return };
        let loads = [town.probe(0), town.probe(1)];
        killed.push(kill_leader(&town));
        stopped.push(stop_leader(&town));
        killed.push(kill_leader(&town));
        for (n, load) in loads.into_iter().enumerate() {
            sent += none_failed(&format!("leader killed, stopped, killed; balancer {}", n + 1), load).sent;
        }
        // It still decides.
        town.ok(0, &["scale", &format!("web={}", REPLICAS + MACHINES)]);
        town.wait_settled(REPLICAS + MACHINES);
    }
    let worst = |times: &[Duration]| format!("{:?}", times.iter().max().copied().unwrap_or_default());
    println!("a leader again after its agent was killed {killed:?}, stopped {stopped:?}");
    evidence.condition("repetitions", killed.len() + stopped.len());
    evidence.figure("leader's agent killed or stopped: GETs failed", "0", format!("0 of {sent}"));
    evidence.figure("leader's agent killed: a leader again, worst", "-", worst(&killed));
    evidence.figure("leader's agent stopped: another leads, worst", "-", worst(&stopped));
    evidence.tell();
}

/// Nothing but the agent is gone, and it comes back: nothing may move.
fn kill_leader(town: &Town) -> Duration {
    let (pids, placed) = (town.pids(0), town.placements());
    let leader = town.leader(0).expect("somebody leads");
    let agent = town.agent_pid(leader).expect("an agent");
    let began = Instant::now();
    kill(agent, "KILL");
    town.wait("the agent to be back", || town.agent_pid(leader).is_some_and(|pid| pid != agent));
    // Its successor may be itself: it ends the lease of its dead predecessor.
    town.wait("a leader that plans", || (0..MACHINES).any(|n| town.plans(n)));
    let took = began.elapsed();
    town.wait_settled(REPLICAS);
    town.wait_for_one_leader();
    assert_eq!((town.pids(0), town.placements()), (pids, placed), "nothing was restarted or moved");
    took
}

/// Neither the store nor the other agents hear of it: it is lost, although its instances run and answer.
fn stop_leader(town: &Town) -> Duration {
    let leader = town.leader(0).expect("somebody leads");
    let (other, name) = ((leader + 1) % MACHINES, name(leader));
    let agent = town.agent_pid(leader).expect("an agent");
    let began = Instant::now();
    kill(agent, "STOP");
    town.wait("another leader", || town.leader(other).is_some_and(|now| now != leader));
    let took = began.elapsed();
    town.wait("its machine to be lost", || town.standing(other)[&name] == "lost");
    town.wait("its instances elsewhere", || {
        let all = town.instances(other);
        all.len() == REPLICAS && all.iter().all(|i| i.node != name && i.state == "ready")
    });
    town.hold_while(BEYOND, "the leader stays", || town.leader(other).is_some_and(|now| now != leader));
    assert!(began.elapsed() > LEASE);
    kill(agent, "CONT");
    town.wait_settled(REPLICAS);
    town.wait_for_one_leader();
    let running = || (0..MACHINES).map(|n| town.origins(n)).sum::<usize>();
    town.wait("each instance to run once", || running() == REPLICAS);
    let (leaders, losses) =
        (town.told_anywhere("cluster/leader", "leader"), town.told_anywhere("cluster/leader", "follower"));
    assert!(leaders >= 2 && losses >= 1, "{leaders} elected, {losses} lost it");
    took
}

impl Town {
    /// Its agent says of itself that it leads.
    fn plans(&self, n: usize) -> bool {
        self.status(n)["agent"]["leading"].is_object()
    }

    fn told_anywhere(&self, subject: &str, to: &str) -> usize {
        (0..MACHINES).map(|n| self.count_told(n, subject, to)).sum()
    }

    fn wait_for_one_leader(&self) {
        self.wait("one leader, as all see it", || {
            let seen: Vec<_> = (0..MACHINES).map(|n| self.leader(n)).collect();
            seen[0].is_some_and(|leader| self.plans(leader)) && seen.iter().all(|one| *one == seen[0])
        });
    }
}
