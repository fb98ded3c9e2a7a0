//! Up, down, apply, scale, restart, pause: what a user does on an ordinary day.

use std::collections::BTreeSet;

use crate::site::{Site, alive, free_port, get, instances, kill};

fn web(replicas: u32, port: u16) -> String {
    format!(
        r#"
[service.web]
command  = ["{{origin}}", "{{port}}"]
replicas = {replicas}
ready    = {{ http = "/healthz", every = "200ms" }}

[balancer.public]
listen  = "127.0.0.1:{port}"
service = "web"
"#
    )
}

#[test]
fn the_file_of_the_readme_comes_up_serves_and_goes() {
    let port = free_port();
    let site = Site::new(&format!(
        r#"
[service.web]
command  = ["python3", "-m", "http.server", "{{port}}", "--bind", "127.0.0.1"]
replicas = 3
restart  = "always"
ready    = {{ http = "/", every = "500ms" }}
live     = {{ tcp = true, every = "5s", fall = 3 }}

[balancer.public]
listen  = "127.0.0.1:{port}"
service = "web"
"#
    ));
    site.up();
    let status = site.status();
    assert_eq!(status["services"]["web"]["desired"], 3, "{status:#}");
    assert_eq!(status["services"]["web"]["ready"], 3, "{status:#}");
    assert_eq!(status["balancers"]["public"]["listen"], format!("127.0.0.1:{port}"), "{status:#}");
    let ids: Vec<String> = instances(&status).iter().map(|i| i["id"].as_str().unwrap_or("").to_owned()).collect();
    assert_eq!(ids, ["web-1", "web-2", "web-3"]);
    assert_eq!(status["balancers"]["public"]["endpoints"].as_array().map(Vec::len), Some(3), "{status:#}");
    for _ in 0..20 {
        assert_eq!(get(port, "/").expect("the balancer answers").0, 200);
    }
    site.ok(&["down"]);
    assert!(get(port, "/").is_err(), "the balancer still answers after down");
    assert_eq!(site.living(), [], "something was left behind");
}

#[test]
fn a_killed_instance_comes_back_under_the_same_name_and_port() {
    let port = free_port();
    let site = Site::new(&web(2, port));
    site.up();
    let before = site.instance("web-1");
    kill(site.pid("web-1"), "KILL");
    site.wait_for("web-1 ready with another pid", || {
        let now = site.instance("web-1");
        now["state"] == "ready" && now["pid"] != before["pid"]
    });
    let after = site.instance("web-1");
    assert_eq!(after["endpoint"], before["endpoint"], "the port stays with the instance");
    assert_eq!(after["restarts"], 1, "{after:#}");
    assert_eq!(after["last_exit"], "killed by SIGKILL", "{after:#}");
    let why = site.ok(&["why", "web-1"]);
    assert!(why.contains("SIGKILL"), "{why}");
}

#[test]
fn applying_a_changed_file_touches_only_what_changed() {
    let port = free_port();
    let site = Site::new(&web(2, port));
    site.up();
    let before: BTreeSet<u64> = pids(&site);
    assert_eq!(site.run(&["plan"]).code, 0, "nothing to change");

    site.write(&web(3, port));
    assert_eq!(site.run(&["plan"]).code, 2, "something to change");
    site.up();
    let scaled = pids(&site);
    assert!(scaled.is_superset(&before) && scaled.len() == 3, "{before:?} {scaled:?}");

    site.write(&web(3, port).replace("[balancer", "env = { COLOUR = \"blue\" }\n[balancer"));
    site.up();
    site.wait_for("all replaced", || {
        let now = pids(&site);
        now.len() == 3 && now.is_disjoint(&scaled) && site.status()["services"]["web"]["ready"] == 3
    });

    site.ok(&["scale", "web=1"]);
    site.wait_for("one instance", || pids(&site).len() == 1);
    site.write(&web(2, port));
    site.ok(&["up", "-d"]);
}

#[test]
fn a_balancer_is_added_without_touching_the_processes_that_serve() {
    let (port, more) = (free_port(), free_port());
    let site = Site::new(&web(2, port));
    site.up();
    let planes = site.planes();
    let second = format!("{}\n[balancer.second]\nlisten = \"127.0.0.1:{more}\"\nservice = \"web\"\n", web(2, port));
    site.write(&second);
    site.up();
    site.wait_for("the second balancer to answer", || get(more, "/").is_ok_and(|(status, _)| status == 200));
    assert_eq!(site.planes(), planes);
    // A process that dies now comes back with the socket that came later.
    kill(planes[0], "KILL");
    kill(planes[1], "KILL");
    site.wait_for("two new processes that serve both", || {
        let both = [port, more].iter().all(|p| get(*p, "/").is_ok_and(|(status, _)| status == 200));
        both && site.planes().len() == 2
    });
    site.write(&web(2, port));
    site.up();
    site.wait_for("nobody listens on the second any more", || std::net::TcpListener::bind(("127.0.0.1", more)).is_ok());
}

