//! `[cluster]` and `[node.NAME]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use toml::de::{DeTable, DeValue};

use holdfast_policy::lease::Timings;

use crate::keys::Section;
use crate::model::{Cluster, ETCD_CLIENT_PORT, Machine, Value};
use crate::reader::{Fault, Findings, Reader};

pub(super) fn read(out: &mut Findings, table: &Reader<'_>, nodes: &BTreeMap<String, Machine>) -> Cluster {
    if !table.has("etcd") {
        let span = out.spans.key("cluster");
        table.missing(out, "etcd", span);
    }
    let managed = table.raw("etcd").is_some_and(|v| v.get_ref().as_str() == Some("managed"));
    let etcd = if managed { members(out, nodes) } else { table.list(out, "etcd", url) };
    let word = table.choice(out, "lease").unwrap_or("default");
    let lease = Timings::PROFILES.iter().find(|(name, _)| *name == word).map_or(Timings::DEFAULT, |(_, t)| *t);
    for (one, other) in [("cert", "key"), ("key", "cert"), ("password", "user")] {
        if table.has(one) && !table.has(other) {
            let span = out.spans.value(&table.at(one));
            out.fault(&table.at(one), span, Fault::value(format!("needs `{other}` beside it")));
        }
    }
    Cluster {
        name: table.text(out, "name").unwrap_or_default(),
        etcd,
        managed,
        etcd_program: table.text(out, "etcd_program").unwrap_or_default(),
        lease_profile: word,
        lease,
        link_port: u16::try_from(table.u32(out, "link")).unwrap_or_default(),
        certificate_valid: table.duration(out, "certificates"),
        user: table.text(out, "user"),
        password: secret(out, table, "password"),
        ca: table.path_value(out, "ca"),
        cert: table.path_value(out, "cert"),
        key: table.path_value(out, "key"),
    }
}

/// Where the members are that holdfast runs itself.
fn members(out: &mut Findings, nodes: &BTreeMap<String, Machine>) -> Vec<String> {
    let members: Vec<&Machine> = nodes.values().filter(|node| node.etcd).collect();
    if members.is_empty() {
        let span = out.spans.value("cluster.etcd");
        let fault =
            Fault::value("no machine runs it").hint("write etcd = true below [node.NAME], best for three of them");
        out.fault("cluster.etcd", span, fault);
    }
    let mut urls = Vec::new();
    for member in members {
        match member.address {
            Some(address) => urls.push(format!("http://{}", SocketAddr::new(address, ETCD_CLIENT_PORT))),
            None => {
                let path = format!("node.{}.etcd", member.name);
                let span = out.spans.value(&path);
                out.fault(&path, span, Fault::value("needs `address` beside it: the other members must find it"));
            }
        }
    }
    urls
}

fn url(value: &DeValue<'_>) -> Result<String, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("a URL such as \"http://10.0.0.1:2379\"", value))?;
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let authority = rest.map(|rest| rest.trim_end_matches('/'));
    let port = |authority: &str| authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match authority {
        Some(authority) if !authority.contains(['/', '@', ' ']) && port(authority).is_some() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        Some(_) => Err(Fault::value("not a URL of an etcd member").hint("write \"http://10.0.0.1:2379\"")),
        None => Err(Fault::value("does not say http:// or https://").hint(format!("write \"http://{text}\""))),
    }
}

/// A secret as a reference. What stands in the file instead is never shown.
pub(super) fn secret(out: &mut Findings, table: &Reader<'_>, name: &str) -> Option<Value> {
    let value = table.raw(name)?;
    let inside = value.get_ref().as_table().into_iter().flatten();
    let plain = inside.filter(|(key, _)| !["file", "env"].contains(&key.get_ref().as_ref())).map(|(_, value)| value);
    for value in std::iter::once(value).chain(plain).filter(|value| !value.get_ref().is_table()) {
        let span = value.span();
        out.secrets.push(span.start + 1..span.end.saturating_sub(1).max(span.start + 1));
    }
    table.form(out, name, reference)
}

