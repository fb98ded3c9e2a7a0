//! Queues on PostgreSQL: the database restarts, loses its sessions and fails over; a plane of several dies.

use holdfast_tasks::postgres::fixture::{DURABLE, Server};

use super::killed::Traffic;
use super::*;

/// Sessions that are ended in the lane, and as the scenario states it.
const SESSIONS: (u32, u32) = (8, 50);
/// The rate is measured over so long.
const WINDOW: Duration = Duration::from_millis(1_500);
/// Of the rate before: work goes on as before. In the lane other tests come and go beside it, and the rate with them.
const AS_BEFORE: (f64, f64) = (0.3, 0.95);
/// As the scenario states it, on a machine that does nothing else.
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// With everything else that the lane runs.
const BACK_WITHIN_LANE: Duration = Duration::from_secs(45);

fn file(port: u16, url: &str, rest: &str) -> String {
    format!("[tasks]\nlisten = \"127.0.0.1:{port}\"\npostgres = \"{url}\"\n{rest}")
}

fn is_empty(site: &Site) -> bool {
    let q = queue(site, "q");
    q["visible"] == 0 && q["in_flight"] == 0 && q["delayed"] == 0
}

/// Messages a second from now on.
fn hold_rate(traffic: &Traffic) -> f64 {
    let (before, began) = (traffic.received(), Instant::now());
    std::thread::sleep(WINDOW);
    (traffic.received() - before) as f64 / began.elapsed().as_secs_f64()
}

/// From `since` until a window begins in which work goes on as before.
fn wait_until_as_before(what: &str, traffic: &Traffic, usual: f64, since: Instant) -> Duration {
    let limit = crate::proof::size(BACK_WITHIN_LANE, BACK_WITHIN);
    loop {
        let began = since.elapsed();
        let rate = hold_rate(traffic);
        if rate >= usual * crate::proof::size(AS_BEFORE.0, AS_BEFORE.1) {
            println!("{what}: {rate:.0} a second again (before {usual:.0}) after {began:?}");
            return began;
        }
        assert!(began < limit, "{what}: {rate:.0} messages a second, {usual:.0} before");
    }
}

#[test]
fn nothing_confirmed_is_lost_when_the_database_restarts_breaks_sessions_and_fails_over() {
    let primary = Server::start(DURABLE);
    let standby = primary.standby();
    let database = primary.database();
    let url = format!("postgres://postgres@{}:5432,{}:5432/{database}", primary.address, standby.address);
    let port = free_port();
    let site = Site::new(&file(port, &url, "[queue.q]\n"));
    site.up();
    let mut traffic = Traffic::start(&[port]);
    site.wait_for("work", || traffic.received() > 1_000);
    let usual = hold_rate(&traffic);
    let mut longest = Duration::ZERO;

    let began = Instant::now();
    primary.restart();
    longest = longest.max(wait_until_as_before("restart", &traffic, usual, began));

    let sessions = crate::proof::size(SESSIONS.0, SESSIONS.1);
    for _ in 0..sessions {
        let before = traffic.received();
        let ended = primary.sql(
            "postgres",
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
             WHERE application_name = 'holdfast tasks' ORDER BY state_change DESC LIMIT 1) s",
        );
        assert_eq!(ended, "1", "a session of the plane");
        site.wait_for("work after a session was ended", || traffic.received() > before + 100);
    }
    let began = Instant::now();
    longest = longest.max(wait_until_as_before("sessions ended", &traffic, usual, began));

    let began = Instant::now();
    primary.kill();
    standby.promote();
    longest = longest.max(wait_until_as_before("failover", &traffic, usual, began));

    traffic.stop_sending();
    site.wait_for("the queue to be empty", || is_empty(&site));
    traffic.end();
    traffic.judge(longest, 2 + sessions as usize);
}

#[test]
fn a_second_plane_goes_on_while_the_first_is_killed_and_when_it_is_gone() {
    let server = Server::start(DURABLE);
    let url = server.url(&server.database());
    let ports = [free_port(), free_port()];
    let sites = ports.map(|port| Site::new(&file(port, &url, "[queue.q]\n")));
    sites.iter().for_each(Site::up);
    let mut traffic = Traffic::start(&ports);
    let mut longest = Duration::ZERO;
    for _ in 0..crate::proof::size(3, 20) {
        let before = traffic.received();
        sites[1].wait_for("work between two kills", || traffic.received() > before + 200);
        sites[0].wait_for("the first plane", || sites[0].instance("_tasks-1")["pid"].is_u64());
        let killed = Instant::now();
        kill(sites[0].pid("_tasks-1"), "KILL");
        let after = traffic.received();
        sites[1].wait_for("work to go on", || traffic.received() > after + 40);
        longest = longest.max(killed.elapsed());
    }
    sites[0].ok(&["down"]);
    traffic.stop_sending();
    sites[1].wait_for("the queue to be empty", || is_empty(&sites[1]));
    traffic.end();
    traffic.judge(longest, crate::proof::size(4, 21));
}

#[test]
fn runs_are_led_by_one_plane_asked_at_any_and_taken_over_by_another() {
    let server = Server::start(DURABLE);
    let url = server.url(&server.database());
    let rest = "[workflow.w.step.first]\nwait = { signal = \"go\" }\n\
                [workflow.w.step.then]\nafter = [\"first\"]\nwait = { signal = \"on\" }\n";
    let sites = [free_port(), free_port()].map(|port| Site::new(&file(port, &url, rest)));
    sites.iter().for_each(Site::up);
    let status = |site: &Site, run: &str| {
        let ran = site.run(&["runs", "show", run, "--json"]);
        let shown: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        shown["run"]["status"].as_str().unwrap_or_default().to_owned()
    };
    // Neither knows which of the two leads, and need not.
    let mut runs = Vec::new();
    for site in &sites {
        let done: Value = serde_json::from_str(&site.ok(&["run", "--json", "w"])).expect("JSON");
        let run = done["run"].as_str().expect("an id").to_owned();
        site.wait_for("the run to begin", || status(site, &run) == "running");
        runs.push(run);
    }
    for (site, run) in sites.iter().zip(runs.iter().rev()) {
        site.ok(&["runs", "signal", run, "go"]);
    }
    let [first, second] = &sites;
    let log = |site: &Site| std::fs::read_to_string(site.data().join("run/_tasks-1/log/current")).unwrap_or_default();
    let leads = |site: &Site| log(site).contains("this plane leads the runs");
    let (leader, other) = if leads(first) { (first, second) } else { (second, first) };
    let began = Instant::now();
    // Neither restarted nor ended: it is as if its machine hung.
    let (agent, plane) = (leader.pid_of_agent(), leader.pid("_tasks-1"));
    kill(agent, "STOP");
    kill(plane, "STOP");
    other.wait_for("the other plane to lead", || leads(other));
    println!("runs were taken over after {:?}", began.elapsed());
    for run in &runs {
        other.ok(&["runs", "signal", run, "on"]);
        other.wait_for("the run to end", || status(other, run) == "succeeded");
    }
    kill(agent, "CONT");
}
