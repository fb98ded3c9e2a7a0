//! Reports for a terminal of 80 columns, worst first.

use std::fmt::Write;

use crate::prober::queue::Kept;
use crate::report::{Forecast, Report, Reports};

const WIDTH: usize = 80;
/// Characters of the two columns of names; longer ones are cut.
const NAME: usize = 21;
const TARGET: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Failed,
    Refused,
    Passed,
}

impl Verdict {
    fn of(report: &Report) -> Verdict {
        match (report.passed, report.refused.is_empty()) {
            (true, _) => Verdict::Passed,
            (false, true) => Verdict::Failed,
            (false, false) => Verdict::Refused,
        }
    }

    fn text(self, colour: bool) -> String {
        let (word, code) = match self {
            Verdict::Passed => ("passed", "32"),
            Verdict::Failed => ("FAILED", "1;31"),
            Verdict::Refused => ("refused", "33"),
        };
        if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
    }
}

/// One line per drill and below it why it failed; a last line that counts.
pub fn render(reports: &Reports, colour: bool) -> String {
    let mut drills: Vec<&Report> = reports.drills.iter().collect();
    drills.sort_by_key(|d| Verdict::of(d));
    let names = ["DRILL", "TARGET", "DETECTED", "BACK IN", "ASKED", "FAILED", "P99", "RESULT"];
    let header = row(names.map(str::to_owned));
    let mut out = if colour { format!("\x1b[2m{}\x1b[0m\n", header.trim_end()) } else { header };
    for drill in &drills {
        out.push_str(&row([
            drill.name.clone(),
            drill.target.clone(),
            time(drill.detected_ms),
            time(drill.recovered_ms),
            drill.requests.to_string(),
            drill.failed.to_string(),
            time((drill.requests > 0).then_some(drill.p99_ms)),
            Verdict::of(drill).text(colour),
        ]));
        if let Some(kept) = drill.kept.as_ref().filter(|k| k.confirmed > 0) {
            wrap(&mut out, "  messages ", &messages(kept));
        }
        for reason in &drill.why_not {
            wrap(&mut out, "  because ", reason);
        }
    }
    let count = |verdict| drills.iter().filter(|d| Verdict::of(d) == verdict).count();
    let counts = [(Verdict::Passed, "passed"), (Verdict::Failed, "failed"), (Verdict::Refused, "refused")];
    let told: Vec<String> =
        counts.into_iter().filter(|(v, _)| count(*v) > 0).map(|(v, word)| format!("{} {word}", count(v))).collect();
    writeln!(out, "{}", if told.is_empty() { "no drill was run".to_owned() } else { told.join(", ") }).ok();
    out
}

/// What became of the probes of a queue; what is zero and should be is said too.
fn messages(kept: &Kept) -> String {
    let Kept { confirmed, done, lost, twice, again, dead_letters, done_max_ms, .. } = kept;
    let mut text = format!("{done} of {confirmed} done, {lost} lost, {twice} twice");
    for (count, what) in [(again, "tried again"), (dead_letters, "dead")] {
        if *count > 0 {
            write!(text, ", {count} {what}").ok();
        }
    }
    write!(text, ", slowest {}", time(Some(*done_max_ms))).ok();
    text
}

/// What dry runs say.
pub fn render_forecast(forecast: &Forecast) -> String {
    let mut out = format!("{}: {} on {}\n", forecast.name, forecast.fault, forecast.target);
    for hit in &forecast.hits {
        wrap(&mut out, "  hits      ", hit);
    }
    wrap(&mut out, "  expected  ", &forecast.expected);
    wrap(&mut out, "  untouched ", &forecast.protected.join(", "));
    wrap(&mut out, "  undo      ", &forecast.undo);
    for reason in &forecast.refused {
        wrap(&mut out, "  refused   ", reason);
    }
    out
}

