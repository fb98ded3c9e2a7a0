//! When the steps of a run were at work: as bars in a terminal, and as a picture.

use std::fmt::Write as _;
use std::time::Duration;

use holdfast_tasks::control::flow::{RunDetail, TryInfo};

use crate::terminal::human;

pub(super) const WIDTH_MAX: usize = 80;
/// Of a step's name; longer ones are cut.
const NAME_MAX: usize = 20;
/// For the length of time at the end of a line.
const TIME_WIDTH: usize = 9;
/// A line that is shorter than this shows nothing.
const BAR_MIN: usize = 10;

/// A line of bars.
struct Line<'a> {
    name: String,
    tries: Vec<&'a TryInfo>,
}

/// From the first beginning to the last end; `None` before anything began.
fn span(detail: &RunDetail) -> Option<(u64, u64)> {
    let from = detail.attempts.iter().map(|tried| tried.began_wall_ms).min()?;
    let to = detail.attempts.iter().map(|tried| tried.ended_wall_ms.unwrap_or(detail.now_wall_ms)).max()?;
    Some((from, to.max(from + 1)))
}

fn lines(detail: &RunDetail) -> Vec<Line<'_>> {
    let of = |step: &str, operation: &str| -> Vec<&TryInfo> {
        detail.attempts.iter().filter(|tried| tried.step == step && tried.operation == operation).collect()
    };
    let mut lines: Vec<Line<'_>> = Vec::new();
    for step in &detail.steps {
        lines.push(Line { name: step.name.clone(), tries: of(&step.name, "do") });
    }
    // What was undone, in the order of its undoing.
    let mut undone: Vec<Line<'_>> = detail
        .steps
        .iter()
        .map(|step| Line { name: format!("undo {}", step.name), tries: of(&step.name, "undo") })
        .filter(|line| !line.tries.is_empty())
        .collect();
    undone.sort_by_key(|line| line.tries.iter().map(|tried| tried.began_wall_ms).min());
    lines.extend(undone);
    lines
}

/// At most `width` characters a line.
pub(super) fn bars(detail: &RunDetail, width: usize) -> String {
    let Some((from, to)) = span(detail) else { return String::new() };
    let lines = lines(detail);
    let name_width = lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0).min(NAME_MAX);
    let bar = width.saturating_sub(name_width + TIME_WIDTH + 4);
    if bar < BAR_MIN {
        return String::new();
    }
    let mut text = String::new();
    for line in &lines {
        let name: String = line.name.chars().take(name_width).collect();
        let mut cells = vec![' '; bar];
        for tried in &line.tries {
            let end = tried.ended_wall_ms.unwrap_or(detail.now_wall_ms).max(tried.began_wall_ms);
            let first = place(tried.began_wall_ms, (from, to), bar).min(bar - 1);
            let last = place(end, (from, to), bar).clamp(first + 1, bar);
            cells[first..last].fill(mark(tried));
        }
        let took: u64 =
            line.tries.iter().map(|t| t.ended_wall_ms.unwrap_or(detail.now_wall_ms) - t.began_wall_ms).sum();
        let took = if line.tries.is_empty() { String::new() } else { human(Duration::from_millis(took)) };
        let cells: String = cells.into_iter().collect();
        let _ = writeln!(text, "{}", format!("{name:name_width$} │{cells}│ {took}").trim_end());
    }
    text
}

/// The sum of a run's time is split in `cells`.
fn place(at: u64, (from, to): (u64, u64), cells: usize) -> usize {
    let share = at.saturating_sub(from) as f64 / (to - from) as f64;
    (share * cells as f64).round() as usize
}

fn mark(tried: &TryInfo) -> char {
    match tried.outcome.as_deref() {
        Some("done") => '█',
        Some("skipped" | "cancelled") => '░',
        Some(_) => '▒',
        None => '▓',
    }
}

const ROW: usize = 24;
const LEFT: usize = 180;
const WIDE: usize = 720;

pub(super) fn svg(detail: &RunDetail) -> String {
    let lines = lines(detail);
    let height = ROW * (lines.len() + 2);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDE + 20
    );
    let title = format!("{}: {}", detail.run.id, detail.run.status);
    let _ = writeln!(text, "<text x=\"8\" y=\"17\" font-weight=\"bold\">{}</text>", escaped(&title));
    let (from, to) = span(detail).unwrap_or((0, 1));
    for (n, line) in lines.iter().enumerate() {
        let y = ROW * (n + 1);
        let _ = writeln!(text, "<text x=\"8\" y=\"{}\">{}</text>", y + 16, escaped(&line.name));
        for tried in &line.tries {
            let end = tried.ended_wall_ms.unwrap_or(detail.now_wall_ms);
            let x = LEFT + place(tried.began_wall_ms, (from, to), WIDE);
            let wide = (LEFT + place(end, (from, to), WIDE)).saturating_sub(x).max(2);
            let took = human(Duration::from_millis(end.saturating_sub(tried.began_wall_ms)));
            let outcome = tried.outcome.as_deref().unwrap_or("running");
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"{}\" width=\"{wide}\" height=\"16\" rx=\"2\" fill=\"{}\"><title>{}</title></rect>",
                y + 4,
                color(outcome),
                escaped(&format!("{} try {}: {outcome}, {took}", line.name, tried.attempt))
            );
        }
    }
    let took = human(Duration::from_millis(to - from));
    let y = ROW * (lines.len() + 1) + 16;
    let _ = writeln!(text, "<text x=\"{LEFT}\" y=\"{y}\" fill=\"#666\">0</text>");
    let _ = writeln!(text, "<text x=\"{}\" y=\"{y}\" fill=\"#666\" text-anchor=\"end\">{took}</text>", LEFT + WIDE);
    text.push_str("</svg>\n");
    text
}

fn color(outcome: &str) -> &'static str {
    match outcome {
        "done" => "#2e7d32",
        "running" => "#1565c0",
        "skipped" | "cancelled" => "#9e9e9e",
        _ => "#c62828",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests;
