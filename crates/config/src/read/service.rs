//! `[service.NAME]`.

pub(super) mod env;
mod stop;

use std::collections::BTreeMap;
use std::net::IpAddr;

use toml::de::DeValue;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::keys::{LIVE, LOG, NEEDS, READY, STARTUP};
use crate::model::{Command, Condition, Kind, Log, Needs, Port, Service};
use crate::reader::{Fault, Findings, Reader, integer, unknown_word};

use super::{probe, restart, standby};

pub(crate) use stop::signal_name;

/// `host` is where it listens when the file does not say.
pub(super) fn read(out: &mut Findings, table: &Reader<'_>, name: &str, host: IpAddr) -> Service {
    let kind = match table.choice(out, "type") {
        Some("job") => Kind::Job,
        _ => Kind::Service,
    };
    let standby = standby::read(out, table);
    let replicas = table.u32(out, "replicas").saturating_add(standby.as_ref().map_or(0, |s| s.count));
    let max_unavailable = table.u32(out, "max_unavailable");
    let base = out.base.clone();
    Service {
        name: name.to_owned(),
        kind,
        command: command(out, table),
        replicas,
        env: env::read(out, table),
        env_files: env::files(out, table),
        workdir: table.path_value(out, "workdir").unwrap_or(base),
        user: table.text(out, "user"),
        group: table.text(out, "group"),
        umask: table.form(out, "umask", umask),
        open_files: table.opt_u32(out, "open_files").map(u64::from),
        // The default of the catalogue is that of a machine alone.
        host: table.raw("host").and_then(|_| table.form(out, "host", ip)).unwrap_or(host),
        // Without the key, `settle` decides once balancers are known.
        port: table.form(out, "port", port).unwrap_or(Port::None),
        after: after(out, table),
        restart: restart::read(out, table, kind),
        startup: probe::read(out, table, "startup", &STARTUP),
        ready: probe::read(out, table, "ready", &READY),
        live: probe::read(out, table, "live", &LIVE),
        stop: stop::read(out, table),
        // Of a redundant service the active one is all that is available.
        min_available: match standby {
            Some(_) => table.opt_u32(out, "min_available").map_or(1, |n| n.min(1)),
            None => table.opt_u32(out, "min_available").unwrap_or(replicas.saturating_sub(max_unavailable)),
        },
        max_unavailable,
        fenced: table.boolean(out, "fenced") || standby.is_some(),
        standby,
        log: log(out, table),
        on: table.form(out, "on", super::cluster::on).unwrap_or_default(),
        apart_from: table.list(out, "apart_from", super::cluster::service_name).into_iter().collect(),
        needs: needs(out, table),
        availability: table.opt_share(out, "availability"),
    }
}

fn command(out: &mut Findings, table: &Reader<'_>) -> Command {
    if table.has("command") && table.has("shell") {
        let (a, b) = (out.spans.key(&table.at("command")), out.spans.key(&table.at("shell")));
        let found = out.conflict(&table.path, format!("`{}` has both `command` and `shell`", table.path));
        out.push(
            found
                .at(b, "`shell` here")
                .at(a, "`command` here")
                .hint("keep one; `command` needs no shell and is the safer choice"),
        );
    }
    if table.has("shell") {
        return Command::Shell(table.text(out, "shell").unwrap_or_default());
    }
    if !table.has("command") {
        let span = out.spans.key(&table.path);
        table.missing(out, "command", span);
    }
    Command::Argv(table.argv(out, "command").unwrap_or_default())
}

fn needs(out: &mut Findings, table: &Reader<'_>) -> Needs {
    let empty = toml::de::DeTable::new();
    let needs = table.inner_or_empty(out, "needs", &NEEDS, &empty);
    Needs {
        cpu_millis: needs.opt_u32(out, "cpu_millis").unwrap_or(0),
        memory_bytes: needs.opt_size(out, "memory").unwrap_or(0),
    }
}

fn log(out: &mut Findings, table: &Reader<'_>) -> Log {
    let empty = toml::de::DeTable::new();
    let log = table.inner_or_empty(out, "log", &LOG, &empty);
    Log {
        size_bytes_max: log.opt_size(out, "size").expect("the catalogue gives a default"),
        keep: log.u32(out, "keep"),
    }
}

