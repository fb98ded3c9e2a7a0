//! Redundant services, told as transcripts: what happens in which order.

use std::time::Duration;

use holdfast_config::{Failback, Mount, Service, Standby, Warm};
use holdfast_policy::standby::Tier;

use super::rig::{Rig, id, service};
use super::*;

fn db(standby: Standby) -> Service {
    Service { fenced: true, standby: Some(standby.clone()), ..service("db", standby.count + 1) }
}

fn argv() -> Option<Vec<String>> {
    Some(vec!["it".into()])
}

fn rig(standby: Standby) -> Rig {
    let mut rig = Rig::new([db(standby)]);
    rig.tell_holders();
    rig.run_ms(2_000);
    assert_eq!(rig.active(), "db-1", "{}", rig.transcript());
    rig
}

/// Without what every start has.
fn told(rig: &Rig) -> String {
    let boring = ["probe", "persist", "Ready", "StopProbes", "journal", "prove", " lease ", "Forget"];
    let lines = rig.transcript();
    let lines = lines.lines().filter(|line| !boring.iter().any(|word| line.contains(word)));
    lines.map(|line| format!("{line}\n")).collect()
}

/// In the order given, each after the one before.
fn assert_order(text: &str, wanted: &[&str]) {
    let mut from = 0;
    for word in wanted {
        match text[from..].find(word) {
            Some(at) => from += at + word.len(),
            None => panic!("`{word}` is missing, or before the one before it:\n{text}"),
        }
    }
}

#[test]
fn a_hot_takeover_waits_for_the_proof_of_death_then_for_deadline_token_and_promotion() {
    let mut rig = rig(Standby { promote: argv(), ..Standby::new(Tier::Hot, 1) });
    assert_eq!(rig.states(), "db-1 ready, db-2 standby");
    rig.clear();
    rig.child_dies_held("db-1");
    rig.run_ms(3_000);
    let text = told(&rig);
    assert_order(
        &text,
        &[
            "publish db-1 1.1 gone",
            "command db-1 1.1 Stop",
            "release db-1",
            "command db-2 1.1 Deadline",
            "command db-2 1.1 Activate",
            "job db-2-promote-1.2-0",
            "publish db-2 1.1 ready",
        ],
    );
    assert_eq!((rig.states(), rig.active()), ("db-1 standby, db-2 ready".into(), "db-2".into()), "{text}");
}

#[test]
fn who_gave_the_lease_back_waits_for_the_news_of_it_as_the_others_do() {
    let mut rig = rig(Standby::new(Tier::Hot, 1));
    rig.news = Duration::from_secs(2);
    rig.clear();
    rig.child_dies_held("db-1");
    rig.run_ms(1_500);
    let text = rig.transcript();
    let (_, after) = text.split_once("release db-1").expect("it is given back");
    assert!(rig.states().contains("db-1 standby") && !after.contains("lease db-1"), "{}: {text}", rig.states());
    rig.run_ms(3_000);
    assert_eq!(rig.active(), "db-2", "{}", rig.transcript());
}

#[test]
fn without_another_member_the_active_one_is_started_where_it_is() {
    let mut rig = rig(Standby::new(Tier::Hot, 1));
    rig.answer("db-2", Outcome::Refused(503));
    rig.run_ms(2_000);
    rig.clear();
    rig.child_ends("db-1", None);
    rig.run_ms(1_000);
    let text = told(&rig);
    assert!(!text.contains("release") && !text.contains(" Stop"), "{text}");
    assert_eq!(rig.active(), "db-1");
    assert_eq!(rig.published("db-1"), EndpointState::Ready, "{text}");
}

#[test]
fn nothing_is_promoted_before_its_shim_has_the_deadline() {
    let mut rig = Rig::new([db(Standby::new(Tier::Hot, 1))]);
    rig.ignore_deadlines(true);
    rig.tell_holders();
    rig.run_ms(5_000);
    let text = told(&rig);
    assert!(text.contains("Deadline") && !text.contains("Activate"), "{text}");
    let renewals = rig.transcript().lines().filter(|l| l.ends_with("lease db-1")).count();
    assert_eq!(renewals, 1, "nor is the lease renewed: {}", rig.transcript());
    rig.ignore_deadlines(false);
    rig.run_ms(2_000);
    assert!(told(&rig).contains("Activate"), "{}", told(&rig));
}

