//! `http` of a step, and of what undoes it.

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::keys::STEP_HTTP;
use crate::model::{HttpCall, Value};
use crate::read::service::env;
use crate::read::tasks::is_header;
use crate::reader::{Fault, Findings, Reader};

const METHOD: &str = "POST";

/// Nothing where the value is no table, which has been told.
pub(super) fn read(out: &mut Findings, around: &Reader<'_>) -> Option<HttpCall> {
    let table = around.inner(out, "http", &STEP_HTTP)?;
    table.require(out, &["url"]);
    let url = table.form(out, "url", |value| {
        let text = value.as_str().ok_or_else(|| Fault::kind("a URL such as \"http://127.0.0.1:8080/\"", value))?;
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        match rest {
            Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(text.to_owned()),
            _ => Err(Fault::value("must begin with http:// or https:// and the name or address of a host")),
        }
    });
    let headers = env::values(out, &table, "headers", |out, name, span| {
        if !is_header(name) {
            out.push(
                Diagnostic::new(
                    Severity::Error,
                    code::BAD_NAME,
                    format!("`{}` is no name of a header", name.escape_debug()),
                )
                .at(span, "letters, digits, `-` and `_` alone")
                .hint("a header is `Name = \"value\"`, without the colon"),
            );
        }
    });
    for (name, value) in &headers {
        let path = format!("{}.headers.{name}", table.path);
        if matches!(value, Value::Plain(text) if text.contains(['\r', '\n'])) {
            let span = out.spans.value(&path);
            out.fault(&path, span, Fault::value("a header is one line").hint("remove the line break"));
        }
    }
    Some(HttpCall {
        url: url.unwrap_or_default(),
        method: table.choice(out, "method").unwrap_or(METHOD),
        headers,
        body: table.text(out, "body"),
    })
}
