//! What goes wrong says what, where, why and what to do; what already runs goes on running.

use crate::disk::SmallDisk;
use crate::site::{Ran, Site, alive, free_port, kill};

fn assert_failure(ran: &Ran, code: &str, needle: &str) {
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    assert!(ran.stderr.contains(code), "no {code} in: {}", ran.stderr);
    assert!(ran.stderr.contains("hint"), "no hint in: {}", ran.stderr);
    assert!(ran.stderr.contains(needle), "no `{needle}` in: {}", ran.stderr);
}

const SLEEPER: &str = "[service.sleeper]\ncommand = [\"sleep\", \"1000\"]\n";

#[test]
fn a_wrong_file_shows_all_its_errors_with_carets_and_changes_nothing() {
    let site = Site::new(SLEEPER);
    site.up();
    let pid = site.pid("sleeper-1");
    site.write("[service.sleeper]\ncomand = [\"sleep\", \"1000\"]\nreplicas = \"two\"\n");
    let ran = site.run(&["check"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("comand") && ran.stdout.contains("command"), "{}", ran.stdout);
    assert!(ran.stdout.contains("replicas"), "both errors at once: {}", ran.stdout);
    assert_ne!(site.run(&["up", "-d"]).code, 0);
    assert!(alive(pid));
    assert_eq!(site.pid("sleeper-1"), pid);
}

#[test]
fn a_missing_file_and_a_wrong_flag() {
    let site = Site::new("");
    let ran = site.run(&["-f", "nowhere.toml", "up", "-d"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("nowhere.toml"), "{}", ran.stderr);
    assert_eq!(site.run(&["up", "--detached"]).code, 64);
    assert_failure(&site.run(&["status"]), "HF0303", "no agent");
    assert_eq!(site.run(&["explain", "HF0303"]).code, 0);
    assert_eq!(site.run(&["explain", "HF9999"]).code, 64);
}

#[test]
fn a_missing_program_is_named_and_its_neighbours_run() {
    let site = Site::new(&format!("{SLEEPER}\n[service.ghost]\ncommand = [\"/no/such/program\"]\n"));
    let ran = site.run(&["up", "-d", "--timeout", "20s"]);
    assert_eq!(ran.code, 4, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("ghost-1") && ran.stderr.contains("/no/such/program"), "{}", ran.stderr);
    let why = site.ok(&["why", "ghost-1"]);
    assert!(why.contains("HF02"), "{why}");
    assert!(alive(site.pid("sleeper-1")));
}

#[test]
fn a_busy_port_is_named_before_anything_is_changed() {
    let port = free_port();
    let holder = std::net::TcpListener::bind(("127.0.0.1", port)).expect("free");
    let site = Site::new(SLEEPER);
    site.up();
    let pid = site.pid("sleeper-1");
    site.write(&format!(
        "{SLEEPER}\n[service.web]\ncommand = [\"{{origin}}\", \"{{port}}\"]\n[balancer.public]\nlisten = \"127.0.0.1:{port}\"\nservice = \"web\"\n"
    ));
    let ran = site.run(&["up", "-d"]);
    assert_failure(&ran, "HF0", &port.to_string());
    assert!(alive(pid));
    drop(holder);
    site.up();
}

#[test]
fn on_a_full_disk_what_runs_goes_on_and_what_is_asked_for_is_named() {
    let site = Site::new(SLEEPER);
    // The site is dropped first: it stops what runs on the disk.
    let (Some(disk), site) = (SmallDisk::mount(&site.data()), site) else { return };
    disk.fill();
    assert_failure(&site.run(&["up", "-d"]), "HF0304", "No space left");
    disk.empty();
    site.up();
    let pid = site.pid("sleeper-1");
    disk.fill();
    site.write(&format!("{SLEEPER}replicas = 3\n"));
    let ran = site.run(&["up", "-d", "--timeout", "5s"]);
    assert_eq!(ran.code, 4, "{}", ran.stdout);
    assert_failure(&ran, "HF0310", "sleeper-2");
    let said = ran.stderr.to_ascii_lowercase();
    assert!(said.contains("no space left") && said.contains("free some space"), "{}", ran.stderr);
    assert!(site.run(&["status"]).stdout.contains("[HF04"), "the status warns of it");
    assert_eq!(site.pid("sleeper-1"), pid);
    assert!(alive(pid));
    disk.empty();
    site.wait_for("all three ready once there is space", || site.all_ready("sleeper", 3));
    assert_eq!(site.pid("sleeper-1"), pid);
}

#[test]
fn what_a_pause_holds_back_is_named_at_once() {
    let site = Site::new(SLEEPER);
    site.up();
    site.ok(&["pause", "--for", "1h", "--reason", "audit"]);
    site.write(&format!("{SLEEPER}replicas = 2\n"));
    // Without a limit of its own: it must not wait for what will not come.
    let ran = site.run(&["up", "-d"]);
    assert_eq!(ran.code, 4, "{}", ran.stdout);
    assert_failure(&ran, "HF0310", "paused (audit)");
    site.ok(&["resume"]);
    site.wait_for("the second one", || site.all_ready("sleeper", 2));
}

#[test]
fn an_unreadable_env_file_is_named() {
    let site = Site::new("[service.web]\ncommand = [\"sleep\", \"1000\"]\nenv_files = [\"missing.env\"]\n");
    let ran = site.run(&["up", "-d", "--timeout", "20s"]);
    assert_eq!(ran.code, 4);
    assert!(ran.stderr.contains("missing.env"), "{}", ran.stderr);
}

#[test]
fn a_second_agent_on_the_same_directory_is_refused() {
    let site = Site::new(SLEEPER);
    site.up();
    assert_failure(&site.run(&["agent"]), "HF0301", "agent");
    assert_eq!(site.instance("sleeper-1")["state"], "ready");
}

#[test]
fn a_newer_or_corrupt_state_is_refused_and_what_runs_goes_on() {
    for (file, contents, code) in [
        ("format", "999\n", "HF0302"),
        ("coord.db", "this is no database, however long it may be, and it never was one", "HF04"),
    ] {
        let site = Site::new(SLEEPER);
        site.up();
        let pid = site.pid("sleeper-1");
        let path = site.data().join(file);
        let good = std::fs::read(&path).expect("it is there");
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(site.data().join(format!("{file}{suffix}")));
        }
        std::fs::write(&path, contents).expect("writable");
        kill(site.pid_of_agent(), "KILL");
        site.wait_for("the agent to be gone", || site.run(&["status"]).code != 0);
        assert_failure(&site.run(&["up", "-d"]), code, file);
        assert!(alive(pid), "what ran does not run any more");
        let now = std::fs::read(&path).expect("it is there");
        assert_eq!(String::from_utf8_lossy(&now), contents, "the evidence was changed");
        std::fs::write(&path, good).expect("writable");
    }
}

#[test]
fn a_planted_secret_is_found_nowhere() {
    let secret = "hunter2-f00dfeed-5ca1ab1e";
    let port = free_port();
    let site = Site::new(&format!(
        r#"
[service.web]
command = ["{{origin}}", "{{port}}"]
env     = {{ TOKEN = {{ file = "token" }}, KEY = {{ env = "PLANTED_KEY" }} }}
ready   = {{ http = "/healthz" }}

[balancer.public]
listen  = "127.0.0.1:{port}"
service = "web"
"#
    ));
    let token = site.path().join("token");
    std::fs::write(&token, secret).expect("writable");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let up = site.command(&["up", "-d"]).env("PLANTED_KEY", secret).output().expect("runs");
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let environ = std::fs::read(format!("/proc/{}/environ", site.pid("web-1"))).expect("ours");
    assert_eq!(
        String::from_utf8_lossy(&environ).matches(secret).count(),
        2,
        "the child has both, and nothing else has them"
    );
    let mut shown = String::new();
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["plan"],
        &["plan", "--json"],
        &["why", "web-1"],
        &["logs", "web", "_agent"],
        &["incidents"],
        &["doctor"],
    ] {
        let ran = site.run(args);
        shown.push_str(&ran.stdout);
        shown.push_str(&ran.stderr);
    }
    assert!(!shown.contains(secret), "shown by a command");
    for (pid, _) in site.living() {
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&cmdline).contains(secret), "in the command line of {pid}");
    }
    let found = std::process::Command::new("grep").args(["-rl", secret]).arg(site.data()).output().expect("grep");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "in the data directory");
}
