//! Jobs: once per token, results that wait, deadlines that hold.

use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_host::job::{Job, Outcome, Started, Status};
use holdfast_host::process::Table;
use holdfast_host::shim::{Dir, Value};

use crate::bed::{LIMIT, eventually, exe, read};

fn job(token: &str, script: &str) -> Job {
    let argv = ["sh", "-c", script].map(String::from).to_vec();
    Job { argv, token: token.into(), owner: "test".into(), ..Job::default() }
}

fn done(root: &Path, token: &str) -> Outcome {
    let deadline = Instant::now() + LIMIT;
    loop {
        match Job::collect(root, token).unwrap() {
            Status::Done(outcome) => return outcome,
            other => assert!(Instant::now() < deadline, "{token}: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[tokio::test]
async fn a_token_runs_once_and_its_result_waits() {
    let root = tempfile::tempdir().unwrap();
    let count = root.path().join("count");
    let job =
        Job { stdin: b"given".to_vec(), ..job("hook-1", &format!("echo run >> {}; cat; exit 4", count.display())) };
    assert_eq!(Job::collect(root.path(), "hook-1").unwrap(), Status::Unknown);
    let (a, b) = tokio::join!(job.start(exe(), root.path()), job.start(exe(), root.path()));
    let started = [a.unwrap(), b.unwrap()];
    assert!(started.contains(&Started::Now), "{started:?}");
    let outcome = done(root.path(), "hook-1");
    assert_eq!((outcome.code, outcome.output.as_slice(), outcome.success()), (Some(4), b"given".as_slice(), false));
    assert_eq!(job.start(exe(), root.path()).await.unwrap(), Started::Before);
    assert_eq!(done(root.path(), "hook-1"), outcome);
    assert_eq!(read(&count), "run\n");
    let dir = Dir::new(root.path().join("hook-1"));
    assert!(!read(&dir.spec()).contains("given"), "input is never written");
    Job::forget(root.path(), "hook-1").unwrap();
    assert_eq!(Job::collect(root.path(), "hook-1").unwrap(), Status::Unknown);
}

/// Its owner died between the launch and the input, which nobody else has.
#[tokio::test]
async fn a_job_that_was_never_given_its_input_is_ended_at_once_by_the_next_owner() {
    let root = tempfile::tempdir().unwrap();
    let mark = root.path().join("mark");
    let unfed = Job { stdin: b"given".to_vec(), ..job("unfed", &format!("echo ran > {}", mark.display())) };
    let (exe, at) = (exe().to_owned(), root.path().to_owned());
    let dir = Dir::new(at.join("unfed"));
    let starting = unfed.start(&exe, &at);
    // Dropped as soon as the shim is there.
    let launched = async {
        while !dir.lock().exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = launched => {}
        started = starting => drop(started.unwrap()),
    }
    Job::abandon(&at, "unfed").await.unwrap();
    let ended = |status: Status| matches!(status, Status::NotStarted(_) | Status::Done(_));
    eventually("it is over", || ended(Job::collect(&at, "unfed").unwrap()));
    assert_eq!(matches!(Job::collect(&at, "unfed").unwrap(), Status::Done(_)), mark.exists());
}

#[tokio::test]
async fn a_deadline_and_a_cancel_end_the_whole_tree() {
    let root = tempfile::tempdir().unwrap();
    let script = format!("echo $$ > {}/$0; setsid sleep 601 & sleep 601", root.path().display());
    let late = Job { deadline: Duration::from_millis(300), ..job("late", &script.replace("$0", "a")) };
    late.start(exe(), root.path()).await.unwrap();
    let outcome = done(root.path(), "late");
    assert!(outcome.timed_out && !outcome.success() && outcome.lived_ms >= 300, "{outcome:?}");
    let long = job("long", &script.replace("$0", "b"));
    long.start(exe(), root.path()).await.unwrap();
    eventually("it runs", || root.path().join("b").exists());
    assert_eq!(Job::collect(root.path(), "long").unwrap(), Status::Running);
    assert!(Job::forget(root.path(), "long").is_err());
    Job::cancel(root.path(), "long").await.unwrap();
    assert!(!done(root.path(), "long").success());
    for token in ["late", "long"] {
        assert_eq!(holdfast_host::shim::orphans(&Dir::new(root.path().join(token))), []);
    }
}

#[tokio::test]
async fn a_job_whose_shim_was_killed_is_lost_and_never_repeated() {
    let root = tempfile::tempdir().unwrap();
    let count = root.path().join("count");
    let job = job("step", &format!("echo run >> {}; echo words; exec sleep 600", count.display()));
    job.start(exe(), root.path()).await.unwrap();
    let dir = Dir::new(root.path().join("step"));
    eventually("it runs", || count.exists() && dir.read_state().is_some());
    eventually("its words are kept", || Job::output(root.path(), "step") == b"words\n");
    let shim = dir.read_state().unwrap().shim.unwrap();
    holdfast_host::process::signal(shim, libc::SIGKILL).unwrap();
    eventually("it is lost", || Job::collect(root.path(), "step").unwrap() == Status::Lost);
    assert_eq!(job.start(exe(), root.path()).await.unwrap(), Started::Before);
    assert_eq!(Job::collect(root.path(), "step").unwrap(), Status::Lost);
    assert_eq!(Job::output(root.path(), "step"), b"words\n");
    assert_eq!((read(&count).as_str(), holdfast_host::shim::orphans(&dir)), ("run\n", vec![]));
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let root = tempfile::tempdir().unwrap();
    let job = Job { argv: vec!["no-such-program-here".into()], ..job("none", "") };
    job.start(exe(), root.path()).await.unwrap();
    let failure = || match Job::collect(root.path(), "none").unwrap() {
        Status::NotStarted(failure) => Some(failure),
        _ => None,
    };
    eventually("the failure is known", || failure().is_some());
    assert_eq!(failure().unwrap().code, "HF0201");
    let error = job.run().await.unwrap_err();
    assert_eq!(error.code(), "HF0201");
    for token in ["", "../up", "a/b", ".hidden", &"x".repeat(101)] {
        assert_eq!(
            Job { token: token.into(), ..Job::default() }.start(exe(), root.path()).await.unwrap_err().code(),
            "HF0216"
        );
    }
}

#[tokio::test]
async fn a_probe_runs_directly_within_its_deadline_and_limits() {
    let probe = Job {
        env: vec![("A".into(), Value::from("b"))],
        stdin: b"in".to_vec(),
        ..job("p", "cat; echo $A >&2; exit 3")
    };
    let outcome = probe.run().await.unwrap();
    assert_eq!((outcome.code, outcome.output.as_slice(), outcome.timed_out), (Some(3), b"inb\n".as_slice(), false));
    let chatty = Job { output_bytes_max: 10, ..job("p", "head -c 1000000 /dev/zero | tr '\\0' y") };
    let outcome = chatty.run().await.unwrap();
    assert!(outcome.success() && outcome.output == b"yyyyyyyyyy", "{outcome:?}");
    let begun = Instant::now();
    let slow = Job {
        deadline: Duration::from_millis(200),
        ..job("p", "trap '' TERM; (setsid sleep 8117 &); sleep 8118 & sleep 8119")
    };
    let outcome = slow.run().await.unwrap();
    assert!(outcome.timed_out && outcome.signal == Some(9) && begun.elapsed() < Duration::from_secs(5), "{outcome:?}");
    let left = |seconds: &str| {
        Table::read().iter().any(|s| read(format!("/proc/{}/cmdline", s.pid).as_ref()) == format!("sleep\0{seconds}\0"))
    };
    eventually("group and session are gone", || !left("8118") && !left("8119"));
    for stray in
        Table::read().iter().filter(|s| read(format!("/proc/{}/cmdline", s.pid).as_ref()) == "sleep\u{0}8117\u{0}")
    {
        // It left group, session and parent of a command that ran without a shim: the named limit of a direct job.
        holdfast_host::process::signal(stray.identity(), libc::SIGKILL).unwrap();
    }
    let quick = job("p", "(sleep 8120 &) ; exit 0");
    assert!(quick.run().await.unwrap().success());
    eventually("what it left in its group is gone", || !left("8120"));
}

#[tokio::test]
async fn a_dropped_probe_is_killed() {
    let root = tempfile::tempdir().unwrap();
    let probe = job("p", &format!("echo $$ > {}/pid; exec sleep 600", root.path().display()));
    let pid = || read(&root.path().join("pid")).trim().parse::<i32>().ok();
    {
        let run = probe.run();
        tokio::pin!(run);
        while pid().is_none() {
            assert!(tokio::time::timeout(Duration::from_millis(5), &mut run).await.is_err());
        }
    }
    // Dropped while it was being spawned, it is killed when that is done.
    let pid = pid().unwrap();
    eventually("killed and reaped", || holdfast_host::process::stat(pid).is_none());
}
