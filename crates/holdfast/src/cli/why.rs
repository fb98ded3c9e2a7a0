//! `holdfast why web-2`: the chain of decisions, each with the inputs it was taken from.

use super::{Common, print_json, print_text};
use crate::api::{Why, WhyEntry};
use crate::failure::{Exit, Failure};
use crate::terminal::{Style, width, wrap};

pub(super) async fn run(common: &Common, name: &str) -> Result<Exit, Failure> {
    let why: Why = common.client()?.get(&format!("/v1/why/{name}")).await?;
    if common.json {
        print_json(&why)?;
    } else {
        print_text(&render(&why, Style::stdout(), width()));
    }
    Ok(Exit::Ok)
}

pub(super) fn render(why: &Why, style: Style, width: usize) -> String {
    let now = wrap(&why.now, why.subject.len() + 2, 2, width);
    let mut text = format!("{}  {now}\n", style.bold(&why.subject));
    let mut day = String::new();
    for entry in &why.entries {
        let stamp = holdfast_host::clock::utc_text(entry.wall_ms);
        let stamp = String::from_utf8_lossy(&stamp).into_owned();
        let (date, time) = stamp.split_once('T').unwrap_or(("", &stamp));
        if date != day {
            text.push_str(&format!("\n{}\n", style.dim(&format!("{date} (UTC)"))));
            day = date.to_owned();
        }
        text.push_str(&line(entry, time.trim_end_matches('Z'), &why.subject, style, width));
    }
    if why.entries.is_empty() {
        text.push_str("nothing has happened to it since the agent knows it\n");
    }
    if let Some(next) = &why.next {
        text.push_str(&format!("\n{} {next}\n", style.cyan("next:")));
    }
    text
}

/// Where the text of a line begins, behind the time.
const COLUMN: usize = 16;

fn line(entry: &WhyEntry, time: &str, subject: &str, style: Style, width: usize) -> String {
    let change = match (entry.from.as_str(), entry.to.as_str()) {
        ("", to) => to.to_owned(),
        (from, to) if from == to => to.to_owned(),
        (from, to) => format!("{from} -> {to}"),
    };
    let who = if entry.subject == subject { String::new() } else { format!("[{}] ", entry.subject) };
    let colon = if change.is_empty() || entry.reason.is_empty() { "" } else { ": " };
    let told = COLUMN + who.chars().count() + change.chars().count() + colon.len();
    let reason = wrap(&entry.reason, told, COLUMN, width);
    let mut text = format!("  {}  {who}{}{colon}{reason}\n", style.dim(time), style.bold(&change));
    let mut facts: Vec<String> = entry.inputs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if let Some(life) = &entry.incarnation {
        facts.push(format!("life={life}"));
    }
    if let Some(phase) = &entry.phase {
        facts.push(format!("incident {phase}"));
    }
    if !facts.is_empty() {
        let facts = wrap(&facts.join("  "), COLUMN, COLUMN, width);
        text.push_str(&format!("{:COLUMN$}{}\n", "", style.dim(&facts)));
    }
    text
}
