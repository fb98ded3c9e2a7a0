//! A change of state, told once and read by log, metric, journal, simulator and drill alike.

use std::borrow::Cow;

/// `inputs` are the values the decision was taken from, so that `why` can print them and an incident can be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: &'static str,
    pub to: &'static str,
    pub reason: Cow<'static, str>,
    pub inputs: Vec<(&'static str, String)>,
}

impl Transition {
    pub fn new(from: &'static str, to: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Transition { from, to, reason: reason.into(), inputs: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.inputs.push((name, value.to_string()));
        self
    }
}
