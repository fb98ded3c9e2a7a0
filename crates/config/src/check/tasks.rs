//! Rules about queues, their workers and keys, and about where they live.

use std::collections::{BTreeMap, BTreeSet};

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Balancer, Config, Fallback, Kind, Port, Queue, StepWork, Tasks, Work};
use crate::quantity::format_duration;
use crate::reader::Findings;

use super::Environment;
use super::references::{defined, defined_service};
use super::services::only_root;

pub(super) fn check(out: &mut Findings, config: &Config, environment: &Environment) {
    if let Some(tasks) = &config.tasks {
        unsigned(out, config, tasks);
        where_it_lives(out, config, tasks);
    }
    config.queues.values().for_each(|queue| dead_letter(out, config, queue));
    config.queues.values().for_each(|queue| quarantine(out, config, queue));
    workers(out, config, environment);
    fallbacks(out, config);
    same_id(out, config);
    unused(out, config);
}

fn unsigned(out: &mut Findings, config: &Config, tasks: &Tasks) {
    if !config.keys.is_empty() || tasks.listen.ip().is_loopback() || !out.is_good("tasks.listen") {
        return;
    }
    let span = out.spans.value("tasks.listen");
    out.push(
        Diagnostic::new(Severity::Error, code::TASKS_UNSIGNED, "everybody who reaches this address may use the queues")
            .at(span, "not loopback, and there is no [key.NAME]")
            .hint("add [key.NAME] with `id` and `secret`, or listen on 127.0.0.1"),
    );
}

fn where_it_lives(out: &mut Findings, config: &Config, tasks: &Tasks) {
    let place = if out.spans.has("tasks.node") { "tasks.node" } else { "tasks" };
    if config.cluster.is_none() {
        if tasks.node.is_some() {
            let span = out.spans.key(place);
            let message = "`tasks.node` names a machine, and there is no [cluster]";
            out.push(
                Diagnostic::new(Severity::Warning, code::NODES_ALONE, message)
                    .at(span, "has no effect")
                    .hint("add [cluster] etcd = […]; see docs/cluster.md"),
            );
        }
        return;
    }
    if tasks.postgres.is_some() {
        return everywhere(out, tasks);
    }
    accepted(out, tasks);
    if let Some(node) = &tasks.node {
        let nodes: BTreeSet<&str> = config.nodes.keys().map(String::as_str).collect();
        super::cluster::described(out, &nodes, place, node, "queues and workflows stand still unless it joins");
    }
    if tasks.listen.ip().is_loopback() && !out.all_on_loopback(config) && out.is_good("tasks.listen") {
        let span = out.spans.value("tasks.listen");
        let message = "other machines cannot reach the queues";
        out.push(
            Diagnostic::new(Severity::Warning, code::TASKS_LOOPBACK, message)
                .at(span, "loopback ends at the machine that keeps them")
                .hint("[tasks] listen = \"0.0.0.0:9324\", with [key.NAME] for who may use them"),
        );
    }
}

/// On a database each machine has a plane, and none is the one.
fn everywhere(out: &mut Findings, tasks: &Tasks) {
    for (key, given) in [("node", tasks.node.is_some()), ("single_node", tasks.single_node_accepted)] {
        if !given {
            continue;
        }
        let span = out.spans.key(&format!("tasks.{key}"));
        let message = format!("`tasks.{key}` is about queues that live on one machine");
        out.push(
            Diagnostic::new(Severity::Error, code::TASKS_ONE_NODE, message)
                .at(span, "with `postgres` the plane runs on every machine")
                .hint(format!("remove `{key}`")),
        );
    }
}

fn accepted(out: &mut Findings, tasks: &Tasks) {
    let missing: Vec<&str> = [("node", tasks.node.is_some()), ("single_node", tasks.single_node_accepted)]
        .into_iter()
        .filter(|(key, given)| !given && out.is_good(&format!("tasks.{key}")))
        .map(|(key, _)| key)
        .collect();
    if missing.is_empty() {
        return;
    }
    let verb = if missing.len() == 1 { "is" } else { "are" };
    let span = out.spans.key("tasks");
    let message = "queues and workflows of a cluster live on one machine";
    out.push(
        Diagnostic::new(Severity::Error, code::TASKS_ONE_NODE, message)
            .at(span, format!("`{}` {verb} missing in [tasks]", missing.join("` and `")))
            .hint(
                "[tasks] node = \"NAME\", and single_node = \"accepted\" where they may stand still while it is lost",
            ),
    );
}

