//! `[workflow.NAME.step.STEP]`.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_policy::flow::{Limits, Retry, Trigger, Value};
use toml::de::{DeTable, DeValue};

use crate::keys::{RUN, SEND, STEP_LIMITS, STEP_RETRY, UNDO, WAIT};
use crate::model::{ForEach, Items, RunWorkflow, STEP_KINDS, SendMessage, Step, StepWork, TRIGGERS, Undo};
use crate::read::one_of::one_of;
use crate::read::service::env;
use crate::read::tasks::backoff;
use crate::reader::{Fault, Findings, Reader};

use super::{http, word};

const WORK: [&str; 6] = ["command", "http", "send", "wait", "sleep", "run"];
/// Of what another try can mend.
const ATTEMPTS: u32 = 3;
const SIGNAL_CHARS_MAX: usize = 64;

pub(super) fn read(out: &mut Findings, table: &Reader<'_>, name: &str) -> Step {
    table.need_beside(out, &["trigger"], "after");
    table.need_beside(out, &["width", "items_max", "allow_failed"], "for_each");
    table.need_beside(out, &["wait_for_worker"], "send");
    table.need_beside(out, &["terminal"], "command");
    let base = out.base.clone();
    let work = work(out, table);
    let undo = undo(out, table);
    if !matches!(work, StepWork::Command(_)) && !matches!(undo, Some(Undo::Command(_))) {
        table.need_beside(out, &["env", "workdir", "user"], "command");
    }
    let trigger = table.choice(out, "trigger");
    let kind = table.choice(out, "kind");
    Step {
        name: name.to_owned(),
        after: after(out, table),
        when: table.text(out, "when"),
        trigger: word(TRIGGERS, trigger).unwrap_or(Trigger::AllOk),
        for_each: for_each(out, table),
        env: env::read(out, table),
        workdir: table.path_value(out, "workdir").unwrap_or(base),
        user: table.text(out, "user"),
        retry: retry(out, table, &work),
        terminal: table.integers(out, "terminal").into_iter().filter_map(|n| i32::try_from(n).ok()).collect(),
        limits: limits(out, table, &work),
        pool: table.text(out, "pool"),
        priority: table.opt_i32(out, "priority"),
        // `super::settle` decides where the file does not say.
        kind: word(STEP_KINDS, kind),
        work,
        undo,
    }
}

fn after(out: &mut Findings, table: &Reader<'_>) -> BTreeSet<String> {
    let names = table.list(out, "after", |value| {
        value.as_str().map(str::to_owned).ok_or_else(|| Fault::kind("the name of a step", value))
    });
    for (n, name) in names.iter().enumerate() {
        let path = table.at("after");
        let span = out.spans.value(&format!("{path}[{n}]"));
        out.spans.set(&format!("{path}.{name}"), span);
    }
    names.into_iter().collect()
}

fn work(out: &mut Findings, table: &Reader<'_>) -> StepWork {
    let nothing = || StepWork::Command(Vec::new());
    match one_of(out, table, &WORK, "what to do", "for example: command = [\"./load\"]") {
        Some("http") => http::read(out, table).map_or_else(nothing, StepWork::Http),
        Some("send") => send(out, table).map_or_else(nothing, StepWork::Send),
        Some("wait") => wait(out, table).map_or_else(nothing, StepWork::Wait),
        Some("sleep") => table.opt_duration(out, "sleep").map_or_else(nothing, StepWork::Sleep),
        Some("run") => run(out, table).map_or_else(nothing, StepWork::Run),
        _ => StepWork::Command(table.argv(out, "command").unwrap_or_default()),
    }
}

fn send(out: &mut Findings, step: &Reader<'_>) -> Option<SendMessage> {
    let table = step.inner(out, "send", &SEND)?;
    table.require(out, &["queue", "body"]);
    let (group, wait_for_worker) = (table.text(out, "group"), step.boolean(out, "wait_for_worker"));
    let queue = table.text(out, "queue").unwrap_or_default();
    let body = table.text(out, "body").unwrap_or_default();
    Some(SendMessage { queue, body, group, wait_for_worker })
}

fn wait(out: &mut Findings, step: &Reader<'_>) -> Option<String> {
    let table = step.inner(out, "wait", &WAIT)?;
    table.require(out, &["signal"]);
    let signal = table.form(out, "signal", |value| {
        let text = value.as_str().ok_or_else(|| Fault::kind("the name of a signal", value))?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        match (1..=SIGNAL_CHARS_MAX).contains(&text.len()) && text.bytes().all(plain) {
            true => Ok(text.to_owned()),
            false => Err(Fault::value("1 to 64 letters, digits, `-`, `_` and `.`")),
        }
    });
    Some(signal.unwrap_or_default())
}

