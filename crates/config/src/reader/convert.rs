//! One TOML value to one Rust value, or the reason why not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeInteger, DeValue};

use crate::code;
use crate::keys::{Key, Type};
use crate::nearest::nearest;
use crate::quantity::{parse_duration, parse_percent, parse_size};

/// Why a value cannot be used; the reader adds key and place.
pub(crate) struct Fault {
    pub(crate) code: &'static str,
    what: String,
    pub(crate) label: String,
    pub(crate) hint: Option<String>,
}

impl Fault {
    pub(crate) fn kind(expected: &str, found: &DeValue<'_>) -> Self {
        let found = type_name(found);
        Fault {
            code: code::WRONG_TYPE,
            what: format!("must be {expected}, not {found}"),
            label: format!("this is {found}"),
            hint: None,
        }
    }

    pub(crate) fn value(label: impl Into<String>) -> Self {
        Fault { code: code::BAD_VALUE, what: String::new(), label: label.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn with_example(mut self, key: &Key) -> Self {
        self.hint.get_or_insert_with(|| format!("for example: {} = {}", key.name, key.example));
        self
    }

    pub(super) fn message(&self, path: &str, value: Option<&str>) -> String {
        match value {
            _ if !self.what.is_empty() => format!("`{path}` {}", self.what),
            Some(value) => format!("`{path}` cannot be {value}"),
            None => format!("`{path}` has a value that cannot be used"),
        }
    }
}

pub(crate) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

pub(crate) fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

pub(super) fn text(value: &DeValue<'_>) -> Result<String, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("a text", value))?;
    if text.trim().is_empty() {
        return Err(Fault::value("this is empty"));
    }
    if text.contains('\0') {
        return Err(Fault::value("a NUL character is not allowed here"));
    }
    Ok(text.to_owned())
}

pub(super) fn texts(value: &DeValue<'_>) -> Result<Vec<String>, Fault> {
    let wrong = || Fault::kind("an array of texts", value);
    let Some(items) = value.as_array() else {
        let shell = "a command is an array, one text for each argument; for a shell line write `shell = \"…\"`";
        return Err(if value.is_str() { wrong().hint(shell) } else { wrong() });
    };
    let text = |item: &DeValue<'_>| {
        item.as_str().map(str::to_owned).ok_or_else(|| Fault {
            label: format!("an element is {}", type_name(item)),
            ..Fault::kind("an array of texts alone", value)
        })
    };
    items
        .iter()
        .map(|item| text(item.get_ref()))
        .collect::<Result<_, _>>()
        .map_err(|f| f.hint("put every element in quotes"))
}

pub(super) fn path(base: &Path, value: &DeValue<'_>) -> Result<PathBuf, Fault> {
    text(value).map(|text| base.join(text))
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Fault> {
    value.as_bool().ok_or_else(|| Fault::kind("true or false", value))
}

pub(super) fn ranged_integer(key: &Key, value: &DeValue<'_>) -> Result<i64, Fault> {
    let Type::Integer { min, max } = key.kind else { unreachable!("{} is read as an integer", key.name) };
    in_range(value, min, max)
}

fn in_range(value: &DeValue<'_>, min: i64, max: i64) -> Result<i64, Fault> {
    let number = value.as_integer().ok_or_else(|| Fault::kind("a whole number", value))?;
    match integer(number) {
        Some(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err(Fault::value(format!("must be {min} to {max}"))),
    }
}

pub(super) fn ranged_integers(key: &Key, value: &DeValue<'_>) -> Result<Vec<i64>, Fault> {
    let Type::Integers { min, max } = key.kind else { unreachable!("{} is read as integers", key.name) };
    let items = value.as_array().ok_or_else(|| Fault::kind("an array of whole numbers", value))?;
    items.iter().map(|item| in_range(item.get_ref(), min, max)).collect()
}

pub(super) fn number(key: &Key, value: &DeValue<'_>) -> Result<f64, Fault> {
    let Type::Number { min, max } = key.kind else { unreachable!("{} is read as a number", key.name) };
    let number = plain_number(value).ok_or_else(|| Fault::kind("a number", value))?;
    match (min as f64..=max as f64).contains(&number) {
        true => Ok(number),
        false => Err(Fault::value(format!("must be {min} to {max}"))),
    }
}

/// With or without a fraction.
pub(crate) fn plain_number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(float) => float.as_str().parse().ok(),
        DeValue::Integer(number) => integer(number).map(|n| n as f64),
        _ => None,
    }
}

pub(super) fn share(value: &DeValue<'_>) -> Result<f64, Fault> {
    let number = match value {
        DeValue::String(text) => parse_percent(text),
        DeValue::Float(_) | DeValue::Integer(_) => plain_number(value),
        other => return Err(Fault::kind("a percentage or a number from 0 to 1", other)),
    };
    match number {
        Some(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(Fault::value("must be \"0%\" to \"100%\", or 0 to 1")),
    }
}

pub(super) fn duration(key: &Key, value: &DeValue<'_>) -> Result<Duration, Fault> {
    let Type::Duration { min, max } = key.kind else { unreachable!("{} is read as a duration", key.name) };
    let limits = || (parse_duration(min).unwrap_or(Duration::ZERO), parse_duration(max).unwrap_or(Duration::MAX));
    let text = match value {
        DeValue::String(text) => text,
        DeValue::Integer(n) => {
            return Err(Fault::kind("a duration", value)
                .hint(format!("durations are texts with a unit: \"{n}s\" or \"{n}ms\"")));
        }
        other => return Err(Fault::kind("a duration", other)),
    };
    match parse_duration(text) {
        Some(d) if d >= limits().0 && d <= limits().1 => Ok(d),
        Some(_) => Err(Fault::value(format!("must be \"{min}\" to \"{max}\""))),
        None => Err(Fault::value("not a duration")
            .hint("whole numbers with units, largest first: \"500ms\", \"5s\", \"1m30s\", \"2h\", \"1d\"")),
    }
}

pub(super) fn size(key: &Key, value: &DeValue<'_>) -> Result<u64, Fault> {
    let Type::Size { min, max } = key.kind else { unreachable!("{} is read as a size", key.name) };
    let limits = || (parse_size(min).unwrap_or(0), parse_size(max).unwrap_or(u64::MAX));
    let text = match value {
        DeValue::String(text) => text,
        DeValue::Integer(n) => {
            return Err(Fault::kind("a size", value)
                .hint(format!("sizes are texts with a unit: \"{n}B\", \"64KiB\", \"64MiB\"")));
        }
        other => return Err(Fault::kind("a size", other)),
    };
    match parse_size(text) {
        Some(n) if n >= limits().0 && n <= limits().1 => Ok(n),
        Some(_) => Err(Fault::value(format!("must be \"{min}\" to \"{max}\""))),
        None => {
            Err(Fault::value("not a size").hint("a whole number with a unit: \"512B\", \"64KiB\", \"10MiB\", \"1GiB\""))
        }
    }
}

pub(super) fn choice(key: &Key, value: &DeValue<'_>) -> Result<&'static str, Fault> {
    let Type::Choice(words) = key.kind else { unreachable!("{} is read as a choice", key.name) };
    let text = value.as_str().ok_or_else(|| Fault::kind(&one_of(words), value))?;
    find_choice(key, text).ok_or_else(|| unknown_word(text, words))
}

pub(super) fn find_choice(key: &Key, text: &str) -> Option<&'static str> {
    let Type::Choice(words) = key.kind else { unreachable!("{} is read as a choice", key.name) };
    words.iter().copied().find(|word| *word == text)
}

/// A text that should have been one of a few.
pub(crate) fn unknown_word(text: &str, words: &[&str]) -> Fault {
    match nearest(text, words.iter().copied()) {
        Some(close) => Fault::value(format!("did you mean \"{close}\"?")).hint(format!("one of {}", quoted(words))),
        None => Fault::value(format!("must be {}", one_of(words))).hint(format!("one of {}", quoted(words))),
    }
}

fn one_of(words: &[&str]) -> String {
    match words {
        [a, b] => format!("\"{a}\" or \"{b}\""),
        _ if words.len() <= 4 => format!("one of {}", quoted(words)),
        _ => "one of a few words".into(),
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", ")
}
