//! What measures: the prober sees what clients would, the watcher who ran when.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use holdfast_lab::load::{self, Plan};
use holdfast_lab::watch::{Select, Watch, overlap};
use holdfast_lab::{Direction, Lab, Machine, Options};
use serde_json::Value;

use crate::machines::wait_for;

/// Answers every request on a machine until it is dropped.
struct Server {
    url: String,
    stop: Arc<AtomicBool>,
}

impl Server {
    fn start(machine: &Machine) -> Server {
        let listener = machine.within(|| TcpListener::bind((machine.addr().as_str(), 80)).expect("bind"));
        let listener = listener.expect("enter");
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                thread::spawn(move || answer(stream));
            }
        });
        Server { url: format!("http://{}:80/", machine.addr()), stop }
    }
}

fn answer(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    if stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its thread ends at the next connection, which cannot come after its machine has gone; then it ends with us.
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_prober_finds_nothing_where_nothing_is_and_an_outage_as_long_as_it_was() {
    let Some(lab) = Lab::or_skip(&Options { machines: 1, ..Options::default() }) else { return };
    let server = Server::start(lab.machine(0));
    let probe = holdfast_lab::program("lab-probe").expect("built with this test").display().to_string();
    let probe = |seconds: &str| lab.client().spawn(&[&probe, "50", &server.url, seconds, "--timeout", "150"], &[]);
    let read = |mut process: holdfast_lab::Process| -> Value {
        assert!(process.wait(Duration::from_secs(60)).expect("ends").success(), "{}", process.stderr());
        serde_json::from_str(&process.stdout()).expect("JSON")
    };
    let calm = read(probe("1").expect("start"));
    assert_eq!((calm["sent"].as_u64(), calm["failed"].as_u64()), (Some(50), Some(0)), "{calm}");
    let process = probe("4").expect("start");
    hold_for(Duration::from_secs(1));
    let fault = lab.machine(0).isolate(Direction::Both).expect("inject");
    hold_for(Duration::from_secs(1));
    fault.heal();
    let outage = read(process);
    let gap = outage["longest_gap_ms"].as_f64().expect("a number");
    assert_eq!(outage["sent"], 200);
    assert!((900.0..2500.0).contains(&gap), "{outage}");
    assert!(outage["failed"].as_u64().expect("a number") >= 40, "{outage}");
    assert!(outage["failures"][0]["at_ms"].as_f64().expect("a number") >= 800.0, "{outage}");
}

/// For how long a fault or a calm lasts.
fn hold_for(length: Duration) {
    thread::sleep(length);
}

#[test]
fn the_prober_runs_as_a_thread_too() {
    let Some(lab) = Lab::or_skip(&Options { machines: 1, ..Options::default() }) else { return };
    let length = Duration::from_millis(500);
    let plan = |url: String| Plan { url, rate_per_s: 20, length, timeout: Duration::from_secs(1) };
    let server = Server::start(lab.machine(0));
    let stop = AtomicBool::new(false);
    let found = lab.client().within(|| load::drive(&plan(server.url.clone()), &stop)).expect("enter").expect("drive");
    assert_eq!((found.sent, found.failed), (10, 0));
    let refused = plan(format!("http://{}:81/", lab.machine(0).addr()));
    let found = lab.client().within(|| load::drive(&refused, &stop)).expect("enter").expect("drive");
    assert_eq!((found.sent, found.failed), (10, 10));
    assert!(found.failures[0].why.contains("refused"), "{:?}", found.failures);
}

#[test]
fn the_watcher_sees_who_ran_when_and_both_at_once() {
    let Some(lab) = Lab::or_skip(&Options { machines: 2, ..Options::default() }) else { return };
    let (a, b) = (lab.machine(0), lab.machine(1));
    let lab_name = lab.dir().file_name().expect("a name").to_string_lossy().into_owned();
    let active = || Select {
        env: Some("LAB_ACTIVE=yes".into()),
        command: Some("sleep 6".into()),
        cgroup: Some(lab_name.clone()),
    };
    let sleeper = |machine: &Machine| {
        let process = machine.spawn(&["sleep", "600"], &[("LAB_ACTIVE", "yes")]).expect("spawn");
        wait_for("it sleeps", || {
            let pid = process.pid().unwrap_or_default();
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"))
        });
        process
    };
    let by_machine = |s: &holdfast_lab::watch::Span| s.machine.clone();

    // One after the other; one that does not match; one that is paused while the other runs.
    let watch = Watch::start(active()).expect("watch");
    let first = sleeper(a);
    hold_for(Duration::from_millis(100));
    drop(first);
    let _other = b.spawn(&["sleep", "600"], &[("LAB_ACTIVE", "no")]).expect("spawn");
    let second = sleeper(a);
    hold_for(Duration::from_millis(100));
    a.pause().expect("pause");
    let third = sleeper(b);
    hold_for(Duration::from_millis(100));
    drop(third);
    a.resume().expect("resume");
    drop(second);
    let spans = watch.finish();
    let found = overlap(&spans, by_machine);
    assert_eq!(found.certain, Duration::ZERO, "{spans:?}");
    let machines: Vec<&str> = spans.iter().map(|s| s.machine.as_str()).collect();
    // The second goes on for a moment after the pause.
    assert_eq!(machines[..3], ["node-1", "node-1", "node-2"], "{spans:?}");

    let watch = Watch::start(active()).expect("watch");
    let both = (sleeper(a), sleeper(b));
    hold_for(Duration::from_millis(300));
    drop(both);
    let spans = watch.finish();
    let found = overlap(&spans, by_machine);
    assert!(found.certain >= Duration::from_millis(200) && found.possible > found.certain, "{found:?} {spans:?}");
}
