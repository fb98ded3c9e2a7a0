//! `holdfast incidents`: what happened, when it was detected, decided, acted on and ready again, and what it cost.

use std::time::Duration;

use clap::Args;

use super::{Common, print_json, print_text};
use crate::api::{Incident, Why};
use crate::failure::{Exit, Failure};
use crate::terminal::{Style, human, table, width};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Show one, for example I-000012
    id: Option<String>,
    /// Only of this service or instance
    #[arg(long)]
    of: Option<String>,
    /// Newest so many
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: usize,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<Exit, Failure> {
    let client = common.client()?;
    if let Some(id) = &options.id {
        let found: Vec<Incident> = client.get(&format!("/v1/incidents?id={id}")).await?;
        let Some(incident) = found.into_iter().next() else {
            return Err(Failure::new("HF0312", format!("there is no incident {id}"))
                .hint("holdfast incidents")
                .exit(Exit::Usage));
        };
        let story: Option<Why> =
            client.get(&format!("/v1/why/{}?incident={}", incident.subject, incident.key)).await.ok();
        return show(common, &incident, story.as_ref());
    }
    let of = options.of.as_ref().map_or_else(String::new, |of| format!("&subject={of}"));
    let found: Vec<Incident> = client.get(&format!("/v1/incidents?limit={}{of}", options.limit)).await?;
    if common.json {
        print_json(&serde_json::json!({ "incidents": found }))?;
    } else {
        print_text(&list(&found, Style::stdout(), width()));
    }
    Ok(Exit::Ok)
}

fn list(found: &[Incident], style: Style, width: usize) -> String {
    if found.is_empty() {
        return "no incidents\n".into();
    }
    // When it was decided is in the story of each one: 80 columns hold the cause instead.
    let names = ["ID", "WHEN (UTC)", "SUBJECT", "ACTED", "READY", "FAILED", "CAUSE"];
    let today = holdfast_host::clock::wall_ms();
    let mut rows = vec![names.iter().map(|n| style.dim(n)).collect::<Vec<_>>()];
    for incident in found {
        let ready = match incident.outcome.as_str() {
            "open" => style.red("open"),
            "recovered" => after(incident.detected_boot_ns, incident.ready_boot_ns),
            other => other.to_owned(),
        };
        rows.push(vec![
            incident.id.clone(),
            short(incident.wall_ms, today),
            incident.subject.clone(),
            after(incident.detected_boot_ns, incident.acted_boot_ns),
            ready,
            incident.failed_requests.to_string(),
            incident.cause.clone(),
        ]);
    }
    table(&rows, width)
}

fn show(common: &Common, incident: &Incident, story: Option<&Why>) -> Result<Exit, Failure> {
    if common.json {
        print_json(&serde_json::json!({ "incident": incident, "story": story }))?;
        return Ok(Exit::Ok);
    }
    let style = Style::stdout();
    let from = incident.detected_boot_ns;
    let mut text = format!("{}  {}  {}\n", style.bold(&incident.id), incident.subject, incident.outcome);
    text.push_str(&format!("  cause      {}\n", incident.cause));
    text.push_str(&format!("  detected   {}\n", when(incident.wall_ms)));
    for (name, at) in
        [("decided", incident.decided_boot_ns), ("acted", incident.acted_boot_ns), ("ready", incident.ready_boot_ns)]
    {
        text.push_str(&format!("  {name:<9}  {}\n", after(from, at)));
    }
    text.push_str(&format!("  failed     {} requests meanwhile\n", incident.failed_requests));
    if incident.faults > 1 {
        text.push_str(&format!("  faults     {} in this incident\n", incident.faults));
    }
    for action in &incident.actions {
        text.push_str(&format!("  did        {action}\n"));
    }
    print_text(&text);
    if let Some(story) = story {
        print_text(&format!("\n{}", super::why::render(story, style, width())));
    }
    Ok(Exit::Ok)
}

fn after(from: u64, at: Option<u64>) -> String {
    at.map_or_else(|| "-".into(), |at| format!("+{}", human(Duration::from_nanos(at.saturating_sub(from)))))
}

/// The time of today, the date and the minute of any other day.
fn short(wall_ms: u64, today: u64) -> String {
    let (then, today) = (when(wall_ms), when(today));
    if then[..10] == today[..10] { then[11..].to_owned() } else { then[5..16].to_owned() }
}

fn when(wall_ms: u64) -> String {
    let stamp = holdfast_host::clock::utc_text(wall_ms);
    String::from_utf8_lossy(&stamp[..19]).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn today_needs_no_date() {
        let day = 24 * 3600 * 1000;
        assert_eq!(short(20_000 * day + 3_661_000, 20_000 * day), "01:01:01");
        assert_eq!(short(19_999 * day + 3_661_000, 20_000 * day), "10-03 01:01");
    }
}
