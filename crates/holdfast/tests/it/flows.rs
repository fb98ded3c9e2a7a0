//! Workflows and sagas through the real binary: what depends on what, what is tried again, and what is undone.

use serde_json::Value;

use crate::site::{Ran, Site, free_port, kill};

mod barrier;
mod killed;
mod participant;
mod sagas;
mod steps;

fn site(workflows: &str) -> Site {
    let port = free_port();
    let site = Site::new(&format!("[tasks]\nlisten = \"127.0.0.1:{port}\"\n{workflows}"));
    site.up();
    site
}

fn lines(site: &Site, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(site.path().join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The id of a run that is begun.
fn begin(site: &Site, args: &[&str]) -> String {
    let words: Vec<&str> = ["run", "--json"].into_iter().chain(args.iter().copied()).collect();
    let done: Value = serde_json::from_str(&site.ok(&words)).expect("JSON");
    done["run"].as_str().expect("an id").to_owned()
}

fn show(site: &Site, run: &str) -> Value {
    serde_json::from_str(&site.ok(&["runs", "show", run, "--json"])).expect("JSON")
}

fn status(site: &Site, run: &str) -> String {
    show(site, run)["run"]["status"].as_str().unwrap_or_default().to_owned()
}

fn step(site: &Site, run: &str, name: &str) -> Value {
    let detail = show(site, run);
    detail["steps"].as_array().into_iter().flatten().find(|step| step["name"] == name).cloned().unwrap_or(Value::Null)
}

fn wait_for_status(site: &Site, run: &str, wanted: &str) {
    site.wait_for(&format!("{run} to be {wanted}"), || status(site, run) == wanted);
}

/// Kills the plane, and waits until the next one answers.
fn kill_plane(site: &Site) {
    let before = site.pid("_tasks-1");
    kill(before, "KILL");
    site.wait_for("the next plane", || {
        let ran: Ran = site.run(&["runs", "list"]);
        ran.code == 0 && site.instance("_tasks-1")["pid"].as_u64().is_some_and(|pid| pid != u64::from(before))
    });
}
