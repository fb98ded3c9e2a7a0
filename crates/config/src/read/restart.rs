//! `restart`, as one word or as a table.

use holdfast_policy::backoff::Backoff;
use holdfast_policy::restart::{Policy, When};
use toml::de::{DeTable, DeValue};

use crate::keys::RESTART;
use crate::model::Kind;
use crate::reader::{Fault, Findings, Reader, unknown_word};

const WORDS: [&str; 3] = ["always", "on-failure", "never"];

pub(super) fn read(out: &mut Findings, service: &Reader<'_>, kind: Kind) -> Policy {
    let empty = DeTable::new();
    let is_table = service.raw("restart").is_some_and(|v| v.get_ref().is_table());
    let word = if is_table { None } else { service.form(out, "restart", when) };
    let table = if is_table {
        service.inner_or_empty(out, "restart", &RESTART, &empty)
    } else {
        Reader::new(out, service.at("restart"), &RESTART, &empty)
    };
    let default = match kind {
        Kind::Service => When::Always,
        Kind::Job => When::OnFailure,
    };
    let when = word.or_else(|| table.choice(out, "when").and_then(from_word)).unwrap_or(default);
    policy(out, &table, when)
}

fn policy(out: &mut Findings, table: &Reader<'_>, when: When) -> Policy {
    let defaults = Policy::default();
    let base = table.duration(out, "delay");
    let max = table.duration(out, "max");
    if base > max && out.is_good(&table.path) {
        let span = out.spans.value(&table.at("delay"));
        out.fault(&table.at("delay"), span, Fault::value("longer than `max`").hint("raise `max`, or shorten `delay`"));
    }
    let codes = |out: &mut Findings, name| {
        table.integers(out, name).into_iter().filter_map(|n| i32::try_from(n).ok()).collect::<Vec<i32>>()
    };
    let policy = Policy {
        when,
        backoff: Backoff { base, max, ..defaults.backoff },
        reset: table.duration(out, "reset"),
        attempts: table.opt_u32(out, "attempts"),
        window: table.duration(out, "within"),
        success_codes: codes(out, "success_codes"),
        restart_codes: codes(out, "restart_codes"),
        stop_codes: codes(out, "stop_codes"),
    };
    both_ways(out, table, &policy);
    policy
}

fn both_ways(out: &mut Findings, table: &Reader<'_>, policy: &Policy) {
    let Some(code) = policy.restart_codes.iter().find(|c| policy.stop_codes.contains(c)) else { return };
    let spans = [out.spans.value(&table.at("restart_codes")), out.spans.value(&table.at("stop_codes"))];
    let found = out.conflict(&table.path, format!("exit code {code} both restarts and stops `{}`", table.path));
    let [restart, stop] = spans;
    out.push(found.at(stop, "stops").at(restart, "restarts").hint("name the code in one of the lists"));
}

fn when(value: &DeValue<'_>) -> Result<When, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("\"always\", \"on-failure\", \"never\" or a table", value))?;
    from_word(text).ok_or_else(|| unknown_word(text, &WORDS))
}

fn from_word(text: &str) -> Option<When> {
    match text {
        "always" => Some(When::Always),
        "on-failure" => Some(When::OnFailure),
        "never" => Some(When::Never),
        _ => None,
    }
}
