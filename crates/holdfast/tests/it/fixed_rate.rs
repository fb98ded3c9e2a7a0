//! The promises at a fixed rate: 2,000 GETs a second, 2 ms of work each, every body checked, latency from the intended send.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::proof::{Evidence, proving, size};
use crate::rate::{ANSWER_MAX, Failure, Rate, Summary, clients_of};
use crate::site::{PATIENCE, Site, free_port, get, kill};
use crate::tiny;

/// Answers between two faults: one second at the full rate.
const BETWEEN: (u64, u64) = (100, 2000);

fn two(port: u16, more: &str) -> Site {
    let site = Site::new(&format!(
        r#"
[service.web]
command  = ["{{origin}}", "{{port}}"]
replicas = 2
restart  = {{ when = "always", delay = "50ms", max = "200ms" }}
ready    = {{ http = "/healthz", every = "200ms" }}
{more}
[balancer.public]
listen  = "127.0.0.1:{port}"
service = "web"
"#
    ));
    site.up();
    site
}

fn load(site: &Site, port: u16) -> Rate {
    let rate = Rate::start(port, site.port_of("web-1"), size(300, 2000));
    rate.let_pass(size(BETWEEN.0, BETWEEN.1));
    rate
}

fn told(section: &'static str, name: &'static str, what: &str, summary: &Summary, p999: Option<u128>, max_ms: u128) {
    let mut evidence = Evidence::new(section, name);
    evidence.condition("requests_per_second", size(300, 2000));
    evidence.condition("requests", summary.sent);
    evidence.figure(&format!("{what}: failed GETs"), 0, summary.failures.len());
    let p999_ms = summary.quantile(0.999).as_secs_f64() * 1000.0;
    evidence.figure(
        &format!("{what}: p99.9 ms"),
        p999.map_or("-".into(), |p| format!("<= {p}")),
        format!("{p999_ms:.1}"),
    );
    let max = summary.max().as_secs_f64() * 1000.0;
    evidence.figure(&format!("{what}: max ms"), format!("<= {max_ms}"), format!("{max:.1}"));
    evidence.tell();
    summary.none_failed();
    if proving() {
        assert!(p999.is_none_or(|limit| p999_ms <= limit as f64), "{what}: p99.9 {p999_ms} ms");
        assert!(max <= max_ms as f64, "{what}: max {max} ms");
    }
}

#[test]
fn kills_of_one_of_two_at_a_fixed_rate() {
    let port = free_port();
    let site = two(port, "");
    let rate = load(&site, port);
    for n in 0..size(4, 50) {
        site.kill_and_wait(["web-1", "web-2"][n % 2]);
        rate.let_pass(size(BETWEEN.0, BETWEEN.1));
    }
    told("kill-one-of-two", "kills_of_one_of_two_at_a_fixed_rate", "kill -9", &rate.finish(), Some(20), 250);
}

#[test]
fn planned_changes_at_a_fixed_rate() {
    let port = free_port();
    let site = two(port, "");
    let rate = load(&site, port);
    for _ in 0..size(1, 10) {
        site.ok(&["restart", "web"]);
        site.wait_for("both ready after the restart", || site.all_ready("web", 2));
        site.ok(&["scale", "web=4"]);
        site.wait_for("four ready", || site.all_ready("web", 4));
        site.ok(&["scale", "web=2"]);
        site.wait_for("two left", || site.all_ready("web", 2));
    }
    told("planned-changes", "planned_changes_at_a_fixed_rate", "restarts and scaling", &rate.finish(), Some(20), 250);

    let rate = load(&site, port);
    let text = std::fs::read_to_string(site.path().join("holdfast.toml")).expect("ours");
    for n in 0..size(5, 100) {
        site.write(&text.replace("[balancer.public]", &format!("[balancer.public]\nslow_start = \"{}s\"", n % 5 + 1)));
        site.up();
    }
    told("planned-changes", "planned_changes_at_a_fixed_rate", "changes of the file", &rate.finish(), Some(20), 250);
}