#[test]
fn a_member_that_could_not_give_the_lease_back_is_fenced_and_tried_again_until_that_succeeds() {
    let mut rig = rig(Standby { fence: argv(), ..Standby::new(Tier::Hot, 1) });
    rig.failing.insert("fence");
    rig.silence("db-1");
    rig.lease_runs_out();
    rig.run_ms(3_000);
    let fences = rig.jobs.iter().filter(|name| name.contains("fence")).count();
    assert!(fences >= 2, "{:?}", rig.jobs);
    assert!(!told(&rig).contains("db-2 1.1 Activate"), "{}", told(&rig));
    let status = rig.sup.status(rig.now);
    assert!(status.services["db"].standby.as_ref().is_some_and(|s| s.trouble.is_some()));
    rig.failing.clear();
    rig.run_ms(10_000);
    assert_order(&told(&rig), &["job db-2-fence", "db-2 1.1 Activate", "publish db-2 1.1 ready"]);
    assert_eq!(rig.jobs.iter().collect::<std::collections::BTreeSet<_>>().len(), rig.jobs.len(), "no name runs twice");
}

#[test]
fn a_switchover_drains_demotes_stops_and_only_then_gives_the_lease_away() {
    let mut rig = rig(Standby { demote: argv(), promote: argv(), ..Standby::new(Tier::Hot, 1) });
    let token = rig.holder.as_ref().map(|h| h.token);
    rig.clear();
    rig.want("db", Some(id("db-2")), token, false);
    rig.run_ms(3_000);
    let text = told(&rig);
    assert_order(
        &text,
        &[
            "publish db-1 1.1 draining",
            "job db-1-demote-1.1-0",
            "command db-1 1.1 Stop",
            "release db-1",
            "command db-2 1.1 Activate",
            "job db-2-promote-1.2-0",
            "publish db-2 1.1 ready",
        ],
    );
    assert_eq!((rig.states(), rig.active()), ("db-1 standby, db-2 ready".into(), "db-2".into()));
    rig.run_ms(60_000);
    assert_eq!(rig.active(), "db-2", "sticky, and the wish is spent");
}

#[test]
fn the_preferred_member_takes_its_service_back_when_it_is_stable() {
    let standby =
        Standby { failback: Failback::Preferred, stable_for: Duration::from_secs(20), ..Standby::new(Tier::Hot, 1) };
    let mut rig = rig(standby);
    rig.child_dies_held("db-1");
    rig.run_ms(15_000);
    assert_eq!(rig.active(), "db-2");
    rig.run_ms(15_000);
    assert_eq!(rig.active(), "db-1", "{}", told(&rig));
}

#[test]
fn a_warm_member_is_paused_when_it_is_ready_and_goes_on_after_it_has_its_token() {
    let mut rig = Rig::new([db(Standby::new(Tier::Warm, 1))]);
    rig.tell_holders();
    rig.run_ms(4_000);
    let text = told(&rig);
    assert_order(&text, &["command db-2 1.1 Freeze(true)"]);
    assert_order(&text, &["command db-1 1.1 Activate", "command db-1 1.1 Freeze(false)", "publish db-1 1.1 ready"]);
    assert_eq!(rig.states(), "db-1 ready, db-2 standby");
}

#[test]
fn a_cold_member_is_restored_and_started_under_its_lease() {
    let mut rig = Rig::new([db(Standby { restore: argv(), ..Standby::new(Tier::Cold, 1) })]);
    rig.tell_holders();
    rig.run_ms(5_000);
    let text = told(&rig);
    assert_order(&text, &["job db-1-restore-1.1-0", "launch db-1 generation 1", "publish db-1 1.1 ready"]);
    assert!(!text.contains("launch db-2"), "{text}");
    assert_eq!(rig.states(), "db-1 ready, db-2 standby");
    // Its shim dies: it is started again here, under the same token, and not restored again.
    rig.clear();
    rig.shim_dies("db-1", false);
    rig.run_ms(5_000);
    let text = told(&rig);
    assert!(text.contains("launch db-1 generation 2") && !text.contains("restore"), "{text}");
    assert_eq!((rig.states(), rig.active()), ("db-1 ready, db-2 standby".into(), "db-1".into()));
}

#[test]
fn warm_and_stopped_is_started_when_it_is_needed_and_kept_fresh_before() {
    let standby = Standby {
        warm: Warm::Stopped,
        sync: argv(),
        sync_every: Duration::from_millis(500),
        max_staleness: Some(Duration::from_secs(5)),
        ..Standby::new(Tier::Warm, 1)
    };
    let mut rig = Rig::new([db(standby)]);
    rig.tell_holders();
    rig.run_ms(7_000);
    assert_eq!((rig.states(), rig.active()), ("db-1 ready, db-2 standby".into(), "db-1".into()), "{}", told(&rig));
    assert!(rig.jobs.iter().filter(|name| name.starts_with("db-2-sync-")).count() > 3, "{:?}", rig.jobs);
    rig.failing.insert("sync");
    rig.run_ms(10_000);
    let able = rig.sup.status(rig.now).services["db"].instances[1].able;
    assert_eq!(able, Some(Err(holdfast_policy::standby::Ineligible::Stale)));
    // Its agent goes, and everything with it: who was active last has the newest data, whatever its age.
    let mut next = rig.successor();
    (next.last, next.revision_of_lease) = (rig.last.clone(), 9);
    next.tell_holders();
    next.shim_dies("db-1", false);
    next.run_ms(5_000);
    assert_eq!(next.active(), "db-1", "{}", told(&next));
}

