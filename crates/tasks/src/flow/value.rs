//! Values of steps as JSON.

use holdfast_policy::flow::Value;

pub(crate) fn from_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(n) => n.as_f64().map_or(Value::Null, Value::Number),
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Array(values) => Value::List(values.into_iter().map(from_json).collect()),
        serde_json::Value::Object(fields) => {
            Value::Map(fields.into_iter().map(|(name, value)| (name, from_json(value))).collect())
        }
    }
}

/// Whole numbers without a fraction, as people write them.
pub(crate) fn to_json(value: &Value) -> serde_json::Value {
    // `Value` writes JSON of its own, which is read back here.
    serde_json::from_str(&value.to_string()).unwrap_or(serde_json::Value::Null)
}

/// What a program printed, or a service answered: JSON when it is that, else a text.
pub(crate) fn from_text(text: &str) -> Value {
    match serde_json::from_str(text.trim()) {
        Ok(json) => from_json(json),
        Err(_) => Value::Text(text.to_owned()),
    }
}
