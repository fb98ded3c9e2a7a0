//! `[workflow.NAME]`, and `[workflow.NAME.step.STEP]` as tables of their own.

use holdfast_policy::flow::{Parameter, Trigger, Value};
use holdfast_policy::schedule::Missed;

use crate::keys::{RUN, SEND, STEP, STEP_HTTP, STEP_LIMITS, STEP_RETRY, UNDO, WAIT, WORKFLOW};
use crate::model::{
    HttpCall, Items, OVERLAPS, PARAMETER_KINDS, STEP_KINDS, Step, StepWork, TRIGGERS, Undo, Workflow, spelling,
};
use crate::secret::mask_words;

use super::service::{env, path};
use super::tasks::backoff;
use super::{Setting, Settings, duration, list, text, texts};

pub(crate) fn workflow(workflow: &Workflow) -> Vec<Setting> {
    let mut out = Settings::new(&WORKFLOW);
    for (name, given) in &workflow.parameters {
        out.put(&format!("parameters.{name}"), parameter(given));
    }
    if !workflow.schedule.is_empty() {
        out.put("schedule", list(workflow.schedule.iter().map(|pattern| text(&pattern.text))));
        scheduled(&mut out, workflow);
    }
    out.put("timeout", duration(workflow.timeout));
    out.put_some("wait", workflow.wait, duration);
    out.put("concurrency", workflow.concurrency.to_string());
    out.put("priority", workflow.priority.to_string());
    out.put("keep", duration(workflow.keep));
    if workflow.is_saga() {
        out.put("rounds", workflow.rounds.to_string());
        out.put("round_delay", duration(workflow.round_delay));
    }
    out.finish()
}

fn scheduled(out: &mut Settings, workflow: &Workflow) {
    out.put("timezone", text(&workflow.timezone));
    let missed = match workflow.missed {
        Missed::None => "none",
        Missed::Latest => "latest",
        Missed::All { .. } => "all",
    };
    out.put("missed", text(missed));
    if let Missed::All { max } = workflow.missed {
        out.put("missed_max", max.to_string());
    }
    out.put("overlap", text(spelling(OVERLAPS, &workflow.overlap)));
}

fn parameter(parameter: &Parameter) -> String {
    let kind = text(spelling(PARAMETER_KINDS, &parameter.kind));
    match &parameter.default {
        Some(default) => format!("{{ type = {kind}, default = {} }}", scalar(default)),
        None => format!("{{ type = {kind} }}"),
    }
}

/// A text with the escapes of TOML; numbers are written as JSON writes them, which reads back as the same.
fn scalar(value: &Value) -> String {
    match value {
        Value::Text(value) => text(value),
        other => other.to_string(),
    }
}

pub(crate) fn step(step: &Step) -> Vec<Setting> {
    let mut out = Settings::new(&STEP);
    if !step.after.is_empty() {
        out.put("after", list(step.after.iter().map(text)));
    }
    if !step.after.is_empty() || step.trigger != Trigger::AllOk {
        out.put("trigger", text(spelling(TRIGGERS, &step.trigger)));
    }
    out.put_some("when", step.when.as_ref(), text);
    for_each(&mut out, step);
    work(&mut out, &step.work);
    programs(&mut out, step);
    if !step.terminal.is_empty() {
        out.put("terminal", list(step.terminal.iter().map(i32::to_string)));
    }
    out.put_some("pool", step.pool.as_ref(), text);
    out.put_some("priority", step.priority, |n| n.to_string());
    out.put_some("kind", step.kind, |kind| text(spelling(STEP_KINDS, &kind)));
    tables(&mut out, step);
    out.finish()
}

fn for_each(out: &mut Settings, step: &Step) {
    let Some(each) = &step.for_each else { return };
    let items = match &each.items {
        Items::Reference(reference) => text(reference),
        Items::List(items) => texts(items),
    };
    out.put("for_each", items);
    out.put("width", each.width.to_string());
    out.put("items_max", each.items_max.to_string());
    out.put("allow_failed", each.allow_failed.to_string());
}

fn work(out: &mut Settings, work: &StepWork) {
    match work {
        StepWork::Command(argv) => out.put_hidden("command", texts(argv), texts(&mask_words(argv))),
        StepWork::Sleep(time) => out.put("sleep", duration(*time)),
        StepWork::Send(send) => out.put("wait_for_worker", send.wait_for_worker.to_string()),
        // Tables of their own.
        StepWork::Http(_) | StepWork::Wait(_) | StepWork::Run(_) => {}
    }
}

fn programs(out: &mut Settings, step: &Step) {
    if !step.runs_programs() {
        return;
    }
    step.env.iter().for_each(|(name, value)| env(out, &format!("env.{name}"), name, value));
    out.put("workdir", path(&step.workdir));
    out.put_some("user", step.user.as_ref(), text);
}

fn tables(out: &mut Settings, step: &Step) {
    match &step.work {
        StepWork::Http(call) => http(out, "http", call),
        StepWork::Send(send) => {
            out.table("send", &SEND);
            out.put("queue", text(&send.queue));
            out.put("body", text(&send.body));
            out.put_some("group", send.group.as_ref(), text);
        }
        StepWork::Wait(signal) => {
            out.table("wait", &WAIT);
            out.put("signal", text(signal));
        }
        StepWork::Run(run) => {
            out.table("run", &RUN);
            out.put("workflow", text(&run.workflow));
            let each = run.parameters.iter().map(|(name, value)| format!("{} = {}", text(name), scalar(value)));
            let all: Vec<String> = each.collect();
            if !all.is_empty() {
                out.put("parameters", format!("{{ {} }}", all.join(", ")));
            }
        }
        StepWork::Command(_) | StepWork::Sleep(_) => {}
    }
    retry(out, step);
    out.table("limits", &STEP_LIMITS);
    out.put_some("wait", step.limits.wait, duration);
    out.put_some("run", step.limits.run, duration);
    out.put_some("total", step.limits.total, duration);
    out.put_some("heartbeat", step.limits.heartbeat, duration);
    match &step.undo {
        Some(Undo::Command(argv)) => {
            out.table("undo", &UNDO);
            out.put_hidden("command", texts(argv), texts(&mask_words(argv)));
        }
        Some(Undo::Http(call)) => http(out, "undo.http", call),
        None => {}
    }
}

fn retry(out: &mut Settings, step: &Step) {
    out.table("retry", &STEP_RETRY);
    let attempts = if step.work.is_tried_once() { "1" } else { "3" };
    out.put_derived("attempts", step.retry.attempts.to_string(), attempts);
    backoff(out, &step.retry.backoff);
}

fn http(out: &mut Settings, prefix: &'static str, call: &HttpCall) {
    out.table(prefix, &STEP_HTTP);
    out.put("url", text(&call.url));
    out.put("method", text(call.method));
    call.headers.iter().for_each(|(name, value)| env(out, &format!("headers.{name}"), name, value));
    out.put_some("body", call.body.as_ref(), text);
}
