//! Every setting that is in force, as the file would spell it: what `show` prints, `plan` compares and the hash is taken from.

mod balancer;
mod cluster;
mod drill;
mod node;
mod service;
mod tasks;
mod workflow;

use std::time::Duration;

use crate::keys::{Change, Default, Section};
use crate::model::{Config, Value};
use crate::quantity::{format_duration, format_percent, format_size};

pub(crate) use service::service;

use balancer::balancer;
use cluster::{cluster, machine};
use drill::drill;
use node::node;
use tasks::{access_key, pool, queue, tasks, worker};
use workflow::{step, workflow};

/// What stands in the place of a secret.
pub(crate) const HIDDEN: &str = "\"(hidden)\"";

/// Every table of the file with its settings, in the order in which `show` prints them.
pub(crate) fn tables(config: &Config) -> Vec<(String, Vec<Setting>)> {
    let mut all = vec![("node".to_owned(), node(&config.node))];
    all.extend(config.cluster.iter().map(|c| ("cluster".to_owned(), cluster(c))));
    all.extend(config.nodes.iter().map(|(name, m)| (format!("node.{name}"), machine(m))));
    all.extend(config.services.iter().map(|(name, s)| (format!("service.{name}"), service(s))));
    all.extend(config.balancers.iter().map(|(name, b)| (format!("balancer.{name}"), balancer(b))));
    all.extend(config.tasks.iter().map(|t| ("tasks".to_owned(), tasks(t))));
    all.extend(config.keys.iter().map(|(name, k)| (format!("key.{name}"), access_key(k))));
    all.extend(config.queues.iter().map(|(name, q)| (format!("queue.{name}"), queue(q))));
    all.extend(config.workers.iter().map(|(name, w)| (format!("worker.{name}"), worker(w))));
    all.extend(config.pools.iter().map(|(name, p)| (format!("pool.{name}"), pool(p))));
    for (name, w) in &config.workflows {
        all.push((format!("workflow.{name}"), workflow(w)));
        all.extend(w.steps.iter().map(|(step_name, s)| (format!("workflow.{name}.step.{step_name}"), step(s))));
    }
    all.extend(config.drills.iter().map(|(name, d)| (format!("drill.{name}"), drill(d))));
    all
}

/// One key of a table with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    /// Within the table, such as `ready.every`.
    pub(crate) key: String,
    /// TOML; never shown when `shown` differs.
    value: String,
    shown: String,
    pub(crate) change: Change,
    /// Whether the value is the one that the catalogue gives anyway.
    pub(crate) is_default: bool,
}

impl Setting {
    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }
}

/// Collects settings of one table and the tables in it.
pub(crate) struct Settings {
    section: &'static Section,
    prefix: &'static str,
    all: Vec<Setting>,
}

impl Settings {
    pub(crate) fn new(section: &'static Section) -> Self {
        Settings { section, prefix: "", all: Vec::new() }
    }

    /// What follows stands in the inner table `prefix.`; an empty prefix returns to the table itself.
    pub(crate) fn table(&mut self, prefix: &'static str, section: &'static Section) {
        (self.prefix, self.section) = (prefix, section);
    }

    pub(crate) fn put(&mut self, key: &str, value: String) {
        self.put_hidden(key, value.clone(), value);
    }

    pub(crate) fn put_hidden(&mut self, key: &str, value: String, shown: String) {
        let name = key.split('.').next().unwrap_or(key);
        let known = self.section.key(name);
        let is_default = matches!(known.default, Default::Is(text) if value.trim_matches('"') == text);
        let key = if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) };
        self.all.push(Setting { key, value, shown, change: known.change, is_default });
    }

    /// A value that is worked out from others where the file is silent; `derived` is what would come out.
    pub(crate) fn put_derived(&mut self, key: &str, value: String, derived: &str) {
        let is_default = value == derived;
        self.put(key, value);
        if let Some(last) = self.all.last_mut() {
            last.is_default |= is_default;
        }
    }

    pub(crate) fn put_some<T>(&mut self, key: &str, value: Option<T>, spell: impl Fn(T) -> String) {
        if let Some(value) = value {
            self.put(key, spell(value));
        }
    }

    pub(crate) fn finish(self) -> Vec<Setting> {
        self.all
    }
}

/// A TOML basic string.
pub(crate) fn text(value: impl AsRef<str>) -> String {
    let mut out = String::from("\"");
    for c in value.as_ref().chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

pub(crate) fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// Labels with their values, as `on` spells them.
pub(crate) fn on(labels: &std::collections::BTreeMap<String, Vec<String>>) -> String {
    let all: Vec<String> =
        labels.iter().map(|(label, values)| format!("{} = {}", text(label), texts(values))).collect();
    format!("{{ {} }}", all.join(", "))
}

pub(crate) fn texts(items: &[String]) -> String {
    list(items.iter().map(text))
}

pub(crate) fn duration(value: Duration) -> String {
    text(format_duration(value))
}

pub(crate) fn size(bytes: u64) -> String {
    text(format_size(bytes))
}

pub(crate) fn share(value: f64) -> String {
    text(format_percent(value))
}

/// Of a secret that may not stand in the file.
fn reference(value: &Value) -> String {
    match value {
        Value::File(path) => format!("{{ file = {} }}", text(path.to_string_lossy())),
        Value::Env(name) => format!("{{ env = {} }}", text(name)),
        Value::Plain(_) => HIDDEN.to_owned(),
    }
}