#[test]
fn kills_of_holdfast_itself_at_a_fixed_rate() {
    let port = free_port();
    let site = two(port, "");
    let rate = load(&site, port);
    for _ in 0..size(2, 20) {
        let agent = site.pid_of_agent();
        kill(agent, "KILL");
        site.wait_for("another agent that knows both", || site.pid_of_agent() != agent && site.all_ready("web", 2));
        rate.let_pass(size(BETWEEN.0, BETWEEN.1));
    }
    told(
        "kill-holdfast",
        "kills_of_holdfast_itself_at_a_fixed_rate",
        "kills of the agent",
        &rate.finish(),
        Some(20),
        250,
    );

    let kills = size(2, 20);
    let rate = load(&site, port);
    let deaths: Vec<Death> = (0..kills)
        .map(|_| {
            let death = kill_a_plane(&site, port, &rate);
            site.wait_for("two processes again", || {
                let now = site.planes();
                now.len() == 2
                    && !now.contains(&death.pid)
                    && site.api("/v1/status")["balancers"]["public"]["processes"] == 2
            });
            rate.let_pass(size(BETWEEN.0, BETWEEN.1));
            death
        })
        .collect();
    let summary = rate.finish();
    let (lost, unexplained): (Vec<&Failure>, Vec<&Failure>) =
        summary.failures.iter().partition(|failure| deaths.iter().any(|death| death.took(failure)));
    let refused = summary.failures.iter().filter(|f| f.text.contains("refused")).count();
    let in_flight: usize = deaths.iter().map(|death| death.in_flight).sum();
    let dying = deaths.iter().map(|d| d.gone.duration_since(d.killed)).max().unwrap_or_default();
    let mut evidence = Evidence::new("kill-holdfast", "kills_of_holdfast_itself_at_a_fixed_rate");
    evidence.condition("requests", summary.sent);
    evidence.figure(&format!("{kills} kills of a balancer process: refused"), 0, refused);
    evidence.figure("lost that were not in flight on it", 0, unexplained.len());
    evidence.figure("lost that were in flight on it", "-", format!("{} of {} sent", lost.len(), summary.sent));
    evidence.figure("in flight on it at the signals", "-", in_flight);
    evidence.figure("from a signal until it had gone, at most: ms", "-", dying.as_millis());
    evidence.tell();
    assert_eq!(refused, 0, "{:#?}", summary.failures);
    assert!(unexplained.is_empty(), "{unexplained:#?}");
}

/// A balancer process that was killed, and what was on it.
struct Death {
    pid: u32,
    /// Ports of the clients that were connected to it.
    clients: BTreeSet<u16>,
    /// And those that were connected to the other one.
    elsewhere: BTreeSet<u16>,
    /// Requests on those connections when the signal was sent.
    in_flight: usize,
    looked: Instant,
    killed: Instant,
    /// By then its connections were closed; until then the kernel takes requests for it.
    gone: Instant,
}

impl Death {
    /// Whether a request was lost with it: handed to one of its connections before it had gone.
    fn took(&self, failure: &Failure) -> bool {
        let Some((port, at)) = failure.sent else { return false };
        // It may have taken a connection while it was looked at.
        let on_it = self.clients.contains(&port) || at >= self.looked && !self.elsewhere.contains(&port);
        on_it && at <= self.gone && at + ANSWER_MAX > self.killed
    }
}

fn kill_a_plane(site: &Site, port: u16, rate: &Rate) -> Death {
    let planes = site.planes();
    let looked = Instant::now();
    let mut held: Vec<(u32, BTreeSet<u16>)> = planes.into_iter().map(|pid| (pid, clients_of(pid, port))).collect();
    // After a death all clients are on the one that lived, and stay there: it is the one to die next.
    held.sort_by_key(|(_, clients)| clients.len());
    let (Some((pid, clients)), Some((_, elsewhere))) = (held.pop(), held.pop()) else { panic!("two processes") };
    let open = rate.open();
    let process = pidfd_open(Pid::from_raw(pid as i32).expect("a process id"), PidfdFlags::empty()).expect("it runs");
    let killed = Instant::now();
    tiny::signal(pid, Signal::KILL);
    // Readable once all its threads have ended, and with them its connections.
    let limit = Timespec::try_from(PATIENCE).expect("a minute");
    assert_eq!(poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)), Ok(1), "{pid} does not die");
    let gone = Instant::now();
    assert!(!clients.is_empty(), "no connection is on the process that was killed");
    let in_flight = open.keys().filter(|port| clients.contains(port)).count();
    Death { pid, clients, elsewhere, in_flight, looked, killed, gone }
}

