//! The file of the README reads as it is meant, and the catalogue keeps its promises.

mod catalogue;
mod changes;
mod garbage;
mod messages;

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
