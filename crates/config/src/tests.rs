//! The file of the README reads as it is meant, and the catalogue keeps its promises.

mod catalogue;
mod changes;
mod garbage;
mod messages;
mod tasks;

use std::path::Path;
use std::time::Duration;

use holdfast_policy::restart::When;

use crate::*;

pub(crate) fn environment() -> Environment {
    Environment {
        hostname: "box".into(),
        ephemeral_ports: Some(32768..=60999),
        unprivileged_port_min: 1024,
        address: None,
        cpus: 2,
        is_root: false,
    }
}

pub(crate) fn good(text: &str) -> Loaded {
    match parse(text, Path::new("/etc/shop/holdfast.toml"), &environment()) {
        Ok(loaded) => loaded,
        Err(failed) => panic!("{text}\n{}", render(&failed.diagnostics, &failed.source, false, 100)),
    }
}

const FIRST: &str = r#"
[service.web]
command  = ["python3", "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
replicas = 3
restart  = "always"                         # always | on-failure | never
ready    = { http = "/", every = "500ms" }
live     = { tcp = true, every = "5s", fall = 3 }

[balancer.public]
listen  = "127.0.0.1:8080"
service = "web"
"#;

#[test]
fn the_first_file_reads_as_it_is_meant() {
    let Loaded { config, warnings, .. } = good(FIRST);
    assert_eq!(warnings.iter().map(|w| w.code).collect::<Vec<_>>(), [code::ONE_NODE]);
    let web = &config.services["web"];
    assert_eq!((web.replicas, web.port, web.min_available), (3, Port::Assigned, 2));
    assert_eq!(web.restart.when, When::Always);
    assert_eq!(web.workdir, Path::new("/etc/shop"));
    let ready = web.ready.as_ref().unwrap();
    assert_eq!((ready.every, ready.timeout), (Duration::from_millis(500), Duration::from_millis(500)));
    assert_eq!(ready.check, Check::Http { path: "/".into(), status: 200..=399 });
    let balancer = &config.balancers["public"];
    assert_eq!(balancer.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!((balancer.retry.enabled, balancer.retry.budget_ratio), (true, 0.2));
    assert_eq!(config.node.name, "box");
}

#[test]
fn defaults_are_those_that_policy_documents() {
    let config = good("[service.a]\ncommand = [\"a\"]\n[service.j]\ntype = \"job\"\ncommand = [\"j\"]").config;
    assert_eq!(config.services["a"].restart, holdfast_policy::restart::Policy::default());
    assert_eq!(config.services["j"].restart.when, When::OnFailure);
    assert_eq!((config.services["a"].port, config.services["a"].min_available), (Port::None, 0));
}

#[test]
fn a_condition_left_open_is_the_strongest_that_fits() {
    let text = r#"
        service.db = { command = ["db"], ready = { tcp = true } }
        service.log = { command = ["log"] }
        service.migrate = { type = "job", command = ["m"] }
        service.web = { command = ["w"], after = ["db", "log", "migrate"] }
        service.api = { command = ["w"], after = { db = "started" } }
    "#;
    let config = good(text).config;
    let after = |name: &str| config.services[name].after.values().copied().collect::<Vec<_>>();
    assert_eq!(after("web"), [Condition::Ready, Condition::Started, Condition::Completed]);
    assert_eq!(after("api"), [Condition::Started]);
}

#[test]
fn in_a_cluster_instances_listen_where_other_machines_reach_them() {
    let cluster = "[cluster]\nname = \"town\"\netcd = [\"http://10.0.0.9:2379\"]\n";
    let web = "[service.web]\ncommand = [\"/bin/web\", \"{host}:{port}\"]\n";
    let machine = Environment { address: Some("10.0.0.1".parse().unwrap()), ..environment() };
    for (text, host) in [
        (format!("{cluster}{web}"), "10.0.0.1"),
        (format!("{cluster}{web}host = \"127.0.0.1\"\n"), "127.0.0.1"),
        (web.to_owned(), "127.0.0.1"),
    ] {
        let loaded = parse(&text, Path::new("/etc/holdfast.toml"), &machine).unwrap();
        assert_eq!(loaded.config.services["web"].host.to_string(), host, "{text}");
    }
}

#[test]
fn the_plane_of_tasks_runs_where_the_file_has_something_for_it() {
    for (text, runs) in [
        (FIRST, false),
        ("[tasks]", true),
        ("[queue.a]", true),
        ("[queue.a]\n[worker.w]\nqueue = \"a\"\ncommand = [\"w\"]", true),
        ("[workflow.w.step.s]\ncommand = [\"s\"]", true),
        ("[pool.p]\nslots = 1", false),
        ("[key.k]\nid = \"KEY\"\nsecret = { env = \"K\" }", false),
    ] {
        let tasks = good(text).config.tasks;
        assert_eq!(tasks, runs.then(Tasks::default), "{text}");
    }
}

#[test]
fn defaults_of_queues_are_those_that_the_model_documents() {
    let config = good("[queue.a]\n[worker.w]\nqueue = \"a\"\ncommand = [\"w\"]").config;
    assert_eq!(config.queues["a"], Queue::new("a"));
    let worker = &config.workers["w"];
    let Work::Program(program) = &worker.work else { panic!("{worker:?}") };
    assert_eq!((&program.done[..], &program.dead[..], program.input), (&[0][..], &[65][..], Input::Stdin));
    assert_eq!((worker.concurrency, worker.lease), (Concurrency::Fixed(1), Duration::from_secs(30)));
    assert_eq!(worker.timeout, Duration::from_secs(900));
}

#[test]
fn a_step_is_tried_again_where_that_can_help() {
    let text = r#"
        [queue.mail]
        [workflow.other.step.s]
        sleep = "1s"
        [workflow.w.step]
        a = { command = ["a"] }
        b = { sleep = "1s" }
        c = { wait = { signal = "go" } }
        d = { run = { workflow = "other" } }
        e = { send = { queue = "mail", body = "x" } }
    "#;
    let config = good(text).config;
    let attempts = |name: &str| config.workflows["w"].steps[name].retry.attempts;
    assert_eq!(["a", "b", "c", "d", "e"].map(attempts), [3, 1, 1, 1, 3]);
    assert_eq!(config.workflows["w"].steps["a"].kind, None, "no saga");
    assert_eq!(config.workflows["w"].timeout, Duration::from_secs(7 * 86_400));
}

#[test]
fn a_service_that_a_worker_posts_to_gets_a_port() {
    let text = "[service.web]\ncommand = [\"web\"]\n[queue.a]\n[worker.w]\nqueue = \"a\"\nhttp = { service = \"web\" }";
    let config = good(text).config;
    assert_eq!(config.services["web"].port, Port::Assigned);
    let expected = HttpWork { service: "web".into(), path: "/".into(), timeout: Duration::from_secs(900) };
    assert_eq!(config.workers["w"].work, Work::Http(expected));
}
