//! Rules about sagas: at every moment a run must be able to go back to its beginning or on to its end.

use holdfast_policy::flow::{Kind, Trigger};

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Config, STEP_KINDS, Step, Workflow, spelling};
use crate::reader::Findings;

pub(super) fn check(out: &mut Findings, config: &Config) {
    for workflow in config.workflows.values() {
        if !workflow.is_saga() {
            no_saga(out, workflow);
            continue;
        }
        for step in workflow.steps.values() {
            one_step(out, workflow, step);
        }
        if let Some(pivot) = only_pivot(out, workflow) {
            if pivot.for_each.is_some() {
                let message = format!("the pivot `{}` could be done for some of its items alone", pivot.name);
                let hint = "a pivot decides once; let it run another workflow, or do the list after it";
                error(out, &path(workflow, pivot, "for_each"), message, "several decisions", hint);
            }
            around(out, workflow, pivot);
        } else if !workflow.steps.values().any(|step| step.kind == Some(Kind::Pivot)) {
            without_pivot(out, workflow);
        }
    }
}

fn path(workflow: &Workflow, step: &Step, key: &str) -> String {
    format!("workflow.{}.step.{}.{key}", workflow.name, step.name)
}

fn error(out: &mut Findings, at: &str, message: String, label: &str, hint: &str) {
    let span = out.spans.value(at);
    out.push(Diagnostic::new(Severity::Error, code::SAGA, message).at(span, label).hint(hint));
}

/// Settings of sagas where nothing can be undone.
fn no_saga(out: &mut Findings, workflow: &Workflow) {
    let own = ["rounds", "round_delay"].map(|key| format!("workflow.{}.{key}", workflow.name));
    let kinds = workflow.steps.values().map(|step| path(workflow, step, "kind"));
    // A faulty `undo` would have made it one.
    let is_unsure = workflow.steps.values().any(|step| out.spans.has(&path(workflow, step, "undo")));
    for at in own.into_iter().chain(kinds).filter(|_| !is_unsure) {
        if out.spans.has(&at) {
            let message = format!("`{}` is no saga: none of its steps has `undo`", workflow.name);
            error(out, &at, message, "belongs to sagas", "give steps an `undo`, or remove it");
        }
    }
}

fn one_step(out: &mut Findings, workflow: &Workflow, step: &Step) {
    if step.trigger != Trigger::AllOk {
        let message = format!("step `{}` of the saga `{}` would run after failures", step.name, workflow.name);
        let hint = "remove `trigger`; put cleaning up into `undo`, or into a workflow that runs this one";
        error(out, &path(workflow, step, "trigger"), message, "a saga answers failures by undoing", hint);
    }
    let is_undone = step.kind == Some(Kind::Compensable);
    if step.undo.is_some() && !is_undone && out.is_good(&path(workflow, step, "kind")) {
        let kind = step.kind.map_or("", |kind| spelling(STEP_KINDS, &kind));
        let message = format!("`undo` of step `{}` would never be used", step.name);
        let (span, undo) =
            (out.spans.value(&path(workflow, step, "kind")), out.spans.key(&path(workflow, step, "undo")));
        out.push(
            Diagnostic::new(Severity::Error, code::SAGA, message)
                .at(undo, "undoes the step")
                .at(span, format!("a {kind} step is never undone"))
                .hint("remove one of them"),
        );
    }
}

/// The pivot, if there is exactly one.
fn only_pivot<'c>(out: &mut Findings, workflow: &'c Workflow) -> Option<&'c Step> {
    let mut pivots = workflow.steps.values().filter(|step| step.kind == Some(Kind::Pivot));
    let first = pivots.next()?;
    let Some(second) = pivots.next() else { return Some(first) };
    let (a, b) = (out.spans.value(&path(workflow, first, "kind")), out.spans.value(&path(workflow, second, "kind")));
    let message = format!("the saga `{}` has more than one pivot", workflow.name);
    out.push(
        Diagnostic::new(Severity::Error, code::SAGA, message)
            .at(b, format!("`{}` is one", second.name))
            .at(a, format!("`{}` is one", first.name))
            .hint("one step decides; what comes after it must be retriable"),
    );
    None
}

fn around(out: &mut Findings, workflow: &Workflow, pivot: &Step) {
    let before = workflow.upstream(&pivot.name);
    for step in workflow.steps.values() {
        let is_before = before.contains(step.name.as_str());
        let is_after = workflow.upstream(&step.name).contains(pivot.name.as_str());
        match step.kind {
            Some(Kind::Compensable) if !is_before => {
                let message = format!("step `{}` may fail after the pivot `{}`", step.name, pivot.name);
                let hint = "a saga cannot go back behind its pivot; run it before, or make it retriable";
                ordered(
                    out,
                    workflow,
                    (step, "compensable, and not before the pivot"),
                    (pivot, "the pivot"),
                    message,
                    hint,
                );
            }
            Some(Kind::Retriable) if !is_after => {
                let message = format!("step `{}` cannot be undone when the pivot `{}` fails", step.name, pivot.name);
                let hint =
                    "run it after the pivot, give it `undo`, or kind = \"compensable\" if there is nothing to undo";
                ordered(
                    out,
                    workflow,
                    (step, "retriable, and not after the pivot"),
                    (pivot, "the pivot"),
                    message,
                    hint,
                );
            }
            _ => {}
        }
    }
}

/// Then the last of the steps that can be undone decides.
fn without_pivot(out: &mut Findings, workflow: &Workflow) {
    let of = |kind| workflow.steps.values().filter(move |step| step.kind == Some(kind));
    for step in of(Kind::Retriable) {
        let before = workflow.upstream(&step.name);
        let other = of(Kind::Compensable).find(|other| !before.contains(other.name.as_str()));
        let Some(other) = other else { continue };
        let message = format!("step `{}` cannot be undone when `{}` fails", step.name, other.name);
        let hint = "run it after all that can be undone, give it `undo`, or kind = \"compensable\" if there is nothing to undo";
        ordered(out, workflow, (step, "retriable"), (other, "compensable, and need not be over before"), message, hint);
    }
}

fn ordered(
    out: &mut Findings,
    workflow: &Workflow,
    (step, label): (&Step, &str),
    (other, other_label): (&Step, &str),
    message: String,
    hint: &str,
) {
    let at = |step: &Step| format!("workflow.{}.step.{}", workflow.name, step.name);
    // Steps in a circle have no order, and were told.
    let in_circle = |step: &Step| workflow.upstream(&step.name).contains(step.name.as_str());
    if in_circle(step) || in_circle(other) || !out.is_good(&at(step)) {
        return;
    }
    let (span, second) = (out.spans.key(&at(step)), out.spans.key(&at(other)));
    let found = Diagnostic::new(Severity::Error, code::SAGA, message).at(span, label).at(second, other_label);
    out.push(found.hint(hint));
}
