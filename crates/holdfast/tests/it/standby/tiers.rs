//! Warm and cold members, the fencing command, dry starts, and a program that is paused with its shim.

use std::time::{Duration, Instant};

use super::roles::parent_of;
use super::until_served_by_another;
use crate::site::{Site, alive, free_port, get, kill};

/// A program whose start takes this long.
const SLOW_MS: u64 = 800;

fn tier(port: u16, standby: &str) -> Site {
    let site = Site::new(&format!(
        r#"
[service.db]
command = ["{{origin}}", "{{port}}"]
env     = {{ ORIGIN_ROLES = "{{dir}}/roles", ORIGIN_SLOW = "{SLOW_MS}" }}
ready   = {{ http = "/healthz", every = "200ms" }}
restart = {{ when = "always", delay = "10ms", max = "20ms" }}
stop    = {{ grace = "2s", drain = "1s" }}
standby = {{ {standby} }}

[balancer.public]
listen  = "127.0.0.1:{port}"
service = "db"
"#
    ));
    site.up();
    site.wait_for("a standby", || site.seen("db-2")["state"] == "standby");
    site
}

/// Kills the active again and again until another member serves: a warm or cold one is started here first.
fn fail_over(site: &Site, before: &str) -> Duration {
    let mut last = Instant::now();
    let mut killed = None;
    site.wait_for("another to be active", || {
        if let Some(pid) = site.child_of(before).filter(|pid| killed != Some(*pid)) {
            kill(pid, "KILL");
            (last, killed) = (Instant::now(), Some(pid));
        }
        site.active() != before && !site.active().is_empty()
    });
    site.wait_for("it to serve", || site.serving().is_some_and(|id| id != before));
    last.elapsed()
}

#[test]
fn a_warm_member_is_paused_kept_fresh_and_goes_on_when_it_is_needed() {
    let port = free_port();
    let sync = r#"tier = "warm", max_staleness = "20s", sync_every = "300ms", sync = ["/bin/sh", "-c", "test ! -e {dir}/no-sync && echo $HOLDFAST_INSTANCE >> {dir}/synced"]"#;
    let site = tier(port, sync);
    let standby = site.child_of("db-2").expect("it runs");
    let stat = std::fs::read_to_string(format!("/proc/{standby}/stat")).expect("it lives");
    assert!(stat.contains(") T "), "it is paused: {stat}");
    site.wait_for("its data to be kept fresh", || {
        site.seen("db-2")["data_age_ms"].as_u64().is_some_and(|ms| ms < 2000)
    });

    // First it is started again where it is.
    let pid = site.child_of("db-1").expect("it runs");
    let token = site.token();
    kill(pid, "KILL");
    site.wait_for("it to serve again", || site.child_of("db-1").is_some_and(|p| p != pid) && site.serving().is_some());
    assert_eq!((site.active(), site.token()), ("db-1".to_owned(), token));
    let took = fail_over(&site, "db-1");
    println!("a paused standby serves {} ms after the last fault", took.as_millis());
    assert_eq!(site.child_of("db-2"), Some(standby), "it was not started again");
    let told = site.takeover();
    assert!(told["rpo_ms"].as_u64().is_some_and(|ms| ms < 5000), "{told}");
    site.roles().never_two();
}

#[test]
fn stale_data_takes_nothing_over_unless_a_person_says_so() {
    let port = free_port();
    let site = tier(
        port,
        r#"tier = "warm", max_staleness = "1s", sync_every = "200ms", sync = ["/bin/sh", "-c", "test ! -e {dir}/no-sync"]"#,
    );
    site.wait_for("a first sync", || site.seen("db-2")["data_age_ms"].as_u64().is_some());
    std::fs::write(site.path().join("no-sync"), "").expect("the directory is writable");
    site.wait_for("the data to be too old", || {
        site.seen("db-2")["unable"].as_str().is_some_and(|why| why.contains("max_staleness"))
    });
    let refused = site.run(&["switchover", "db", "--to", "db-2"]);
    assert!(refused.code != 0 && refused.stderr.contains("max_staleness"), "{}", refused.stderr);
    assert_eq!(site.active(), "db-1");
    site.ok(&["promote", "db", "db-2", "--force"]);
    assert_eq!(site.active(), "db-2");
}

#[test]
fn a_cold_member_is_restored_and_started_only_when_it_is_needed() {
    let port = free_port();
    let site = tier(
        port,
        r#"tier = "cold", dry_start = "1s", restore = ["/bin/sh", "-c", "echo restored >> {dir}/restored"]"#,
    );
    assert!(!site.path().join("restored").exists() || site.active() == "db-1");
    site.wait_for("a dry start that passes", || site.seen("db-2")["dry_start"] == true);
    assert_eq!(site.active(), "db-1");
    assert!(matches!(get(port, "/who"), Ok((200, name)) if name == "db-1"));
    site.wait_for("nothing of it to run again", || site.child_of("db-2").is_none());
    let took = fail_over(&site, "db-1");
    println!("a cold standby with a start of {SLOW_MS} ms serves {} ms after the last fault", took.as_millis());
    let restored = std::fs::read_to_string(site.path().join("restored")).expect("it was restored");
    assert_eq!(restored.lines().count(), 2, "once for each member's first activation");
    site.roles().never_two();
}

#[test]
fn a_member_that_cannot_give_the_lease_back_is_fenced_first() {
    let port = free_port();
    let fence = r#"["/bin/sh", "-c", "echo $HOLDFAST_FENCE >> {dir}/fenced; test -e {dir}/power-off"]"#;
    let site = super::hot(port, &format!(r#", lease = "fast", fence = {fence}"#));
    let before = site.active();
    let pid = site.child_of(&before).expect("it runs");
    let shim = parent_of(pid);
    // Neither can answer, so the lease is not renewed, and nobody can prove anything.
    kill(shim, "STOP");
    kill(pid, "STOP");
    let fenced = site.path().join("fenced");
    site.wait_for("the command to be tried twice", || {
        std::fs::read_to_string(&fenced).is_ok_and(|text| text.lines().count() >= 2)
    });
    assert!(site.serving().is_none_or(|id| id == before), "nobody takes over before the command succeeds");
    let status = site.ok_whatever(&["status"]);
    assert!(status.contains("HF0348"), "{status}");
    std::fs::write(site.path().join("power-off"), "").expect("the directory is writable");
    until_served_by_another(port, &before);
    let text = std::fs::read_to_string(&fenced).expect("it ran");
    assert!(text.lines().all(|line| line.starts_with(&format!("{before}@"))), "{text}");

    // It wakes up with a token that is stale, and is ended by its shim before long.
    let woken = Instant::now();
    kill(pid, "CONT");
    kill(shim, "CONT");
    site.wait_for("the stale one to be ended", || !alive(pid));
    println!("a paused active lived for {} ms after it was woken", woken.elapsed().as_millis());
    site.wait_for("it to stand by again", || site.seen(&before)["state"] == "standby");
    let refused = site.roles().refused();
    println!("{refused} writes with a stale token were refused by a receiver that checks it");
}

impl Site {
    fn ok_whatever(&self, args: &[&str]) -> String {
        self.run(args).stdout
    }
}
