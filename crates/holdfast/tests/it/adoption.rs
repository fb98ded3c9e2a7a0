//! Kill any process of holdfast itself: what it keeps up goes on, and it finds everything again.

use std::collections::BTreeMap;

use crate::site::{Site, alive, free_port, get, instances, kill};

fn shop(port: u16) -> Site {
    Site::new(&format!(
        r#"
[service.web]
command  = ["{{origin}}", "{{port}}"]
replicas = 2
env      = {{ ORIGIN_LEDGER = "{{dir}}/ledger" }}
ready    = {{ http = "/healthz", every = "200ms" }}

[balancer.public]
listen  = "127.0.0.1:{port}"
service = "web"
"#
    ))
}

fn pids(site: &Site) -> BTreeMap<String, u64> {
    instances(&site.status()).iter().filter_map(|i| Some((i["id"].as_str()?.to_owned(), i["pid"].as_u64()?))).collect()
}

#[test]
fn a_killed_agent_comes_back_and_adopts_what_runs() {
    let port = free_port();
    let site = shop(port);
    site.up();
    let before = pids(&site);
    for _ in 0..3 {
        let agent = site.pid_of_agent();
        kill(agent, "KILL");
        assert_eq!(get(port, "/").expect("traffic goes on").0, 200);
        site.wait_for("another agent", || site.run(&["status", "--json"]).code != 4 && site.pid_of_agent() != agent);
        site.wait_for("the same instances, ready", || {
            pids(&site) == before && site.status()["services"]["web"]["ready"] == 2
        });
        // A new agent's word must count more than that of the one before.
        site.wait_for("both balancer processes to follow it", || {
            site.status()["balancers"]["public"]["processes"] == 2
        });
    }
}

#[test]
fn an_exit_while_the_agent_is_dead_is_restarted_and_told() {
    let site = shop(free_port());
    site.up();
    let agent = site.pid_of_agent();
    kill(agent, "STOP");
    let victim = std::fs::read_to_string(site.data().join("run/web-1/state.json")).expect("the shim's state");
    let pid = serde_json::from_str::<serde_json::Value>(&victim).expect("JSON")["child"]["pid"].as_u64().expect("a pid")
        as u32;
    kill(pid, "KILL");
    site.wait_for("the shim to start another one by itself", || {
        let state = std::fs::read_to_string(site.data().join("run/web-1/state.json")).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap_or_default();
        state["child"]["pid"].as_u64().is_some_and(|p| p as u32 != pid && alive(p as u32))
    });
    kill(agent, "KILL");
    site.wait_for("the exit to be known to the next agent", || {
        site.instance("web-1")["last_exit"] == "killed by SIGKILL"
    });
    site.wait_ready("web-1");
}

#[test]
fn a_killed_shim_is_replaced_without_two_copies() {
    let site = shop(free_port());
    site.up();
    let before = site.pid("web-2");
    let shim = parent_of(before);
    kill(shim, "KILL");
    site.wait_for("web-2 ready under a new shim", || {
        let now = site.instance("web-2");
        now["state"] == "ready" && now["pid"].as_u64() != Some(u64::from(before))
    });
    assert!(!alive(before), "the orphan is still there");
    assert_eq!(site.status()["services"]["web"]["ready"], 2);
}

#[test]
fn a_killed_shim_of_the_agent_is_replaced_so_that_the_agent_may_die_again() {
    let site = shop(free_port());
    site.up();
    let before = pids(&site);
    for _ in 0..2 {
        let agent = site.pid_of_agent();
        kill(parent_of(agent), "KILL");
        site.wait_for("an agent under another shim", || {
            let now = site.api("/v1/ping")["pid"].as_u64().unwrap_or(0) as u32;
            now != 0 && now != agent && !alive(agent)
        });
        let next = site.pid_of_agent();
        kill(next, "KILL");
        site.wait_for("yet another agent", || {
            let now = site.api("/v1/ping")["pid"].as_u64().unwrap_or(0) as u32;
            now != 0 && now != next
        });
        site.wait_for("the same instances, ready", || {
            pids(&site) == before && site.status()["services"]["web"]["ready"] == 2
        });
    }
    site.wait_for("both kinds of death to be told as over", || {
        let incidents = site.ok(&["incidents", "--json"]);
        let told = |cause: &str| incidents.matches(cause).count() == 2;
        told("its shim is gone") && told("killed by SIGKILL") && !incidents.contains("\"open\"")
    });
}

#[test]
fn a_killed_balancer_process_refuses_nobody() {
    let port = free_port();
    let site = shop(port);
    site.up();
    for _ in 0..3 {
        let planes = site.planes();
        assert_eq!(planes.len(), 2, "{planes:?}");
        kill(planes[0], "KILL");
        for _ in 0..50 {
            assert_eq!(get(port, "/").expect("the other process answers").0, 200);
        }
        site.wait_for("two processes again", || site.planes().len() == 2 && !site.planes().contains(&planes[0]));
    }
}

#[test]
fn after_a_reboot_everything_comes_up_again_and_no_stale_pid_is_signalled() {
    let port = free_port();
    let site = shop(port);
    site.up();
    let endpoints: Vec<_> = instances(&site.status()).iter().map(|i| i["endpoint"].clone()).collect();
    // A power cut: everything dies at once. One after the other, whoever is still there begins to bring back who is not.
    site.wait_for("everything dead", || {
        site.living().iter().for_each(|(pid, _)| kill(*pid, "KILL"));
        site.living().is_empty()
    });
    // A stranger with a pid that the old state names must not be touched: put one there, under another boot id.
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    let state = site.data().join("run/web-1/state.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&state).expect("state")).expect("JSON");
    json["child"]["pid"] = stranger.id().into();
    json["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
    std::fs::write(&state, json.to_string()).expect("writable");
    site.up();
    assert!(alive(stranger.id()), "a stale pid was signalled");
    let _ = stranger.kill();
    let _ = stranger.wait();
    let now: Vec<_> = instances(&site.status()).iter().map(|i| i["endpoint"].clone()).collect();
    assert_eq!(now, endpoints, "ports stay with their instances");
    assert_eq!(get(port, "/").expect("answers").0, 200);
}

fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let rest = stat.rsplit(')').next().expect("stat has a name");
    rest.split_whitespace().nth(1).and_then(|p| p.parse().ok()).expect("a parent")
}
