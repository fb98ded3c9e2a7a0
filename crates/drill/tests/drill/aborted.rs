//! Drills that are ended in the middle: by the operator, by a stop condition, by SIGKILL.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use holdfast_config::Fault;
use holdfast_drill::system::{Answer, Inject, PlaneFault, Process, TasksOrder, Unanswered};
use holdfast_drill::{Phase, Runner};
use holdfast_host::{clock, process};

use crate::village::{Mayor, Place, Village, again, setup, spec, state};

/// A guard of these tests has no balancer process to talk to.
struct NoPlanes;

impl Inject for NoPlanes {
    fn inject<'a>(&'a self, _: &'a Path, _: &'a PlaneFault) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn clear<'a>(&'a self, _: &'a Path, _: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn open<'a>(&'a self, _: &'a Path, _: &'a str, _: &'a TasksOrder) -> Answer<'a, ()> {
        Box::pin(async { Err(Unanswered::new("open a queue", "there is no plane")) })
    }
    fn close<'a>(&'a self, _: &'a Path, _: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// Entry of the guard: the directory is the last argument, as it is for `holdfast __guard`.
pub(crate) fn guard() {
    let dir = PathBuf::from(std::env::args_os().next_back().unwrap());
    holdfast_drill::guard::run(&dir, &NoPlanes).unwrap();
}

/// Entry of a runner that holds a hang for very long; writes whom it struck, and is killed by the test.
pub(crate) fn runner() {
    let dir = PathBuf::from(std::env::var("DRILL_DIR").unwrap());
    let village = Village::found(2);
    let _mayor = Mayor(Arc::clone(&village));
    let victim = village.process(1);
    let told = AtomicBool::new(false);
    let progress = move |p: &holdfast_drill::Progress| {
        if p.phase == Phase::Struck && !told.swap(true, Relaxed) {
            let mut out = std::io::stderr();
            writeln!(out, "struck {} {}", victim.pid, victim.start_ticks).unwrap();
        }
    };
    let runner = Runner::new(setup(&village, &dir, &Arc::default(), progress));
    let long = spec(Fault::Hang, |d| d.hold = Duration::from_secs(60));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(runner.run(&long));
    eprintln!("not killed: {report:?}");
}

fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let last = clock::now() + limit;
    while !condition() {
        assert!(clock::now() < last, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_runner_killed_in_the_middle_of_a_hang_leaves_nobody_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut runner = again("runner").env("DRILL_DIR", dir.path()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(runner.stderr.take().unwrap()).lines().map_while(Result::ok);
    let struck = lines.into_iter().find_map(|line| Some(line.strip_prefix("struck ")?.to_owned())).unwrap();
    let (pid, ticks) = struck.split_once(' ').unwrap();
    let victim = Process { pid: pid.parse().unwrap(), start_ticks: ticks.parse().unwrap() };
    assert_eq!(state(victim), 'T');
    runner.kill().unwrap();
    // The backend would end by itself with its runner, but a stopped one cannot: gone or running, it was continued.
    wait_for("continued by the guard", Duration::from_secs(1), || state(victim) != 'T');
    runner.wait().unwrap();
    let journal = std::fs::read_to_string(dir.path().join("undo.jsonl")).unwrap();
    wait_for("the journal says who undid it", Duration::from_secs(1), || {
        std::fs::read_to_string(dir.path().join("undo.jsonl")).is_ok_and(|j| j.contains(r#""done_by":"guard""#))
    });
    assert!(journal.contains(&format!(r#""pid":{pid}"#)), "{journal}");
    wait_for("the victim ends", Duration::from_secs(5), || !process::is_alive(victim));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_undoes_at_once() {
    let place = Place::of(2);
    let victim = place.village.process(1);
    let interrupted = Arc::clone(&place.interrupted);
    let progress = move |p: &holdfast_drill::Progress| {
        if p.phase == Phase::Struck {
            interrupted.store(true, Relaxed);
        }
    };
    let begun = clock::now();
    let report = place.runner(progress).run(&spec(Fault::Hang, |d| d.hold = Duration::from_secs(60))).await.unwrap();
    assert!(clock::now().since(begun) < Duration::from_secs(20));
    assert!(report.undone && !report.passed, "{report:?}");
    assert_eq!(report.stopped.as_deref(), Some("stopped by the operator"));
    assert_ne!(state(victim), 'T');
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_failed_requests_stop_it() {
    let place = Place::of(2);
    let village = Arc::clone(&place.village);
    let progress = move |p: &holdfast_drill::Progress| {
        village.broken.store(p.phase == Phase::Struck, Relaxed);
    };
    let long = spec(Fault::Hang, |d| d.hold = Duration::from_secs(60));
    let victim = place.village.process(1);
    let report = place.runner(progress).run(&long).await.unwrap();
    assert!(report.stopped.as_deref().is_some_and(|s| s.contains("requests failed")), "{report:?}");
    assert!(report.undone && !report.passed, "{report:?}");
    assert!(report.outage_ms.is_some(), "{report:?}");
    assert_ne!(state(victim), 'T');
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_dies_ends_the_drill() {
    let place = Place::of(2);
    let victim = place.village.process(1);
    let dir = place.dir.path().to_owned();
    let progress = move |p: &holdfast_drill::Progress| {
        if p.phase == Phase::Struck {
            kill_guard(&dir);
        }
    };
    let long = spec(Fault::Hang, |d| d.hold = Duration::from_secs(60));
    let report = place.runner(progress).run(&long).await.unwrap();
    assert_eq!(report.stopped.as_deref(), Some("the guard that would undo it has gone"));
    assert!(report.undone && state(victim) != 'T', "{report:?}");
}

/// The one process whose last argument is this directory.
fn kill_guard(dir: &Path) {
    for stat in process::Table::read().iter() {
        let line = std::fs::read(format!("/proc/{}/cmdline", stat.pid)).unwrap_or_default();
        if line.strip_suffix(b"\0").is_some_and(|l| l.ends_with(dir.as_os_str().as_encoded_bytes())) {
            process::signal(stat.identity(), 9).unwrap();
        }
    }
}
