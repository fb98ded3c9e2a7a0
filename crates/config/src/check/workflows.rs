//! Rules about workflows: what steps name, and what they can know when they run.

mod texts;

use holdfast_policy::flow::Value;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Config, RunWorkflow, Step, StepWork, Workflow};
use crate::nearest::nearest;
use crate::reader::Findings;

use super::Environment;
use super::references::{defined, undefined_in};
use super::services::only_root;

pub(super) fn check(out: &mut Findings, config: &Config, environment: &Environment) {
    for workflow in config.workflows.values() {
        without_default(out, workflow);
        for step in workflow.steps.values() {
            let path = format!("workflow.{}.step.{}", workflow.name, step.name);
            after(out, workflow, step, &path);
            named(out, config, step, &path);
            texts::check(out, workflow, step, &path);
            super::tasks::group(out, config, &path, &step.work);
            if step.user.is_some() {
                only_root(out, environment, &format!("{path}.user"), "user", &step.name);
            }
        }
    }
}

/// Nobody is there to give a scheduled run its parameters.
fn without_default(out: &mut Findings, workflow: &Workflow) {
    if workflow.schedule.is_empty() {
        return;
    }
    for (name, _) in workflow.parameters.iter().filter(|(_, parameter)| parameter.default.is_none()) {
        let path = format!("workflow.{}.parameters.{name}", workflow.name);
        if !out.is_good(&format!("{path}.default")) {
            continue;
        }
        let (span, schedule) = (out.spans.key(&path), out.spans.value(&format!("workflow.{}.schedule", workflow.name)));
        let message = format!("a scheduled run of `{}` would not know its `{name}`", workflow.name);
        out.push(
            Diagnostic::new(Severity::Error, code::PARAMETER, message)
                .at(span, "no `default`")
                .at(schedule, "nobody gives it a value")
                .hint("add a `default`; for the day of a run, `${run.nominal}` needs no parameter"),
        );
    }
}

fn after(out: &mut Findings, workflow: &Workflow, step: &Step, path: &str) {
    for before in &step.after {
        if !workflow.steps.contains_key(before) {
            undefined_step(out, workflow, &format!("{path}.after.{before}"), before);
        }
    }
}

fn undefined_step(out: &mut Findings, workflow: &Workflow, path: &str, name: &str) {
    let place = format!("workflow.{}.step", workflow.name);
    undefined_in(out, path, ("step", &place), name, workflow.steps.keys().map(String::as_str));
}

/// Pools, queues and other workflows.
fn named(out: &mut Findings, config: &Config, step: &Step, path: &str) {
    if let Some(pool) = &step.pool {
        defined(out, &format!("{path}.pool"), "pool", pool, config.pools.keys().map(String::as_str));
    }
    match &step.work {
        StepWork::Send(send) => {
            let at = format!("{path}.send.queue");
            if out.is_good(&at) {
                defined(out, &at, "queue", &send.queue, config.queues.keys().map(String::as_str));
            }
        }
        StepWork::Run(run) => {
            let at = format!("{path}.run.workflow");
            let workflows = config.workflows.keys().map(String::as_str);
            if out.is_good(&at) && defined(out, &at, "workflow", &run.workflow, workflows) {
                parameters(out, &config.workflows[&run.workflow], run, &format!("{path}.run"));
            }
        }
        StepWork::Command(_) | StepWork::Http(_) | StepWork::Wait(_) | StepWork::Sleep(_) => {}
    }
}

/// What one workflow gives to another.
fn parameters(out: &mut Findings, target: &Workflow, run: &RunWorkflow, path: &str) {
    for (name, value) in &run.parameters {
        let at = format!("{path}.parameters.{name}");
        let Some(parameter) = target.parameters.get(name) else {
            unknown_parameter(out, target, &at, name);
            continue;
        };
        // What a reference stands for is known when the step runs.
        let is_open = matches!(value, Value::Text(text) if text.contains("${"));
        if !is_open && !parameter.kind.fits(value) {
            let (span, defined) = (out.spans.value(&at), parameter_span(out, target, name));
            let message = format!("`{name}` of workflow `{}` is given a value of another type", target.name);
            out.push(
                Diagnostic::new(Severity::Error, code::PARAMETER, message)
                    .at(span, format!("must be {}", parameter.kind.name()))
                    .at(defined, "defined here")
                    .hint("write it as its type says"),
            );
        }
    }
    let missing =
        target.parameters.iter().filter(|(name, p)| p.default.is_none() && !run.parameters.contains_key(*name));
    for (name, _) in missing {
        if !out.is_good(&format!("workflow.{}.parameters.{name}.default", target.name)) {
            continue;
        }
        let (span, defined) = (out.spans.value(&format!("{path}.workflow")), parameter_span(out, target, name));
        let message = format!("workflow `{}` needs `{name}`, and the step does not give it", target.name);
        out.push(
            Diagnostic::new(Severity::Error, code::PARAMETER, message)
                .at(span, format!("`{name}` is missing"))
                .at(defined, "no `default`")
                .hint(format!("add parameters = {{ {name} = … }}, or a `default` there")),
        );
    }
}

fn parameter_span(out: &Findings, workflow: &Workflow, name: &str) -> crate::diagnostic::Span {
    out.spans.key(&format!("workflow.{}.parameters.{name}", workflow.name))
}

fn unknown_parameter(out: &mut Findings, workflow: &Workflow, path: &str, name: &str) {
    let known: Vec<&str> = workflow.parameters.keys().map(String::as_str).collect();
    let span = out.spans.value(path);
    let message = format!("workflow `{}` has no parameter `{name}`", workflow.name);
    let found = Diagnostic::new(Severity::Error, code::UNDEFINED, message);
    out.push(match nearest(name, known.iter().copied()) {
        Some(close) => found.at(span, format!("did you mean `{close}`?")).hint(format!("write `{close}`")),
        None if known.is_empty() => found
            .at(span, "it has none")
            .hint(format!("define it: [workflow.{}] parameters = {{ {name} = {{ type = \"text\" }} }}", workflow.name)),
        None => found.at(span, "not defined").hint(format!("it has: {}", known.join(", "))),
    });
}
