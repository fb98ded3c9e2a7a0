//! Circles: services and steps that wait for each other, queues and workflows that lead back to themselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Config, Step, StepWork, Workflow};
use crate::reader::Findings;

/// Whom each one waits for, or leads to.
type Graph<'a> = BTreeMap<&'a str, Vec<&'a str>>;

pub(super) fn check(out: &mut Findings, config: &Config) {
    services(out, config);
    dead_letters(out, config);
    runs(out, config);
    config.workflows.values().for_each(|workflow| steps(out, workflow));
}

fn services(out: &mut Findings, config: &Config) {
    let graph: Graph<'_> = config
        .services
        .iter()
        .map(|(name, service)| (name.as_str(), service.after.keys().map(String::as_str).collect()))
        .collect();
    for circle in circles(&graph) {
        let message = match circle[..] {
            [only] => format!("`{only}` waits for itself"),
            _ => format!("services wait for each other: {}", ring(&circle)),
        };
        let hint = "none of them could ever start; remove one of these, or let a program retry its connection instead";
        tell(out, code::CYCLE, message, &circle, hint, |one, other| {
            (format!("service.{one}.after.{other}"), format!("`{one}` waits for `{other}`"))
        });
    }
}

fn dead_letters(out: &mut Findings, config: &Config) {
    let graph: Graph<'_> = config
        .queues
        .iter()
        .map(|(name, queue)| (name.as_str(), queue.dead_letter.iter().map(|dead| dead.queue.as_str()).collect()))
        .collect();
    for circle in circles(&graph) {
        let message = match circle[..] {
            [only] => format!("`{only}` is its own dead letter queue"),
            _ => format!("dead letters go in a circle: {}", ring(&circle)),
        };
        let hint = "a message that nobody can handle would never come to rest; let one queue have no `dead_letter`";
        tell(out, code::DEAD_LETTER, message, &circle, hint, |one, other| {
            (format!("queue.{one}.dead_letter.queue"), format!("from `{one}` to `{other}`"))
        });
    }
}

fn runs(out: &mut Findings, config: &Config) {
    let graph: Graph<'_> = config
        .workflows
        .iter()
        .map(|(name, workflow)| (name.as_str(), workflow.steps.values().filter_map(run_by).collect()))
        .collect();
    for circle in circles(&graph) {
        let message = match circle[..] {
            [only] => format!("`{only}` runs itself"),
            _ => format!("workflows run each other: {}", ring(&circle)),
        };
        let hint = "each run would begin another one, without an end; let a queue or a schedule begin the next run";
        tell(out, code::WORKFLOW_CYCLE, message, &circle, hint, |one, other| {
            let mut steps = config.workflows[one].steps.values();
            let step = steps.find(|step| run_by(step) == Some(other)).map_or("", |step| &step.name);
            (format!("workflow.{one}.step.{step}.run.workflow"), format!("`{one}` runs `{other}`"))
        });
    }
}

/// The workflow that a step runs.
fn run_by(step: &Step) -> Option<&str> {
    match &step.work {
        StepWork::Run(run) => Some(&run.workflow),
        _ => None,
    }
}

fn steps(out: &mut Findings, workflow: &Workflow) {
    let graph: Graph<'_> = workflow
        .steps
        .iter()
        .map(|(name, step)| (name.as_str(), step.after.iter().map(String::as_str).collect()))
        .collect();
    for circle in circles(&graph) {
        let message = match circle[..] {
            [only] => format!("step `{only}` of `{}` waits for itself", workflow.name),
            _ => format!("steps of `{}` wait for each other: {}", workflow.name, ring(&circle)),
        };
        let hint = "none of them could ever begin; remove one of these";
        tell(out, code::STEP_CYCLE, message, &circle, hint, |one, other| {
            let path = format!("workflow.{}.step.{one}.after.{other}", workflow.name);
            (path, format!("`{one}` waits for `{other}`"))
        });
    }
}

/// Everyone who is in a circle, each only once: by a shortest circle through it.
fn circles<'a>(graph: &Graph<'a>) -> Vec<Vec<&'a str>> {
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for (name, others) in graph {
        if others.contains(name) {
            found.push(vec![*name]);
        }
        if told.contains(name) {
            continue;
        }
        if let Some(circle) = shortest(graph, name) {
            told.extend(circle.iter().copied());
            found.push(circle);
        }
    }
    found
}

/// Breadth first from `start` back to itself, by way of at least one other.
fn shortest<'a>(graph: &Graph<'a>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(name) = queue.pop_front() {
        for other in graph.get(name).into_iter().flatten().copied() {
            if other == start && name != start {
                return Some(way_back(&came_from, start, name));
            }
            if other != start && !came_from.contains_key(other) {
                came_from.insert(other, name);
                queue.push_back(other);
            }
        }
    }
    None
}

fn way_back<'a>(came_from: &BTreeMap<&str, &'a str>, start: &'a str, end: &'a str) -> Vec<&'a str> {
    let mut circle = vec![end];
    let mut at = end;
    while let Some(before) = came_from.get(at).copied().filter(|_| at != start) {
        circle.push(before);
        at = before;
    }
    circle.reverse();
    circle
}

fn ring(circle: &[&str]) -> String {
    let names: Vec<String> = circle.iter().chain(circle.first()).map(|name| format!("`{name}`")).collect();
    names.join(" -> ")
}

/// `link` gives the place of each link of the circle, and what to say beside it.
fn tell(
    out: &mut Findings,
    code: &'static str,
    message: String,
    circle: &[&str],
    hint: &str,
    link: impl Fn(&str, &str) -> (String, String),
) {
    let mut found = Diagnostic::new(Severity::Error, code, message);
    for (n, name) in circle.iter().enumerate() {
        let (path, label) = link(name, circle[(n + 1) % circle.len()]);
        found = found.at(out.spans.value(&path), label);
    }
    out.push(found.hint(hint));
}
