//! How soon things run: after a death, after `up`, and after the agent's death.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::proof::{Evidence, proving, size};
use crate::site::{PATIENCE, Site, alive, free_port, get, instances};
use crate::tiny;

/// Between two looks from outside.
const STEP: Duration = Duration::from_millis(1);
/// Ready for so long, the next death counts as the first: each kill is measured without a back-off.
const FORGETS: Duration = Duration::from_secs(1);

const SPAWN_MS: f64 = 15.0;
const READY_MS: f64 = 50.0;

#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn worst(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }

    fn told(&self) -> String {
        format!("{:.1}, {:.1}", self.median(), self.worst())
    }
}

/// Boot time of the first answer with 200. Looks without a break while nobody listens.
fn poll_answer(port: u16, what: &str) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    while !get(port, "/").is_ok_and(|(status, _)| status == 200) {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for an answer: {what}");
        std::thread::sleep(STEP);
    }
    tiny::boot_ns()
}

/// From the start of the program by itself to its first answer.
fn bare_start(argv: &[String], env: &[(&str, String)], port: u16) -> f64 {
    let began = tiny::boot_ns();
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).envs(env.iter().map(|(k, v)| (k, v))).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let answered = poll_answer(port, &argv[0]);
    let _ = child.kill();
    let _ = child.wait();
    tiny::millis(answered - began)
}

#[test]
fn a_killed_instance_is_back_at_once() {
    let mut evidence = Evidence::new("starting", "a_killed_instance_is_back_at_once");
    let kills = size(3, 50);
    evidence.condition("kills of each program", kills);
    let tiny = tiny::path().to_string_lossy().into_owned();
    let python = ["python3", "-m", "http.server", "{port}", "--bind", "127.0.0.1"].map(str::to_owned).to_vec();
    let mut missed = Vec::new();
    for (what, argv, start_ms) in [
        ("a program that starts at once", vec![tiny.clone(), "{port}".into()], 0),
        ("a program that takes 200 ms to start", vec![tiny, "{port}".into()], 200),
        ("python's http.server", python, 0),
    ] {
        missed.extend(back_at_once(&mut evidence, what, &argv, start_ms, kills));
    }
    evidence.tell();
    assert!(!proving() || missed.is_empty(), "{missed:#?}");
}

/// What was slower than promised.
fn back_at_once(evidence: &mut Evidence, what: &str, argv: &[String], start_ms: u32, kills: usize) -> Vec<String> {
    let port = free_port();
    let site = Site::new(&format!(
        r#"
[service.web]
command = {argv:?}
env     = {{ TINY_BIRTHS = "{{dir}}/births", TINY_START_MS = "{start_ms}" }}
restart = {{ when = "always", reset = "{}s" }}
ready   = {{ http = "/" }}

[balancer.public]
listen  = "127.0.0.1:{port}"
service = "web"
"#,
        FORGETS.as_secs()
    ));
    site.up();
    let own = site.port_of("web-1");
    let bare_port = free_port();
    let bare_argv: Vec<String> = argv.iter().map(|a| a.replace("{port}", &bare_port.to_string())).collect();
    let [mut spawned, mut direct, mut through, mut bare] = std::array::from_fn(|_| Times::default());
    let births = site.path().join("births");
    for _ in 0..kills {
        // In turn with the kills: a machine that was idle for a while starts everything more slowly.
        wait_ready_for(&site, FORGETS / 2);
        bare.0.push(bare_start(&bare_argv, &[("TINY_START_MS", start_ms.to_string())], bare_port));
        wait_ready_for(&site, FORGETS + FORGETS / 10);
        let (pid, born) = (site.pid("web-1"), tiny::births(&births));
        let killed = tiny::signal(pid, Signal::KILL);
        let answered = std::thread::scope(|scope| {
            let at_own = scope.spawn(|| poll_answer(own, what));
            (poll_answer(port, what), at_own.join().expect("it answers"))
        });
        through.0.push(tiny::millis(answered.0 - killed));
        direct.0.push(tiny::millis(answered.1 - killed));
        let fresh: Vec<u64> =
            tiny::births(&births).into_iter().filter(|(p, _)| !born.contains_key(p)).map(|(_, at)| at).collect();
        assert!(!alive(pid), "the killed one answers");
        if argv[0].contains("tiny") {
            assert_eq!(fresh.len(), 1, "started once for one kill");
            spawned.0.push(tiny::millis(fresh[0] - killed));
        }
    }
    let mut missed = Vec::new();
    let mut judge = |name: &str, limit: f64, times: &Times| {
        evidence.figure(&format!("{what}, {name}: ms, median and worst"), format!("<= {limit:.0}"), times.told());
        if times.worst() > limit {
            missed.push(format!("{what}, {name}: {:?}", times.0));
        }
    };
    if !spawned.0.is_empty() {
        judge("from kill -9 to the next one's main", SPAWN_MS, &spawned);
    }
    judge("from kill -9 to its answer through the balancer", bare.worst() + READY_MS, &through);
    evidence.figure(&format!("{what}, to its own first answer: ms, median and worst"), "-", direct.told());
    evidence.figure(&format!("{what}, started by hand: ms, median and worst"), "-", bare.told());
    missed
}

