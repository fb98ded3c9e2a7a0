//! What a program says of itself by the sd_notify protocol, and programs that must never run twice.

use std::time::{Duration, Instant};

use crate::proof::proving;
use crate::site::{PATIENCE, Site, alive, free_port, kill};
use crate::torture::ledger::{boot_ms, lives};

/// Ready when the file `go` is there; says WATCHDOG=1 unless `mute` names its incarnation.
const PROGRAM: &str = r#"
import os, socket, sys, time
name = os.environ["NOTIFY_SOCKET"]
out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
out.connect("\0" + name[1:] if name[0] == "@" else name)
here = lambda name: os.path.join(sys.argv[1], name)
while not os.path.exists(here("go")):
    time.sleep(0.01)
out.send(b"READY=1\nSTATUS=serving")
while True:
    muted = os.path.exists(here("mute")) and open(here("mute")).read() == os.environ["HOLDFAST_INCARNATION"]
    if not muted:
        out.send(b"WATCHDOG=1")
    time.sleep(0.05)
"#;

fn notifier() -> Site {
    let site = Site::new(
        r#"
[service.teller]
command = ["python3", "{dir}/program.py", "{dir}"]
ready   = { notify = true }
live    = { notify = true, every = "500ms", fall = 3 }
"#,
    );
    std::fs::write(site.path().join("program.py"), PROGRAM).expect("writable");
    site
}

#[test]
fn ready_is_what_the_program_says() {
    let site = notifier();
    let mut up = site.command(&["up", "-d"]).spawn().expect("starts");
    site.wait_for("its process", || site.instance("teller-1")["pid"].is_u64());
    hold_while("not ready before it says so", Duration::from_millis(700), || {
        site.instance("teller-1")["state"] != "ready" && up.try_wait().is_ok_and(|ended| ended.is_none())
    });
    std::fs::write(site.path().join("go"), "").expect("writable");
    assert!(up.wait().expect("it ends").success(), "{}", site.agent_log());
    assert_eq!(site.instance("teller-1")["state"], "ready");
}

#[test]
fn a_program_that_stops_saying_that_it_lives_is_restarted_once() {
    let site = notifier();
    std::fs::write(site.path().join("go"), "").expect("writable");
    site.up();
    let before = site.pid("teller-1");
    std::fs::write(site.path().join("mute"), "1.1").expect("writable");
    site.wait_for("another process that is ready", || {
        let now = site.instance("teller-1");
        now["state"] == "ready" && now["pid"].as_u64().is_some_and(|pid| pid != u64::from(before))
    });
    assert!(!alive(before));
    assert_eq!(site.instance("teller-1")["last_exit"], "killed by SIGKILL");
    let why = site.ok(&["why", "teller-1"]);
    assert!(why.contains("liveness failed"), "{why}");
    // The next one says it: two periods of silence would have to come before anything happened.
    hold_while("the next one left alone", Duration::from_secs(2), || site.instance("teller-1")["restarts"] == 1);
}

fn fenced() -> Site {
    let port = free_port();
    Site::new(&format!(
        r#"
[service.sole]
command = ["{{origin}}", "{{port}}"]
fenced  = true
env     = {{ ORIGIN_LEDGER = "{{dir}}/ledger" }}
ready   = {{ http = "/healthz", every = "200ms" }}

[balancer.public]
listen  = "127.0.0.1:{port}"
service = "sole"
"#
    ))
}

/// `policy::lease`: given up 7 s after the last renewal that was answered, renewed every 3 s.
const GIVE_UP_MS: u64 = 7000;
const RENEW_MS: u64 = 3000;

#[test]
fn a_fenced_instance_ends_when_nobody_renews_its_deadline_and_never_runs_twice() {
    let site = fenced();
    site.up();
    let agent = site.pid_of_agent();
    kill(agent, "STOP");
    let stopped = boot_ms();
    wait_until("its child to end while the agent is stopped", || site.child_of("sole-1").is_none());
    kill(agent, "CONT");
    site.wait_ready("sole-1");
    let pid = site.child_of("sole-1").expect("it runs");

    // Its program goes with its shim, so the next one need not wait for a proof that it has gone.
    kill(parent_of(pid), "KILL");
    wait_until("the child to go with its shim", || !alive(pid));
    site.wait_for("it to be ready again", || site.instance("sole-1")["pid"].as_u64() != Some(u64::from(pid)));
    site.wait_ready("sole-1");
    site.ok(&["down"]);

    let lives = lives(&site.path().join("ledger")).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(lives.len(), 3, "{lives:#?}");
    let left = lives[0].last_ms.saturating_sub(stopped);
    println!("a fenced instance went on for {left} ms after its agent was stopped");
    if proving() {
        assert!((GIVE_UP_MS - RENEW_MS - 500..=GIVE_UP_MS + 200).contains(&left), "{left} ms");
    }
    assert!(left > 0, "it ended before anything was wrong");
}

fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let rest = stat.rsplit(')').next().expect("stat has a name");
    rest.split_whitespace().nth(1).and_then(|p| p.parse().ok()).expect("a parent")
}

/// Without asking the agent, which may be stopped.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn hold_while(what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        assert!(condition(), "it does not hold: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
