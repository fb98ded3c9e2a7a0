//! A plan for people.

use std::fmt::Write;

use super::{Action, Change, KeyChange, Plan};

/// Values longer than this are cut; the whole one stands in the file.
const VALUE_CHARS_MAX: usize = 48;

/// A sign and a line for each table, then its keys; ends with a line that counts.
pub fn render_plan(plan: &Plan, color: bool) -> String {
    if plan.is_empty() {
        return "Nothing to change.\n".into();
    }
    let mut out = String::new();
    for change in &plan.changes {
        block(&mut out, change, color);
    }
    let _ = writeln!(out, "{}", totals(plan));
    out
}

fn block(out: &mut String, change: &Change, color: bool) {
    let (sign, paint, words) = match change.action {
        Action::Remove => ('-', "31", stopped(change)),
        Action::Replace => ('~', "33", replaced(change)),
        Action::Scale => ('*', "33", scaled(change)),
        Action::Add => ('+', "32", added(change)),
        Action::UpdateLive => ('~', "36", "live, nothing is restarted".into()),
        Action::NextStart => ('!', "36", "takes effect when the agent is started again".into()),
    };
    let head = format!("{sign} {}", change.subject);
    let head = if color { format!("\u{1b}[{paint}m{head}\u{1b}[0m") } else { head };
    let _ = writeln!(out, "{head}  {words}");
    let width = change.keys.iter().map(|k| k.key.chars().count()).max().unwrap_or(0);
    for key in &change.keys {
        let _ = writeln!(out, "    {:width$}  {}", key.key, values(key));
    }
    out.push('\n');
}

fn values(key: &KeyChange) -> String {
    match (&key.old, &key.new) {
        (Some(old), Some(new)) if old == new => format!("{} -> changed", cut(old)),
        (Some(old), Some(new)) => format!("{} -> {}", cut(old), cut(new)),
        (Some(old), None) => format!("{} -> none", cut(old)),
        (None, Some(new)) => cut(new),
        (None, None) => String::new(),
    }
}

fn cut(value: &str) -> String {
    if value.chars().count() <= VALUE_CHARS_MAX {
        return value.to_owned();
    }
    value.chars().take(VALUE_CHARS_MAX - 3).collect::<String>() + "..."
}

fn instances(n: u32) -> String {
    if n == 1 { "1 instance".into() } else { format!("{n} instances") }
}

fn stopped(change: &Change) -> String {
    change.instances.map_or_else(|| "removed".into(), |(old, _)| format!("stops {}", instances(old)))
}

fn added(change: &Change) -> String {
    change.instances.map_or_else(|| "added".into(), |(_, new)| format!("starts {}", instances(new)))
}

fn replaced(change: &Change) -> String {
    match change.instances {
        Some((old, new)) if old == new => format!("replaces {}, one after the other", instances(old)),
        Some((old, new)) => format!("replaces {}, and then runs {new}", instances(old)),
        None => "replaced".into(),
    }
}

fn scaled(change: &Change) -> String {
    match change.instances {
        Some((old, new)) if new > old => format!("starts {} more, {new} in all", new - old),
        Some((old, new)) => format!("stops {} of {old}", old.saturating_sub(new)),
        None => "scaled".into(),
    }
}

fn totals(plan: &Plan) -> String {
    let count = |action: Action| plan.changes.iter().filter(|c| c.action == action).count();
    let parts = [
        (Action::Add, "to add"),
        (Action::Replace, "to replace"),
        (Action::Scale, "to scale"),
        (Action::UpdateLive, "to update live"),
        (Action::Remove, "to remove"),
        (Action::NextStart, "at the next start of the agent"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(a, _)| count(*a) > 0).map(|(a, words)| format!("{} {words}", count(*a))).collect();
    format!("Plan: {}.", parts.join(", "))
}