#[test]
fn a_restarted_agent_goes_on_with_the_same_active_under_the_same_token() {
    let mut rig = rig(Standby { promote: argv(), ..Standby::new(Tier::Hot, 1) });
    let holder = rig.holder.clone();
    let mut next = rig.successor();
    (next.holder, next.revision_of_lease) = (holder.clone(), 1);
    next.tell_holders();
    next.run_ms(10_000);
    assert_eq!((next.states(), next.holder.clone()), ("db-1 ready, db-2 standby".into(), holder), "{}", told(&next));
    assert!(next.jobs.is_empty(), "nothing is promoted again: {:?}", next.jobs);
    assert!(!told(&next).contains("gone"), "{}", told(&next));
}

fn with_volume() -> Standby {
    let mount = Mount { source: "/dev/sdb1".into(), target: "/srv/db".into(), kind: None, options: Vec::new() };
    Standby { fence: argv(), restore: argv(), mount: Some(mount), ..Standby::new(Tier::Cold, 1) }
}

#[test]
fn a_volume_is_mounted_before_the_restore_and_unmounted_before_the_lease_is_given_back() {
    let mut rig = Rig::new([db(with_volume())]);
    rig.tell_holders();
    rig.run_ms(5_000);
    let text = told(&rig);
    // What an earlier life left is unmounted first.
    assert_order(&text, &["job db-1-unmount", "job db-1-mount", "job db-1-restore-1.1-0", "launch db-1 generation 1"]);
    assert_eq!(rig.states(), "db-1 ready, db-2 standby");
    rig.clear();
    rig.want("db", None, rig.holder.as_ref().map(|h| h.token), false);
    rig.run_ms(8_000);
    let text = told(&rig);
    assert_order(&text, &["job db-1-unmount", "release db-1", "job db-2-mount", "job db-2-restore", "launch db-2"]);
    assert_eq!(rig.states(), "db-1 standby, db-2 ready", "{}", told(&rig));
}

#[test]
fn a_volume_that_cannot_be_unmounted_keeps_the_lease_until_it_runs_out() {
    let mut rig = Rig::new([db(with_volume())]);
    rig.tell_holders();
    rig.run_ms(5_000);
    rig.clear();
    rig.failing.insert("unmount");
    rig.want("db", None, rig.holder.as_ref().map(|h| h.token), false);
    rig.run_ms(4_000);
    let text = told(&rig);
    assert!(!text.contains("release db-1") && !text.contains("job db-2-mount"), "{text}");
    assert!(text.matches("job db-1-unmount").count() > 1, "it is tried again: {text}");
    rig.failing.clear();
    rig.run_ms(8_000);
    assert_eq!(rig.states(), "db-1 standby, db-2 ready", "{}", told(&rig));
}

#[test]
fn a_member_that_is_not_wanted_any_more_goes_when_its_volume_is_away() {
    let mut rig = Rig::new([db(with_volume())]);
    rig.tell_holders();
    rig.run_ms(5_000);
    rig.clear();
    rig.apply([]);
    rig.run_ms(15_000);
    let text = told(&rig);
    assert_order(&text, &["job db-1-unmount", "release db-1"]);
    assert_eq!(rig.states(), "", "{text}");
}

#[test]
fn a_member_that_goes_while_its_volume_is_being_mounted_leaves_it_unmounted() {
    for ms in [1, 6, 11, 16, 21] {
        let mut rig = Rig::new([db(with_volume())]);
        rig.tell_holders();
        while !rig.jobs.iter().any(|name| name.contains("-mount-")) {
            rig.run_ms(1);
            assert!(rig.now < Timestamp::from_millis(10_000), "{}", rig.transcript());
        }
        rig.run_ms(ms);
        rig.apply([]);
        rig.run_ms(20_000);
        let last = rig.jobs.iter().rfind(|name| name.contains("mount")).cloned().unwrap_or_default();
        assert!(last.contains("-unmount-"), "after {ms} ms: {:?}", rig.jobs);
        assert_eq!(rig.states(), "", "after {ms} ms: {}", told(&rig));
    }
}
