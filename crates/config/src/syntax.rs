//! Faults of the TOML itself, several at once: what is broken is told and blanked out, and the rest is read on.

use std::ops::Range;

use toml::de::DeTable;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity, Span};

/// After so many broken places a file is told to be mended first.
const FAULTS_MAX: usize = 20;

pub(crate) struct Sound {
    /// The text with what is broken replaced by spaces, so that offsets stay true.
    pub(crate) text: String,
    pub(crate) faults: Vec<Diagnostic>,
}

pub(crate) fn sound_part(text: &str) -> Sound {
    let mut sound = Sound { text: text.to_owned(), faults: Vec::new() };
    while let Some((message, span)) = first_fault(&sound.text) {
        if sound.faults.len() == FAULTS_MAX {
            sound.text = String::new();
            break;
        }
        let (found, broken) = locate(&sound.text, message, span);
        sound.faults.push(found);
        blank(&mut sound.text, broken);
    }
    sound
}

fn first_fault(text: &str) -> Option<(String, Span)> {
    let faults = DeTable::parse_recoverable(text).1;
    let first = faults.iter().min_by_key(|f| f.span().map_or(0, |s| s.start))?;
    Some((first.message().to_owned(), first.span().unwrap_or(0..0)))
}

/// Where the fault really is, and the part of the text that it spoils.
fn locate(text: &str, message: String, span: Span) -> (Diagnostic, Range<usize>) {
    let line = line_around(text, span.start);
    let alone = &text[line.clone()];
    if message.contains("duplicate key") {
        let spoilt = if is_header(alone) { line.start..table_end(text, line.end) } else { line };
        let found = Diagnostic::new(Severity::Error, code::SYNTAX, "this stands in the file twice");
        return (found.at(span, "the second time").hint("merge the two, or remove one"), spoilt);
    }
    if !alone.trim().is_empty() && first_fault(alone).is_some() {
        return (told(&message, span), line);
    }
    // The line is fine by itself: something above it was left open.
    let Some(opener) = unclosed_above(text, line.start) else { return (told(&message, span), line) };
    let (message, inner) = first_fault(&text[opener.clone()]).unwrap_or((message, 0..0));
    let at = opener.start + inner.start..opener.start + inner.end;
    (told(&message, at), opener.start..table_end(text, opener.end))
}

fn told(message: &str, span: Span) -> Diagnostic {
    let label = message.replace('\n', ", ");
    let hint = if label.contains("unclosed array") {
        "close the list with `]`"
    } else if label.contains("unclosed inline table") {
        "close the table with `}`"
    } else if label.contains("string values must be quoted") {
        "put texts in quotes: \"…\""
    } else if label.contains("basic string") {
        "close the text with `\"`; inside of it write `\\\"` and `\\\\`"
    } else {
        "a line is KEY = VALUE, [TABLE] or # a comment"
    };
    Diagnostic::new(Severity::Error, code::SYNTAX, "this is not valid TOML").at(span, label).hint(hint)
}

/// The nearest line before `end`, in the same table, that does not parse by itself.
fn unclosed_above(text: &str, end: usize) -> Option<Range<usize>> {
    let mut at = end;
    while at > 0 {
        let line = line_around(text, at - 1);
        let alone = &text[line.clone()];
        if is_header(alone) {
            return None;
        }
        if first_fault(alone).is_some() {
            return Some(line);
        }
        at = line.start;
    }
    None
}

/// The line at an offset, without its newline.
fn line_around(text: &str, offset: usize) -> Range<usize> {
    let offset = (0..=offset.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let start = text[..offset].rfind('\n').map_or(0, |n| n + 1);
    let end = text[offset..].find('\n').map_or(text.len(), |n| offset + n);
    start..end
}

/// The start of the next line after `from` that opens a table.
fn table_end(text: &str, from: usize) -> usize {
    let mut at = from;
    for line in text[from..].split_inclusive('\n') {
        if at > from && is_header(line) {
            return at;
        }
        at += line.len();
    }
    text.len()
}

/// Whether a line looks like `[service.web]`. An element of a nested array does not: it holds quotes or a comma.
fn is_header(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default().trim();
    line.starts_with('[') && line.ends_with(']') && !line.contains([',', ' ']) && line.len() > 2
}

fn blank(text: &mut String, part: Range<usize>) {
    let spaces: String = text[part.clone()].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
    text.replace_range(part, &spaces);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broken_place_is_told_once_and_the_rest_is_read() {
        let text = "[service.web]\ncommand = [\"x\"\nreplicas = 3\n[service.web]\nport = 80\n[node]\nname = box\nzone = \"a\nports = \"1-2\"\n";
        let sound = sound_part(text);
        let told: Vec<&str> = sound.faults.iter().map(|f| f.labels[0].text.as_str()).collect();
        assert_eq!(told.len(), 4, "{told:?}");
        assert_eq!(sound.text.len(), text.len());
        assert!(sound.text.contains("ports = \"1-2\""));
        assert_eq!(
            &text[sound.faults[0].labels[0].span.start - 1..][..1],
            "\"",
            "the open list, not the line below it"
        );
    }

    #[test]
    fn it_ends_on_garbage() {
        for text in [
            "\"\"\"",
            "[[[[",
            "a = '''\nb",
            "\u{feff}=\r=\r=",
            &"[\n".repeat(200),
            &format!("a = {}", "[".repeat(100_000)),
            "é = \"\\",
        ] {
            sound_part(text);
        }
    }
}
