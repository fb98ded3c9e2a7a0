//! Single points of failure: what one death takes down.

use std::collections::BTreeSet;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Config, Kind};
use crate::reader::Findings;

pub(super) fn check(out: &mut Findings, config: &Config) {
    let mut lonely = BTreeSet::new();
    for (name, balancer) in &config.balancers {
        let Some(service) = config.services.get(&balancer.service).filter(|s| s.kind == Kind::Service) else {
            continue;
        };
        if service.replicas <= 1
            && out.is_good(&format!("service.{}.replicas", service.name))
            && lonely.insert(&service.name)
        {
            single_instance(out, name, &service.name, service.replicas);
        }
        if service.ready.is_none() && out.is_good(&format!("service.{}.ready", service.name)) {
            no_readiness(out, name, &service.name);
        }
    }
    dependencies(out, config, &lonely);
    if config.node.balancer_processes == 1 && !config.balancers.is_empty() {
        let span = out.spans.value("node.balancer_processes");
        out.push(
            Diagnostic::new(Severity::Warning, code::ONE_BALANCER, "every request depends on one balancer process")
                .at(span, "only one")
                .hint("balancer_processes = 2; while one restarts, the other answers"),
        );
    }
    if !config.balancers.is_empty() && config.cluster.is_none() {
        let message = "everything runs on one machine: its loss is the loss of all";
        out.push(
            Diagnostic::new(Severity::Advice, code::ONE_NODE, message)
                .hint("holdfast survives the death of any process here, not of the machine itself"),
        );
    }
}

fn single_instance(out: &mut Findings, balancer: &str, service: &str, replicas: u32) {
    let count = format!("service.{service}.replicas");
    let here =
        if out.spans.has(&count) { out.spans.value(&count) } else { out.spans.key(&format!("service.{service}")) };
    let behind = out.spans.value(&format!("balancer.{balancer}.service"));
    let (message, label) = match replicas {
        0 => (format!("`{service}` has no instance behind balancer `{balancer}`"), "none: every request is refused"),
        _ => (format!("`{service}` is a single point of failure behind balancer `{balancer}`"), "one instance"),
    };
    out.push(
        Diagnostic::new(Severity::Warning, code::SINGLE_INSTANCE, message)
            .at(here, label)
            .at(behind, "all requests go to it")
            .hint("replicas = 2; with one, every restart is an outage"),
    );
}

fn no_readiness(out: &mut Findings, balancer: &str, service: &str) {
    let (here, behind) =
        (out.spans.key(&format!("service.{service}")), out.spans.value(&format!("balancer.{balancer}.service")));
    out.push(
        Diagnostic::new(
            Severity::Warning,
            code::NO_READINESS,
            format!("balancer `{balancer}` cannot tell when `{service}` is ready"),
        )
        .at(here, "no `ready` probe")
        .at(behind, "gets requests as soon as its process exists")
        .hint("add: ready = { http = \"/\" } or ready = { tcp = true }"),
    );
}

/// Dependencies with one instance, told once for each; those behind a balancer have been told already.
fn dependencies(out: &mut Findings, config: &Config, told: &BTreeSet<&String>) {
    let mut told = told.clone();
    for (name, service) in &config.services {
        for other in service.after.keys() {
            let Some(target) = config.services.get(other) else { continue };
            if target.kind == Kind::Service && target.replicas == 1 && told.insert(other) {
                let (span, waits) = (
                    out.spans.key(&format!("service.{other}")),
                    out.spans.value(&format!("service.{name}.after.{other}")),
                );
                out.push(
                    Diagnostic::new(
                        Severity::Advice,
                        code::SINGLE_DEPENDENCY,
                        format!("`{other}` has a single instance that others depend on"),
                    )
                    .at(span, "one instance")
                    .at(waits, format!("`{name}` depends on it"))
                    .hint("replicas = 2, if it can run twice"),
                );
            }
        }
    }
}
