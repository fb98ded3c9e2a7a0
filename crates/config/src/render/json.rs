//! Findings for editors and scripts. Fields are only ever added.

use serde_json::{Value, json};

use crate::diagnostic::{Diagnostic, Label, Source};

/// An array with one object for each finding; lines and columns count from 1, columns in characters.
pub fn to_json(diagnostics: &[Diagnostic], source: &Source) -> Value {
    Value::Array(diagnostics.iter().map(|d| one(d, source)).collect())
}

fn one(found: &Diagnostic, source: &Source) -> Value {
    let place = found.labels.first().map(|label| source.position(label.span.start));
    json!({
        "code": found.code,
        "severity": found.severity.name(),
        "message": found.message,
        "file": source.path.display().to_string(),
        "line": place.map(|(line, _)| line),
        "column": place.map(|(_, column)| column),
        "labels": found.labels.iter().map(|l| label(l, source)).collect::<Vec<_>>(),
        "hint": found.hint,
    })
}

fn label(label: &Label, source: &Source) -> Value {
    let (line, column) = source.position(label.span.start);
    let (end_line, end_column) = source.position(label.span.end);
    json!({ "line": line, "column": column, "end_line": end_line, "end_column": end_column, "text": label.text })
}
