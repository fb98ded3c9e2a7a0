//! Typed access to one table: every fault is noted with its place, and reading goes on with the default.

mod convert;
mod findings;

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::code;
use crate::diagnostic::{Diagnostic, Severity, Span};
use crate::keys::{Default, Key, Section};
use crate::nearest::nearest;

pub(crate) use convert::{Fault, integer, plain_number, unknown_word};
pub(crate) use findings::Findings;

/// A table of the file beside its definition in the catalogue.
#[derive(Clone)]
pub(crate) struct Reader<'t> {
    /// Where it stands, such as `service.web.ready`.
    pub(crate) path: String,
    section: &'static Section,
    table: &'t DeTable<'t>,
}

impl<'t> Reader<'t> {
    /// Notes every key that the section does not define.
    pub(crate) fn new(out: &mut Findings, path: String, section: &'static Section, table: &'t DeTable<'t>) -> Self {
        let known: Vec<&str> = section.keys.iter().map(|k| k.name).collect();
        for (name, value) in table {
            out.spans.note(&path, name.get_ref(), name.span(), value.span());
            if !known.contains(&name.get_ref().as_ref()) {
                if let Some(meant) = nearest(name.get_ref(), known.iter().copied()) {
                    out.bad(&format!("{path}.{meant}"));
                }
                out.push(unknown_key(&format!("`{path}`"), name.get_ref(), name.span(), &known));
            }
        }
        Reader { path, section, table }
    }

