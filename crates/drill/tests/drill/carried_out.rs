//! Drills that run to their end.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_config::{Fault, Targets};
use holdfast_drill::Phase;
use holdfast_host::ring::RingReader;

use crate::village::{Place, spec, state};

fn quiet(_: &holdfast_drill::Progress) {}

/// Milliseconds as promised in the prove lane; the test lane runs on machines that do other things too.
fn times(ms: u32) -> f64 {
    let patience = if std::env::var_os("HOLDFAST_PROVE").is_some() { 1.0 } else { 20.0 };
    f64::from(ms) * patience
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_costs_no_request_and_its_times_agree_with_the_outside() {
    let place = Place::of(2);
    let before = place.village.processes();
    let targets =
        Targets { failed: Some(0), detect: Some(Duration::from_secs_f64(times(500) / 1000.0)), ..Targets::default() };
    let runner = place.runner(quiet).on_node("here");
    let report = runner.run(&spec(Fault::Kill, |d| d.targets = targets)).await.unwrap();
    assert!(report.passed, "{report:?}");
    assert_eq!((report.target.as_str(), report.failed, report.restarts), ("web-2", 0, 0));
    assert!(report.requests >= 40, "{report:?}");
    assert_eq!(place.village.process(0), before[0], "the other one is not touched");
    assert_ne!(place.village.process(1), before[1]);
    // The watcher looks every 5 ms: it may miss a gap that is shorter, and then has nothing to compare.
    let near = |inside: Option<f64>, outside: Option<f64>| {
        outside.is_none_or(|outside| (inside.unwrap() - outside).abs() < times(100))
    };
    assert!(near(report.detected_ms, report.outside.down_ms), "{report:?}");
    assert!(near(report.recovered_ms, report.outside.up_ms), "{report:?}");
    assert!(!place.dir.path().join("undo.jsonl").exists());
    let events = RingReader::open(&place.dir.path().join("events")).unwrap().events_after(0).unwrap().events;
    let told: Vec<(&str, &str)> = events.iter().map(|e| (e.subject.as_str(), e.to.as_str())).collect();
    assert_eq!(told, [("instance/web-2", "struck"), ("instance/web-2", "passed")]);
    assert_eq!((events[0].node.as_str(), events[0].source.as_str()), ("here", "drill/kill"));
    let kept = std::fs::read_to_string(place.dir.path().join("results.jsonl")).unwrap();
    assert!(kept.contains("\"failed\":0"), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_instance_leaves_the_balancer_and_is_continued() {
    let place = Place::of(2);
    let before = place.village.process(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let progress = move |p: &holdfast_drill::Progress| noted.lock().unwrap().push((p.phase, state(before)));
    let report = place.runner(progress).run(&spec(Fault::Hang, |_| ())).await.unwrap();
    assert!(report.passed && report.undone, "{report:?}");
    assert_eq!(place.village.process(1), before, "the same process as before");
    assert_ne!(state(before), 'T');
    assert!(report.rotated_out_ms.unwrap() < times(500), "{report:?}");
    assert!(report.recovered_ms.unwrap() >= 1000.0, "held for a second: {report:?}");
    assert!(report.outside.up_ms.unwrap() >= 1000.0, "{report:?}");
    assert!(report.max_ms >= 50.0, "someone waited for it: {report:?}");
    let seen = seen.lock().unwrap();
    assert!(seen.contains(&(Phase::Struck, 'T')), "{seen:?}");
    assert!(!seen.contains(&(Phase::Looking, 'T')), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_kills_each_new_run() {
    let place = Place::of(2);
    let report = place.runner(quiet).run(&spec(Fault::CrashLoop, |_| ())).await.unwrap();
    assert!(report.passed, "{report:?}");
    let status = holdfast_drill::system::System::status(&*place.village).await.unwrap();
    assert_eq!(status.services[0].instances[1].incarnation.run, 5, "four runs killed, the fifth stays");
    assert_eq!(status.services[0].instances[0].incarnation.run, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_fault_is_made_and_cleared() {
    let place = Place::of(2);
    let village = Arc::clone(&place.village);
    let held = Arc::new(Mutex::new(0));
    let noted = Arc::clone(&held);
    let progress = move |p: &holdfast_drill::Progress| {
        if p.phase == Phase::Struck && village.fault.lock().unwrap().is_some() {
            *noted.lock().unwrap() += 1;
        }
    };
    let report = place.runner(progress).run(&spec(Fault::Latency, |_| ())).await.unwrap();
    assert!(report.passed, "{report:?}");
    assert!(*held.lock().unwrap() > 10);
    assert_eq!(*place.village.fault.lock().unwrap(), None);
    assert!((100.0..1000.0).contains(&report.max_ms), "{report:?}");
    assert_eq!((report.detected_ms, report.outside.down_ms), (None, None));
    assert_eq!(report.recovered_from, Some("status"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_instance_is_struck_at_its_own_endpoint() {
    let place = Place::of(2);
    let before = place.village.processes();
    let report = place.runner(quiet).run(&spec(Fault::Busy, |_| ())).await.unwrap();
    assert!(report.undone && report.stopped.is_none(), "{report:?}");
    assert_eq!(place.village.processes(), before);
    // This little system takes a busy instance out, as it would a hung one: seen from outside it was down.
    assert!(report.outside.down_ms.unwrap() < 500.0 && report.outside.up_ms.unwrap() >= 500.0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_touches_no_request() {
    let place = Place::of(2);
    let before = place.village.processes();
    let report = place.runner(quiet).run(&spec(Fault::AgentKill, |d| d.target = None)).await.unwrap();
    assert!(report.passed, "{report:?}");
    assert_eq!((report.target.as_str(), report.failed), ("_agent-1", 0));
    assert_eq!(place.village.processes(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_misses_its_target_fails_and_says_why() {
    let place = Place::of(2);
    let targets = Targets { recover: Some(Duration::from_millis(1)), ..Targets::default() };
    let specs = [spec(Fault::Kill, |d| d.targets = targets)];
    let reports = place.runner(quiet).run_all(&specs).await.unwrap();
    assert_eq!(reports.exit_code(), 1);
    let why = &reports.drills[0].why_not;
    assert!(why.len() == 1 && why[0].starts_with("recovered in ") && why[0].ends_with("(target 1 ms)"), "{why:?}");
    assert!(!place.village.broken.load(Relaxed));
}
