//! Several machines: what one death takes down all the same, and what can never be placed.

use std::collections::{BTreeMap, BTreeSet};

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::Config;
use crate::nearest::nearest;
use crate::reader::Findings;

use super::references::defined_service;

/// Labels that every machine has.
const NODE: &str = "node";

pub(super) fn check(out: &mut Findings, config: &Config) {
    apart_from(out, config);
    if config.cluster.is_none() {
        alone(out, config);
        return;
    }
    members(out, config);
    let nodes: BTreeSet<&str> = config.nodes.keys().map(String::as_str).collect();
    for (name, service) in &config.services {
        named_nodes(out, &nodes, &format!("service.{name}.on"), &service.on);
        loopback(out, config, name);
    }
    for (name, balancer) in &config.balancers {
        named_nodes(out, &nodes, &format!("balancer.{name}.on"), &balancer.on);
        one_machine(out, config, name);
    }
}

fn apart_from(out: &mut Findings, config: &Config) {
    for (name, service) in &config.services {
        for (n, other) in service.apart_from.iter().enumerate() {
            let path = format!("service.{name}.apart_from[{n}]");
            if defined_service(out, config, &path, other) && other == name {
                let span = out.spans.value(&format!("service.{name}.apart_from"));
                let message = format!("`{name}` cannot be apart from itself");
                out.push(
                    Diagnostic::new(Severity::Error, code::CONFLICT, message)
                        .at(span, "its own name")
                        .hint("instances of a service are spread over machines by themselves"),
                );
            }
        }
    }
}

/// Machines are described, but nothing makes them one.
fn alone(out: &mut Findings, config: &Config) {
    for balancer in config.balancers.values().filter(|balancer| balancer.dns.is_some()) {
        let span = out.spans.key(&format!("balancer.{}.dns", balancer.name));
        let message =
            format!("`dns` of `{}` is kept by the leader of a cluster, and there is no [cluster]", balancer.name);
        out.push(
            Diagnostic::new(Severity::Warning, code::NODES_ALONE, message)
                .at(span, "has no effect")
                .hint("add [cluster] etcd = […]; see docs/cluster.md"),
        );
    }
    let Some(name) = config.nodes.keys().next() else { return };
    let span = out.spans.key(&format!("node.{name}"));
    out.push(
        Diagnostic::new(Severity::Warning, code::NODES_ALONE, "machines are described, and there is no [cluster]")
            .at(span, "has no effect")
            .hint("add [cluster] etcd = […]; see docs/cluster.md"),
    );
}

fn members(out: &mut Findings, config: &Config) {
    let Some(cluster) = config.cluster.as_ref().filter(|_| out.is_good("cluster.etcd")) else { return };
    let span = out.spans.value("cluster.etcd");
    let count = cluster.etcd.len();
    let (message, label) = match count {
        0 => return,
        1 => ("what the machines agree on depends on one member of etcd".to_owned(), "only one"),
        n if n.is_multiple_of(2) => {
            (format!("{n} members of etcd stand no more losses than {}", n - 1), "an even number")
        }
        _ => return,
    };
    out.push(
        Diagnostic::new(Severity::Warning, code::ETCD_MEMBERS, message)
            .at(span, label)
            .hint("three members on three machines stand the loss of one"),
    );
}

fn named_nodes(out: &mut Findings, nodes: &BTreeSet<&str>, path: &str, on: &BTreeMap<String, Vec<String>>) {
    for wanted in on.get(NODE).into_iter().flatten() {
        described(out, nodes, path, wanted, "nothing runs here unless a machine of this name joins");
    }
}

/// Machines need not be described; but where some are, another name is mostly a slip.
pub(super) fn described(out: &mut Findings, nodes: &BTreeSet<&str>, path: &str, wanted: &str, label: &str) {
    if nodes.is_empty() || nodes.contains(wanted) || !out.is_good(path) {
        return;
    }
    let span = out.spans.value(path);
    let hint = match nearest(wanted, nodes.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("known here: {}", nodes.iter().copied().collect::<Vec<_>>().join(", ")),
    };
    out.push(
        Diagnostic::new(Severity::Warning, code::UNKNOWN_NODE, format!("no [node.{wanted}] is described"))
            .at(span, label)
            .hint(hint),
    );
}

fn loopback(out: &mut Findings, config: &Config, name: &str) {
    let service = &config.services[name];
    let balanced = config.balancers.values().any(|b| b.service == name);
    let path = format!("service.{name}.host");
    if service.host.is_loopback() && balanced && out.spans.has(&path) && !out.all_on_loopback(config) {
        let span = out.spans.value(&path);
        out.push(
            Diagnostic::new(Severity::Warning, code::LOOPBACK, format!("other machines cannot reach `{name}`"))
                .at(span, "loopback ends at each machine")
                .hint("leave `host` out: it is then the address of the machine that runs the instance"),
        );
    }
}

/// A balancer that one machine alone listens for.
fn one_machine(out: &mut Findings, config: &Config, name: &str) {
    let balancer = &config.balancers[name];
    let path = format!("balancer.{name}.on");
    let others = config.balancers.values().any(|b| b.name != *name && b.service == balancer.service);
    if balancer.on.get(NODE).is_some_and(|nodes| nodes.len() == 1) && !others && out.is_good(&path) {
        let span = out.spans.value(&path);
        out.push(
            Diagnostic::new(
                Severity::Warning,
                code::ONE_BALANCER_NODE,
                format!("every request to `{name}` depends on one machine"),
            )
            .at(span, "only there")
            .hint("let several machines listen, with `virtual_ip` or DNS in front of them"),
        );
    }
}

impl Findings {
    /// Several agents on one machine, as tests have them.
    pub(super) fn all_on_loopback(&self, config: &Config) -> bool {
        let mut addresses = config.nodes.values().filter_map(|n| n.address).peekable();
        addresses.peek().is_some() && addresses.all(|a| a.is_loopback())
    }
}
