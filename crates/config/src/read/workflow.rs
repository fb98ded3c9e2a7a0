//! `[workflow.NAME]`: its parameters and its schedule. The steps are read in [`step`].

mod http;
mod step;

use std::collections::BTreeMap;

use holdfast_policy::flow::{Kind, Parameter, ParameterKind, STEPS_MAX, Value};
use holdfast_policy::schedule::{Cron, Missed, Overlap};
use toml::de::DeValue;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity, Span};
use crate::keys::{PARAMETER, STEP};
use crate::model::{OVERLAPS, PARAMETER_KINDS, SchedulePattern, Step, StepWork, Workflow, spelling};
use crate::reader::{Fault, Findings, Reader, integer, plain_number};

/// Longest name of a parameter.
const PARAMETER_CHARS_MAX: usize = 40;
const ZONE_CHARS_MAX: usize = 64;
/// Up to here a `f64`, which is all that JSON has, tells whole numbers apart.
const WHOLE_MAX: u64 = 1 << 53;

pub(super) fn read(out: &mut Findings, table: &Reader<'_>, name: &str) -> Workflow {
    table.need_beside(out, &["timezone", "missed", "overlap"], "schedule");
    Workflow {
        name: name.to_owned(),
        parameters: parameters(out, table),
        schedule: table.list(out, "schedule", pattern),
        timezone: table.form(out, "timezone", timezone).expect("the catalogue gives a default"),
        missed: missed(out, table),
        overlap: word(OVERLAPS, table.choice(out, "overlap")).unwrap_or(Overlap::Skip),
        timeout: table.duration(out, "timeout"),
        wait: table.opt_duration(out, "wait"),
        concurrency: table.u32(out, "concurrency"),
        priority: table.opt_i32(out, "priority").unwrap_or_default(),
        keep: table.duration(out, "keep"),
        rounds: table.u32(out, "rounds"),
        round_delay: table.duration(out, "round_delay"),
        steps: steps(out, table),
    }
}

/// What a word of the file stands for.
fn word<T, const N: usize>(all: [(&'static str, T); N], given: Option<&str>) -> Option<T> {
    all.into_iter().find(|(name, _)| Some(*name) == given).map(|(_, value)| value)
}

fn steps(out: &mut Findings, workflow: &Reader<'_>) -> BTreeMap<String, Step> {
    workflow.require(out, &["step"]);
    let Some(value) = workflow.raw("step") else { return BTreeMap::new() };
    let place = workflow.at("step");
    let DeValue::Table(tables) = value.get_ref() else {
        let fault = Fault::kind("a table for each step", value.get_ref()).hint(format!("write [{place}.STEP]"));
        out.fault(&place, value.span(), fault);
        return BTreeMap::new();
    };
    if tables.is_empty() {
        out.fault(
            &place,
            value.span(),
            Fault::value("a workflow has at least one step").hint(format!("write [{place}.STEP]")),
        );
    }
    if tables.len() > STEPS_MAX {
        let fault = Fault::value(format!("{} steps, at most {STEPS_MAX}", tables.len()));
        out.fault(&place, value.span(), fault.hint("let one step do work on a list, with `for_each`"));
        return BTreeMap::new();
    }
    super::all_named(out, tables, &place, "step", &STEP, step::read)
}

fn pattern(value: &DeValue<'_>) -> Result<SchedulePattern, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("a pattern such as \"0 2 * * *\"", value))?;
    let cron = Cron::parse(text).map_err(Fault::value)?;
    Ok(SchedulePattern { text: text.to_owned(), cron })
}

/// Whether there is such a zone depends on the machine; this is its shape, which must not leave the directory of zones.
fn timezone(value: &DeValue<'_>) -> Result<String, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("the name of a time zone", value))?;
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+'))
    };
    match text.len() <= ZONE_CHARS_MAX && text.split('/').all(plain) {
        true => Ok(text.to_owned()),
        false => Err(Fault::value("not the name of a time zone")),
    }
}

fn missed(out: &mut Findings, table: &Reader<'_>) -> Missed {
    let max = table.u32(out, "missed_max");
    let missed = match table.choice(out, "missed") {
        Some("none") => Missed::None,
        Some("all") => Missed::All { max },
        _ => Missed::Latest,
    };
    if table.has("missed_max") && !matches!(missed, Missed::All { .. }) && out.is_good(&table.at("missed")) {
        table.wrong(
            out,
            "missed_max",
            Fault::value("needs `missed = \"all\"` beside it").hint("add it, or remove `missed_max`"),
        );
    }
    missed
}

fn parameters(out: &mut Findings, workflow: &Reader<'_>) -> BTreeMap<String, Parameter> {
    let Some(value) = workflow.raw("parameters") else { return BTreeMap::new() };
    let place = workflow.at("parameters");
    let DeValue::Table(tables) = value.get_ref() else {
        let fault = Fault::kind("a table", value.get_ref()).hint("write parameters = { day = { type = \"date\" } }");
        out.fault(&place, value.span(), fault);
        return BTreeMap::new();
    };
    let mut all = BTreeMap::new();
    for (name, value) in tables {
        out.spans.note(&place, name.get_ref(), name.span(), value.span());
        let path = format!("{place}.{}", name.get_ref());
        check_parameter_name(out, &path, name.get_ref(), name.span());
        match value.get_ref() {
            DeValue::Table(table) => {
                let reader = Reader::new(out, path, &PARAMETER, table);
                all.insert(name.get_ref().to_string(), parameter(out, &reader));
            }
            other => {
                let hint = format!("write {} = {{ type = \"text\" }}", name.get_ref());
                out.fault(&path, value.span(), Fault::kind("a table", other).hint(hint));
            }
        }
    }
    all
}

fn check_parameter_name(out: &mut Findings, path: &str, name: &str, span: Span) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if !first || name.len() > PARAMETER_CHARS_MAX || !name.bytes().all(plain) {
        out.bad(path);
        let message = format!("a parameter cannot be named `{}`", name.escape_debug());
        out.push(
            Diagnostic::new(Severity::Error, code::BAD_NAME, message)
                .at(span, "must fit into `${parameters.NAME}`")
                .hint("at most 40 letters, digits, `-` and `_`, beginning with a letter"),
        );
    }
}

