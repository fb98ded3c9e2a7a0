//! From parsed TOML to the model. Always yields a whole [`Config`]; it counts only when nothing was found wrong.

mod balancer;
mod cluster;
mod dns;
mod drill;
mod node;
mod probe;
mod restart;
mod service;
pub(crate) mod settle;
mod standby;

pub(crate) use service::signal_name;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::check::Environment;
use crate::code;
use crate::diagnostic::{Diagnostic, Severity, Span};
use crate::keys::{CLUSTER, MACHINE, NODE, Section, TOP};
use crate::model::Config;
use crate::reader::{Fault, Findings, Reader, unknown_key};

/// Longest name of a service, balancer or drill: file and socket names are built from it.
const NAME_CHARS_MAX: usize = 40;

pub(crate) fn read(out: &mut Findings, file: &DeTable<'_>, environment: &Environment) -> Config {
    let empty = DeTable::new();
    for (name, value) in file {
        out.spans.note("", name.get_ref(), name.span(), value.span());
        if !TOP.contains(&name.get_ref().as_ref()) {
            out.push(unknown_table(name.get_ref(), name.span(), value.get_ref()));
        }
    }
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
    let nodes = all_named(out, &machines, "node", &MACHINE, cluster::machine);
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
    let services =
        named(out, file, "service", &crate::keys::SERVICE, |out, table, name| service::read(out, table, name, host));
    let balancers = named(out, file, "balancer", &crate::keys::BALANCER, balancer::read);
    let drills = named(out, file, "drill", &crate::keys::DRILL, drill::read);
    let mut config = Config { node, cluster, nodes, services, balancers, drills };
    settle::settle(out, &mut config);
    config
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
    all_named(out, tables, noun, section, read)
}

fn all_named<T>(
    out: &mut Findings,
    tables: &DeTable<'_>,
    noun: &'static str,
    section: &'static Section,
    read: impl Fn(&mut Findings, &Reader<'_>, &str) -> T,
) -> BTreeMap<String, T> {
    let mut all = BTreeMap::new();
    for (name, value) in tables {
        let path = format!("{noun}.{}", name.get_ref());
        out.spans.note(noun, name.get_ref(), name.span(), value.span());
        check_name(out, noun, name.get_ref(), name.span());
        match value.get_ref() {
            DeValue::Table(table) => {
                let reader = Reader::new(out, path, section, table);
                all.insert(name.get_ref().to_string(), read(out, &reader, name.get_ref()));
            }
            other => not_a_name(out, noun, name, section, other),
        }
    }
    all
}

/// `[service] command = …`: the name was forgotten.
fn not_a_name(
    out: &mut Findings,
    noun: &str,
    name: &Spanned<std::borrow::Cow<'_, str>>,
    section: &Section,
    value: &DeValue<'_>,
) {
    let path = format!("{noun}.{}", name.get_ref());
    let fault = Fault::kind("a table", value);
    let hint = if section.keys.iter().any(|k| k.name == name.get_ref()) {
        format!("give the {noun} a name: [{noun}.NAME]")
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

fn check_name(out: &mut Findings, noun: &str, name: &str, span: Span) {
    // Machines are called as their hosts are, and no instance is called like one: `db-1` may be a host.
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
    let trouble = name_trouble(if noun == "node" && !stem.is_empty() { stem } else { name });
    if let Some((label, hint)) = trouble {
        out.bad(&format!("{noun}.{name}"));
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
