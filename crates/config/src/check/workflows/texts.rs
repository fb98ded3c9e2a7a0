//! References in the texts of a step: they must stand for something when the step runs.

use std::collections::BTreeMap;

use holdfast_policy::flow;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{HttpCall, Items, Step, StepWork, Undo, Value, Workflow};
use crate::read::{Language, Reference, expression};
use crate::reader::Findings;

use super::{undefined_step, unknown_parameter};

/// One text, and what it can know besides the run and the steps before.
struct Text<'c> {
    path: String,
    text: &'c str,
    item: bool,
    /// What undoes a step knows its output.
    own_output: bool,
}

pub(super) fn check(out: &mut Findings, workflow: &Workflow, step: &Step, path: &str) {
    if let Some(when) = &step.when {
        let text = Text { path: format!("{path}.when"), text: when, item: false, own_output: false };
        one(out, workflow, step, &text, Language::Condition);
    }
    for text in texts(step, path) {
        one(out, workflow, step, &text, Language::Template);
    }
}

fn one(out: &mut Findings, workflow: &Workflow, step: &Step, text: &Text<'_>, language: Language) {
    match expression(text.text, language) {
        Ok(references) => references.iter().for_each(|reference| known(out, workflow, step, text, reference)),
        Err(told) => {
            let (what, hint) = match language {
                Language::Template => ("a reference", "for example ${parameters.day}; $${ stands for ${ itself"),
                Language::Condition => ("the condition", "for example: ${steps.load.output.count} > 0"),
            };
            let span = out.spans.value(&text.path);
            let message = format!("{what} in `{}` cannot be read", text.path);
            out.push(Diagnostic::new(Severity::Error, code::EXPRESSION, message).at(span, told).hint(hint));
        }
    }
}

fn known(out: &mut Findings, workflow: &Workflow, step: &Step, text: &Text<'_>, reference: &Reference) {
    match reference {
        Reference::Parameter(name) if !workflow.parameters.contains_key(name) => {
            unknown_parameter(out, workflow, &text.path, name);
        }
        Reference::Output(name) | Reference::Error(name) if text.own_output && *name == step.name => {}
        Reference::Output(name) | Reference::Error(name) if !workflow.steps.contains_key(name) => {
            undefined_step(out, workflow, &text.path, name);
        }
        Reference::Output(name) | Reference::Error(name) => upstream(out, workflow, step, text, name),
        Reference::Item if !text.item => {
            let span = out.spans.value(&text.path);
            let label = if step.for_each.is_some() { "not yet known here" } else { "the step has no `for_each`" };
            out.push(
                Diagnostic::new(Severity::Error, code::EXPRESSION, "`${item}` stands for nothing here")
                    .at(span, label)
                    .hint("an item is known in what a step with `for_each` does, and in its `undo`"),
            );
        }
        Reference::Parameter(_) | Reference::Item | Reference::Run => {}
    }
}

fn upstream(out: &mut Findings, workflow: &Workflow, step: &Step, text: &Text<'_>, name: &str) {
    let before = workflow.upstream(&step.name);
    // Steps in a circle have been told.
    if before.contains(name) || before.contains(step.name.as_str()) {
        return;
    }
    let span = out.spans.value(&text.path);
    if name == step.name {
        out.push(
            Diagnostic::new(Severity::Error, code::NOT_UPSTREAM, format!("step `{name}` refers to itself"))
                .at(span, "not known before it has run")
                .hint("refer to a step before it; only `undo` knows the output of its own step"),
        );
        return;
    }
    let is_later = workflow.upstream(name).contains(step.name.as_str());
    let (label, hint) = match is_later {
        true => (format!("`{name}` waits for `{}`", step.name), "refer to a step before it".to_owned()),
        false => {
            (format!("`{name}` is not in `after`, nor before a step that is"), format!("add \"{name}\" to `after`"))
        }
    };
    let defined = out.spans.key(&format!("workflow.{}.step.{name}", workflow.name));
    let message = format!("step `{}` refers to `{name}`, which need not have run before", step.name);
    out.push(
        Diagnostic::new(Severity::Error, code::NOT_UPSTREAM, message)
            .at(span, label)
            .at(defined, format!("`{name}` is here"))
            .hint(hint),
    );
}

/// Every text of a step in which references are replaced, so all but its condition.
fn texts<'c>(step: &'c Step, path: &str) -> Vec<Text<'c>> {
    let mut all = Vec::new();
    let item = step.for_each.is_some();
    let mut add = |key: &str, text: &'c str, item: bool, own_output: bool| {
        all.push(Text { path: format!("{path}.{key}"), text, item, own_output });
    };
    match step.for_each.as_ref().map(|each| &each.items) {
        Some(Items::Reference(text)) => add("for_each", text, false, false),
        Some(Items::List(items)) => each(items, "for_each", |key, text| add(key, text, false, false)),
        None => {}
    }
    work(&step.work, |key, text| add(key, text, item, false));
    plain(&step.env, "env", |key, text| add(key, text, item, false));
    match &step.undo {
        Some(Undo::Command(argv)) => each(argv, "undo.command", |key, text| add(key, text, item, true)),
        Some(Undo::Http(call)) => http(call, "undo.http", |key, text| add(key, text, item, true)),
        None => {}
    }
    all
}

fn work<'c>(work: &'c StepWork, mut add: impl FnMut(&str, &'c str)) {
    match work {
        StepWork::Command(argv) => each(argv, "command", add),
        StepWork::Http(call) => http(call, "http", add),
        StepWork::Send(send) => {
            add("send.body", &send.body);
            send.group.iter().for_each(|text| add("send.group", text));
        }
        StepWork::Run(run) => {
            for (name, value) in &run.parameters {
                if let flow::Value::Text(text) = value {
                    add(&format!("run.parameters.{name}"), text);
                }
            }
        }
        StepWork::Wait(_) | StepWork::Sleep(_) => {}
    }
}

fn http<'c>(call: &'c HttpCall, key: &str, mut add: impl FnMut(&str, &'c str)) {
    add(&format!("{key}.url"), &call.url);
    call.body.iter().for_each(|text| add(&format!("{key}.body"), text));
    plain(&call.headers, &format!("{key}.headers"), add);
}

fn each<'c>(items: &'c [String], key: &str, mut add: impl FnMut(&str, &'c str)) {
    items.iter().enumerate().for_each(|(n, text)| add(&format!("{key}[{n}]"), text));
}

fn plain<'c>(values: &'c BTreeMap<String, Value>, key: &str, mut add: impl FnMut(&str, &'c str)) {
    for (name, value) in values {
        if let Value::Plain(text) = value {
            add(&format!("{key}.{name}"), text);
        }
    }
}
