//! Which drills a file gives.

use std::path::Path;

use holdfast_config::Environment;

use super::*;

fn config(text: &str) -> Config {
    let environment = Environment {
        hostname: "here".into(),
        ephemeral_ports: Some(32768..=60999),
        unprivileged_port_min: 1024,
        address: None,
        cpus: 2,
        is_root: false,
    };
    holdfast_config::parse(text, Path::new("/etc/holdfast.toml"), &environment).expect("the file is right").config
}

const TOWN: &str = r#"
[service.web]
command = ["/bin/sh", "{port}"]
replicas = 2
after = { store = "ready" }
[service.store]
command = ["/bin/sh", "{port}"]
[balancer.public]
listen = "127.0.0.1:8080"
service = "web"
"#;

fn names_of(specs: &[Spec]) -> Vec<&str> {
    specs.iter().map(|s| s.drill.name.as_str()).collect()
}

#[test]
fn without_any_declared_each_fault_that_applies() {
    let specs = catalogue(&config(TOWN));
    let expected = [
        "kill-web",
        "hang-web",
        "crash-loop-web",
        "latency-web",
        "errors-web",
        "reset-web",
        "no-answer-web",
        "shim-kill-web",
        "dependency-stall-store",
        "agent-kill",
        "balancer-kill",
        "balancer-hang",
    ];
    assert_eq!(names_of(&specs), expected);
    let failed = |name: &str| specs.iter().find(|s| s.drill.name == name).and_then(|s| s.goals.failed);
    assert_eq!((failed("kill-web"), failed("hang-web"), failed("agent-kill")), (Some(0), Some(0), Some(0)));
    assert_eq!(failed("dependency-stall-store"), None, "with all of it gone, its users may fail");
    assert_eq!(failed("no-answer-web"), None, "what passes its probes and answers nobody looks busy");
}

#[test]
fn the_last_instance_is_left_out_and_so_is_the_only_balancer_process() {
    let text = TOWN.replace("replicas = 2", "replicas = 1") + "[node]\nbalancer_processes = 1\n";
    assert_eq!(names_of(&catalogue(&config(&text))), ["dependency-stall-store", "agent-kill"]);
}

#[test]
fn declared_ones_stand_alone_and_are_judged_by_the_file_only() {
    let text = TOWN.to_owned() + "[drill.mine]\nfault = \"hang\"\ntarget = \"web\"\nrecover = \"9s\"\n";
    let config = config(&text);
    let specs = catalogue(&config);
    assert_eq!(names_of(&specs), ["mine"]);
    assert_eq!(specs[0].goals, Goals { recover: Some(Duration::from_secs(9)), ..Goals::default() });
    assert!(named(&config, "kill-web").is_some(), "those of the catalogue can be asked for by name");
    assert!(named(&config, "other").is_none());
    assert_eq!(names(&config).len(), 13);
}

#[test]
fn errors_that_reach_clients_follow_from_the_ejection() {
    let allowed = |text: &str| {
        let specs = catalogue(&config(text));
        specs.into_iter().find(|s| s.drill.fault == Fault::Errors).and_then(|s| s.goals.failed)
    };
    // Ejected for 1 s and 2 s, the third time until after the 5 s: three rounds of 5 in each of 2 processes.
    assert_eq!(allowed(TOWN), Some(30));
    assert_eq!(allowed(&(TOWN.to_owned() + "retry = { statuses = [503] }\n")), Some(0));
}
