//! `env` and `env_files`, and other tables of values that may be secrets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::code;
use crate::diagnostic::{Diagnostic, Severity, Span};
use crate::keys::REFERENCE;
use crate::model::Value;
use crate::reader::{Fault, Findings, Reader};
use crate::secret::is_secret;

pub(in crate::read) fn read(out: &mut Findings, table: &Reader<'_>) -> BTreeMap<String, Value> {
    values(out, table, "env", |out, name, span| table.check_env_name(out, name, span))
}

/// A table of texts, numbers, booleans and references; `check_name` tells what is wrong with a name.
pub(in crate::read) fn values(
    out: &mut Findings,
    table: &Reader<'_>,
    key: &str,
    check_name: impl Fn(&mut Findings, &str, Span),
) -> BTreeMap<String, Value> {
    let Some(value) = table.raw(key) else { return BTreeMap::new() };
    let path = table.at(key);
    let DeValue::Table(entries) = value.get_ref() else {
        let hint = format!("write {key} = {{ NAME = \"value\" }}");
        out.fault(&path, value.span(), Fault::kind("a table", value.get_ref()).hint(hint));
        return BTreeMap::new();
    };
    let mut all = BTreeMap::new();
    for (name, value) in entries {
        out.spans.note(&path, name.get_ref(), name.span(), value.span());
        check_name(out, name.get_ref(), name.span());
        if let Some(value) = one(out, &path, name.get_ref(), value) {
            all.insert(name.get_ref().to_string(), value);
        }
    }
    all
}

fn one(out: &mut Findings, path: &str, name: &str, value: &Spanned<DeValue<'_>>) -> Option<Value> {
    let path = format!("{path}.{name}");
    let text = match value.get_ref() {
        DeValue::String(text) if text.contains('\0') => {
            out.fault(&path, value.span(), Fault::value("a NUL character cannot be passed in the environment"));
            return None;
        }
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(n) => n.to_string(),
        DeValue::Float(n) => n.to_string(),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Table(reference) => return read_reference(out, path, value, reference),
        other => {
            let fault = Fault::kind("a text, a number or a reference", other)
                .hint("write \"…\", { file = \"…\" } or { env = \"…\" }");
            out.fault(&path, value.span(), fault);
            return None;
        }
    };
    if is_secret(name, &text) {
        plain_secret(out, &path, name, value);
    }
    Some(Value::Plain(text))
}

fn plain_secret(out: &mut Findings, path: &str, name: &str, value: &Spanned<DeValue<'_>>) {
    let span = value.span();
    // The quotes stay visible, so that the masked line still reads as TOML.
    let inside = if value.get_ref().is_str() {
        span.start + 1..span.end.saturating_sub(1).max(span.start + 1)
    } else {
        span.clone()
    };
    out.secrets.push(inside);
    out.push(
        Diagnostic::new(
            Severity::Warning,
            code::PLAIN_SECRET,
            format!("`{path}` looks like a secret that stands in the file"),
        )
        .at(span, "readable by everyone who can read the file")
        .hint(format!("keep it elsewhere: {name} = {{ file = \"/run/secrets/{}\" }}", name.to_ascii_lowercase())),
    );
}

fn read_reference(
    out: &mut Findings,
    path: String,
    value: &Spanned<DeValue<'_>>,
    table: &DeTable<'_>,
) -> Option<Value> {
    let table = Reader::new(out, path.clone(), &REFERENCE, table);
    let file = table.path_value(out, "file");
    let variable = table.text(out, "env");
    if let Some(name) = &variable {
        let span = out.spans.value(&table.at("env"));
        table.check_env_name(out, name, span);
    }
    match (table.has("file"), table.has("env")) {
        (true, true) => {
            let spans = [out.spans.key(&table.at("file")), out.spans.key(&table.at("env"))];
            let found = out.conflict(&path, format!("`{path}` refers to two places"));
            let [file, env] = spans;
            out.push(found.at(env, "`env` here").at(file, "`file` here").hint("keep one of them"));
        }
        (false, false) => {
            out.bad(&path);
            out.push(
                Diagnostic::new(Severity::Error, code::MISSING_KEY, format!("`{path}` refers to nothing"))
                    .at(value.span(), "`file` or `env` is missing")
                    .hint("write { file = \"/run/secrets/name\" } or { env = \"NAME\" }"),
            );
        }
        _ => {}
    }
    file.map(Value::File).or(variable.map(Value::Env))
}

pub(super) fn files(out: &mut Findings, table: &Reader<'_>) -> Vec<PathBuf> {
    let base = out.base.clone();
    table.list(out, "env_files", |value| match value.as_str() {
        Some("") => Err(Fault::value("this is empty")),
        Some(text) => Ok(base.join(text)),
        None => Err(Fault::kind("a path", value)),
    })
}
