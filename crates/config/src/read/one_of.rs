//! Tables that say one thing in one of several ways.

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::reader::{Findings, Reader};

/// The one of the keys that is there; several and none are told. `what` is what the table then says, such as "what to do".
pub(super) fn one_of(
    out: &mut Findings,
    table: &Reader<'_>,
    names: &[&'static str],
    what: &str,
    example: &str,
) -> Option<&'static str> {
    let given: Vec<&'static str> = names.iter().copied().filter(|name| table.has(name)).collect();
    if let [first, second, ..] = given[..] {
        let (a, b) = (out.spans.key(&table.at(first)), out.spans.key(&table.at(second)));
        let found = out.conflict(&table.at(first), format!("`{}` says in two ways {what}", table.path));
        out.push(found.at(b, format!("`{second}` here")).at(a, format!("`{first}` here")).hint("keep one of them"));
    }
    // A misspelt one has been told.
    if given.is_empty() && names.iter().all(|name| out.is_good_itself(&table.at(name))) {
        let span = out.spans.key(&table.path);
        names.iter().for_each(|name| out.bad(&table.at(name)));
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let (last, others) = names.split_last().expect("the caller names at least one");
        let message = format!("`{}` does not say {what}", table.path);
        let label = format!("{} or {last} is missing", others.join(", "));
        out.push(Diagnostic::new(Severity::Error, code::MISSING_KEY, message).at(span, label).hint(example));
    }
    given.first().copied()
}
