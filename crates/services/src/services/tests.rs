//! The shell with real shims and real programs.

mod bed;

use std::time::{Duration, Instant};

use holdfast_config::{Check, Command, Condition, Kind, Port, Probe};
use holdfast_host::process;
use holdfast_policy::health::Thresholds;

use crate::supervisor::EndpointState;
use bed::{Bed, service};

pub(super) use bed::definition;

fn probe(check: Check) -> Probe {
    Probe {
        check,
        every: Duration::from_millis(200),
        timeout: Duration::from_millis(200),
        thresholds: Thresholds::default(),
        within: Duration::from_secs(30),
    }
}

fn web(replicas: u32) -> holdfast_config::Service {
    let mut web = service("web", &["python3", "-m", "http.server", "{port}", "--bind", "127.0.0.1"]);
    (web.replicas, web.port) = (replicas, Port::Assigned);
    web.ready = Some(probe(Check::Http { path: "/".into(), status: 200..=399 }));
    web
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_programs_are_kept_up_and_stopped() {
    let bed = Bed::new().await;
    bed.apply([web(2)]).await;
    bed.wait_states("web-1 ready, web-2 ready").await;
    let endpoints = bed.handle().endpoints();
    let before = endpoints.borrow().clone();
    assert_eq!(before.len(), 2);
    let first = before.values().next().unwrap();
    assert_eq!(first.state, EndpointState::Ready);
    assert!(std::net::TcpStream::connect(first.endpoint.addr).is_ok());

    let pid = bed.pid("web-1");
    process::signal(process::identity(pid).unwrap(), 9).unwrap();
    bed.wait_for("web-1 runs again", || bed.pid_now("web-1").is_some_and(|p| p != pid)).await;
    bed.wait_states("web-1 ready, web-2 ready").await;
    assert_eq!(bed.instance("web-1").restarts, 1);

    bed.handle().restart("web").await.unwrap();
    let (one, two) = (bed.pid("web-1"), bed.pid("web-2"));
    bed.wait_for("both were restarted", || bed.pid_now("web-1") != Some(one) && bed.pid_now("web-2") != Some(two))
        .await;
    bed.wait_states("web-1 ready, web-2 ready").await;

    bed.handle().scale("web", Some(1)).await.unwrap();
    bed.wait_states("web-1 ready").await;
    let why = bed.handle().explain("web-1").await.unwrap();
    assert!(why.iter().any(|e| e.transition.reason == "its process ended"), "{why:?}");

    let last = process::identity(bed.pid("web-1")).unwrap();
    assert!(bed.handle().stop_all_and_wait(Duration::from_secs(20)).await.unwrap());
    assert!(!process::is_alive(last));
    assert!(bed.strays().is_empty(), "{:?}", bed.strays());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_agent_finds_everything_as_it_was() {
    let mut bed = Bed::new().await;
    bed.apply([web(2)]).await;
    bed.wait_states("web-1 ready, web-2 ready").await;
    let (one, two, ports) = (bed.pid("web-1"), bed.pid("web-2"), bed.ports());
    bed.new_agent().await;
    bed.apply([web(2)]).await;
    bed.wait_states("web-1 ready, web-2 ready").await;
    assert_eq!((bed.pid("web-1"), bed.pid("web-2")), (one, two));
    assert_eq!(bed.ports(), ports);

    bed.kill_shim("web-1");
    bed.wait_for("web-1 has a new shim", || bed.instance("web-1").incarnation.generation == 2).await;
    bed.wait_states("web-1 ready, web-2 ready").await;
    assert_ne!(bed.pid("web-1"), one);
    assert_eq!(bed.pid("web-2"), two);
    assert_eq!(bed.ports(), ports);
    assert!(bed.strays().is_empty(), "{:?}", bed.strays());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_first_and_once() {
    let mut bed = Bed::new().await;
    let runs = bed.path("runs");
    let mut job = service("migrate", &[]);
    job.kind = Kind::Job;
    job.command = Command::Shell(format!("echo run >> {}", runs.display()));
    let mut worker = service("worker", &["sleep", "600"]);
    worker.after.insert("migrate".into(), Condition::Completed);
    bed.apply([job.clone(), worker.clone()]).await;
    bed.wait_states("migrate-1 completed, worker-1 ready").await;
    bed.new_agent().await;
    bed.apply([job, worker]).await;
    bed.wait_states("migrate-1 completed, worker-1 ready").await;
    assert_eq!(std::fs::read_to_string(runs).unwrap(), "run\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_there_is_told_and_others_run() {
    let bed = Bed::new().await;
    bed.apply([service("broken", &["/no/such/program"]), service("fine", &["sleep", "600"])]).await;
    bed.wait_states("broken-1 backoff, fine-1 ready").await;
    bed.wait_for("the reason names the program", || bed.instance("broken-1").reason.contains("/no/such/program")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_decides_readiness() {
    let bed = Bed::new().await;
    let flag = bed.path("flag");
    let mut worker = service("worker", &["sleep", "600"]);
    worker.ready = Some(probe(Check::Command(vec!["test".into(), "-e".into(), flag.display().to_string()])));
    bed.apply([worker]).await;
    bed.wait_states("worker-1 starting").await;
    std::fs::write(&flag, "").unwrap();
    bed.wait_states("worker-1 ready").await;
    std::fs::remove_file(&flag).unwrap();
    bed.wait_states("worker-1 not_ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_instances_start_within_seconds() {
    let bed = Bed::new().await;
    let mut many = service("many", &["sleep", "600"]);
    many.replicas = 100;
    let began = Instant::now();
    bed.apply([many]).await;
    bed.wait_for("all are ready", || bed.handle().status().services.get("many").is_some_and(|s| s.ready == 100)).await;
    println!("100 instances ready after {:?}", began.elapsed());
    // The figure for a quiet machine is 2 s; tests run beside each other.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reboot_everything_comes_up_with_its_port_and_no_old_pid_is_touched() {
    let mut bed = Bed::new().await;
    let mut worker = service("worker", &["sleep", "600"]);
    worker.after.insert("web".into(), Condition::Ready);
    bed.apply([web(2), worker.clone()]).await;
    bed.wait_states("web-1 ready, web-2 ready, worker-1 ready").await;
    let ports = bed.ports();
    bed.stop_agent();
    bed.reboot();
    bed.new_agent().await;
    bed.apply([web(2), worker]).await;
    bed.wait_for("all of generation 2", || ["web-1", "web-2", "worker-1"].iter().all(|i| bed.generation(i) == Some(2)))
        .await;
    bed.wait_states("web-1 ready, web-2 ready, worker-1 ready").await;
    assert_eq!(bed.ports(), ports);
    assert!(bed.strays().is_empty(), "{:?}", bed.strays());
}
