//! `docs/reference/configuration.md`, printed from the catalogue of keys. A test fails while the file differs.

use std::fmt::Write;

use crate::keys::{Default, Key, LIVE, READY, SECTIONS, STARTUP, Section, Type};

/// A file that uses much of what there is; a test reads it and finds nothing to say.
pub(crate) const EXAMPLE: &str = include_str!("reference/example.toml");

/// The same for queues and workflows.
pub(crate) const EXAMPLE_TASKS: &str = include_str!("reference/tasks.toml");

const HEAD: &str = "\
# Configuration reference

<!-- Generated from the catalogue in crates/config/src/keys: cargo run -p holdfast-config --example reference -->

One TOML file describes everything. `holdfast check` reads it and tells every mistake at once; `holdfast plan` tells what
applying it would change. Keys and tables that holdfast does not know are refused.

Each key stands with an example, its meaning, its type and range, its default, and what a change of it in a running system
does: *live* is taken over by what runs, *replaces instances* starts them anew one after the other within `max_unavailable`
and `min_available`, *at the next start of the agent* waits for that.

- **Durations** are texts of whole numbers with units, largest first: `\"500ms\"`, `\"5s\"`, `\"1m30s\"`, `\"2h\"`, `\"1d\"`.
- **Sizes** are texts with a unit: `\"512B\"`, `\"64KiB\"`, `\"10MiB\"`, `\"1GiB\"` (powers of 1024), `\"10MB\"` (powers of 1000).
- **Shares** are percentages or numbers from 0 to 1: `\"99.9%\"` or `0.999`.
- **Paths** that are relative start from the directory of the file.
- **Names** of services, balancers, queues, workflows, steps and all other tables match `[a-z][a-z0-9-]*` and have at most 40
  characters.
- **Addresses** are IP addresses; host names are not resolved. IPv6 stands in brackets before a port: `\"[::1]:8080\"`.
";

pub fn reference() -> String {
    let mut out = String::from(HEAD);
    for section in SECTIONS {
        // The three probes differ in defaults alone and share a chapter.
        let skipped = [&READY, &LIVE].into_iter().any(|s| std::ptr::eq(s, section));
        if !skipped {
            chapter(&mut out, section);
        }
    }
    let _ = write!(out, "\n## A whole file\n\n```toml\n{EXAMPLE}```\n");
    let _ = write!(out, "\n## A file with queues and workflows\n\n```toml\n{EXAMPLE_TASKS}```\n");
    out
}

fn chapter(out: &mut String, section: &'static Section) {
    let mark = if section.title.starts_with('[') { "##" } else { "###" };
    let probe = std::ptr::eq(section, &STARTUP);
    let title = if probe { "`startup`, `ready`, `live`" } else { &heading(section.title) };
    let _ = write!(out, "\n{mark} {title}\n\n{}\n\n", section.doc);
    for key in section.keys {
        let default = if probe { probe_default(key) } else { default(key) };
        let name = prefixed(section, key);
        let _ = writeln!(out, "- `{name} = {}`  \n  {}  ", key.example, key.doc);
        let _ = writeln!(out, "  {}. {default}. *{}*", kind(key.kind), sentence(key.change.words()));
    }
}

/// What tells tables of the same name apart is no code.
fn heading(title: &str) -> String {
    match title.split_once("} of ") {
        Some((table, owner)) => format!("`{table}}}` of {owner}"),
        None => format!("`{title}`"),
    }
}

/// Where the table stands under a key that the file chooses.
fn prefixed(section: &Section, key: &Key) -> String {
    let start = section.title.split(" = ").next().filter(|start| start.ends_with(".KEY"));
    start.map_or(key.name.to_owned(), |start| format!("{start}.{}", key.name))
}

fn default(key: &Key) -> String {
    match key.default {
        Default::Required => "Required".into(),
        Default::Is(text) => format!("Default `{}`", spelt(key.kind, text)),
        Default::Words(words) if words.starts_with("required") => sentence(words),
        Default::Words(words) => format!("Default: {words}"),
    }
}

/// The defaults of the three probes, told apart where they differ.
fn probe_default(key: &Key) -> String {
    let of = |section: &'static Section| section.keys.iter().find(|k| k.name == key.name).map(default);
    let all = [(&STARTUP, "startup"), (&READY, "ready"), (&LIVE, "live")];
    let known: Vec<(String, &str)> = all.into_iter().filter_map(|(s, name)| of(s).map(|d| (d, name))).collect();
    match &known[..] {
        [(first, _), rest @ ..] if rest.iter().all(|(d, _)| d == first) => first.clone(),
        _ => {
            let each: Vec<String> =
                known.iter().map(|(d, name)| format!("{} ({name})", d.replace("Default ", ""))).collect();
            format!("Default {}", each.join(", "))
        }
    }
}

fn spelt(kind: Type, text: &str) -> String {
    match kind {
        Type::Bool | Type::Integer { .. } | Type::Number { .. } => text.to_owned(),
        Type::Forms(_) if ["true", "false"].contains(&text) => text.to_owned(),
        _ => format!("\"{text}\""),
    }
}

fn kind(kind: Type) -> String {
    match kind {
        Type::Text => "Text".into(),
        Type::Path => "Path".into(),
        Type::Bool => "Boolean".into(),
        Type::Integer { min, max } => format!("Whole number, {min} to {max}"),
        Type::Number { min, max } => format!("Number, {min} to {max}"),
        Type::Share => "Share".into(),
        Type::Duration { min, max } => format!("Duration, \"{min}\" to \"{max}\""),
        Type::Size { min, max } => format!("Size, \"{min}\" to \"{max}\""),
        Type::Choice(words) => {
            format!("One of {}", words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", "))
        }
        Type::Argv => "Array of texts".into(),
        Type::Integers { min, max } => format!("Array of whole numbers, {min} to {max}"),
        Type::Forms(words) => sentence(words),
    }
}

fn sentence(words: &str) -> String {
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
