//! From parsed TOML to the model. Always yields a whole [`Config`]; it counts only when nothing was found wrong.

mod balancer;
mod cluster;
mod dns;
mod drill;
mod expression;
mod node;
mod one_of;
mod probe;
mod restart;
mod service;
pub(crate) mod settle;
mod standby;
mod tasks;
mod worker;
mod workflow;

pub(crate) use expression::{Language, Reference, expression};
pub(crate) use service::signal_name;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::check::Environment;
use crate::code;
use crate::diagnostic::{Diagnostic, Severity, Span};
use crate::keys::{
    ACCESS_KEY, BALANCER, CLUSTER, DRILL, MACHINE, NODE, POOL, QUEUE, SERVICE, Section, TOP, WORKER, WORKFLOW,
};
use crate::model::{Config, Machine, Node};
use crate::reader::{Fault, Findings, Reader, unknown_key};

/// Longest name of anything: file and socket names are built from it.
const NAME_CHARS_MAX: usize = 40;

pub(crate) fn read(out: &mut Findings, file: &DeTable<'_>, environment: &Environment) -> Config {
    for (name, value) in file {
        out.spans.note("", name.get_ref(), name.span(), value.span());
        if !TOP.contains(&name.get_ref().as_ref()) {
            out.push(unknown_table(name.get_ref(), name.span(), value.get_ref()));
        }
    }
    let (node, nodes) = machines(out, file, environment);
    let cluster = match file.get("cluster").map(|v| (v.span(), v.get_ref())) {
        Some((_, DeValue::Table(table))) => {
            let reader = Reader::new(out, "cluster".into(), &CLUSTER, table);
            Some(cluster::read(out, &reader, &nodes))
        }
        Some((span, other)) => {
            out.fault("cluster", span, Fault::kind("a table", other));
            None
        }
        None => None,
    };
    // Whoever stands on another machine cannot reach loopback.
    let host = environment.address.filter(|_| cluster.is_some()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut config = Config {
        node,
        cluster,
        nodes,
        services: named(out, file, "service", &SERVICE, |out, table, name| service::read(out, table, name, host)),
        balancers: named(out, file, "balancer", &BALANCER, balancer::read),
        drills: named(out, file, "drill", &DRILL, drill::read),
        tasks: tasks::plane(out, file),
        keys: named(out, file, "key", &ACCESS_KEY, tasks::key),
        queues: named(out, file, "queue", &QUEUE, tasks::queue),
        workers: named(out, file, "worker", &WORKER, worker::read),
        pools: named(out, file, "pool", &POOL, tasks::pool),
        workflows: named(out, file, "workflow", &WORKFLOW, workflow::read),
    };
    settle::settle(out, &mut config);
    config.workflows.values_mut().for_each(workflow::settle);
    config
}

/// `[node]` and `[node.NAME]`.
fn machines(out: &mut Findings, file: &DeTable<'_>, environment: &Environment) -> (Node, BTreeMap<String, Machine>) {
    let empty = DeTable::new();
    let (settings, machines) = match file.get("node").map(Spanned::get_ref) {
        Some(DeValue::Table(table)) => cluster::split(table, &NODE),
        _ => (DeTable::new(), DeTable::new()),
    };
    let node = match file.get("node").map(Spanned::get_ref) {
        Some(DeValue::Table(_)) => Reader::new(out, "node".into(), &NODE, &settings),
        other => {
            if let (Some(other), Some(value)) = (other, file.get("node")) {
                out.fault("node", value.span(), Fault::kind("a table", other));
            }
            Reader::new(out, "node".into(), &NODE, &empty)
        }
    };
    let node = node::read(out, &node, environment);
    (node, all_named(out, &machines, "node", "node", &MACHINE, cluster::machine))
}

/// The tables `[noun.NAME]`.
fn named<T>(
    out: &mut Findings,
    file: &DeTable<'_>,
    noun: &'static str,
    section: &'static Section,
    read: impl Fn(&mut Findings, &Reader<'_>, &str) -> T,
) -> BTreeMap<String, T> {
    let Some(value) = file.get(noun) else { return BTreeMap::new() };
    let DeValue::Table(tables) = value.get_ref() else {
        let fault = Fault::kind("a table for each name", value.get_ref()).hint(format!("write [{noun}.NAME]"));
        out.fault(noun, value.span(), fault);
        return BTreeMap::new();
    };
    all_named(out, tables, noun, noun, section, read)
}

/// The tables `[PLACE.NAME]`, each of which is a `noun`.
fn all_named<T>(
    out: &mut Findings,
    tables: &DeTable<'_>,
    place: &str,
    noun: &str,
    section: &'static Section,
    read: impl Fn(&mut Findings, &Reader<'_>, &str) -> T,
) -> BTreeMap<String, T> {
    let mut all = BTreeMap::new();
    for (name, value) in tables {
        let path = format!("{place}.{}", name.get_ref());
        out.spans.note(place, name.get_ref(), name.span(), value.span());
        check_name(out, &path, noun, name.get_ref(), name.span());
        match value.get_ref() {
            DeValue::Table(table) => {
                let reader = Reader::new(out, path, section, table);
                all.insert(name.get_ref().to_string(), read(out, &reader, name.get_ref()));
            }
            other => not_a_name(out, (place, noun), name, section, other),
        }
    }
    all
}

/// `[service] command = …`: the name was forgotten.
fn not_a_name(
    out: &mut Findings,
    (place, noun): (&str, &str),
    name: &Spanned<std::borrow::Cow<'_, str>>,
    section: &Section,
    value: &DeValue<'_>,
) {
    let path = format!("{place}.{}", name.get_ref());
    let fault = Fault::kind("a table", value);
    let hint = if section.keys.iter().any(|k| k.name == name.get_ref()) {
        format!("give the {noun} a name: [{place}.NAME]")
    } else {
        format!("write [{path}]")
    };
    out.fault(&path, name.span(), fault.hint(hint));
}

fn unknown_table(name: &str, span: Span, value: &DeValue<'_>) -> Diagnostic {
    let mut found = unknown_key("the file", name, span, &TOP);
    found.message = match value {
        DeValue::Table(_) => format!("there is no table `[{name}]`"),
        _ => format!("`{name}` stands outside of any table"),
    };
    found
}

fn check_name(out: &mut Findings, path: &str, noun: &str, name: &str, span: Span) {
    // Machines are called as their hosts are, and no instance is called like one: `db-1` may be a host.
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
    let trouble = name_trouble(if noun == "node" && !stem.is_empty() { stem } else { name });
    if let Some((label, hint)) = trouble {
        out.bad(path);
        out.push(
            Diagnostic::new(Severity::Error, code::BAD_NAME, format!("a {noun} cannot be named `{name}`"))
                .at(span, label)
                .hint(hint),
        );
    }
}

fn name_trouble(name: &str) -> Option<(String, String)> {
    let rule = "a name starts with a letter and holds small letters, digits and `-`";
    let first_is_letter = name.starts_with(|c: char| c.is_ascii_lowercase());
    let strange = name.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'));
    let digits_end = name.rsplit_once('-').filter(|(_, end)| end.bytes().all(|b| b.is_ascii_digit()));
    if let Some(c) = strange {
        let better: String = name.to_ascii_lowercase().replace(['_', '.', ' '], "-");
        let fits = better != name && name_trouble(&better).is_none();
        let hint = if fits { format!("write `{better}`: {rule}") } else { rule.into() };
        return Some((format!("`{}` is not allowed in a name", c.escape_debug()), hint));
    }
    if !first_is_letter {
        return Some(("must start with a letter".into(), rule.into()));
    }
    if name.len() > NAME_CHARS_MAX {
        return Some((format!("{} characters, at most {NAME_CHARS_MAX}", name.len()), "choose a shorter name".into()));
    }
    if let Some((stem, end)) = digits_end {
        let hint = format!("write `{stem}{end}`, because `{name}` is how an instance of `{stem}` is called");
        return Some(("looks like the id of an instance".into(), hint));
    }
    None
}
