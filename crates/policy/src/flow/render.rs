//! Where the references of a step lead, and its work with all of them filled in.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::definition::Work;
use super::expr::{ExprError, Scope, Template, descend};
use super::run::{Run, Unit};
use super::{Job, Operation, Value};

/// What one step, or one of its children, sees.
pub(crate) struct View<'a> {
    run: &'a Run,
    step: usize,
    unit: Option<Unit>,
}

static NULL: Value = Value::Null;

impl<'a> View<'a> {
    pub(crate) fn of_step(run: &'a Run, step: usize) -> View<'a> {
        View { run, step, unit: None }
    }

    fn is_undo(&self) -> bool {
        self.unit.is_some_and(|unit| unit.operation == Operation::Undo)
    }

    fn resolve_step(&self, name: &str, what: &str, rest: &[String]) -> Result<Cow<'a, Value>, String> {
        let number = self.run.step_number(name).ok_or_else(|| format!("there is no step `{name}`"))?;
        let state = &self.run.state.steps[number];
        if what == "error" {
            return Ok(Cow::Owned(state.error.clone().map_or(Value::Null, Value::Text)));
        }
        // An undo sees what its own child gave, which is known before the step as a whole is done.
        let own = self.unit.filter(|unit| self.is_undo() && unit.step == number);
        let output = own.map_or(state.output.as_ref(), |unit| self.run.item(unit).output.as_ref());
        match output {
            Some(output) => descend(output, rest, &format!("the output of `{name}`")).map(Cow::Borrowed),
            None => Err(format!("step `{name}` has no output, it is {}", state.phase.name())),
        }
    }

    fn find(&self, path: &[String]) -> Result<Cow<'a, Value>, String> {
        let state = &self.run.state;
        let segments: Vec<&str> = path.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["parameters", name, ..] => {
                let value = state.parameters.get(*name).ok_or_else(|| format!("there is no parameter `{name}`"))?;
                descend(value, &path[2..], &format!("parameter `{name}`")).map(Cow::Borrowed)
            }
            ["steps", name, what @ ("output" | "error"), ..] => self.resolve_step(name, what, &path[3..]),
            ["item", ..] => {
                let values = self.unit.and_then(|unit| state.steps[self.step].values.as_ref()?.get(unit.item as usize));
                descend(values.ok_or("there is no item here")?, &path[1..], "the item").map(Cow::Borrowed)
            }
            ["run", "id"] => Ok(Cow::Owned(Value::Text(state.run.clone()))),
            ["run", "nominal"] => Ok(Cow::Owned(state.nominal.clone().map_or(Value::Null, Value::Text))),
            ["run", "round"] => Ok(Cow::Owned(Value::Number(f64::from(state.steps[self.step].round)))),
            _ => Err(format!("`{}` leads nowhere", path.join("."))),
        }
    }
}

impl Scope for View<'_> {
    /// An undo must work without what its action gave: there what is not known is null.
    fn resolve(&self, path: &[String]) -> Result<Cow<'_, Value>, String> {
        match self.find(path) {
            Err(_) if self.is_undo() => Ok(Cow::Borrowed(&NULL)),
            found => found,
        }
    }
}

impl Run {
    /// `None` for work that nobody outside does.
    pub(crate) fn job(&self, unit: Unit) -> Result<Option<Job>, ExprError> {
        let view = View { run: self, step: unit.step, unit: Some(unit) };
        let text = |template: &Template| template.render(&view);
        let option = |template: &Option<Template>| template.as_ref().map(text).transpose();
        Ok(Some(match self.work(unit) {
            Work::Command { argv, env, workdir, user } => {
                let argv = argv.iter().map(text).collect::<Result<_, _>>()?;
                Job::Command { argv, env: texts(env, &view)?, workdir: option(workdir)?, user: user.clone() }
            }
            Work::Http { url, method, headers, body } => {
                let (url, headers, body) = (text(url)?, texts(headers, &view)?, option(body)?);
                Job::Http { url, method: method.clone(), headers, body }
            }
            Work::Send { queue, body, wait_for_worker } => {
                Job::Send { queue: queue.clone(), body: text(body)?, wait_for_worker: *wait_for_worker }
            }
            Work::Run { workflow, parameters } => {
                let values = parameters.iter().map(|(name, value)| Ok((name.clone(), value.value(&view)?)));
                Job::Run { workflow: workflow.clone(), parameters: values.collect::<Result<_, ExprError>>()? }
            }
            Work::Wait { .. } | Work::Sleep(_) => return Ok(None),
        }))
    }
}

fn texts(templates: &BTreeMap<String, Template>, view: &View<'_>) -> Result<BTreeMap<String, String>, ExprError> {
    templates.iter().map(|(name, template)| Ok((name.clone(), template.render(view)?))).collect()
}
