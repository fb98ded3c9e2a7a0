//! What steps give and expressions work on: the values of JSON.

use std::collections::BTreeMap;
use std::fmt;

/// Up to here every whole number has a `f64` of its own, and is written without a fraction.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

#[derive(Clone, Debug, PartialEq, Default)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// As an error names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a bool",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// A field of a map, or an element of a list, counted from 0.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Map(fields) => fields.get(name),
            Value::List(values) => name.parse::<usize>().ok().and_then(|n| values.get(n)),
            _ => None,
        }
    }

    /// As it stands inside a text: a text as it is, null as nothing, all else as JSON.
    pub fn to_text(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::Text(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Number(number)
    }
}

/// JSON on one line, with the fields of maps in order. A number that JSON has not is null.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(n) if !n.is_finite() => f.write_str("null"),
            Value::Number(n) if n.fract() == 0.0 && n.abs() <= WHOLE_MAX => write!(f, "{}", *n as i64),
            Value::Number(n) => write!(f, "{n}"),
            Value::Text(text) => quoted(f, text),
            Value::List(values) => {
                f.write_str("[")?;
                for (n, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if n > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Value::Map(fields) => {
                f.write_str("{")?;
                for (n, (name, value)) in fields.iter().enumerate() {
                    f.write_str(if n > 0 { "," } else { "" })?;
                    quoted(f, name)?;
                    write!(f, ":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c < ' ' => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_json() {
        let fields = [("b", Value::Number(1.5)), ("a", Value::List(vec![Value::Null, Value::Number(-3.0)]))];
        let map = Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into());
        assert_eq!(map.to_string(), r#"{"a":[null,-3],"b":1.5}"#);
        assert_eq!(Value::from("a\"\\\n\u{1}").to_string(), r#""a\"\\\n\u0001""#);
        assert_eq!(Value::Number(f64::NAN).to_string(), "null");
        assert_eq!((Value::from("x y").to_text(), Value::Null.to_text()), ("x y".into(), String::new()));
        assert_eq!(map.get("a").and_then(|a| a.get("1")), Some(&Value::Number(-3.0)));
    }
}