fn dead_letter(out: &mut Findings, config: &Config, queue: &Queue) {
    let Some(dead) = &queue.dead_letter else { return };
    let path = format!("queue.{}.dead_letter.queue", queue.name);
    let queues = config.queues.keys().map(String::as_str);
    if !out.is_good(&path) || !defined(out, &path, "queue", &dead.queue, queues) || dead.queue == queue.name {
        return;
    }
    let target = &config.queues[&dead.queue];
    let span = out.spans.value(&path);
    if target.fifo != queue.fifo {
        let (is, other_is) = if queue.fifo { ("a FIFO queue", "none") } else { ("no FIFO queue", "one") };
        let message = format!("`{}` is {is}, and its dead letter queue is {other_is}", queue.name);
        let other = out.spans.key(&format!("queue.{}", target.name));
        out.push(
            Diagnostic::new(Severity::Error, code::DEAD_LETTER, message)
                .at(span.clone(), "not alike")
                .at(other, "defined here")
                .hint("give both the same `fifo`"),
        );
    }
    if target.retention < queue.retention {
        let keeps = out.spans.value(&format!("queue.{}.retention", target.name));
        let message = format!("dead letters of `{}` may be deleted as soon as they are moved", queue.name);
        out.push(
            Diagnostic::new(Severity::Warning, code::DEAD_LETTER_SHORT, message)
                .at(keeps, format!("keeps messages for {}", format_duration(target.retention)))
                .at(span, format!("`{}` keeps them for {}", queue.name, format_duration(queue.retention)))
                .hint("a message keeps the time at which it was sent; give the dead letters more `retention`"),
        );
    }
}

/// Dead letters of dead letters are few, so queues of them may be without.
fn quarantine(out: &mut Findings, config: &Config, queue: &Queue) {
    let named = format!("queue.{}.crashes", queue.name);
    let sound = out.is_good(&format!("queue.{}.dead_letter", queue.name));
    if queue.dead_letter.is_some() || !sound {
        return;
    }
    let worker = config.workers.values().find(|worker| worker.queue == queue.name);
    let is_grave = config.queues.values().any(|q| q.dead_letter.as_ref().is_some_and(|d| d.queue == queue.name));
    let worker = worker.filter(|_| !is_grave);
    if worker.is_none() && !out.spans.has(&named) {
        return;
    }
    let at = if out.spans.has(&named) { named } else { format!("queue.{}", queue.name) };
    let message = format!("messages of `{}` that crash their worker are kept aside until somebody looks", queue.name);
    let mut found =
        Diagnostic::new(Severity::Warning, code::QUARANTINE, message).at(out.spans.key(&at), "no `dead_letter`");
    if let Some(worker) = worker {
        found = found.at(out.spans.value(&format!("worker.{}.queue", worker.name)), "its worker");
    }
    out.push(found.hint("add dead_letter = { queue = \"NAME\" } and that queue, where they can be seen and sent back"));
}

fn workers(out: &mut Findings, config: &Config, environment: &Environment) {
    for (name, worker) in &config.workers {
        let path = format!("worker.{name}");
        let queue = format!("{path}.queue");
        if out.is_good(&queue) {
            defined(out, &queue, "queue", &worker.queue, config.queues.keys().map(String::as_str));
        }
        match &worker.work {
            Work::Program(program) if program.user.is_some() => {
                only_root(out, environment, &format!("{path}.user"), "user", name);
            }
            Work::Program(_) => {}
            Work::Http(http) => posted_to(out, config, name, &http.service),
        }
    }
}

fn posted_to(out: &mut Findings, config: &Config, worker: &str, service: &str) {
    let path = format!("worker.{worker}.http.service");
    if !out.is_good(&path) || !defined_service(out, config, &path, service) {
        return;
    }
    let target = &config.services[service];
    let (span, port) = (out.spans.value(&path), out.spans.value(&format!("service.{service}.port")));
    if target.kind == Kind::Job {
        let job = out.spans.value(&format!("service.{service}.type"));
        out.push(
            Diagnostic::new(Severity::Error, code::NOT_FOR_JOBS, format!("worker `{worker}` sends requests to a job"))
                .at(span, "a job ends and answers nobody")
                .at(job, "a job")
                .hint("name a service, or let the worker run a `command`"),
        );
    } else if target.port == Port::None && out.is_good(&format!("service.{service}.port")) {
        out.push(
            Diagnostic::new(Severity::Error, code::NO_PORT, format!("worker `{worker}` cannot reach `{service}`"))
                .at(span, "sends requests to it")
                .at(port, "it listens on no port")
                .hint("remove `port = false`, and holdfast assigns one; or name the port that it listens on"),
        );
    }
}

