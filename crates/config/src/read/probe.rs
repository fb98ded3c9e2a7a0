//! `startup`, `ready` and `live`.

use std::ops::RangeInclusive;
use std::time::Duration;

use holdfast_policy::health::Thresholds;
use toml::de::DeValue;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::keys::Section;
use crate::model::{Check, Probe};
use crate::reader::{Fault, Findings, Reader, integer};

/// Timeout of a probe that does not name one, where its period is not shorter.
const TIMEOUT: Duration = Duration::from_secs(1);

pub(super) fn read(out: &mut Findings, service: &Reader<'_>, name: &str, section: &'static Section) -> Option<Probe> {
    let table = service.inner(out, name, section)?;
    let check = check(out, &table)?;
    let every = table.duration(out, "every");
    let thresholds = Thresholds { rise: table.u32(out, "rise"), fall: table.u32(out, "fall") };
    let timeout = table.opt_duration(out, "timeout").unwrap_or(TIMEOUT.min(every));
    let within = if name == "startup" { table.duration(out, "within") } else { Duration::ZERO };
    Some(Probe { check, every, timeout, thresholds, within })
}

fn check(out: &mut Findings, table: &Reader<'_>) -> Option<Check> {
    let given: Vec<&str> = ["http", "tcp", "command", "notify"].into_iter().filter(|k| table.has(k)).collect();
    if let [first, second, ..] = given[..] {
        let (a, b) = (out.spans.key(&table.at(first)), out.spans.key(&table.at(second)));
        let message = format!("`{}` asks in two ways", table.path);
        let found = out.conflict(&table.path, message);
        out.push(found.at(b, format!("`{second}` here")).at(a, format!("`{first}` here")).hint("keep one of them"));
    }
    let status = table.form(out, "status", status).expect("the catalogue gives a default");
    if table.has("status") && !table.has("http") {
        let span = out.spans.key(&table.at("status"));
        let found = out.conflict(&table.at("status"), "`status` belongs to an `http` probe");
        out.push(found.at(span, "without `http`").hint("remove `status`, or ask by `http = \"/path\"`"));
    }
    match given.first().copied() {
        Some("http") => {
            let path = table.form(out, "http", http_path).unwrap_or_default();
            Some(Check::Http { path, status })
        }
        Some("tcp") => flag(out, table, "tcp").then_some(Check::Tcp),
        Some("notify") => flag(out, table, "notify").then_some(Check::Notify),
        Some(_) => Some(Check::Command(table.argv(out, "command").unwrap_or_default())),
        // A misspelt one has been told.
        None if ["http", "tcp", "command", "notify"].iter().any(|k| !out.is_good_itself(&table.at(k))) => None,
        None => {
            let span = out.spans.value(&table.path);
            out.bad(&table.path);
            out.push(
                Diagnostic::new(
                    Severity::Error,
                    code::MISSING_KEY,
                    format!("`{}` does not say what to ask", table.path),
                )
                .at(span, "one of `http`, `tcp`, `command`, `notify` is missing")
                .hint("for example: { http = \"/health\" } or { tcp = true }"),
            );
            None
        }
    }
}

/// `tcp = true`; false is refused, because it would leave a probe that asks nothing.
fn flag(out: &mut Findings, table: &Reader<'_>, name: &str) -> bool {
    let read = |value: &DeValue<'_>| match value.as_bool() {
        Some(true) => Ok(()),
        Some(false) => Err(Fault::value("only true makes sense here").hint("remove the probe to switch it off")),
        None => Err(Fault::kind("true", value)),
    };
    table.form(out, name, read).is_some()
}

pub(super) fn http_path(value: &DeValue<'_>) -> Result<String, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("a path such as \"/health\"", value))?;
    if !text.starts_with('/') {
        return Err(Fault::value("must start with `/`").hint("the path alone: host and port are those of the instance"));
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(Fault::value(format!("`{}` must be percent-encoded", c.escape_debug())));
    }
    Ok(text.to_owned())
}

fn status(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, Fault> {
    let range = match value {
        DeValue::Integer(n) => integer(n).and_then(|n| u16::try_from(n).ok()).map(|n| (n, n)),
        DeValue::String(text) => match text.split_once('-') {
            Some((a, b)) => a.trim().parse().ok().zip(b.trim().parse().ok()),
            None => text.trim().parse().ok().map(|n| (n, n)),
        },
        other => return Err(Fault::kind("a status code or a range such as \"200-399\"", other)),
    };
    match range {
        Some((a, b)) if (100..=599).contains(&a) && (a..=599).contains(&b) => Ok(a..=b),
        _ => Err(Fault::value("must be codes from 100 to 599, the lower one first")),
    }
}
