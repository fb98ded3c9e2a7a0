//! Bars and pictures of runs that never were.

use holdfast_tasks::control::flow::{RunDetail, RunInfo, StepInfo, TryInfo};

use super::{WIDTH_MAX, bars, svg};

fn step(name: &str) -> StepInfo {
    StepInfo {
        name: name.into(),
        after: Vec::new(),
        kind: "command".into(),
        status: "done".into(),
        attempts: 1,
        items: None,
        retry_wall_ms: None,
        output: None,
        error: None,
    }
}

fn tried(step: &str, operation: &str, (from, to): (u64, Option<u64>), outcome: Option<&str>) -> TryInfo {
    TryInfo {
        step: step.into(),
        item: 0,
        operation: operation.into(),
        round: 1,
        attempt: 1,
        began_wall_ms: from,
        ended_wall_ms: to,
        outcome: outcome.map(str::to_owned),
        words: None,
        output: None,
    }
}

fn detail(attempts: Vec<TryInfo>) -> RunDetail {
    let run = RunInfo {
        id: "pay-1".into(),
        workflow: "pay".into(),
        status: "running".into(),
        over: false,
        created_wall_ms: 0,
        ended_wall_ms: None,
        nominal: None,
        parent: None,
        key: None,
        error: None,
        output: None,
    };
    RunDetail {
        run,
        saga: true,
        parameters: Default::default(),
        round: 1,
        steps: vec![step("first"), step("a-step-whose-name-is-too-long<&>"), step("never")],
        attempts,
        signals: Default::default(),
        audit: Vec::new(),
        now_wall_ms: 10_000,
    }
}

#[test]
fn bars_show_who_ran_when_and_fit_the_line() {
    let long = "a-step-whose-name-is-too-long<&>";
    let detail = detail(vec![
        tried("first", "do", (0, Some(5_000)), Some("done")),
        tried(long, "do", (5_000, Some(6_000)), Some("failed")),
        tried("first", "undo", (9_000, None), None),
    ]);
    let text = bars(&detail, WIDTH_MAX);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines.iter().all(|line| line.chars().count() <= WIDTH_MAX), "{text}");
    let of = |line: &str, mark: char| line.chars().filter(|c| *c == mark).count();
    assert!(of(lines[0], '█') > 3 * of(lines[1], '▒') && of(lines[1], '▒') > 0, "{text}");
    assert!(lines[3].starts_with("undo first") && of(lines[3], '▓') > 0, "{text}");
    let picture = svg(&detail);
    assert!(picture.contains("too-long&lt;&amp;&gt;") && picture.matches("<title>").count() == 3, "{picture}");
}

#[test]
fn a_run_that_has_not_begun_has_no_bars() {
    assert_eq!(bars(&detail(Vec::new()), WIDTH_MAX), "");
    assert!(svg(&detail(Vec::new())).ends_with("</svg>\n"));
}
