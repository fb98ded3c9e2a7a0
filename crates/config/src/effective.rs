//! Every setting that is in force, as the file would spell it: what `show` prints, `plan` compares and the hash is taken from.

mod balancer;
mod cluster;
mod drill;
mod node;
mod service;

use std::time::Duration;

use crate::keys::{Change, Default, Section};
use crate::model::Value;
use crate::quantity::{format_duration, format_percent, format_size};

pub(crate) use balancer::balancer;
pub(crate) use cluster::{cluster, machine};
pub(crate) use drill::drill;
pub(crate) use node::node;
pub(crate) use service::service;

/// What stands in the place of a secret.
pub(crate) const HIDDEN: &str = "\"(hidden)\"";

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
