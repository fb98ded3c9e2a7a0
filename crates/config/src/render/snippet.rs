//! The lines of the file that a finding points at, with carets.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::diagnostic::{Diagnostic, Label, Severity, Source};

use super::{Paint, char_width, clean, text_width, wrap};

/// A tab is shown as this many spaces.
const TAB_COLUMNS: usize = 4;
const CUT: &str = "...";

/// A label on its line, in columns of the terminal from 0.
struct Mark<'a> {
    start: usize,
    end: usize,
    text: &'a str,
    main: bool,
}

struct Frame {
    paint: Paint,
    severity: Severity,
    /// Columns of the line numbers.
    gutter: usize,
    /// Columns left for the text of a line.
    room: usize,
}

pub(super) fn write(out: &mut String, found: &Diagnostic, source: &Source, paint: Paint, width: usize) {
    let Some(first) = found.labels.first() else { return };
    let (line, column) = source.position(first.span.start);
    let lines = by_line(&found.labels, source);
    let gutter = lines.keys().max().map_or(1, |n| n.to_string().len());
    let frame = Frame { paint, severity: found.severity, gutter, room: width.saturating_sub(gutter + 4) };
    let place = format!("{}:{line}:{column}", clean(&source.path.display().to_string()));
    let _ = writeln!(out, " {}{} {place}", " ".repeat(gutter), paint.frame("-->"));
    let mut last: Option<usize> = None;
    for (number, labels) in &lines {
        match last {
            Some(last) if number - last > 1 => _ = writeln!(out, " {}", paint.frame(CUT)),
            Some(_) => {}
            None => frame.empty(out),
        }
        frame.line(out, *number, labels, source);
        last = Some(*number);
    }
    if found.hint.is_some() {
        frame.empty(out);
    }
}

/// Labels by the line they start on; the flag marks the main one.
fn by_line<'a>(labels: &'a [Label], source: &Source) -> BTreeMap<usize, Vec<(&'a Label, bool)>> {
    let mut lines: BTreeMap<usize, Vec<(&Label, bool)>> = BTreeMap::new();
    for (n, label) in labels.iter().enumerate() {
        lines.entry(source.position(label.span.start).0).or_default().push((label, n == 0));
    }
    lines
}

impl Frame {
    fn empty(&self, out: &mut String) {
        let _ = writeln!(out, " {}{}", " ".repeat(self.gutter + 1), self.paint.frame("|"));
    }

    fn line(&self, out: &mut String, number: usize, labels: &[(&Label, bool)], source: &Source) {
        let Some((start, line)) = source.shown_line(number) else { return };
        let marks: Vec<Mark<'_>> =
            labels.iter().map(|(label, main)| mark(label, *main, start, &line, source)).collect();
        let shown = expand(&line);
        if text_width(&shown) <= self.room {
            self.text(out, number, &shown);
            marks.iter().for_each(|mark| self.mark(out, mark, 0));
            return;
        }
        for mark in &marks {
            let from = self.window(mark, text_width(&shown));
            self.text(out, number, &cut(&shown, from, self.room));
            self.mark(out, mark, from);
        }
    }

    /// First column to show of a line that is too long, so that the mark is seen.
    fn window(&self, mark: &Mark<'_>, width: usize) -> usize {
        if mark.end + CUT.len() <= self.room {
            return 0;
        }
        mark.start.saturating_sub(self.room / 3).min(width.saturating_sub(self.room))
    }

    fn text(&self, out: &mut String, number: usize, text: &str) {
        let number = self.paint.frame(&format!("{number:>0$} |", self.gutter));
        let _ = writeln!(out, " {number} {}", text.trim_end());
    }

    fn mark(&self, out: &mut String, mark: &Mark<'_>, from: usize) {
        let start = mark.start.saturating_sub(from).min(self.room.saturating_sub(1));
        let length = mark.end.saturating_sub(mark.start).clamp(1, self.room - start);
        let (sign, text) = (if mark.main { "^" } else { "-" }.repeat(length), clean(mark.text));
        let paint =
            |text: &str| if mark.main { self.paint.severity(self.severity, text) } else { self.paint.frame(text) };
        let bar = format!(" {}{}", " ".repeat(self.gutter + 1), self.paint.frame("|"));
        let pad = " ".repeat(start);
        if start + length + 1 + text_width(&text) <= self.room {
            let _ = writeln!(out, "{bar} {pad}{}", paint(&format!("{sign} {text}")));
            return;
        }
        let _ = writeln!(out, "{bar} {pad}{}", paint(&sign));
        let indent = start.min(self.room / 3);
        for line in wrap(&text, self.room - indent, 0, 0).lines() {
            let _ = writeln!(out, "{bar} {}{}", " ".repeat(indent), paint(line));
        }
    }
}

fn mark<'a>(label: &'a Label, main: bool, line_start: usize, line: &str, source: &Source) -> Mark<'a> {
    // The shown line has the characters of the file, some masked: count by characters, not bytes.
    let (first, column) = source.position(label.span.start);
    let (last, end) = source.position(label.span.end.max(label.span.start));
    let chars = line.chars().count();
    let start = (column - 1).min(chars);
    let end = if last > first { chars } else { (end - 1).clamp(start, chars) };
    let columns = |n: usize| line.chars().take(n).map(shown_width).sum();
    debug_assert!(label.span.start >= line_start);
    Mark { start: columns(start), end: columns(end), text: &label.text, main }
}

fn shown_width(c: char) -> usize {
    if c == '\t' { TAB_COLUMNS } else { char_width(c) }
}

fn expand(line: &str) -> String {
    line.chars().fold(String::new(), |mut text, c| {
        match c {
            '\t' => text.push_str(&" ".repeat(TAB_COLUMNS)),
            c if c.is_control() => text.push(char::REPLACEMENT_CHARACTER),
            c => text.push(c),
        }
        text
    })
}

/// The columns `from..from + room` of a line, its cut ends marked by dots.
fn cut(line: &str, from: usize, room: usize) -> String {
    let total = text_width(line);
    let (mut column, mut text) = (0, String::new());
    for c in line.chars() {
        let inside = column >= from && column + char_width(c) <= from + room;
        let dots = from > 0 && column < from + CUT.len() || from + room < total && column + CUT.len() >= from + room;
        if inside {
            if dots { text.push_str(&".".repeat(char_width(c))) } else { text.push(c) }
        }
        column += char_width(c);
    }
    text
}