fn parameter(out: &mut Findings, table: &Reader<'_>) -> Parameter {
    let kind = word(PARAMETER_KINDS, table.choice(out, "type")).unwrap_or(ParameterKind::Text);
    let default = table.form(out, "default", |found| {
        let default = value(found)?;
        match kind.fits(&default) {
            true => Ok(default),
            false => {
                let word = spelling(PARAMETER_KINDS, &kind);
                Err(Fault::value(format!("must be {}", kind.name())).hint(format!("the type is \"{word}\"")))
            }
        }
    });
    Parameter { kind, default }
}

/// A value that a parameter may be given.
fn value(found: &DeValue<'_>) -> Result<Value, Fault> {
    match found {
        DeValue::String(text) => Ok(Value::Text(text.to_string())),
        DeValue::Boolean(is) => Ok(Value::Bool(*is)),
        DeValue::Integer(n) if integer(n).is_none_or(|n| n.unsigned_abs() > WHOLE_MAX) => {
            Err(Fault::value("larger than programs read from JSON").hint("give it as a text, in quotes"))
        }
        DeValue::Integer(_) | DeValue::Float(_) => plain_number(found)
            .filter(|n| n.is_finite())
            .map(Value::Number)
            .ok_or_else(|| Fault::value("not a finite number")),
        DeValue::Datetime(_) => Err(Fault::kind("a text, a number or a boolean", found).hint("put dates in quotes")),
        other => Err(Fault::kind("a text, a number or a boolean", other)),
    }
}

/// What a saga may do with each step, where the file does not say. `wait` and `sleep` have no effect to undo, so they go with
/// what is around them.
pub(super) fn settle(workflow: &mut Workflow) {
    if !workflow.is_saga() {
        return;
    }
    let is_idle = |step: &Step| matches!(step.work, StepWork::Wait(_) | StepWork::Sleep(_));
    let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
    for (name, step) in &workflow.steps {
        let by_undo = if step.undo.is_some() { Kind::Compensable } else { Kind::Retriable };
        if step.kind.is_some() || step.undo.is_some() || !is_idle(step) {
            kinds.insert(name.clone(), step.kind.unwrap_or(by_undo));
        }
    }
    for name in workflow.steps.keys().filter(|name| !kinds.contains_key(*name)).cloned().collect::<Vec<_>>() {
        let forward = |before: &str| matches!(kinds.get(before), Some(Kind::Pivot | Kind::Retriable));
        let is_late = workflow.upstream(&name).into_iter().any(forward);
        kinds.insert(name, if is_late { Kind::Retriable } else { Kind::Compensable });
    }
    for (name, step) in &mut workflow.steps {
        step.kind = kinds.get(name).copied();
    }
}