fn reference(value: &DeValue<'_>) -> Result<Value, Fault> {
    let wanted = "{ file = \"PATH\" } or { env = \"NAME\" }";
    let table = value.as_table().ok_or_else(|| Fault::kind(wanted, value))?;
    let text = |name: &str| table.get(name).and_then(|v| v.get_ref().as_str()).map(str::to_owned);
    match (text("file"), text("env"), table.len()) {
        (Some(path), None, 1) if path.starts_with('/') => Ok(Value::File(path.into())),
        (Some(_), None, 1) => Err(Fault::value("the path must be absolute, because it holds on every machine")),
        (None, Some(name), 1) => Ok(Value::Env(name)),
        _ => Err(Fault::value(format!("write {wanted}"))),
    }
}

pub(super) fn machine(out: &mut Findings, table: &Reader<'_>, name: &str) -> Machine {
    let host = table.text(out, "host");
    let rack = table.text(out, "rack");
    let zone = table.text(out, "zone");
    Machine {
        name: name.to_owned(),
        address: table.form(out, "address", super::service::ip),
        public_addresses: table.list(out, "public_address", super::service::ip),
        host,
        rack,
        zone,
        etcd: table.boolean(out, "etcd"),
        labels: table.form(out, "labels", |v| texts(v, "{ disk = \"ssd\" }")).unwrap_or_default(),
        cpus: table.opt_u32(out, "cpus"),
        memory_bytes: table.opt_size(out, "memory"),
    }
}

pub(super) fn texts(value: &DeValue<'_>, example: &str) -> Result<BTreeMap<String, String>, Fault> {
    let table = value.as_table().ok_or_else(|| Fault::kind(&format!("a table such as {example}"), value))?;
    let mut all = BTreeMap::new();
    for (name, value) in table {
        let text = value.get_ref().as_str().ok_or_else(|| Fault::kind("a text", value.get_ref()))?;
        all.insert(name.get_ref().to_string(), text.to_owned());
    }
    Ok(all)
}

/// `on = { zone = "east", disk = ["ssd", "nvme"] }`: every label must have one of the values.
pub(super) fn on(value: &DeValue<'_>) -> Result<BTreeMap<String, Vec<String>>, Fault> {
    let table = value.as_table().ok_or_else(|| Fault::kind("a table such as { zone = \"east\" }", value))?;
    let mut all = BTreeMap::new();
    for (name, value) in table {
        let text = |v: &DeValue<'_>| v.as_str().map(str::to_owned).ok_or_else(|| Fault::kind("a text", v));
        let values = match value.get_ref() {
            DeValue::Array(items) => items.iter().map(|v| text(v.get_ref())).collect::<Result<Vec<_>, _>>()?,
            other => vec![text(other)?],
        };
        if values.is_empty() {
            return Err(Fault::value(format!("`{}` has no value that would do", name.get_ref())));
        }
        all.insert(name.get_ref().to_string(), values);
    }
    Ok(all)
}

pub(super) fn service_name(value: &DeValue<'_>) -> Result<String, Fault> {
    value.as_str().map(str::to_owned).ok_or_else(|| Fault::kind("the name of a service", value))
}

/// `[node]` holds settings of every machine and, as tables, those of single ones.
pub(super) fn split<'t>(table: &DeTable<'t>, section: &'static Section) -> (DeTable<'t>, DeTable<'t>) {
    let is_setting = |name: &str| section.keys.iter().any(|k| k.name == name);
    let mut settings = DeTable::new();
    let mut machines = DeTable::new();
    for (name, value) in table {
        let to = if value.get_ref().is_table() && !is_setting(name.get_ref()) { &mut machines } else { &mut settings };
        to.insert(name.clone(), value.clone());
    }
    (settings, machines)
}