fn wait_ready_for(site: &Site, time: Duration) {
    let long_enough = |web: &Value| web["since_ms"].as_u64().is_some_and(|ms| ms >= time.as_millis() as u64);
    site.wait_for(&format!("web-1 ready for {time:?}"), || {
        let web = site.seen("web-1");
        web["state"] == "ready" && long_enough(&web)
    });
}

#[test]
fn a_hundred_are_started_and_adopted_at_once() {
    let mut evidence = Evidence::new("starting", "a_hundred_are_started_and_adopted_at_once");
    let (mut started, mut ready, mut adopted) = (Times::default(), Times::default(), Times::default());
    // From nothing each time: an agent that is killed again and again is started with a back-off.
    for _ in 0..size(1, 5) {
        let times = a_hundred();
        for (all, one) in [&mut started, &mut ready, &mut adopted].into_iter().zip(times) {
            all.0.push(one);
        }
    }
    let figures = [
        ("100 instances, from `up -d` to the last one's main: ms, median and worst", Some(2000.0), started),
        ("100 instances, from `up -d` to all ready: ms, median and worst", None, ready),
        ("100 instances, adopted after kill -9 of the agent: ms, median and worst", Some(1000.0), adopted),
    ];
    for (what, limit, times) in &figures {
        evidence.figure(what, limit.map_or("-".into(), |ms| format!("<= {ms:.0}")), times.told());
    }
    evidence.tell();
    for (what, limit, times) in &figures {
        assert!(!proving() || limit.is_none_or(|limit| times.worst() <= limit), "{what}: {:?}", times.0);
    }
}

/// Milliseconds until all were started, until all were ready, and, after the agent's death, until all were adopted.
fn a_hundred() -> [f64; 3] {
    const COUNT: usize = 100;
    let site = Site::new(&format!(
        r#"
[service.swarm]
command  = ["{}", "{{port}}"]
replicas = {COUNT}
env      = {{ TINY_BIRTHS = "{{dir}}/births" }}
ready    = {{ http = "/" }}
"#,
        tiny::path().display()
    ));
    let births = || tiny::births(&site.path().join("births"));
    let began = tiny::boot_ns();
    site.up();
    let ready_ms = tiny::millis(tiny::boot_ns() - began);
    let born = births();
    assert_eq!(born.len(), COUNT, "each is started once");
    assert!(born.keys().all(|pid| alive(*pid)), "all of them run");
    let started_ms = tiny::millis(born.values().max().expect("a hundred") - began);

    let pids = || -> BTreeMap<String, u64> {
        let all = instances(&site.api("/v1/status"));
        let ready = all.iter().filter(|i| i["state"] == "ready");
        ready.filter_map(|i| Some((i["id"].as_str()?.to_owned(), i["pid"].as_u64()?))).collect()
    };
    let before = pids();
    assert_eq!(before.len(), COUNT);
    let agent = site.pid_of_agent();
    let killed = tiny::signal(agent, Signal::KILL);
    poll_adopted(agent, &site, || pids() == before);
    let adopted_ms = tiny::millis(tiny::boot_ns() - killed);
    assert_eq!(births(), born, "nothing was started again");
    [started_ms, ready_ms, adopted_ms]
}

fn poll_adopted(agent: u32, site: &Site, all_there: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while alive(agent) || !all_there() {
        assert!(Instant::now() < deadline, "no new agent that knows all\n{}", site.agent_log());
        std::thread::sleep(STEP);
    }
}
