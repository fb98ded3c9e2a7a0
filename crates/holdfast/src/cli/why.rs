//! `holdfast why web-2`: the chain of decisions, each with the inputs it was taken from.

use super::{Common, print_json, print_text};
use crate::api::{Why, WhyEntry};
use crate::failure::{Exit, Failure};
use crate::terminal::Style;

pub(super) async fn run(common: &Common, name: &str) -> Result<Exit, Failure> {
    let why: Why = common.client()?.get(&format!("/v1/why/{name}")).await?;
    if common.json {
        print_json(&why)?;
    } else {
        print_text(&render(&why, Style::stdout()));
    }
    Ok(Exit::Ok)
}

pub(super) fn render(why: &Why, style: Style) -> String {
    let mut text = format!("{}  {}\n", style.bold(&why.subject), why.now);
    let mut day = String::new();
    for entry in &why.entries {
        let stamp = holdfast_host::clock::utc_text(entry.wall_ms);
        let stamp = String::from_utf8_lossy(&stamp).into_owned();
        let (date, time) = stamp.split_once('T').unwrap_or(("", &stamp));
        if date != day {
            text.push_str(&format!("\n{}\n", style.dim(&format!("{date} (UTC)"))));
            day = date.to_owned();
        }
        text.push_str(&line(entry, time.trim_end_matches('Z'), &why.subject, style));
    }
    if why.entries.is_empty() {
        text.push_str("nothing has happened to it since the agent knows it\n");
    }
    if let Some(next) = &why.next {
        text.push_str(&format!("\n{} {next}\n", style.cyan("next:")));
    }
    text
}

fn line(entry: &WhyEntry, time: &str, subject: &str, style: Style) -> String {
    let change = match (entry.from.as_str(), entry.to.as_str()) {
        ("", "") => String::new(),
        ("", to) => format!("{to}: "),
        (from, to) if from == to => format!("{to}: "),
        (from, to) => format!("{from} -> {to}: "),
    };
    let who = if entry.subject == subject { String::new() } else { format!("[{}] ", entry.subject) };
    let mut text = format!("  {}  {who}{}{}\n", style.dim(time), style.bold(&change), entry.reason);
    let mut facts: Vec<String> = entry.inputs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if let Some(life) = &entry.incarnation {
        facts.push(format!("life={life}"));
    }
    if let Some(phase) = &entry.phase {
        facts.push(format!("incident {phase}"));
    }
    if !facts.is_empty() {
        text.push_str(&format!("  {:12}  {}\n", "", style.dim(&facts.join("  "))));
    }
    text
}
