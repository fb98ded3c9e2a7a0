//! What happens to etcd: members die, hang, are slow, full, set back to yesterday. Requests notice none of it.

use std::time::Duration;

use holdfast_lab::{Error, Lab, Options};

use crate::proof::{self, Evidence};
use crate::town::{LEASE, MACHINES, REPLICAS, Town, none_failed};

/// Longer than a lease and everything that is renewed.
const AWAY: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(60));

/// After the store is back: what was held back by void evidence would move within it.
const AFTERWARDS: Duration = Duration::from_secs(8);

/// A town under load from both balancers, from which nothing may move.
struct Still<'a> {
    town: &'a Town,
    loads: Vec<holdfast_lab::load::Load>,
    pids: std::collections::BTreeMap<String, u64>,
    placed: usize,
    epoch: u64,
}

impl<'a> Still<'a> {
    fn begin(town: &'a Town) -> Still<'a> {
        Still {
            town,
            loads: vec![town.probe(0), town.probe(1)],
            pids: town.pids(0),
            placed: town.placements(),
            epoch: town.epoch(),
        }
    }

    /// Nothing failed, nothing moved, and it can still be moved.
    fn end(self, what: &str) -> u64 {
        let Still { town, loads, pids, placed, epoch } = self;
        town.wait_settled(REPLICAS);
        town.hold_while(AFTERWARDS, "nothing moves afterwards", || town.pids(0) == pids);
        let sent = loads.into_iter().enumerate();
        let sent = sent.map(|(n, load)| none_failed(&format!("{what}, balancer {}", n + 1), load).sent).sum();
        assert_eq!(town.placements(), placed, "{what}: moved");
        assert!(town.epoch() >= epoch, "{what}: the epoch went backwards");
        sent
    }
}

/// Applying still works, by any machine.
fn still_decides(town: &Town) {
    town.ok(1, &["scale", &format!("web={}", REPLICAS + MACHINES)]);
    town.wait_settled(REPLICAS + MACHINES);
    town.ok(2, &["scale", &format!("web={REPLICAS}")]);
    town.wait_settled(REPLICAS);
}

#[test]
fn members_of_etcd_that_die_or_are_slow_are_not_noticed() {
    let mut evidence = Evidence::new("lab", "members_of_etcd_that_die_or_are_slow_are_not_noticed");
    let Some(town) = Town::ready() else { return };
    let lab = &town.lab;
    let mut sent = 0;
    for _ in 0..proof::size(1, 20) {
        let still = Still::begin(&town);
        let leader = lab.etcd_leader().expect("etcd has a leader");
        lab.etcd(leader).machine().kill_all().expect("kill");
        town.hold_while(LEASE, "what runs goes on", || town.pids(0) == still.pids);
        sent += still.end("etcd's leader without power");
        revive(lab, leader);

        let still = Still::begin(&town);
        let follower = (lab.etcd_leader().expect("etcd has a leader") + 1) % lab.members().len();
        lab.etcd(follower).kill().expect("kill");
        town.hold_while(LEASE, "what runs goes on", || town.pids(0) == still.pids);
        sent += still.end("a member of etcd killed");
        lab.etcd(follower).start().expect("start");
        lab.wait_for_etcd(holdfast_lab::ETCD_READY_LIMIT).expect("etcd is back");
    }
    still_decides(&town);
    evidence.figure(
        "etcd's leader or another member killed: GETs failed, instances moved",
        "0",
        format!("0 of {sent}, 0"),
    );
    evidence.tell();
}

fn revive(lab: &Lab, member: usize) {
    lab.etcd(member).kill().expect("its wrapper is reaped");
    lab.etcd(member).machine().boot().expect("boot");
    lab.etcd(member).start().expect("start");
    lab.wait_for_etcd(holdfast_lab::ETCD_READY_LIMIT).expect("etcd is back");
}

#[test]
fn etcd_that_is_away_stops_and_moves_nothing() {
    let mut evidence = Evidence::new("lab", "etcd_that_is_away_stops_and_moves_nothing");
    let Some(town) = Town::ready() else { return };
    let lab = &town.lab;
    let (mut sent, away) = (0, proof::size(AWAY.0, AWAY.1));
    for _ in 0..proof::size(1, 5) {
        let still = Still::begin(&town);
        let revision = lab.members().iter().filter_map(|m| m.status(lab)).map(|s| s.revision).max();
        lab.members().iter().for_each(|member| member.kill().expect("kill"));
        let warns = |n: usize| town.status(n)["warnings"].to_string().contains("HF0410");
        town.wait("all agents to say so", || (0..MACHINES).all(warns));
        town.hold_while(away, "what runs goes on", || town.pids(0) == still.pids);
        lab.members().iter().for_each(|member| member.start().expect("start"));
        lab.wait_for_etcd(holdfast_lab::ETCD_READY_LIMIT).expect("etcd is back");
        town.wait("nobody to miss it", || (0..MACHINES).all(|n| !warns(n)));
        sent += still.end("all members of etcd away");
        let now = lab.members().iter().filter_map(|m| m.status(lab)).map(|s| s.revision).max();
        assert!(now > revision);
    }
    for n in 0..MACHINES {
        assert!(town.count_told(n, "cluster/store", "away") > 0 && town.count_told(n, "cluster/store", "present") > 0);
    }
    still_decides(&town);
    evidence.condition("away_s", away.as_secs());
    evidence.figure("all members of etcd down: GETs failed, instances moved", "0", format!("0 of {sent}, 0"));
    evidence.tell();
}

#[test]
fn a_slow_disk_a_compaction_and_a_full_quota_are_lived_with() {
    let quota = ["--quota-backend-bytes=4194304".to_owned()];
    let Some(town) = Town::ready_with(&Options { etcd: 3, etcd_arguments: quota.into(), ..Options::default() }) else {
        return;
    };
    let mut evidence = Evidence::new("lab", "a_slow_disk_a_compaction_and_a_full_quota_are_lived_with");
    let sent = slow_disk(&town) + compaction(&town) + quota_alarm(&town);
    still_decides(&town);
    evidence.figure("slow disk, compaction, quota alarm: GETs failed, instances moved", "0", format!("0 of {sent}, 0"));
    evidence.tell();
}

/// Each sync of the member that leads waits for seconds.
fn slow_disk(town: &Town) -> u64 {
    let still = Still::begin(town);
    let leader = town.lab.etcd_leader().expect("etcd has a leader");
    let slow = match town.lab.etcd(leader).machine().slow_disk(10) {
        Err(Error::Skipped { reason }) => {
            println!("no slow disk in this run: {reason}");
            None
        }
        other => Some(other.expect("slow")),
    };
    town.hold_while(proof::size(AWAY.0, AWAY.1), "what runs goes on", || town.pids(0) == still.pids);
    drop(slow);
    still.end("slow disk of etcd's leader")
}

/// A watch that hangs behind a compaction is told, and lists again.
fn compaction(town: &Town) -> u64 {
    let still = Still::begin(town);
    let lab = &town.lab;
    // One machine hears nothing while the history is written and thrown away.
    let fault = lab.machine(2).isolate_from_etcd().expect("inject");
    for i in 0..50 {
        lab.etcdctl(&["put", "/holdfast/town/noise", &i.to_string()]).expect("put");
    }
    let revision = lab.etcd(0).status(lab).or_else(|| lab.etcd(1).status(lab)).expect("etcd answers").revision;
    lab.etcdctl(&["compact", &revision.to_string()]).expect("compact");
    fault.heal();
    still.end("compaction during a watch")
}

/// The store takes no write, and keep-alives go through; then somebody makes room.
fn quota_alarm(town: &Town) -> u64 {
    let still = Still::begin(town);
    let lab = &town.lab;
    let blob = "x".repeat(100_000);
    let full = (0..400).any(|i| lab.etcdctl(&["put", &format!("noise/{i}"), &blob]).is_err());
    assert!(full, "4 MiB of quota take 40 MB");
    assert!(lab.etcdctl(&["alarm", "list"]).expect("alarms").contains("NOSPACE"));
    town.hold_while(proof::size(AWAY.0, AWAY.1), "what runs goes on", || town.pids(0) == still.pids);
    let refused = town.run(0, &["scale", &format!("web={}", REPLICAS + MACHINES)]);
    assert!(refused.is_err(), "a store without room took a write");
    lab.etcdctl(&["del", "--prefix", "noise/"]).expect("deletions are taken");
    let revision = lab.members().iter().filter_map(|m| m.status(lab)).map(|s| s.revision).max().expect("a revision");
    lab.etcdctl(&["compact", &revision.to_string()]).expect("compact");
    lab.etcdctl(&["defrag"]).expect("defrag");
    lab.etcdctl(&["alarm", "disarm"]).expect("disarm");
    lab.wait_for_etcd(holdfast_lab::ETCD_READY_LIMIT).expect("etcd takes writes");
    still.end("etcd without room")
}

#[test]
fn yesterdays_snapshot_hands_out_no_token_twice_and_stops_nothing() {
    let mut evidence = Evidence::new("lab", "yesterdays_snapshot_hands_out_no_token_twice_and_stops_nothing");
    let mut sent = 0;
    // As `docs/cluster.md` says, and as somebody does who takes the token of before.
    for token in ["restored", holdfast_lab::ETCD_TOKEN].into_iter().cycle().take(proof::size(2, 20)) {
        let Some(town) = Town::ready() else { return };
        let lab = &town.lab;
        let snapshot = lab.etcd_snapshot().expect("a snapshot");
        // A day of history.
        for i in 0..200 {
            lab.etcdctl(&["put", "/holdfast/town/noise", &i.to_string()]).expect("put");
        }
        let before = town.epoch();
        let tokens = (0..MACHINES).map(|n| town.kept_token(n)).max().unwrap_or_default();
        let still = Still::begin(&town);
        lab.etcd_restore(&snapshot, token).expect("restore");
        town.wait("a new epoch", || town.epoch() > before);
        sent += still.end(&format!("yesterday's snapshot restored, token `{token}`"));
        let why = town.told_why("cluster/store", "restored").expect("some journal tells it");
        assert!(why.contains("older copy"), "{why}");
        town.wait("tokens above all that were handed out", || (0..MACHINES).all(|n| town.kept_token(n) > tokens));
        still_decides(&town);
    }
    evidence.figure(
        "yesterday's snapshot of etcd restored: GETs failed, instances moved",
        "0",
        format!("0 of {sent}, 0"),
    );
    evidence.figure("fencing tokens that went backwards", "0", "0");
    evidence.tell();
}
