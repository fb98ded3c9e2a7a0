//! What is wrong with a file: where, why, and what to do about it.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// Byte offsets into [`Source::text`].
pub type Span = Range<usize>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// It runs, but something will hurt.
    Warning,
    /// It runs well; this would make it stronger.
    Advice,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Advice => "advice",
        }
    }
}

/// A place in the file and what to say beside it. The first label of a diagnostic is its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// `HF01xx`, one of [`crate::code::ALL`].
    pub code: &'static str,
    pub severity: Severity,
    pub message: String,
    pub labels: Vec<Label>,
    pub hint: Option<String>,
}

impl Diagnostic {
    pub(crate) fn new(severity: Severity, code: &'static str, message: impl Into<String>) -> Self {
        Diagnostic { code, severity, message: message.into(), labels: Vec::new(), hint: None }
    }

    pub(crate) fn at(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// The text that was read, with the spans that must not be shown.
#[derive(Clone, Default)]
pub struct Source {
    pub path: PathBuf,
    text: String,
    /// Where each line starts.
    lines: Vec<usize>,
    secrets: Vec<Span>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("path", &self.path).field("bytes", &self.text.len()).finish()
    }
}

impl Source {
    pub(crate) fn new(path: &Path, text: &str) -> Self {
        let starts = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Source { path: path.to_owned(), text: text.to_owned(), lines, secrets: Vec::new() }
    }

    /// As it was read, with whatever secrets stand in it: to be parsed again, never to be shown.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn hide(&mut self, spans: Vec<Span>) {
        self.secrets.extend(spans);
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let mut at = offset.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= at).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        (line, self.text[start..at].chars().count() + 1)
    }

    /// Line `number` (from 1) as it may be shown, and the byte offset at which it starts.
    pub(crate) fn shown_line(&self, number: usize) -> Option<(usize, String)> {
        let start = *self.lines.get(number.checked_sub(1)?)?;
        let line = self.text[start..].split('\n').next().unwrap_or_default();
        let line = line.strip_suffix('\r').unwrap_or(line);
        Some((start, self.masked(start, line)))
    }

    fn masked(&self, start: usize, line: &str) -> String {
        let guessed = crate::secret::spans_in_line(line);
        let hidden = |at: usize| {
            self.secrets.iter().any(|s| s.contains(&(start + at))) || guessed.iter().any(|s| s.contains(&at))
        };
        line.char_indices().map(|(at, c)| if hidden(at) { '*' } else { c }).collect()
    }
}
