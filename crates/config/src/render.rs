//! Diagnostics for people (with the place in the file) and for programs (JSON).

mod json;
mod snippet;

use std::fmt::Write;

use crate::diagnostic::{Diagnostic, Severity, Source};

pub use json::to_json;

/// Narrower terminals get lines of this width, and break them themselves.
const WIDTH_MIN: usize = 40;

/// One block for each finding, in the given order, separated by an empty line; at most `width` columns wide.
pub fn render(diagnostics: &[Diagnostic], source: &Source, color: bool, width: usize) -> String {
    let paint = Paint { color };
    let blocks: Vec<String> = diagnostics.iter().map(|d| block(d, source, paint, width.max(WIDTH_MIN))).collect();
    blocks.join("\n")
}

/// `2 errors, 1 warning`; empty when there is nothing.
pub fn summary(diagnostics: &[Diagnostic]) -> String {
    let count = |severity: Severity, one: &str, many: &str| {
        let n = diagnostics.iter().filter(|d| d.severity == severity).count();
        (n > 0).then(|| format!("{n} {}", if n == 1 { one } else { many }))
    };
    let parts = [
        count(Severity::Error, "error", "errors"),
        count(Severity::Warning, "warning", "warnings"),
        count(Severity::Advice, "piece of advice", "pieces of advice"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn block(found: &Diagnostic, source: &Source, paint: Paint, width: usize) -> String {
    let mut text = String::new();
    let title = format!("{}[{}]", found.severity.name(), found.code);
    let message = wrap(&clean(&found.message), width, title.len() + 2, 2);
    let _ = writeln!(text, "{}: {}", paint.severity(found.severity, &title), paint.bold(&message));
    snippet::write(&mut text, found, source, paint, width);
    if let Some(hint) = &found.hint {
        let hint = wrap(&clean(hint), width, 8, 8);
        let _ = writeln!(text, "  {} {hint}", paint.hint("hint:"));
    }
    text
}

/// Breaks at spaces; the first line starts at column `first`, the others are indented by `indent`.
fn wrap(text: &str, width: usize, first: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut column = first;
    for word in text.split(' ') {
        let length = text_width(word);
        let empty = out.is_empty();
        if !empty && column + 1 + length > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if !empty {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

/// Names from the file may hold anything, even terminal escapes.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn text_width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// Columns of a character on a terminal: the wide blocks of East Asian scripts and emoji take two, combining marks none.
fn char_width(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F
        | 0x2E80..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1FAFF
        | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn severity(self, severity: Severity, text: &str) -> String {
        let code = match severity {
            Severity::Error => "1;31",
            Severity::Warning => "1;33",
            Severity::Advice => "1;36",
        };
        self.wrap(code, text)
    }

    fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn frame(self, text: &str) -> String {
        self.wrap("34", text)
    }

    fn hint(self, text: &str) -> String {
        self.wrap("1;32", text)
    }
}
