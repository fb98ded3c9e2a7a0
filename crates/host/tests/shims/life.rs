//! Start, exit, restart, stop.

use std::time::Duration;

use holdfast_host::ring::RingReader;
use holdfast_host::shim::spec::{Restart, Stop, When};
use holdfast_host::shim::{Body, Phase, Spec};
use holdfast_host::{clock, process};
use holdfast_policy::Incarnation;

use crate::bed::{Bed, ask, eventually, read, sh, stop, until};

#[tokio::test]
async fn an_exit_code_is_kept_and_a_crash_loop_is_visible() {
    let (bed, mut client) = Bed::start(sh("echo out; echo err >&2; exit 7")).await;
    let state = until(&mut client, "three failures", |s| s.failures >= 3).await;
    assert!(state.crash_looping && state.phase == Phase::Backoff && state.next_start_boot_ns.is_some(), "{state:#?}");
    let exit = state.last_exit.unwrap();
    assert_eq!((exit.code, exit.signal, exit.wanted, exit.incarnation.run), (Some(7), None, false, 3));
    let exits = bed.dir.read_exits();
    assert_eq!(
        exits.iter().map(|e| (e.incarnation.run, e.code)).collect::<Vec<_>>(),
        [(1, Some(7)), (2, Some(7)), (3, Some(7))]
    );
    let events = RingReader::open(&bed.dir.events()).unwrap().events_after(0).unwrap().events;
    let crash = events.iter().find(|e| e.reason.contains("crash loop")).unwrap();
    assert!(
        crash.reason.starts_with("exit code 7") && crash.inputs.iter().any(|(n, v)| n == "failures" && v == "3"),
        "{crash:?}"
    );
    eventually("the log has all lines", || read(&bed.dir.log()).lines().count() == 6);
    assert!(read(&bed.dir.log()).lines().all(|l| l[25..] == *"out" || l[25..] == *"err"));
}

#[tokio::test]
async fn a_killed_child_is_spawned_again_at_once() {
    let (bed, mut client) = Bed::start(sh("exec sleep 600")).await;
    let first = until(&mut client, "the first child", |s| s.child.is_some()).await;
    assert!(process::signal(first.child.unwrap(), libc::SIGKILL).unwrap());
    let second = until(&mut client, "the second child", |s| s.incarnation.run == 2 && s.child.is_some()).await;
    let exit = second.last_exit.unwrap();
    assert_eq!((exit.signal, exit.code), (Some(9), None));
    let gap = Duration::from_nanos(second.started_boot_ns - exit.ended_boot_ns);
    println!("spawned again {gap:?} after the death was seen");
    assert!(gap < Duration::from_millis(200), "{gap:?}");
    assert!(!process::is_alive(first.child.unwrap()));
    drop(bed);
}

#[tokio::test]
async fn a_child_that_is_stopped_and_goes_on_is_told_at_once() {
    let (_bed, mut client) = Bed::start(sh("exec sleep 600")).await;
    let child = until(&mut client, "the child", |s| s.child.is_some()).await.child.unwrap();
    for _ in 0..3 {
        let before = clock::now();
        assert!(process::signal(child, libc::SIGSTOP).unwrap());
        let state = until(&mut client, "the stop", |s| s.stopped_boot_ns.is_some()).await;
        assert!(state.stopped_boot_ns.unwrap() >= before.as_nanos());
        assert!(process::signal(child, libc::SIGCONT).unwrap());
        until(&mut client, "the end of the stop", |s| s.stopped_boot_ns.is_none()).await;
    }
    assert!(process::signal(child, libc::SIGSTOP).unwrap());
    until(&mut client, "the last stop", |s| s.stopped_boot_ns.is_some()).await;
    assert!(process::signal(child, libc::SIGKILL).unwrap());
    let next = until(&mut client, "the next child", |s| s.incarnation.run == 2 && s.child.is_some()).await;
    assert_eq!(next.stopped_boot_ns, None);
}

#[tokio::test]
async fn a_stop_ends_a_stubborn_tree_after_its_grace() {
    let script = "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > far; sleep 600 & wait' & sh -c 'trap \"\" TERM; echo $$ > near; while :; do sleep 1; done' & while :; do sleep 1; done";
    let mut bed = Bed::new();
    let spec =
        Spec { workdir: Some(bed.root.path().into()), stop: Stop { grace_ms: 300, ..Stop::default() }, ..sh(script) };
    bed.launch(spec);
    let mut client = bed.client().await;
    let pid = |name: &str| read(&bed.path(name)).trim().parse::<i32>().ok();
    eventually("the tree is there", || pid("far").is_some() && pid("near").is_some());
    let tree: Vec<_> = ["far", "near"].iter().map(|n| process::identity(pid(n).unwrap()).unwrap()).collect();
    let state = client.state();
    let table = process::Table::read();
    let all: Vec<_> = table.descendants(state.child.unwrap().pid).iter().map(|s| s.identity()).chain(tree).collect();
    ask(&client, stop(state.incarnation)).await.unwrap();
    let state = until(&mut client, "stopped", |s| s.phase == Phase::Stopped).await;
    let exit = state.last_exit.unwrap();
    assert!(exit.wanted && exit.signal == Some(9) && exit.lived_ms >= 300, "{exit:?}");
    assert!(all.iter().all(|who| !process::is_alive(*who)), "something was left");
    let shim = bed.shim.unwrap();
    assert_eq!(process::Table::read().iter().filter(|s| s.ppid == shim.pid).count(), 0, "no zombie either");
}

