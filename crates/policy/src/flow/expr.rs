//! The language of conditions (`${steps.count.output} > 0 and not ${parameters.dry}`) and of templates (`copy-${item}`).
//!
//! Conditions have references, texts in single or double quotes, numbers, `true`, `false`, `null`, the comparisons
//! `== != < <= > >=`, `and`, `or`, `not` and parentheses. Values of different kinds are never equal and have no order; only a
//! bool is true or false. A template is a text with references in it; `$${` stands for `${`. There are no loops, no functions
//! and no way to build a value larger than its parts, so that evaluation needs no time limit.

mod eval;
mod parser;
mod template;
mod token;

use std::borrow::Cow;
use std::fmt;

use super::value::Value;

pub use template::Template;

/// A condition fits a few lines.
pub const EXPR_BYTES_MAX: usize = 4_096;
/// Nesting of parentheses and `not`; keeps the parser's recursion far from the end of any stack.
pub const EXPR_DEPTH_MAX: u32 = 32;
/// The largest body that is written down in a configuration.
pub const TEMPLATE_BYTES_MAX: usize = 64 * 1024;
/// What a template may become; the kernel takes 128 KiB for one argument of a program.
pub const RENDERED_BYTES_MAX: usize = 128 * 1024;

/// `at` counts bytes from the beginning of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    pub at: usize,
    pub what: String,
}

impl ExprError {
    pub(crate) fn new(at: usize, what: impl Into<String>) -> ExprError {
        ExprError { at, what: what.into() }
    }
}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.at, self.what)
    }
}

impl std::error::Error for ExprError {}

/// `${steps.count.output.rows}`: its segments, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub path: Vec<String>,
    pub at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A condition, parsed.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Literal { value: Value, at: usize },
    Reference(Reference),
    Not { inner: Box<Expr>, at: usize },
    And { left: Box<Expr>, right: Box<Expr> },
    Or { left: Box<Expr>, right: Box<Expr> },
    Compare { how: Comparison, left: Box<Expr>, right: Box<Expr>, at: usize },
}

/// Where references lead. The error is a sentence without a position.
pub trait Scope {
    fn resolve(&self, path: &[String]) -> Result<Cow<'_, Value>, String>;
}

/// `path` from `value` on; `named` is what `value` is called in the error.
pub(crate) fn descend<'a>(value: &'a Value, path: &[String], named: &str) -> Result<&'a Value, String> {
    path.iter().try_fold(value, |value, name| {
        value.get(name).ok_or_else(|| format!("{named} is {} without `{name}`", value.kind()))
    })
}

#[cfg(test)]
mod tests;
