//! Files for the keys of queues, workers and workflows.

use crate::keys::{self, Section};

const OTHERS: &str = r#"
[queue.orders]
fifo = true
[queue.orders-dead]
retention = "365d"
[queue.mail]
[service.web]
command = ["web", "{port}"]
[pool.db]
slots = 2
[workflow.report]
parameters = { day = { default = "today" } }
step = { report = { command = ["report"], pool = "db" } }
"#;

/// A valid file with `key = example` in the section's table, if the section is one of this plane.
pub(super) fn file_with(section: &'static Section, key: &str, example: &str) -> Option<String> {
    let is = |s: &'static Section| std::ptr::eq(s, section);
    let text = match () {
        () if is(&keys::TASKS) && key.starts_with("postgres_") => {
            table("tasks", &[("postgres", "\"postgres://u@db/q\"")], key, example)
        }
        () if is(&keys::TASKS) => table("tasks", &[], key, example),
        () if is(&keys::ACCESS_KEY) => {
            table("key.app", &[("id", "\"APP\""), ("secret", "{ env = \"S\" }")], key, example)
        }
        () if is(&keys::QUEUE) => {
            let fifo: &[_] = if key == "deduplicate_by_content" { &[("fifo", "true")] } else { &[] };
            table("queue.app", fifo, key, example)
        }
        () if is(&keys::DEAD_LETTER) => inner("queue.app", &[], "dead_letter", &[("queue", "\"mail\"")], key, example),
        () if is(&keys::QUEUE_RETRY) => inner("queue.app", &[], "retry", &[], key, example),
        () if is(&keys::WORKER) => worker(key, example),
        () if is(&keys::WORKER_HTTP) => {
            inner("worker.app", &[("queue", "\"orders\"")], "http", &[("service", "\"web\"")], key, example)
        }
        () if is(&keys::CONCURRENCY) => {
            let worker = [("queue", "\"orders\""), ("command", "[\"a\"]")];
            inner("worker.app", &worker, "concurrency", &[("max", "9")], key, example)
        }
        () if is(&keys::POOL) => table("pool.app", &[("slots", "1")], key, example),
        () if is(&keys::FALLBACK) => {
            let balancer = [("listen", "\"127.0.0.1:9090\""), ("service", "\"web\"")];
            inner("balancer.app", &balancer, "fallback", &[("queue", "\"orders\"")], key, example)
        }
        () if is(&keys::BALANCER) && key == "fallback" => {
            table("balancer.app", &[("listen", "\"127.0.0.1:9090\""), ("service", "\"web\"")], key, example)
        }
        () => workflow(section, key, example)?,
    };
    Some(text + OTHERS)
}

fn worker(key: &str, example: &str) -> String {
    let base = match key {
        "shell" | "http" => &[("queue", "\"orders\"")][..],
        _ => &[("queue", "\"orders\""), ("command", "[\"a\"]")],
    };
    table("worker.app", base, key, example)
}

fn workflow(section: &'static Section, key: &str, example: &str) -> Option<String> {
    let is = |s: &'static Section| std::ptr::eq(s, section);
    let app = "workflow.app.step.load";
    let text = match () {
        () if is(&keys::WORKFLOW) => {
            let undo = "{ load = { command = [\"a\"], undo = { command = [\"b\"] } } }";
            let daily = ("schedule", "\"@daily\"");
            let base = match key {
                "timezone" | "missed" | "overlap" => vec![daily, ("step", undo)],
                "missed_max" => vec![daily, ("missed", "\"all\""), ("step", undo)],
                _ => vec![("step", undo)],
            };
            return Some(table("workflow.app", &base, key, example));
        }
        () if is(&keys::PARAMETER) => {
            let parameter = inner("workflow.app", &[], "parameters.KEY", &[], key, example);
            return Some(format!("{parameter}[{app}]\ncommand = [\"a\"]\n"));
        }
        () if is(&keys::STEP) => step(key, example),
        () if is(&keys::STEP_HTTP) => inner(app, &[], "http", &[("url", "\"http://a/\"")], key, example),
        () if is(&keys::SEND) => inner(app, &[], "send", &[("queue", "\"orders\""), ("body", "\"x\"")], key, example),
        () if is(&keys::WAIT) => inner(app, &[], "wait", &[], key, example),
        () if is(&keys::RUN) => inner(app, &[], "run", &[("workflow", "\"report\"")], key, example),
        () if is(&keys::STEP_RETRY) => inner(app, &[("command", "[\"a\"]")], "retry", &[], key, example),
        () if is(&keys::STEP_LIMITS) => inner(app, &[("command", "[\"a\"]")], "limits", &[], key, example),
        () if is(&keys::UNDO) => {
            let undo = inner(app, &[("command", "[\"a\"]")], "undo", &[], key, example);
            format!("kind = \"compensable\"\n{undo}")
        }
        () => return None,
    };
    // What the examples refer to.
    let extract = "[workflow.app.step.extract]\ncommand = [\"extract\"]\n";
    let after = if text.contains("after = ") { "" } else { "after = [\"extract\"]\n" };
    Some(format!("[workflow.app]\nparameters = {{ day = {{ type = \"date\" }} }}\n{extract}{text}{after}"))
}

fn step(key: &str, example: &str) -> String {
    let command = ("command", "[\"a\"]");
    let send = ("send", "{ queue = \"mail\", body = \"x\" }");
    let base = match key {
        "http" | "send" | "wait" | "sleep" | "run" => vec![],
        "wait_for_worker" => vec![send],
        "width" | "items_max" | "allow_failed" => vec![command, ("for_each", "[\"a\"]")],
        _ => vec![command],
    };
    let text = table("workflow.app.step.load", &base, key, example);
    // What comes before a step of a saga can be undone.
    match key {
        "undo" => format!("kind = \"compensable\"\n{text}"),
        "kind" => format!("undo = {{ command = [\"b\"] }}\n{text}"),
        _ => text,
    }
}

fn table(name: &str, base: &[(&str, &str)], key: &str, example: &str) -> String {
    let base = base.iter().filter(|(k, _)| *k != key);
    let lines: Vec<String> = base.map(|(k, v)| format!("{k} = {v}\n")).collect();
    format!("[{name}]\n{}{key} = {example}\n", lines.concat())
}

fn inner(table: &str, outer: &[(&str, &str)], name: &str, base: &[(&str, &str)], key: &str, example: &str) -> String {
    let outer: Vec<String> = outer.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
    let base = base.iter().filter(|(k, _)| *k != key).map(|(k, v)| format!("{k} = {v}"));
    let all: Vec<String> = base.chain([format!("{key} = {example}")]).collect();
    format!("[{table}]\n{}{name} = {{ {} }}\n", outer.concat(), all.join(", "))
}