#[tokio::test]
async fn a_wrapper_shell_does_not_take_the_grace_from_what_it_started() {
    let mut bed = Bed::new();
    let script =
        "sh -c 'trap \"sleep 0.3; echo clean > done; exit 0\" TERM; echo > up; while :; do sleep 0.05; done' ; true";
    bed.launch(Spec { workdir: Some(bed.root.path().into()), ..sh(script) });
    let mut client = bed.client().await;
    eventually("the inner program is up", || bed.path("up").exists());
    ask(&client, stop(client.state().incarnation)).await.unwrap();
    until(&mut client, "stopped", |s| s.phase == Phase::Stopped).await;
    assert_eq!(read(&bed.path("done")), "clean\n");
}

#[tokio::test]
async fn a_stop_command_comes_before_the_signal() {
    let mut bed = Bed::new();
    let script = "trap 'echo signal >> order; exit 0' TERM; echo > up; while :; do sleep 0.02; done";
    let command = ["sh", "-c", "sleep 0.1; echo command $HOLDFAST_INSTANCE >> order"].map(String::from).to_vec();
    let stop_rule = Stop { command: Some(command), ..Stop::default() };
    bed.launch(Spec { workdir: Some(bed.root.path().into()), stop: stop_rule, ..sh(script) });
    let mut client = bed.client().await;
    eventually("up", || bed.path("up").exists());
    ask(&client, stop(client.state().incarnation)).await.unwrap();
    until(&mut client, "stopped", |s| s.phase == Phase::Stopped).await;
    assert_eq!(read(&bed.path("order")), "command web-1\nsignal\n");
}

#[tokio::test]
async fn a_command_for_another_incarnation_is_refused() {
    let (_bed, mut client) = Bed::start(sh("exec sleep 600")).await;
    let state = until(&mut client, "a child", |s| s.child.is_some()).await;
    for (generation, run) in [(1, 2), (2, 1), (1, 0)] {
        let error = ask(&client, stop(Incarnation { generation, run })).await.unwrap_err();
        assert!(error.is_stale(), "{error}");
    }
    assert_eq!(client.state().incarnation, state.incarnation);
    assert!(process::is_alive(state.child.unwrap()));
}

#[tokio::test]
async fn a_requested_restart_costs_no_back_off() {
    let (_bed, mut client) = Bed::start(sh("trap 'exit 3' TERM; while :; do sleep 0.02; done")).await;
    for run in 1..=4 {
        let state = until(&mut client, "the next child", |s| s.incarnation.run == run && s.child.is_some()).await;
        assert_eq!((state.failures, state.error), (0, None));
        let body = Body::Restart { incarnation: state.incarnation, reason: "new release".into(), grace_ms: None };
        ask(&client, body).await.unwrap();
    }
    until(&mut client, "the last child", |s| s.incarnation.run == 5 && s.child.is_some()).await;
}

#[tokio::test]
async fn without_the_grant_it_waits_and_with_it_goes_on() {
    let (_bed, mut client) = Bed::start(sh("exec sleep 600")).await;
    let state = until(&mut client, "a child", |s| s.child.is_some()).await;
    ask(&client, Body::Grant { restart: false }).await.unwrap();
    process::signal(state.child.unwrap(), libc::SIGKILL).unwrap();
    let state = until(&mut client, "no child", |s| s.child.is_none()).await;
    assert!(state.phase == Phase::Backoff && state.reason.contains("grants"), "{state:?}");
    ask(&client, Body::Grant { restart: true }).await.unwrap();
    until(&mut client, "a child again", |s| s.incarnation.run == 2 && s.child.is_some()).await;
}

#[tokio::test]
async fn a_job_completes_once_and_stays_so() {
    let mut bed = Bed::new();
    bed.launch(Spec {
        oneshot: true,
        workdir: Some(bed.root.path().into()),
        ..sh("echo run >> runs; test $(wc -l < runs) = 2")
    });
    let mut client = bed.client().await;
    let state = until(&mut client, "completed", |s| s.phase == Phase::Completed).await;
    assert_eq!((state.restarts, state.last_exit.unwrap().code), (1, Some(0)), "failed once, tried again");
}

#[tokio::test]
async fn attempts_run_out_and_a_start_begins_anew() {
    let restart = Restart { when: When::OnFailure, attempts: Some(2), base_ms: 1, max_ms: 2, ..Restart::default() };
    let (_bed, mut client) = Bed::start(Spec { restart, ..sh("exit 1") }).await;
    let state = until(&mut client, "given up", |s| s.phase == Phase::Failed).await;
    assert!(state.attempts_exhausted && state.reason.contains("used up"), "{state:?}");
    assert_eq!(state.incarnation.run, 3);
    ask(&client, Body::Start {}).await.unwrap();
    let state = until(&mut client, "given up again", |s| s.incarnation.run == 6 && s.phase == Phase::Failed).await;
    assert_eq!(state.failures, 3);
}

#[tokio::test]
async fn told_to_exit_it_stops_the_child_and_goes() {
    let (bed, mut client) = Bed::start(sh("exec sleep 600")).await;
    let child = until(&mut client, "a child", |s| s.child.is_some()).await.child.unwrap();
    ask(&client, Body::Exit { reason: "down".into(), grace_ms: None }).await.unwrap();
    client.closed().await;
    eventually("the shim is gone", || !process::is_alive(bed.shim.unwrap()));
    assert!(!process::is_alive(child));
    let absence = holdfast_host::shim::absent(bed.dir.path()).unwrap().unwrap();
    assert_eq!(absence.state.as_ref().unwrap().phase, Phase::Stopped);
    assert!(absence.exit_of_last_run().unwrap().wanted);
    drop(absence);
    let again = holdfast_host::shim::launch(crate::bed::exe(), bed.dir.path(), 1).unwrap_err();
    assert!(again.to_string().contains("generation 1 is over"), "{again}");
}