#[test]
fn a_stopped_instance_delays_no_get_for_long() {
    let port = free_port();
    let site = two(port, "");
    let rate = load(&site, port);
    let mut slowest = Duration::ZERO;
    for n in 0..size(2, 20) {
        let id = ["web-1", "web-2"][n % 2];
        let pid = site.child_of(id).expect("it runs");
        let began = Instant::now();
        kill(pid, "STOP");
        site.wait_for("it to be out of the rotation", || {
            let status = site.api("/v1/status");
            let all = status["balancers"]["public"]["endpoints"].as_array().cloned().unwrap_or_default();
            all.iter().any(|e| e["instance"] == id && e["state"] != "ready" && e["state"] != "slow_start")
        });
        slowest = slowest.max(began.elapsed());
        rate.let_pass(size(BETWEEN.0, BETWEEN.1));
        kill(pid, "CONT");
        site.wait_for("both ready", || site.all_ready("web", 2));
    }
    let mut evidence = Evidence::new("hangs", "a_stopped_instance_delays_no_get_for_long");
    evidence.figure("SIGSTOP: out of rotation after ms", "<= 500", slowest.as_millis());
    evidence.tell();
    told("hangs", "a_stopped_instance_delays_no_get_for_long", "SIGSTOP", &rate.finish(), None, 600);
    assert!(!proving() || slowest <= Duration::from_millis(500), "out of rotation after {slowest:?}");
    for id in ["web-1", "web-2"] {
        assert_eq!(site.seen(id)["restarts"], 0, "a short hang is no reason to restart");
    }
}

#[test]
fn a_long_report_is_made_once_while_others_are_served() {
    let port = free_port();
    let site =
        two(port, "env = { ORIGIN_REPORTS = \"{dir}/reports\" }\nlive = { tcp = true, every = \"1s\", fall = 3 }");
    let rate = load(&site, port);
    let seconds = size(3, 10);
    let began = Instant::now();
    let (status, body) = get(port, &format!("/busy?ms={}", seconds * 1000)).expect("not cut");
    let took = began.elapsed();
    let reports = std::fs::read_to_string(site.path().join("reports")).expect("written").lines().count();
    let summary = rate.finish();
    let restarts: u64 = ["web-1", "web-2"].iter().filter_map(|id| site.seen(id)["restarts"].as_u64()).sum();
    let mut evidence = Evidence::new("hangs", "a_long_report_is_made_once_while_others_are_served");
    evidence.figure(&format!("{seconds} s report: made, restarts"), "1, 0", format!("{reports}, {restarts}"));
    evidence.figure("report took ms", "-", took.as_millis());
    evidence.figure(
        "GETs meanwhile: failed, max ms",
        "0, -",
        format!("{}, {}", summary.failures.len(), summary.max().as_millis()),
    );
    evidence.tell();
    assert_eq!((status, body.len(), reports, restarts), (200, 1024, 1, 0));
    summary.none_failed();
}

#[test]
fn a_stalled_dependency_is_no_reason_to_restart() {
    let (port, needed) = (free_port(), free_port());
    let site = two(
        port,
        &format!(
            r#"
env   = {{ ORIGIN_NEEDS = "127.0.0.1:{needed}" }}
live  = {{ tcp = true, every = "500ms", fall = 2 }}
after = {{ db = "ready" }}

[service.db]
command = ["{{origin}}", "{needed}"]
port    = {needed}
ready   = {{ tcp = true, every = "5s", timeout = "4s" }}
"#
        ),
    );
    let rate = load(&site, port);
    let db = site.child_of("db-1").expect("it runs");
    kill(db, "STOP");
    site.wait_for("the readiness of both to fail", || {
        ["web-1", "web-2"].iter().all(|id| site.seen(id)["state"] != "ready")
    });
    let began = Instant::now();
    site.wait_for("the stall to be over", || began.elapsed() > Duration::from_secs(size(3, 30)));
    kill(db, "CONT");
    site.wait_for("both ready again", || site.all_ready("web", 2));
    let summary = rate.finish();
    let restarts: u64 = ["web-1", "web-2"].iter().filter_map(|id| site.seen(id)["restarts"].as_u64()).sum();
    let mut evidence = Evidence::new("hangs", "a_stalled_dependency_is_no_reason_to_restart");
    evidence.figure(&format!("dependency stalled {} s: restarts", size(3, 30)), 0, restarts);
    evidence.figure(
        "GETs that need no dependency: failed",
        "-",
        format!("{} of {}", summary.failures.len(), summary.sent),
    );
    evidence.tell();
    assert_eq!(restarts, 0);
}