/// `after`, with the conditions that the file leaves open set to `Started`; `settle` knows the services and sharpens them.
fn after(out: &mut Findings, table: &Reader<'_>) -> BTreeMap<String, Condition> {
    let Some(value) = table.raw("after") else { return BTreeMap::new() };
    let path = table.at("after");
    let mut all = BTreeMap::new();
    match value.get_ref() {
        DeValue::Table(entries) => {
            for (service, condition) in entries {
                out.spans.note(&path, service.get_ref(), service.span(), condition.span());
                let at = format!("{path}.{}", service.get_ref());
                let known = read_condition(condition.get_ref()).unwrap_or_else(|fault| {
                    out.fault(&at, condition.span(), fault);
                    Condition::Started
                });
                all.insert(service.get_ref().to_string(), known);
            }
        }
        DeValue::String(_) | DeValue::Array(_) => {
            let names = table.list(out, "after", |v| {
                v.as_str().map(str::to_owned).ok_or_else(|| Fault::kind("the name of a service", v))
            });
            for (n, service) in names.into_iter().enumerate() {
                let span = out.spans.value(&format!("{path}[{n}]"));
                out.spans.set(&format!("{path}.{service}"), span);
                all.insert(service, Condition::Started);
            }
        }
        other => out.fault(
            &path,
            value.span(),
            Fault::kind("an array of services or a table", other)
                .hint("write after = [\"db\"] or after = { db = \"ready\" }"),
        ),
    }
    all
}

fn read_condition(value: &DeValue<'_>) -> Result<Condition, Fault> {
    match value.as_str() {
        Some("started") => Ok(Condition::Started),
        Some("ready") => Ok(Condition::Ready),
        Some("completed") => Ok(Condition::Completed),
        Some(other) => Err(unknown_word(other, &["started", "ready", "completed"])),
        None => Err(Fault::kind("\"started\", \"ready\" or \"completed\"", value).hint("for example: db = \"ready\"")),
    }
}

fn port(value: &DeValue<'_>) -> Result<Port, Fault> {
    match value {
        DeValue::Boolean(false) => Ok(Port::None),
        DeValue::String(text) if text == "auto" => Ok(Port::Assigned),
        DeValue::String(text) if text.parse::<u16>().is_ok() => {
            Err(Fault::kind("a number, \"auto\" or false", value)
                .hint(format!("write it without quotes: port = {text}")))
        }
        DeValue::String(text) => Err(unknown_word(text, &["auto"])),
        DeValue::Integer(n) => match integer(n).and_then(|n| u16::try_from(n).ok()) {
            Some(port) if port > 0 => Ok(Port::Fixed(port)),
            _ => Err(Fault::value("must be 1 to 65535")),
        },
        other => Err(Fault::kind("a number, \"auto\" or false", other)),
    }
}

pub(super) fn ip(value: &DeValue<'_>) -> Result<IpAddr, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("an IP address", value))?;
    text.parse().map_err(|_| {
        let hint = if text == "localhost" {
            "write \"127.0.0.1\""
        } else {
            "an address such as \"127.0.0.1\"; host names are not resolved"
        };
        Fault::value("not an IP address").hint(hint)
    })
}

fn umask(value: &DeValue<'_>) -> Result<u32, Fault> {
    let hint = |digits: &str| format!("write it as octal text: umask = \"{digits:0>3}\"");
    match value {
        DeValue::String(text) => match u32::from_str_radix(text, 8) {
            Ok(mask) if mask <= 0o777 => Ok(mask),
            _ => Err(Fault::value("not three octal digits")),
        },
        DeValue::Integer(n) => Err(Fault::kind("octal text", value).hint(hint(n.as_str()))),
        other => Err(Fault::kind("octal text", other)),
    }
}

impl Reader<'_> {
    /// An environment variable's name, or why it is none.
    fn check_env_name(&self, out: &mut Findings, name: &str, span: crate::diagnostic::Span) {
        let good = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !good {
            out.push(
                Diagnostic::new(
                    Severity::Error,
                    code::ENV_NAME,
                    format!("`{name}` is no name for an environment variable"),
                )
                .at(span, "letters, digits and `_`, not starting with a digit")
                .hint("shells and programs drop other names silently"),
            );
        }
    }
}
