//! A text with references in it.

use super::token::reference;
use super::{ExprError, RENDERED_BYTES_MAX, Reference, Scope, TEMPLATE_BYTES_MAX};
use crate::flow::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Reference(Reference),
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Template {
    parts: Vec<Part>,
}

impl Template {
    pub fn parse(text: &str) -> Result<Template, ExprError> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(ExprError::new(
                TEMPLATE_BYTES_MAX,
                format!("the text is longer than {TEMPLATE_BYTES_MAX} bytes"),
            ));
        }
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut at = 0;
        while let Some(found) = text[at..].find("${") {
            let begins = at + found;
            if text[at..begins].ends_with('$') {
                plain.push_str(&text[at..begins]);
                plain.push('{');
                at = begins + 2;
                continue;
            }
            plain.push_str(&text[at..begins]);
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            let (reference, len) = reference(&text[begins..], begins)?;
            parts.push(Part::Reference(reference));
            at = begins + len;
        }
        plain.push_str(&text[at..]);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Template { parts })
    }

    /// A text that means itself, whatever is in it.
    pub fn literal(text: &str) -> Template {
        Template { parts: vec![Part::Text(text.to_owned())] }
    }

    pub fn render(&self, scope: &dyn Scope) -> Result<String, ExprError> {
        let mut text = String::new();
        for part in &self.parts {
            let at = match part {
                Part::Text(plain) => {
                    text.push_str(plain);
                    0
                }
                Part::Reference(reference) => {
                    text.push_str(&reference.resolve(scope)?.to_text());
                    reference.at
                }
            };
            if text.len() > RENDERED_BYTES_MAX {
                return Err(ExprError::new(at, format!("it becomes longer than {RENDERED_BYTES_MAX} bytes")));
            }
        }
        Ok(text)
    }

    /// A template that is one reference gives its value as it is, all others a text.
    pub fn value(&self, scope: &dyn Scope) -> Result<Value, ExprError> {
        match self.parts.as_slice() {
            [Part::Reference(reference)] => reference.resolve(scope).map(|value| value.into_owned()),
            _ => self.render(scope).map(Value::Text),
        }
    }

    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.parts.iter().filter_map(|part| match part {
            Part::Reference(reference) => Some(reference),
            Part::Text(_) => None,
        })
    }
}