fn fallbacks(out: &mut Findings, config: &Config) {
    for (name, balancer) in &config.balancers {
        let Some(fallback) = &balancer.fallback else { continue };
        let path = format!("balancer.{name}.fallback");
        let queue = format!("{path}.queue");
        let queues = config.queues.keys().map(String::as_str);
        let known = out.is_good(&queue) && defined(out, &queue, "queue", &fallback.queue, queues);
        if known && let Some(other) = other_service(config, balancer, fallback) {
            let found = out.conflict(&path, format!("queue `{}` keeps requests for two services", fallback.queue));
            let first = out.spans.value(&format!("balancer.{other}.fallback.queue"));
            let (at, service) = (out.spans.value(&queue), &balancer.service);
            out.push(
                found
                    .at(at, format!("for `{service}`"))
                    .at(first, format!("for `{}`", config.balancers[other].service))
                    .hint("give each service a queue of its own: a message does not say whose it is"),
            );
        }
        if known && fallback.key.is_some() && !config.queues[&fallback.queue].fifo {
            let (key, at) = (out.spans.value(&format!("{path}.key")), out.spans.value(&queue));
            let found = out.conflict(&path, format!("`key` of balancer `{name}` orders nothing"));
            out.push(
                found
                    .at(key, "messages of a key keep their order only in a FIFO queue")
                    .at(at, "not one")
                    .hint(format!("[queue.{}] fifo = true, or remove `key`", fallback.queue)),
            );
        }
    }
}

/// A balancer before this one that keeps requests for another service in the same queue.
fn other_service<'a>(config: &'a Config, balancer: &Balancer, fallback: &Fallback) -> Option<&'a str> {
    let same = |other: &&Balancer| other.fallback.as_ref().is_some_and(|f| f.queue == fallback.queue);
    let mut before = config.balancers.values().take_while(|other| other.name != balancer.name).filter(same);
    before.find(|other| other.service != balancer.service).map(|other| other.name.as_str())
}

fn same_id(out: &mut Findings, config: &Config) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, key) in config.keys.iter().filter(|(_, key)| !key.id.is_empty()) {
        let Some(other) = seen.insert(&key.id, name) else { continue };
        let at = format!("key.{name}.id");
        let (first, second) = (out.spans.value(&format!("key.{other}.id")), out.spans.value(&at));
        let found = out.conflict(&at, format!("keys `{other}` and `{name}` have the same id"));
        out.push(found.at(second, "here").at(first, "and here").hint("an id tells who signed; give each its own"));
    }
}

/// Tables that stand for nothing yet.
fn unused(out: &mut Findings, config: &Config) {
    let mut idle = |path: String, message: String, hint: &str| {
        let span = out.spans.key(&path);
        out.push(Diagnostic::new(Severity::Warning, code::UNUSED, message).at(span, "has no effect").hint(hint));
    };
    if config.tasks.is_none() {
        for name in config.keys.keys() {
            let message = format!("key `{name}` opens nothing");
            idle(format!("key.{name}"), message, "add a [queue.NAME], or [tasks] alone for queues that clients make");
        }
    }
    let steps = || config.workflows.values().flat_map(|workflow| workflow.steps.values());
    let used: BTreeSet<&String> = steps().filter_map(|step| step.pool.as_ref()).collect();
    for name in config.pools.keys().filter(|name| !used.contains(name)) {
        idle(format!("pool.{name}"), format!("no step uses the pool `{name}`"), "write pool = \"NAME\" in its steps");
    }
}

/// Where a step sends messages to: known to `check::workflows`, told here for FIFO queues.
pub(super) fn group(out: &mut Findings, config: &Config, path: &str, work: &StepWork) {
    let StepWork::Send(send) = work else { return };
    let Some(queue) = config.queues.get(&send.queue) else { return };
    if send.group.is_some() && !queue.fifo {
        let (group, at) =
            (out.spans.value(&format!("{path}.send.group")), out.spans.value(&format!("{path}.send.queue")));
        let found = out.conflict(&format!("{path}.send.group"), format!("`{path}.send.group` orders nothing"));
        out.push(
            found
                .at(group, "messages of a group keep their order only in a FIFO queue")
                .at(at, "not one")
                .hint(format!("[queue.{}] fifo = true, or remove `group`", queue.name)),
        );
    }
}
