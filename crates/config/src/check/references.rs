//! Names that refer to other tables.

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Condition, Config, Kind};
use crate::nearest::nearest;
use crate::reader::Findings;

pub(super) fn check(out: &mut Findings, config: &Config) {
    for (name, service) in &config.services {
        for (other, condition) in &service.after {
            dependency(out, config, name, other, *condition);
        }
    }
    for (name, balancer) in &config.balancers {
        let path = format!("balancer.{name}.service");
        if out.is_good(&path) {
            defined_service(out, config, &path, &balancer.service);
        }
    }
}

fn dependency(out: &mut Findings, config: &Config, name: &str, other: &str, condition: Condition) {
    let path = format!("service.{name}.after.{other}");
    if !defined_service(out, config, &path, other) {
        return;
    }
    let Some(target) = config.services.get(other) else { return };
    if !out.is_good(&format!("service.{other}.type")) {
        return;
    }
    let span = out.spans.value(&path);
    let defined = out.spans.key(&format!("service.{other}"));
    match (target.kind, condition) {
        (Kind::Service, Condition::Completed) => out.push(
            Diagnostic::new(Severity::Error, code::NOT_A_JOB, format!("`{other}` is kept running and never completes"))
                .at(span, "waits for ever")
                .at(defined, format!("`{other}` is a service"))
                .hint(format!("wait until it is \"ready\" or \"started\", or give `{other}` type = \"job\"")),
        ),
        (Kind::Job, Condition::Ready) => out.push(
            Diagnostic::new(Severity::Error, code::NOT_FOR_JOBS, format!("`{other}` is a job and never ready"))
                .at(span, "waits for ever")
                .at(defined, format!("`{other}` is a job"))
                .hint(format!("write {other} = \"completed\"")),
        ),
        _ => {}
    }
}

/// Whether the service exists; if not, that is noted.
pub(super) fn defined_service(out: &mut Findings, config: &Config, path: &str, name: &str) -> bool {
    defined(out, path, "service", name, config.services.keys().map(String::as_str))
}

/// Whether the name is one of the known; if not, that is noted.
pub(super) fn defined<'a>(
    out: &mut Findings,
    path: &str,
    noun: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> bool {
    let found = known.clone().any(|other| other == name);
    if !found {
        undefined(out, path, noun, name, known);
    }
    found
}

pub(super) fn undefined<'a>(
    out: &mut Findings,
    path: &str,
    noun: &str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
) {
    undefined_in(out, path, (noun, noun), name, known);
}

/// A `noun` that would be defined as `[PLACE.NAME]`.
pub(super) fn undefined_in<'a>(
    out: &mut Findings,
    path: &str,
    (noun, place): (&str, &str),
    name: &str,
    known: impl Iterator<Item = &'a str>,
) {
    let known: Vec<&str> = known.collect();
    let span = out.spans.value(path);
    let found = Diagnostic::new(Severity::Error, code::UNDEFINED, format!("there is no {noun} `{name}`"));
    out.push(match nearest(name, known.iter().copied()) {
        Some(close) => found
            .at(span, format!("did you mean `{close}`?"))
            .hint(format!("write `{close}`, or define [{place}.{name}]")),
        None if known.is_empty() => found.at(span, "not defined").hint(format!("define [{place}.{name}]")),
        None => {
            found.at(span, "not defined").hint(format!("define [{place}.{name}]; defined are: {}", known.join(", ")))
        }
    });
}