fn row(cells: [String; 8]) -> String {
    let [name, target, detected, recovered, asked, failed, p99, verdict] = cells;
    let (name, target) = (cut(&name, NAME), cut(&target, TARGET));
    format!("{name:<NAME$} {target:<TARGET$} {detected:>8} {recovered:>7} {asked:>5} {failed:>6} {p99:>6} {verdict}\n")
}

/// Three digits that matter, and a unit.
fn time(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 9.95 => format!("{ms:.1}ms"),
        Some(ms) if ms < 999.5 => format!("{ms:.0}ms"),
        Some(ms) if ms < 99_950.0 => format!("{:.1}s", ms / 1e3),
        Some(ms) => format!("{:.0}s", ms / 1e3),
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// Words under a hanging indent as wide as `lead`.
fn wrap(out: &mut String, lead: &str, text: &str) {
    let indent = lead.chars().count();
    let mut line = lead.to_owned();
    let mut used = indent;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > indent && used + 1 + length > WIDTH {
            writeln!(out, "{line}").ok();
            line = " ".repeat(indent);
            used = indent;
        }
        if used > indent {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += length;
    }
    writeln!(out, "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(name: &str) -> Report {
        Report {
            name: name.into(),
            fault: "kill",
            target: "web-2".into(),
            detected_ms: Some(2.13),
            recovered_ms: Some(312.4),
            requests: 412,
            p99_ms: 4.2,
            passed: true,
            ..Report::default()
        }
    }

    fn reports() -> Reports {
        let long = "a-very-long-name-of-a-drill-indeed";
        let failed = Report {
            passed: false,
            failed: 12,
            detected_ms: None,
            recovered_ms: Some(123_456.0),
            why_not: vec!["12 failed requests (target 0)".into(), "recovered in 123456 ms (target 500 ms) ".repeat(4)],
            ..passed(long)
        };
        let refused = vec!["an incident is open on web-1".to_owned()];
        let refused =
            Report { passed: false, requests: 0, refused: refused.clone(), why_not: refused, ..passed("hang-web") };
        Reports { drills: vec![passed("kill-web"), refused, failed] }
    }

    #[test]
    fn worst_first_in_eighty_columns() {
        let text = render(&reports(), false);
        assert!(text.lines().all(|l| l.chars().count() <= WIDTH), "{text}");
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} in {text}"));
        assert!(at("FAILED\n") < at("refused\n") && at("refused\n") < at("passed\n"), "{text}");
        assert!(text.ends_with("1 passed, 1 failed, 1 refused\n"), "{text}");
        assert!(text.contains("because 12 failed requests (target 0)"), "{text}");
    }

    #[test]
    fn colour_only_when_asked_for() {
        assert!(!render(&reports(), false).contains('\x1b'));
        assert!(render(&reports(), true).contains("\x1b[1;31mFAILED"));
    }

    #[test]
    fn json_holds_the_promised_keys() {
        let json = serde_json::to_value(reports()).unwrap();
        assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), vec!["drills"]);
        let drill = &json["drills"][0];
        for key in ["name", "fault", "target", "detected_ms", "recovered_ms", "requests", "failed", "passed", "outside"]
        {
            assert!(drill.get(key).is_some(), "{key}");
        }
        assert!(drill["outside"].get("down_ms").is_some() && drill["outside"].get("up_ms").is_some());
    }

    #[test]
    fn exit_codes() {
        let all = reports().drills;
        let code = |drills: Vec<Report>| Reports { drills }.exit_code();
        assert_eq!(code(all.clone()), 1);
        assert_eq!(code(all[..2].to_vec()), 5);
        assert_eq!(code(all[..1].to_vec()), 0);
    }

    #[test]
    fn times_keep_three_digits() {
        for (ms, text) in [(0.24, "0.2ms"), (9.97, "10ms"), (999.6, "1.0s"), (12_345.0, "12.3s"), (123_456.0, "123s")] {
            assert_eq!(time(Some(ms)), text);
        }
    }
}
