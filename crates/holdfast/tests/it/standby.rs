//! Redundant services through the real binary: takeovers after every kind of fault, and never two actives, as seen
//! from outside by what the programs themselves write.

mod faults;
pub(crate) mod roles;
mod tiers;

use std::time::{Duration, Instant};

use crate::site::{PATIENCE, Site, alive, free_port, get, kill};
use roles::{Roles, parent_of};

/// One hot standby with a balancer in front. `more` goes into the table `standby`.
fn hot(port: u16, more: &str) -> Site {
    let site = Site::new(&format!(
        r#"
[service.db]
command = ["{{origin}}", "{{port}}"]
env     = {{ ORIGIN_ROLES = "{{dir}}/roles" }}
ready   = {{ http = "/healthz", every = "200ms" }}
live    = {{ http = "/healthz", every = "300ms", timeout = "200ms", fall = 2 }}
stop    = {{ grace = "2s", drain = "2s" }}
standby = {{ tier = "hot", rto = "2s"{more} }}

[balancer.public]
listen  = "127.0.0.1:{port}"
service = "db"
"#
    ));
    site.up();
    site.wait_for("a standby", || site.seen("db-2")["state"] == "standby" || site.seen("db-1")["state"] == "standby");
    site
}

impl Site {
    fn active(&self) -> String {
        self.api("/v1/status")["services"]["db"]["standby"]["active"].as_str().unwrap_or_default().to_owned()
    }

    fn serving(&self) -> Option<String> {
        let status = self.api("/v1/status");
        let all = crate::site::instances(&status);
        all.iter().find(|i| i["state"] == "ready").map(|i| i["id"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until another member than `before` is active and the first stands by again.
    fn wait_takeover(&self, before: &str) -> String {
        self.wait_for(&format!("another than {before} to serve"), || self.serving().is_some_and(|id| id != before));
        self.wait_for(&format!("{before} to stand by again"), || self.seen(before)["state"] == "standby");
        self.serving().expect("it serves")
    }

    fn takeover(&self) -> serde_json::Value {
        self.api("/v1/status")["services"]["db"]["standby"]["takeover"].clone()
    }

    fn roles(&self) -> Roles {
        Roles::read(&self.path().join("roles"))
    }
}

/// From now until a GET through the balancer is answered by another than `before`.
fn until_served_by_another(port: u16, before: &str) -> Duration {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if matches!(get(port, "/who"), Ok((200, name)) if name != before) {
            return began.elapsed();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("nobody took over from {before}");
}

#[test]
fn a_hot_standby_takes_over_from_a_killed_process_at_once() {
    let port = free_port();
    let site = hot(port, "");
    assert_eq!(site.active(), "db-1", "the first member is preferred at the first start");
    let mut times = Vec::new();
    for _ in 0..4 {
        let before = site.active();
        let pid = site.child_of(&before).expect("it runs");
        kill(pid, "KILL");
        times.push(until_served_by_another(port, &before).as_millis());
        let now = site.wait_takeover(&before);
        let told = site.takeover();
        assert_eq!((&told["from"], &told["to"], &told["planned"]), (&before.into(), &now.into(), &false.into()));
        assert!(told["rto_ms"].as_u64().is_some_and(|ms| ms < 2000), "{told}");
    }
    println!("hot takeovers as a client sees them, in ms: {times:?}");
    assert!(times.iter().all(|ms| *ms < 2000), "{times:?}");
    let roles = site.roles();
    roles.never_two();
    assert_eq!(roles.tokens().len(), 5, "a token for each active: {roles:?}");
    let status = site.ok(&["status"]);
    assert!(status.contains("hot standby, token") && status.contains("failover from"), "{status}");
    let why = site.ok(&["why", "db"]);
    assert!(why.contains("holds the lease") && why.contains("rto_ms"), "{why}");
}

#[test]
fn a_takeover_survives_the_death_of_agent_and_shim() {
    let port = free_port();
    let site = hot(port, "");
    // The shim of the active: its program goes with it.
    let before = site.active();
    let pid = site.child_of(&before).expect("it runs");
    kill(parent_of(pid), "KILL");
    until_served_by_another(port, &before);
    assert!(!alive(pid));
    let now = site.wait_takeover(&before);

    // The agent first, the active in the middle of that.
    let pid = site.child_of(&now).expect("it runs");
    kill(site.pid_of_agent(), "KILL");
    kill(pid, "KILL");
    site.wait_for("one to serve again", || matches!(get(port, "/who"), Ok((200, _))) && site.serving().is_some());
    // And the agent alone: nothing changes, not even the token.
    let (token, active) = (site.token(), site.serving());
    let agent = site.pid_of_agent();
    kill(agent, "KILL");
    site.wait_for("the next agent to hold the lease", || {
        site.pid_of_agent() != agent && site.serving() == active && site.token() == token
    });
    site.roles().never_two();
}

impl Site {
    fn token(&self) -> serde_json::Value {
        self.api("/v1/status")["services"]["db"]["standby"]["token"].clone()
    }
}

#[test]
fn a_hung_active_is_replaced() {
    let port = free_port();
    let site = hot(port, "");
    let before = site.active();
    let pid = site.child_of(&before).expect("it runs");
    kill(pid, "STOP");
    let took = until_served_by_another(port, &before);
    println!("takeover from a hung active after {} ms", took.as_millis());
    assert!(!alive(pid), "it was ended before another became active");
    site.wait_takeover(&before);
    site.roles().never_two();
}

#[test]
fn a_switchover_under_load_fails_no_get() {
    let port = free_port();
    let site = hot(
        port,
        r#", promote = ["/bin/sh", "-c", "echo promote $HOLDFAST_TOKEN >> {dir}/edges"], demote = ["/bin/sh", "-c", "echo demote $HOLDFAST_TOKEN >> {dir}/edges"]"#,
    );
    let load = crate::traffic::Load::start(port);
    let mut actives = vec![site.active()];
    for _ in 0..3 {
        let sent = load.sent();
        site.wait_for("some more requests", || load.sent() > sent + 30);
        let said = site.ok(&["switchover", "db"]);
        assert!(said.contains("is active"), "{said}");
        actives.push(site.active());
        site.wait_for("the other to stand by", || {
            ["db-1", "db-2"].iter().any(|id| site.seen(id)["state"] == "standby")
        });
    }
    let (sent, failures) = load.finish();
    assert_eq!(actives, ["db-1", "db-2", "db-1", "db-2"]);
    assert!(sent > 100 && failures.is_empty(), "{} of {sent} failed: {failures:#?}", failures.len());
    println!("{sent} requests; last switchover: {}", site.takeover());
    let roles = site.roles();
    roles.never_two();
    let edges = std::fs::read_to_string(site.path().join("edges")).expect("the commands ran");
    let tokens = roles.tokens();
    let mut expected = vec![format!("promote {}", tokens[0])];
    for pair in tokens.windows(2) {
        expected.push(format!("demote {}", pair[0]));
        expected.push(format!("promote {}", pair[1]));
    }
    assert_eq!(edges.lines().collect::<Vec<_>>(), expected, "each command once, in order");

    site.ok(&["failback", "db"]);
    assert_eq!(site.active(), "db-1");
    let refused = site.run(&["switchover", "db", "--to", "db-1"]);
    assert!(refused.code != 0 && refused.stderr.contains("HF0345"), "{}", refused.stderr);
    let refused = site.run(&["scale", "db=4"]);
    assert!(refused.code != 0 && refused.stderr.contains("HF0347"), "{}", refused.stderr);
}
