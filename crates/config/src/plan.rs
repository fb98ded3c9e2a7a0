//! What applying a file would change, told before it is done.

mod render;

use std::collections::{BTreeMap, BTreeSet};

use crate::effective::{Setting, tables};
use crate::keys::Change as Effect;
use crate::model::Config;

pub use render::render_plan;

/// In the order in which a person reads it: what is removed or replaced first.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Plan {
    pub changes: Vec<Change>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Remove,
    Replace,
    /// More or fewer instances, the others untouched.
    Scale,
    Add,
    UpdateLive,
    /// Takes effect when the agent is started again.
    NextStart,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::Remove => "remove",
            Action::Replace => "replace",
            Action::Scale => "scale",
            Action::Add => "add",
            Action::UpdateLive => "update-live",
            Action::NextStart => "next-start",
        }
    }
}

/// One table of the file that changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// `service.web`
    pub subject: String,
    pub action: Action,
    pub keys: Vec<KeyChange>,
    /// Instances that run now and then; services only.
    pub instances: Option<(u32, u32)>,
}

/// Values as TOML with secrets hidden; `None` where the key is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyChange {
    pub key: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// `old` is what is applied now; without it everything is added.
pub fn plan(old: Option<&Config>, new: &Config) -> Plan {
    let before: BTreeMap<String, Vec<Setting>> = old.map(tables).unwrap_or_default().into_iter().collect();
    let after: BTreeMap<String, Vec<Setting>> = tables(new).into_iter().collect();
    let subjects: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut changes: Vec<Change> =
        subjects.into_iter().filter_map(|subject| change(subject, before.get(subject), after.get(subject))).collect();
    for change in &mut changes {
        let count = |config: Option<&Config>| {
            let name = change.subject.strip_prefix("service.")?;
            Some(config.and_then(|c| c.services.get(name)).map_or(0, |s| s.replicas))
        };
        change.instances = count(old).zip(count(Some(new)));
    }
    changes.sort_by(|a, b| (a.action, &a.subject).cmp(&(b.action, &b.subject)));
    Plan { changes }
}

fn change(subject: &str, old: Option<&Vec<Setting>>, new: Option<&Vec<Setting>>) -> Option<Change> {
    let none = Vec::new();
    let (before, after) = (old.unwrap_or(&none), new.unwrap_or(&none));
    let (keys, effects) = compare(before, after);
    let action = match (old, new) {
        // The node is always there; a first plan tells nothing of it.
        (None, Some(_)) if subject == "node" => return None,
        (None, Some(_)) => Action::Add,
        (Some(_), None) => Action::Remove,
        _ if keys.is_empty() => return None,
        _ => action(&keys, &effects),
    };
    let keys = match action {
        // Only what the file decided is worth reading of something new.
        Action::Add => keys.into_iter().filter(|k| !after.iter().any(|s| s.key == k.key && s.is_default)).collect(),
        Action::Remove => Vec::new(),
        _ => keys,
    };
    Some(Change { subject: subject.to_owned(), action, keys, instances: None })
}

fn action(keys: &[KeyChange], effects: &BTreeSet<Effect>) -> Action {
    let only_count = keys.iter().all(|k| ["replicas", "min_available"].contains(&k.key.as_str()));
    if effects.contains(&Effect::Replaces) {
        Action::Replace
    } else if only_count && keys.iter().any(|k| k.key == "replicas") {
        Action::Scale
    } else if effects.contains(&Effect::Agent) {
        Action::NextStart
    } else {
        Action::UpdateLive
    }
}

fn compare(before: &[Setting], after: &[Setting]) -> (Vec<KeyChange>, BTreeSet<Effect>) {
    let find = |all: &'_ [Setting], key: &str| all.iter().position(|s| s.key == key);
    let mut keys = Vec::new();
    let mut effects = BTreeSet::new();
    let gone = before.iter().filter(|s| find(after, &s.key).is_none());
    for setting in after.iter().chain(gone) {
        let old = find(before, &setting.key).map(|n| &before[n]);
        let new = find(after, &setting.key).map(|n| &after[n]);
        if old.map(Setting::value) == new.map(Setting::value) {
            continue;
        }
        effects.insert(setting.change);
        let shown = |s: Option<&Setting>| s.map(|s| s.shown().to_owned());
        keys.push(KeyChange { key: setting.key.clone(), old: shown(old), new: shown(new) });
    }
    (keys, effects)
}