#[test]
fn a_balancer_that_is_removed_keeps_no_process_from_starting_again() {
    let (port, more) = (free_port(), free_port());
    let both = format!("{}\n[balancer.second]\nlisten = \"127.0.0.1:{more}\"\nservice = \"web\"\n", web(2, port));
    let site = Site::new(&both);
    site.up();
    site.write(&web(2, port));
    site.up();
    let planes = site.planes();
    for plane in &planes {
        kill(*plane, "KILL");
    }
    site.wait_for("two new processes that serve what is left", || {
        let now = site.planes();
        now.len() == 2 && planes.iter().all(|old| !now.contains(old)) && get(port, "/").is_ok_and(|(s, _)| s == 200)
    });
}

#[test]
fn restart_of_a_service_replaces_every_instance() {
    let site = Site::new(&web(2, free_port()));
    site.up();
    let before = pids(&site);
    site.ok(&["restart", "web"]);
    site.wait_for("new pids, all ready", || {
        let now = pids(&site);
        now.len() == 2 && now.is_disjoint(&before) && site.status()["services"]["web"]["ready"] == 2
    });
}

#[test]
fn down_kills_what_ignores_its_signal_and_what_ran_away() {
    let site = Site::new(
        r#"
[service.stubborn]
shell = "trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & while :; do sleep 1; done"
stop  = { grace = "300ms" }
"#,
    );
    site.up();
    let pid = site.pid("stubborn-1");
    site.ok(&["down"]);
    assert!(!alive(pid));
    assert_eq!(site.living(), [], "something was left behind");
}

#[test]
fn order_is_kept_and_a_job_gates_what_needs_it() {
    let site = Site::new(
        r#"
[service.migrate]
type    = "job"
shell   = "sleep 0.3; echo migrate >> {dir}/order"

[service.db]
shell   = "echo db >> {dir}/order; exec sleep 1000"
after   = { migrate = "completed" }

[service.web]
shell   = "echo web >> {dir}/order; exec sleep 1000"
after   = { db = "started" }
"#,
    );
    site.up();
    let order = std::fs::read_to_string(site.path().join("order")).expect("the services wrote it");
    assert_eq!(order.split_whitespace().collect::<Vec<_>>(), ["migrate", "db", "web"]);
    assert_eq!(site.instance("migrate-1")["state"], "completed");
    site.ok(&["up", "-d"]);
    let again = std::fs::read_to_string(site.path().join("order")).expect("the services wrote it");
    assert_eq!(order, again, "a completed job does not run again for the same definition");
}

#[test]
fn an_explicit_not_ready_is_obeyed_even_by_the_last_instance() {
    let port = free_port();
    let site = Site::new(&web(1, port).replace("ready ", "env = { ORIGIN_UNREADY = \"{dir}/unready\" }\nready "));
    site.up();
    assert_eq!(get(port, "/").expect("answers").0, 200);
    std::fs::write(site.path().join("unready"), "").expect("writable");
    site.wait_for("503 from the balancer", || get(port, "/").is_ok_and(|(status, _)| status == 503));
    std::fs::remove_file(site.path().join("unready")).expect("writable");
    site.wait_for("200 again", || get(port, "/").is_ok_and(|(status, _)| status == 200));
    assert_eq!(site.instance("web-1")["restarts"], 0);
}

#[test]
fn a_pause_detects_but_does_not_act() {
    let port = free_port();
    let text = web(2, port)
        .replace("ready ", "live = { tcp = true, every = \"200ms\", timeout = \"150ms\", fall = 2 }\nready ");
    let site = Site::new(&text);
    site.up();
    site.ok(&["pause", "web", "--for", "1h", "--reason", "moving racks"]);
    let pid = site.pid("web-2");
    kill(pid, "STOP");
    site.wait_for("the journal to say what it would have done", || {
        site.ok(&["why", "web-2"]).to_lowercase().contains("paused")
    });
    let top = || site.run(&["status"]).stdout.lines().next().unwrap_or_default().to_owned();
    assert!(top().contains("moving racks"), "{}", top());
    kill(site.pid_of_agent(), "KILL");
    site.wait_for("the pause to survive the agent", || top().contains("moving racks"));
    assert!(alive(pid), "a paused service was restarted");
    site.ok(&["resume", "web"]);
    site.wait_for("a restart after the pause", || !alive(pid));
    site.wait_ready("web-2");
}

