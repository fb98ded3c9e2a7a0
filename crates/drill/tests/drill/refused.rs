//! Drills that must not start: nothing may be touched.

use std::sync::atomic::Ordering::Relaxed;

use holdfast_config::Fault;
use holdfast_drill::DrillError;
use holdfast_policy::drill::Refusal;

use crate::village::{Place, spec};

fn quiet(_: &holdfast_drill::Progress) {}

async fn reasons(place: &Place, fault: Fault) -> Vec<Refusal> {
    let before = place.village.processes();
    let refused = place.runner(quiet).run(&spec(fault, |_| ())).await;
    assert_eq!(place.village.processes(), before, "nothing was touched");
    match refused {
        Err(e @ DrillError::Refused { .. }) => {
            assert_eq!((e.code(), e.exit_code()), ("HF0601", 5));
            let DrillError::Refused { reasons, .. } = e else { unreachable!("matched above") };
            reasons
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_instance_is_not_struck() {
    let place = Place::of(1);
    assert_eq!(reasons(&place, Fault::Kill).await, vec![Refusal::TooFewLeft { left: 0, min_available: 1 }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_incident_a_pause_and_failing_requests_refuse() {
    let place = Place::of(2);
    place.village.paused.store(true, Relaxed);
    assert_eq!(reasons(&place, Fault::Hang).await, vec![Refusal::Paused("all".into())]);
    place.village.paused.store(false, Relaxed);
    place.village.broken.store(true, Relaxed);
    let failing = reasons(&place, Fault::Hang).await;
    assert!(matches!(failing[..], [Refusal::ProbesFailing { failed, of }] if failed == of && of > 50), "{failing:?}");
    place.village.broken.store(false, Relaxed);
    place.village.open_incident("web-1");
    assert_eq!(reasons(&place, Fault::Hang).await, vec![Refusal::OpenIncident("web-1".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_drill_at_a_time() {
    let place = Place::of(2);
    let first = place.runner(quiet);
    let first_spec = spec(Fault::Kill, |_| ());
    let running = tokio::spawn(async move { first.run(&first_spec).await });
    let lock = place.dir.path().join("lock");
    place
        .village
        .wait_until("the first holds the lock", |_| std::fs::File::open(&lock).is_ok_and(|f| f.try_lock().is_err()));
    let second = place.runner(quiet).run(&spec(Fault::Hang, |_| ())).await;
    assert!(matches!(second, Err(DrillError::AnotherRunning { .. })), "{second:?}");
    assert!(running.await.unwrap().unwrap().passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_row_a_refused_one_is_told_and_the_next_is_run() {
    let place = Place::of(2);
    let specs = [
        spec(Fault::Hang, |d| d.target = Some("nobody".into())),
        spec(Fault::DependencyStall, |d| d.target = Some("web".into())),
    ];
    let reports = place.runner(quiet).run_all(&specs[..1]).await.unwrap();
    assert_eq!(reports.exit_code(), 1);
    assert!(reports.drills[0].why_not[0].contains("there is no `nobody`"), "{reports:?}");
    place.village.open_incident("web-2");
    let reports = place.runner(quiet).run_all(&specs[1..]).await.unwrap();
    assert_eq!(reports.exit_code(), 5);
    assert_eq!(reports.drills[0].refused, vec!["an incident is open on web-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_names_what_it_would_hit_and_does_nothing() {
    let place = Place::of(2);
    let before = place.village.processes();
    let forecast = place.runner(quiet).dry_run(&spec(Fault::Hang, |_| ())).await.unwrap();
    assert_eq!(forecast.hits, vec![format!("SIGSTOP to process {} and its session for 1 s", before[1].pid)]);
    assert_eq!(forecast.protected, vec!["web-1", "_balancer-1", "_balancer-2"]);
    assert!(forecast.refused.is_empty() && forecast.undo.contains("SIGCONT"), "{forecast:?}");
    assert_eq!(place.village.processes(), before);
    assert_eq!(std::fs::read_dir(place.dir.path()).unwrap().count(), 0);
}
