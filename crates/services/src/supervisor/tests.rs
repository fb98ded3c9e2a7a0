//! Transcripts: what was told, and what the Supervisor answered.

mod rig;
mod standby;

use std::time::Duration;

use expect_test::expect;
use holdfast_config::{Command, Condition, Kind, Port};

use holdfast_policy::lease::FencingToken;

use super::*;
use rig::{Rig, http, id, service};

#[test]
fn one_service_from_nothing_to_ready() {
    let mut rig = Rig::new([service("web", 1)]);
    rig.run_ms(30);
    expect![[r#"
        0 persist web-1 generation 1
        0 journal web-1 new -> launching: it is wanted and nothing of it runs
        0 launch web-1 generation 1 port 8001
        5 publish web-1 1.1 not_ready
        5 journal web-1 launching -> starting: its process was started
        5 probe ready web-1 1.1
        6 publish web-1 1.1 ready
        6 command web-1 1.1 Ready
        6 journal web-1 starting -> ready: it is ready
    "#]]
    .assert_eq(&rig.transcript());
}

#[test]
fn a_dependency_is_waited_for_and_stopped_last() {
    let mut db = service("db", 1);
    db.ready = Some(http());
    let mut web = service("web", 1);
    web.after.insert("db".into(), Condition::Ready);
    let mut rig = Rig::new([db, web]);
    rig.run_ms(100);
    assert_eq!(rig.states(), "db-1 ready, web-1 ready");
    assert!(rig.launched("db-1") < rig.launched("web-1"));
    rig.tell(Event::StopAll);
    rig.run_ms(100);
    assert!(rig.sup.status(rig.now).stopped);
    assert!(rig.stopped("web-1") < rig.stopped("db-1"));
}

#[test]
fn a_job_runs_once_per_definition_and_gates_what_comes_after() {
    let mut job = service("migrate", 1);
    (job.kind, job.ready, job.port) = (Kind::Job, None, Port::None);
    let mut web = service("web", 1);
    web.after.insert("migrate".into(), Condition::Completed);
    let mut rig = Rig::new([job.clone(), web.clone()]);
    rig.run_ms(50);
    assert_eq!(rig.states(), "migrate-1 running, web-1 waiting");
    rig.child_ends("migrate-1", Some(0));
    rig.run_ms(50);
    assert_eq!(rig.states(), "migrate-1 completed, web-1 ready");
    rig.apply([job.clone(), web.clone()]);
    rig.run_ms(50);
    assert_eq!(rig.launches("migrate-1"), 1);
    job.env.insert("VERSION".into(), holdfast_config::Value::Plain("2".into()));
    rig.apply([job, web]);
    rig.run_ms(50);
    assert_eq!(rig.launches("migrate-1"), 2);
}

#[test]
fn a_changed_definition_goes_round_one_at_a_time() {
    let mut web = service("web", 3);
    let mut rig = Rig::new([web.clone()]);
    rig.run_ms(100);
    rig.clear();
    web.env.insert("VERSION".into(), holdfast_config::Value::Plain("2".into()));
    rig.apply([web]);
    for _ in 0..2000 {
        rig.run_ms(1);
        assert!(rig.ready() >= 2, "{}", rig.transcript());
    }
    assert_eq!(rig.states(), "web-1 ready, web-2 ready, web-3 ready");
    assert_eq!(["web-1", "web-2", "web-3"].map(|i| rig.launches(i)), [2, 2, 2]);
}

#[test]
fn a_bad_change_stops_at_the_first_instance() {
    let mut web = service("web", 3);
    let mut rig = Rig::new([web.clone()]);
    rig.run_ms(100);
    web.env.insert("VERSION".into(), holdfast_config::Value::Plain("bad".into()));
    rig.apply([web.clone()]);
    rig.refuse_generation(2);
    rig.run_ms(20_000);
    assert_eq!(rig.states(), "web-1 starting, web-2 ready, web-3 ready");
    web.env.insert("VERSION".into(), holdfast_config::Value::Plain("good".into()));
    rig.accept_all();
    rig.apply([web]);
    rig.run_ms(5_000);
    assert_eq!(rig.states(), "web-1 ready, web-2 ready, web-3 ready");
}

#[test]
fn silence_makes_a_suspect_and_an_explicit_no_is_obeyed_by_the_last_one() {
    let mut rig = Rig::new([service("web", 1)]);
    rig.run_ms(100);
    rig.clear();
    rig.answer("web-1", Outcome::Timeout { busy: false });
    rig.run_ms(3_000);
    assert_eq!(rig.published("web-1"), EndpointState::Suspect);
    rig.answer("web-1", Outcome::Refused(503));
    rig.run_ms(1_000);
    assert_eq!(rig.published("web-1"), EndpointState::NotReady);
    rig.answer("web-1", Outcome::Pass);
    rig.run_ms(1_000);
    assert_eq!(rig.published("web-1"), EndpointState::Ready);
    rig.answer("web-1", Outcome::Late);
    rig.run_ms(10_000);
    assert_eq!(rig.published("web-1"), EndpointState::Ready);
}

#[test]
fn liveness_restarts_one_that_hangs_and_none_when_all_do() {
    let mut web = service("web", 3);
    web.live = Some(http());
    let mut rig = Rig::new([web]);
    rig.run_ms(2_000);
    rig.answer_live("web-2", Outcome::Timeout { busy: false });
    rig.run_ms(3_000);
    assert_eq!(rig.kills(), 1, "{}", rig.transcript());
    rig.run_ms(2_000);
    assert_eq!(rig.states(), "web-1 ready, web-2 ready, web-3 ready");
    for id in ["web-1", "web-2", "web-3"] {
        rig.answer_live(id, Outcome::Timeout { busy: false });
    }
    rig.run_ms(30_000);
    assert_eq!(rig.kills(), 1);
    assert!(rig.why("web-1").contains("the cause is probably shared"), "{}", rig.why("web-1"));
    rig.run_ms(300_000);
    assert!(rig.kills() > 1, "a trial is made in the end");
}

#[test]
fn a_hang_is_told_with_the_time_of_the_stop_and_its_end_is_seen_at_once() {
    let mut rig = Rig::new([service("web", 1)]);
    rig.run_ms(10_000);
    let stopped = rig.now;
    rig.child_stops("web-1", Duration::from_millis(40));
    rig.run_ms(40);
    let told = rig.sup.explain("web-1").pop().unwrap();
    assert_eq!((told.at, told.transition.to), (stopped, "suspect"));
    rig.run_ms(5_000);
    rig.child_goes_on("web-1");
    let goes_on = rig.now;
    // One that asked in vain is still under way, as long as its time limit; the next follows at once.
    rig.run_ms(400);
    let told = rig.sup.explain("web-1").pop().unwrap();
    assert_eq!(told.transition.to, "ready", "{}", rig.transcript());
    assert!(told.at.since(goes_on) <= Duration::from_millis(360), "{:?}", told.at.since(goes_on));
    rig.clear();
    rig.run_ms(10_000);
    assert!(rig.transcript().matches("probe ready").count() <= 25, "asked as seldom as before");
}

#[test]
fn a_busy_instance_is_not_restarted_for_a_long_report() {
    let mut web = service("web", 2);
    web.live = Some(http());
    let mut rig = Rig::new([web]);
    rig.run_ms(1_000);
    rig.answer_live("web-1", Outcome::Timeout { busy: true });
    rig.run_ms(20_000);
    assert_eq!(rig.kills(), 0);
    rig.run_ms(60_000);
    assert_eq!(rig.kills(), 1, "an endless loop is restarted in the end");
}

#[test]
fn a_pause_says_what_it_would_have_done_and_does_nothing() {
    let mut web = service("web", 2);
    web.live = Some(http());
    let mut rig = Rig::new([web]);
    rig.run_ms(1_000);
    let until = Some(rig.now + Duration::from_secs(60));
    rig.tell(Event::Pause { target: Target::All, until, reason: "maintenance".into() });
    rig.answer_live("web-1", Outcome::Timeout { busy: false });
    rig.run_ms(20_000);
    assert_eq!(rig.kills(), 0);
    assert!(rig.why("web-1").contains("paused (maintenance): it would be restarted: liveness failed"));
    rig.run_ms(60_000);
    assert_eq!(rig.kills(), 1);
}

#[test]
fn a_new_agent_adopts_what_runs_and_launches_nothing_over_it() {
    let mut old = Rig::new([service("web", 2)]);
    old.run_ms(100);
    let mut rig = old.successor();
    rig.run_ms(100);
    assert_eq!(rig.states(), "web-1 ready, web-2 ready");
    assert_eq!(rig.transcript().matches("launch web").count(), 0, "{}", rig.transcript());
}

#[test]
fn before_it_is_known_what_is_wanted_nothing_is_stopped() {
    let mut old = Rig::new([service("web", 2)]);
    old.run_ms(100);
    let mut rig = old.untold_successor();
    rig.run_ms(5000);
    assert!(!rig.transcript().contains("stop") && !rig.transcript().contains("quit"), "{}", rig.transcript());
    rig.apply([service("web", 1)]);
    rig.run_ms(100);
    assert_eq!(rig.states(), "web-1 ready");
}

#[test]
fn a_lost_shim_is_proved_dead_and_its_orphan_replaced_in_turn() {
    let mut rig = Rig::new([service("web", 2)]);
    rig.run_ms(100);
    rig.clear();
    rig.shim_dies("web-1", true);
    rig.run_ms(2);
    expect![[r#"
        100 prove web-1 generation 1
        101 journal web-1 ready -> orphaned: its shim is dead and its process lives on: it is replaced in turn
        101 journal web-1 orphaned -> orphaned: its shim is lost
        101 publish web-1 1.1 draining
        101 kill orphans web-1 generation 1
        101 journal web-1 orphaned -> stopping: its shim is lost
    "#]]
    .assert_eq(&rig.transcript());
    rig.run_ms(100);
    assert_eq!(rig.states(), "web-1 ready, web-2 ready");
}

#[test]
fn results_of_an_earlier_life_are_dropped() {
    let mut rig = Rig::new([service("web", 1)]);
    rig.run_ms(100);
    let old = rig.incarnation("web-1");
    rig.child_ends("web-1", None);
    rig.run_ms(50);
    assert_ne!(rig.incarnation("web-1"), old);
    let took = Duration::from_millis(1);
    let (instance, kind) = (rig::id("web-1"), ProbeKind::Ready);
    let (sent, outcome) = (rig.now, Outcome::Refused(500));
    rig.tell(Event::Probe { instance, incarnation: old, kind, sent, outcome, took });
    assert_eq!(rig.published("web-1"), EndpointState::Ready);
}

#[test]
fn a_service_that_is_scaled_down_keeps_enough_ready() {
    let mut web = service("web", 4);
    web.min_available = 2;
    let mut rig = Rig::new([web]);
    rig.run_ms(100);
    rig.tell(Event::Scale { service: "web".into(), replicas: Some(2) });
    rig.run_ms(100);
    assert_eq!(rig.states(), "web-1 ready, web-2 ready");
    rig.tell(Event::Scale { service: "web".into(), replicas: None });
    rig.run_ms(100);
    assert_eq!(rig.states(), "web-1 ready, web-2 ready, web-3 ready, web-4 ready");
}

#[test]
fn a_program_that_cannot_start_backs_off_and_says_why() {
    let mut rig = Rig::new([service("web", 1)]);
    rig.fail_launches("no such program");
    rig.run_ms(60_000);
    assert!((4..9).contains(&rig.launches("web-1")), "{}", rig.launches("web-1"));
    assert!(rig.why("web-1").contains("no such program"));
}

#[test]
fn leaving_waits_for_the_drain_and_not_longer() {
    let mut rig = Rig::new([service("web", 2)]);
    rig.balance();
    rig.run_ms(100);
    rig.clear();
    rig.tell(Event::Scale { service: "web".into(), replicas: Some(1) });
    rig.run_ms(50);
    assert_eq!(rig.states(), "web-1 ready, web-2 draining");
    let incarnation = rig.incarnation("web-2");
    rig.tell(Event::Drained { instance: rig::id("web-2"), incarnation });
    rig.run_ms(50);
    expect![[r#"
        100 journal web-2 ready -> ready: not wanted any more
        100 publish web-2 1.1 draining
        100 journal web-2 ready -> draining: not wanted any more
        150 command web-2 1.1 Stop
        150 journal web-2 draining -> stopping: not wanted any more
        155 publish web-2 1.1 gone
        155 StopProbes { instance: web-2 }
        155 command web-2 1.1 Quit
        156 journal web-2 stopping -> absent: its shim has ended
        156 Forget { instance: web-2 }
    "#]]
    .assert_eq(&rig.without("probe"));
    rig.tell(Event::Scale { service: "web".into(), replicas: Some(2) });
    rig.run_ms(100);
    rig.tell(Event::StopAll);
    rig.run_ms(11_000);
    assert!(rig.sup.status(rig.now).stopped, "the drain ends by itself: {}", rig.states());
}

#[test]
fn a_fenced_instance_gets_each_deadline_before_its_lease_is_renewed() {
    let mut db = service("db", 1);
    (db.fenced, db.port, db.ready) = (true, Port::None, None);
    let mut rig = Rig::new([db]);
    rig.run_ms(6_500);
    expect![[r#"
        0 journal db absent -> defined: it is in the file
        0 lease db-1
        0 journal db-1 new -> waiting: waits for its lease
        1 persist db-1 generation 1
        1 journal db-1 waiting -> launching: it is wanted and nothing of it runs
        1 launch db-1 generation 1 port 0
        6 publish db-1 1.1 ready
        6 command db-1 1.1 Ready
        6 journal db-1 launching -> ready: it is ready
        3000 lease db-1
        3001 command db-1 1.1 Deadline(10.000s)
        6002 lease db-1
        6003 command db-1 1.1 Deadline(13.002s)
    "#]]
    .assert_eq(&rig.transcript());
}

/// Found by the simulator of several machines: the shim was stopped while a lease ran out, and refused its deadline for ever.
#[test]
fn a_fenced_instance_whose_deadline_passed_unheard_gets_a_new_lease() {
    let mut db = service("db", 1);
    (db.fenced, db.port, db.ready) = (true, Port::None, None);
    let mut rig = Rig::new([db]);
    rig.run_ms(4_000);
    rig.ignore_deadlines(true);
    rig.run_ms(16_000);
    let renewals = |rig: &Rig| rig.transcript().matches(" lease db-1").count();
    let before = renewals(&rig);
    rig.run_ms(10_000);
    assert_eq!(renewals(&rig), before, "nobody has acknowledged the last one: {}", rig.transcript());
    rig.ignore_deadlines(false);
    rig.deadline_passes("db-1");
    rig.clear();
    rig.run_ms(1_500);
    let text = rig.transcript();
    assert_eq!(renewals(&rig), 1, "{text}");
    assert!(text.contains("command db-1 1.1 Deadline(37.0"), "{text}");
}

/// Found by the simulator of several machines: another machine had the lease meanwhile.
#[test]
fn a_fenced_instance_that_won_its_lease_again_is_launched_anew_with_the_newer_token() {
    let mut db = service("db", 1);
    (db.fenced, db.port, db.ready) = (true, Port::None, None);
    let mut rig = Rig::new([db]);
    rig.run_ms(4_000);
    let old = FencingToken { epoch: 1, create_revision: 7 };
    rig.has_token("db-1", old);
    rig.deadline_passes("db-1");
    rig.run_ms(10);
    rig.clear();
    let (instance, asked, until) = (id("db-1"), rig.now, rig.now + Duration::from_secs(7));
    let token = FencingToken { create_revision: 9, ..old };
    rig.tell(Event::LeaseHeld { instance, until, asked, token, owed: Vec::new() });
    rig.run_ms(2_000);
    let text = rig.transcript();
    assert!(text.contains("command db-1 1.1 Quit") && text.contains("launch db-1 generation 2"), "{text}");
    assert!(!text.contains("command db-1 1.1 Deadline"), "{text}");
}

fn placement(of: &[(&str, &[u32], u32, u32)]) -> Event {
    let one = |(name, ordinals, turns, ready): &(&str, &[u32], u32, u32)| {
        let elsewhere = Elsewhere { started: *ready, ready: *ready, completed: false, able: None };
        ((*name).into(), Placed { ordinals: ordinals.iter().copied().collect(), turns: *turns, elsewhere })
    };
    Event::Placement(Some(of.iter().map(one).collect()))
}

#[test]
fn a_machine_of_a_cluster_runs_its_share() {
    let mut rig = Rig::new([]);
    rig.tell(placement(&[("web", &[2, 5], 1, 0)]));
    rig.apply([service("web", 6), service("db", 1)]);
    rig.run_ms(100);
    assert_eq!(rig.states(), "web-2 ready, web-5 ready");
    rig.tell(placement(&[("web", &[5], 1, 3), ("db", &[1], 1, 0)]));
    rig.run_ms(100);
    assert_eq!(rig.states(), "db-1 ready, web-5 ready");
}

#[test]
fn instances_elsewhere_satisfy_dependencies_and_witness_health() {
    let mut web = service("web", 2);
    web.after.insert("db".into(), Condition::Ready);
    web.live = Some(http());
    let mut rig = Rig::new([]);
    rig.tell(placement(&[("web", &[1], 1, 0)]));
    rig.apply([web, service("db", 1)]);
    rig.run_ms(100);
    assert_eq!(rig.states(), "web-1 waiting");
    rig.tell(placement(&[("web", &[1], 1, 1), ("db", &[], 1, 1)]));
    rig.run_ms(100);
    assert_eq!(rig.states(), "web-1 ready");
    let before = rig.incarnation("web-1");
    rig.answer_live("web-1", Outcome::Timeout { busy: false });
    rig.run_ms(10_000);
    assert_ne!(rig.incarnation("web-1"), before, "another machine's instance is well, so the cause is not shared");
}

#[test]
fn a_change_waits_for_this_machines_turn() {
    let mut web = service("web", 2);
    let mut rig = Rig::new([]);
    rig.tell(placement(&[("web", &[1], 0, 1)]));
    rig.apply([web.clone()]);
    rig.run_ms(100);
    web.command = Command::Argv(vec!["web".into(), "--new".into()]);
    rig.apply([web]);
    rig.run_ms(1_000);
    assert_eq!(rig.launches("web-1"), 1, "{}", rig.why("web-1"));
    rig.tell(placement(&[("web", &[1], 1, 1)]));
    rig.run_ms(1_000);
    assert_eq!((rig.launches("web-1"), rig.states().as_str()), (2, "web-1 ready"));
}
