//! What reading and checking have found so far, and where everything stands in the file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity, Span};

use super::convert::Fault;

pub(crate) struct Findings {
    pub(crate) diagnostics: Vec<Diagnostic>,
    pub(crate) spans: Spans,
    /// Directory that relative paths start from; absolute.
    pub(crate) base: PathBuf,
    /// Parts of the text that must never be shown.
    pub(crate) secrets: Vec<Span>,
    text: String,
    bad: BTreeSet<String>,
}

impl Findings {
    pub(crate) fn new(base: PathBuf, text: &str) -> Self {
        Findings {
            diagnostics: Vec::new(),
            spans: Spans::default(),
            base,
            secrets: Vec::new(),
            text: text.to_owned(),
            bad: BTreeSet::new(),
        }
    }

    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Notes a value that cannot be used; what is derived from it is then not checked.
    pub(crate) fn fault(&mut self, path: &str, span: Span, fault: Fault) {
        self.bad(path);
        let message = fault.message(path, self.quote(path, &span).as_deref());
        let mut diagnostic = Diagnostic::new(Severity::Error, fault.code, message).at(span, fault.label);
        diagnostic.hint = fault.hint;
        self.push(diagnostic);
    }

    /// A short value as it stands in the file; never one that may be a secret.
    fn quote(&self, path: &str, span: &Span) -> Option<String> {
        const CHARS_MAX: usize = 40;
        let text = self.text.get(span.clone())?;
        let short = !text.is_empty() && text.len() <= CHARS_MAX && !text.contains('\n');
        let secret = [".env.", ".headers."].iter().any(|part| path.contains(part))
            || [".secret", ".password"].iter().any(|end| path.ends_with(end));
        (short && !secret).then(|| text.to_owned())
    }

    pub(crate) fn conflict(&mut self, path: &str, message: impl Into<String>) -> Diagnostic {
        self.bad(path);
        Diagnostic::new(Severity::Error, code::CONFLICT, message)
    }

    pub(crate) fn bad(&mut self, path: &str) {
        self.bad.insert(path.to_owned());
    }

    pub(crate) fn is_good_itself(&self, path: &str) -> bool {
        !self.bad.contains(path)
    }

    /// Whether the value at `path`, and the tables around it, were read without a fault.
    pub(crate) fn is_good(&self, path: &str) -> bool {
        !ancestors(path).any(|p| self.bad.contains(p))
    }
}

/// Spans by path, such as `service.web.ready.every`.
#[derive(Default)]
pub(crate) struct Spans {
    values: BTreeMap<String, Span>,
    keys: BTreeMap<String, Span>,
}

impl Spans {
    pub(crate) fn note(&mut self, table: &str, name: &str, key: Span, value: Span) {
        let path = if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
        self.keys.insert(path.clone(), key);
        self.values.insert(path, value);
    }

    pub(crate) fn set(&mut self, path: &str, value: Span) {
        self.values.insert(path.to_owned(), value);
    }

    /// Where a table that is not in the file is to be shown: at what calls for it.
    pub(crate) fn stand_in(&mut self, path: &str, key: Span) {
        self.keys.entry(path.to_owned()).or_insert(key);
    }

    /// The value at `path`; where it is not in the file, the key of the table around it.
    pub(crate) fn value(&self, path: &str) -> Span {
        self.values.get(path).cloned().unwrap_or_else(|| self.key(path))
    }

    /// The key at `path`, or of the nearest table around it.
    pub(crate) fn key(&self, path: &str) -> Span {
        ancestors(path).find_map(|p| self.keys.get(p).cloned()).unwrap_or(0..0)
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.keys.contains_key(path)
    }
}

/// `a.b.c`, `a.b`, `a`. An element `a.b[1]` has `a.b` as its parent.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |p| p.rfind(['.', '[']).map(|at| &p[..at]))
}