#[test]
fn up_in_the_foreground_stops_everything_on_ctrl_c_but_not_when_its_terminal_is_lost() {
    let site = Site::new(&web(1, free_port()));
    let mut lost = site.command(&["up"]).spawn().expect("starts");
    site.wait_ready("web-1");
    kill(lost.id(), "HUP");
    let _ = lost.wait();
    assert_eq!(site.instance("web-1")["state"], "ready", "a lost terminal stopped it");

    let told = site.path().join("told");
    let out = std::fs::File::create(&told).expect("writable");
    let mut again = site.command(&["up"]).stdout(out).spawn().expect("starts");
    // Before it says so it has not taken its signals over, and Ctrl-C only ends it.
    site.wait_for("the second up to follow", || std::fs::read_to_string(&told).is_ok_and(|t| t.contains("applied")));
    kill(again.id(), "INT");
    let status = again.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert_eq!(site.living(), [], "something was left behind");
}

#[test]
fn up_as_the_first_process_of_a_container_leaves_no_zombies() {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: only root can make a process namespace");
        return;
    }
    let site = Site::new(&web(2, free_port()));
    let binary = env!("CARGO_BIN_EXE_holdfast");
    let mut container = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--kill-child", binary, "up"])
        .current_dir(site.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("unshare");
    site.wait_ready("web-1");
    let before = site.instance("web-1")["pid"].clone();
    let of_web_1 = |text: &str| text.contains("__shim") && text.contains("run/web-1");
    let shim = site.living().into_iter().find(|(_, text)| of_web_1(text)).expect("a shim of web-1").0;
    kill(shim, "KILL");
    site.wait_for("web-1 under another shim", || {
        let now = site.instance("web-1");
        now["state"] == "ready" && now["pid"] != before
    });
    let up = children(container.id()).first().expect("the container's first process").0;
    site.wait_for("no zombies", || children(up).iter().all(|(_, state)| *state != 'Z'));
    kill(up, "TERM");
    assert_eq!(container.wait().expect("it ends").code(), Some(0));
    assert_eq!(site.living(), [], "something was left behind");
}

/// Pid and state of every child.
fn children(parent: u32) -> Vec<(u32, char)> {
    let stat = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let rest = stat.rsplit(") ").next()?.to_owned();
        let mut fields = rest.split(' ');
        Some((fields.next()?.chars().next()?, fields.next()?.parse::<u32>().ok()?))
    };
    let pids = std::fs::read_dir("/proc").expect("proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| stat(pid).filter(|(_, ppid)| *ppid == parent).map(|(state, _)| (pid, state))).collect()
}

fn pids(site: &Site) -> BTreeSet<u64> {
    instances(&site.status()).iter().filter_map(|i| i["pid"].as_u64()).collect()
}

#[test]
fn metrics_follow_the_file_and_a_busy_address_gates_nothing() {
    let (port, first, second) = (free_port(), free_port(), free_port());
    let file = |metrics: u16| format!("[node]\nmetrics = \"127.0.0.1:{metrics}\"\n{}", web(1, port));
    let served = |at: u16| get(at, "/metrics").is_ok_and(|(status, body)| status == 200 && body.contains("holdfast_"));
    let site = Site::new(&file(first));
    site.up();
    site.wait_for("metrics", || served(first));
    site.write(&file(second));
    site.up();
    site.wait_for("metrics at the new address", || served(second) && !served(first));
    // A busy one refuses the file as a whole.
    let holder = std::net::TcpListener::bind(("127.0.0.1", first)).expect("it was given up");
    site.write(&file(first));
    let ran = site.run(&["up", "-d"]);
    assert!(ran.code != 0 && ran.stderr.contains("HF0314"), "{}", ran.stderr);
    assert!(served(second));
    // Somebody takes the address while the agent is away: the next agent goes on without it.
    site.write(&file(second));
    let thief = (0..50).find_map(|_| {
        let agent = site.pid_of_agent();
        let thief = std::thread::spawn(move || {
            let until = std::time::Instant::now() + std::time::Duration::from_millis(500);
            std::iter::repeat_with(|| std::net::TcpListener::bind(("127.0.0.1", second)).ok())
                .take_while(|_| std::time::Instant::now() < until)
                .find_map(|bound| bound)
        });
        kill(agent, "KILL");
        site.wait_for("another agent", || site.pid_of_agent() != agent && site.all_ready("web", 1));
        thief.join().expect("it ends")
    });
    assert!(thief.is_some(), "the agent was quicker every time");
    let before = site.pid("web-1");
    site.ok(&["restart", "web"]);
    site.wait_for("another one ready", || site.all_ready("web", 1) && site.pid("web-1") != before);
    site.wait_for("an answer through the balancer", || get(port, "/").is_ok_and(|(status, _)| status == 200));
    drop((thief, holder));
    site.wait_for("metrics again", || served(second));
}
