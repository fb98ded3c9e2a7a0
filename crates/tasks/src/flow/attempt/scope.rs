//! References in the message group of a send, which the machine does not know of.

use std::borrow::Cow;

use holdfast_policy::flow::expr::{Scope, Template};
use holdfast_policy::flow::{Key, State, Value};

use crate::flow::declared::{Work, Workflow};

struct View<'a> {
    declared: &'a Workflow,
    state: &'a State,
    key: &'a Key,
}

/// `None` when the queue has no groups; without one of its own a message is in the group of its run.
pub(in crate::flow) fn group(declared: &Workflow, state: &State, key: &Key) -> Option<String> {
    let Work::Send { queue, group, .. } = &declared.step(&key.step)?.work else { return None };
    if !queue.ends_with(".fifo") {
        return None;
    }
    let rendered = group.as_deref().and_then(|text| {
        let view = View { declared, state, key };
        Template::parse(text).and_then(|template| template.render(&view)).ok()
    });
    Some(rendered.filter(|group| !group.is_empty()).unwrap_or_else(|| key.run.clone()))
}

impl View<'_> {
    fn step(&self, name: &str) -> Option<&holdfast_policy::flow::StepState> {
        let at = self.declared.steps.iter().position(|step| step.name == name)?;
        self.state.steps.get(at)
    }
}

impl Scope for View<'_> {
    fn resolve(&self, path: &[String]) -> Result<Cow<'_, Value>, String> {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let (found, rest) = match words.as_slice() {
            ["run", "id"] => return Ok(Cow::Owned(Value::Text(self.state.run.clone()))),
            ["run", "nominal"] => {
                return Ok(Cow::Owned(self.state.nominal.clone().map_or(Value::Null, Value::Text)));
            }
            ["parameters", name, ..] => (self.state.parameters.get(*name), 2),
            ["steps", name, "output", ..] => (self.step(name).and_then(|step| step.output.as_ref()), 3),
            ["item", ..] => {
                let values = self.step(&self.key.step).and_then(|step| step.values.as_ref());
                (values.and_then(|values| values.get(self.key.item as usize)), 1)
            }
            _ => (None, 0),
        };
        let leaf = path.iter().skip(rest).try_fold(found, |value, name| Some(value?.get(name))).flatten();
        leaf.map(Cow::Borrowed).ok_or_else(|| format!("`{}` leads nowhere", path.join(".")))
    }
}