    pub(crate) fn raw(&self, name: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        debug_assert!(self.section.keys.iter().any(|k| k.name == name), "{name} is not in the catalogue");
        self.table.get(name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    pub(crate) fn at(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// The value in the file, or the default; `None` when there is neither.
    fn get<T>(
        &self,
        out: &mut Findings,
        name: &str,
        from_file: impl Fn(&Key, &DeValue<'_>) -> Result<T, Fault>,
        from_text: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let key = self.section.key(name);
        if let Some(value) = self.raw(name) {
            match from_file(key, value.get_ref()) {
                Ok(value) => return Some(value),
                Err(fault) => out.fault(&self.at(name), value.span(), fault.with_example(key)),
            }
        }
        match key.default {
            Default::Is(text) => Some(from_text(text).expect("a test reads every default of the catalogue")),
            Default::Required | Default::Words(_) => None,
        }
    }

    /// With `get`, but for keys whose default is a value.
    fn sure<T>(
        &self,
        out: &mut Findings,
        name: &str,
        from_file: impl Fn(&Key, &DeValue<'_>) -> Result<T, Fault>,
        from_text: impl Fn(&str) -> Option<T>,
    ) -> T {
        self.get(out, name, from_file, from_text).expect("the catalogue gives a default")
    }

    pub(crate) fn text(&self, out: &mut Findings, name: &str) -> Option<String> {
        self.get(out, name, |_, v| convert::text(v), |text| Some(text.to_owned()))
    }

    pub(crate) fn path_value(&self, out: &mut Findings, name: &str) -> Option<PathBuf> {
        let base = out.base.clone();
        self.get(out, name, |_, v| convert::path(&base, v), |_| None)
    }

    pub(crate) fn boolean(&self, out: &mut Findings, name: &str) -> bool {
        self.sure(out, name, |_, v| convert::boolean(v), |text| text.parse().ok())
    }

    pub(crate) fn opt_u32(&self, out: &mut Findings, name: &str) -> Option<u32> {
        self.get(out, name, convert::ranged_integer, |text| text.parse().ok()).and_then(|n: i64| u32::try_from(n).ok())
    }

    pub(crate) fn u32(&self, out: &mut Findings, name: &str) -> u32 {
        self.opt_u32(out, name).expect("the catalogue gives a default")
    }

    pub(crate) fn opt_i32(&self, out: &mut Findings, name: &str) -> Option<i32> {
        self.get(out, name, convert::ranged_integer, |text| text.parse().ok()).and_then(|n: i64| i32::try_from(n).ok())
    }

    pub(crate) fn number(&self, out: &mut Findings, name: &str) -> f64 {
        self.sure(out, name, convert::number, |text| text.parse().ok())
    }

    pub(crate) fn opt_share(&self, out: &mut Findings, name: &str) -> Option<f64> {
        self.get(out, name, |_, v| convert::share(v), crate::quantity::parse_percent)
    }

    pub(crate) fn opt_duration(&self, out: &mut Findings, name: &str) -> Option<Duration> {
        self.get(out, name, convert::duration, crate::quantity::parse_duration)
    }

    pub(crate) fn duration(&self, out: &mut Findings, name: &str) -> Duration {
        self.opt_duration(out, name).expect("the catalogue gives a default")
    }

    pub(crate) fn opt_size(&self, out: &mut Findings, name: &str) -> Option<u64> {
        self.get(out, name, convert::size, crate::quantity::parse_size)
    }

    pub(crate) fn choice(&self, out: &mut Findings, name: &str) -> Option<&'static str> {
        let key = self.section.key(name);
        self.get(out, name, convert::choice, |text| convert::find_choice(key, text))
    }

    pub(crate) fn texts(&self, out: &mut Findings, name: &str) -> Option<Vec<String>> {
        for (n, item) in self.raw(name).and_then(|v| v.get_ref().as_array()).into_iter().flatten().enumerate() {
            out.spans.set(&format!("{}[{n}]", self.at(name)), item.span());
        }
        self.get(out, name, |_, v| convert::texts(v), |_| None)
    }

    /// A program and its arguments; an empty one is a fault of its own.
    pub(crate) fn argv(&self, out: &mut Findings, name: &str) -> Option<Vec<String>> {
        let argv = self.texts(out, name)?;
        if argv.first().is_none_or(|program| program.trim().is_empty()) {
            let span = out.spans.value(&self.at(name));
            out.bad(&self.at(name));
            out.push(
                Diagnostic::new(Severity::Error, code::EMPTY_COMMAND, format!("`{}` names no program", self.at(name)))
                    .at(span, "nothing to run")
                    .hint(
                        "the first text is the program, the others its arguments: [\"/usr/bin/program\", \"--flag\"]",
                    ),
            );
            return None;
        }
        if argv.iter().any(|word| word.contains('\0')) {
            let span = out.spans.value(&self.at(name));
            out.fault(&self.at(name), span, Fault::value("a NUL character cannot be passed to a program"));
        }
        self.plain_secrets(out, name, &argv);
        Some(argv)
    }

    /// Arguments are public: every user of the machine sees them in `/proc`.
    fn plain_secrets(&self, out: &mut Findings, name: &str, argv: &[String]) {
        let Some(items) = self.raw(name).and_then(|v| v.get_ref().as_array()) else { return };
        for (n, masked) in crate::secret::mask_words(argv).iter().enumerate() {
            if let Some(item) = items.get(n).filter(|_| *masked != argv[n]) {
                let span = item.span();
                out.secrets.push(span.start + 1..span.end.saturating_sub(1).max(span.start + 1));
                out.push(
                    Diagnostic::new(
                        Severity::Warning,
                        code::PLAIN_SECRET,
                        format!("`{}` passes a secret", self.at(name)),
                    )
                    .at(span, "every user of the machine can see it")
                    .hint("pass it by `env` as { file = \"…\" }, or name a file that the program reads itself"),
                );
            }
        }
    }

    pub(crate) fn integers(&self, out: &mut Findings, name: &str) -> Vec<i64> {
        self.get(out, name, convert::ranged_integers, |_| None).unwrap_or_default()
    }

    /// A key read by hand: `read` is tried on the file's value, or on the catalogue's default as if it stood there as text.
    pub(crate) fn form<T>(
        &self,
        out: &mut Findings,
        name: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Fault>,
    ) -> Option<T> {
        let from_text = |text: &str| match text.parse() {
            Ok(boolean) => read(&DeValue::Boolean(boolean)).ok(),
            Err(_) => read(&DeValue::String(text.into())).ok(),
        };
        self.get(out, name, |_, v| read(v), from_text)
    }

    /// An array, or one value that stands for an array of one; elements that are faulty are noted and left out.
    pub(crate) fn list<T>(
        &self,
        out: &mut Findings,
        name: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Fault>,
    ) -> Vec<T> {
        let Some(value) = self.raw(name) else { return Vec::new() };
        let path = self.at(name);
        let single = std::slice::from_ref(value);
        let items = value.get_ref().as_array().map_or(single, |array| &array[..]);
        let mut good = Vec::new();
        for item in items {
            match read(item.get_ref()) {
                Ok(v) => {
                    out.spans.set(&format!("{path}[{}]", good.len()), item.span());
                    good.push(v);
                }
                Err(fault) => out.fault(&path, item.span(), fault.with_example(self.section.key(name))),
            }
        }
        good
    }

    /// The inner table under `name`, if it is one; another type is a fault.
    pub(crate) fn inner(&self, out: &mut Findings, name: &str, section: &'static Section) -> Option<Reader<'t>> {
        let value = self.raw(name)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Reader::new(out, self.at(name), section, table)),
            other => {
                let fault = Fault::kind("a table", other).with_example(self.section.key(name));
                out.fault(&self.at(name), value.span(), fault);
                None
            }
        }
    }

    /// The inner table where it may be missing: then every key has its default.
    pub(crate) fn inner_or_empty(
        &self,
        out: &mut Findings,
        name: &str,
        section: &'static Section,
        empty: &'t DeTable<'t>,
    ) -> Reader<'t> {
        self.inner(out, name, section).unwrap_or_else(|| Reader { path: self.at(name), section, table: empty })
    }

    /// A value that reads well and still cannot be.
    pub(crate) fn wrong(&self, out: &mut Findings, name: &str, fault: Fault) {
        let path = self.at(name);
        let span = out.spans.value(&path);
        out.fault(&path, span, fault);
    }

    /// Keys that mean nothing without another one.
    pub(crate) fn need_beside(&self, out: &mut Findings, names: &[&str], other: &str) {
        if self.has(other) {
            return;
        }
        for name in names.iter().filter(|name| self.has(name)) {
            let fault = Fault::value(format!("needs `{other}` beside it"));
            self.wrong(out, name, fault.hint(format!("add `{other}`, or remove `{name}`")));
        }
    }

    /// Notes each of the keys that is not there.
    pub(crate) fn require(&self, out: &mut Findings, names: &[&str]) {
        for name in names.iter().filter(|name| !self.has(name)) {
            let span = out.spans.key(&self.path);
            self.missing(out, name, span);
        }
    }

    pub(crate) fn missing(&self, out: &mut Findings, name: &str, span: Span) {
        let key = self.section.key(name);
        // A misspelt key has been told, with this one as its correction.
        if !out.is_good_itself(&self.at(name)) {
            return;
        }
        out.bad(&self.at(name));
        out.push(
            Diagnostic::new(Severity::Error, code::MISSING_KEY, format!("`{}` needs `{name}`", self.path))
                .at(span, format!("`{name}` is missing"))
                .hint(format!("add: {name} = {}", key.example)),
        );
    }
}

pub(crate) fn unknown_key(place: &str, name: &str, span: Span, known: &[&str]) -> Diagnostic {
    let found = Diagnostic::new(Severity::Error, code::UNKNOWN_KEY, format!("{place} has no key `{name}`"));
    match nearest(name, known.iter().copied()) {
        Some(close) => found.at(span, format!("did you mean `{close}`?")).hint(format!("write `{close}`")),
        None => found.at(span, "unknown").hint(format!("known here: {}", known.join(", "))),
    }
}