fn run(out: &mut Findings, step: &Reader<'_>) -> Option<RunWorkflow> {
    let table = step.inner(out, "run", &RUN)?;
    table.require(out, &["workflow"]);
    let parameters = given(out, &table);
    Some(RunWorkflow { workflow: table.text(out, "workflow").unwrap_or_default(), parameters })
}

fn given(out: &mut Findings, table: &Reader<'_>) -> BTreeMap<String, Value> {
    let Some(value) = table.raw("parameters") else { return BTreeMap::new() };
    let place = table.at("parameters");
    let DeValue::Table(entries) = value.get_ref() else {
        let fault = Fault::kind("a table", value.get_ref()).hint("write parameters = { day = \"${parameters.day}\" }");
        out.fault(&place, value.span(), fault);
        return BTreeMap::new();
    };
    let mut all = BTreeMap::new();
    for (name, value) in entries {
        out.spans.note(&place, name.get_ref(), name.span(), value.span());
        match super::value(value.get_ref()) {
            Ok(good) => drop(all.insert(name.get_ref().to_string(), good)),
            Err(fault) => out.fault(&format!("{place}.{}", name.get_ref()), value.span(), fault),
        }
    }
    all
}

fn for_each(out: &mut Findings, table: &Reader<'_>) -> Option<ForEach> {
    let (width, items_max) = (table.u32(out, "width"), table.u32(out, "items_max"));
    let allow_failed = table.u32(out, "allow_failed");
    let is_text = table.raw("for_each")?.get_ref().is_str();
    let items = match is_text {
        true => Items::Reference(table.form(out, "for_each", reference)?),
        false => Items::List(table.texts(out, "for_each")?),
    };
    let count = if let Items::List(items) = &items { items.len() } else { 0 };
    if count > items_max as usize {
        table.wrong(out, "for_each", Fault::value(format!("{count} items, and `items_max` is {items_max}")));
    }
    Some(ForEach { items, width, items_max, allow_failed })
}

/// One reference and nothing around it, because a text is no list.
fn reference(value: &DeValue<'_>) -> Result<String, Fault> {
    let text = value.as_str().unwrap_or_default();
    let inside = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    match inside.is_some_and(|inside| !inside.contains(['$', '{', '}'])) {
        true => Ok(text.to_owned()),
        false => Err(Fault::value("must be one reference, or an array of texts")),
    }
}

fn retry(out: &mut Findings, step: &Reader<'_>, work: &StepWork) -> Retry {
    let empty = DeTable::new();
    let table = step.inner_or_empty(out, "retry", &STEP_RETRY, &empty);
    let attempts = table.opt_u32(out, "attempts").unwrap_or(if work.is_tried_once() { 1 } else { ATTEMPTS });
    Retry { attempts, backoff: backoff(out, &table) }
}

fn limits(out: &mut Findings, step: &Reader<'_>, work: &StepWork) -> Limits {
    let empty = DeTable::new();
    let table = step.inner_or_empty(out, "limits", &STEP_LIMITS, &empty);
    if table.has("heartbeat") && !matches!(work, StepWork::Command(_)) {
        table.wrong(out, "heartbeat", Fault::value("only a `command` beats").hint("limit the attempt with `run`"));
    }
    let limits = Limits {
        wait: table.opt_duration(out, "wait"),
        run: table.opt_duration(out, "run"),
        total: table.opt_duration(out, "total"),
        heartbeat: table.opt_duration(out, "heartbeat"),
    };
    if limits.run.zip(limits.total).is_some_and(|(run, total)| run > total) {
        table.wrong(out, "run", Fault::value("longer than `total`").hint("raise `total`, or shorten `run`"));
    }
    limits
}

fn undo(out: &mut Findings, step: &Reader<'_>) -> Option<Undo> {
    let table = step.inner(out, "undo", &UNDO)?;
    match one_of(out, &table, &["command", "http"], "how to undo", "for example: command = [\"./unload\"]")? {
        "http" => http::read(out, &table).map(Undo::Http),
        _ => Some(Undo::Command(table.argv(out, "command").unwrap_or_default())),
    }
}
