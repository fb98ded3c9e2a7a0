//! Evaluation: no coercion, and an error where a kind does not fit.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Comparison, Expr, ExprError, Reference, Scope};
use crate::flow::Value;

impl Reference {
    pub(crate) fn resolve<'a>(&self, scope: &'a dyn Scope) -> Result<Cow<'a, Value>, ExprError> {
        scope.resolve(&self.path).map_err(|what| ExprError::new(self.at, what))
    }
}

impl Expr {
    /// The answer of a condition. `and` and `or` look at their right side only when they must.
    pub fn is_true(&self, scope: &dyn Scope) -> Result<bool, ExprError> {
        match self.eval(scope)?.as_ref() {
            Value::Bool(value) => Ok(*value),
            other => Err(ExprError::new(self.at(), format!("this is {}, not true or false", other.kind()))),
        }
    }

    pub fn eval<'a>(&'a self, scope: &'a dyn Scope) -> Result<Cow<'a, Value>, ExprError> {
        let bool = match self {
            Expr::Literal { value, .. } => return Ok(Cow::Borrowed(value)),
            Expr::Reference(reference) => return reference.resolve(scope),
            Expr::Not { inner, .. } => !inner.is_true(scope)?,
            Expr::And { left, right } => left.is_true(scope)? && right.is_true(scope)?,
            Expr::Or { left, right } => left.is_true(scope)? || right.is_true(scope)?,
            Expr::Compare { how, left, right, at } => {
                compare(*how, left.eval(scope)?.as_ref(), right.eval(scope)?.as_ref(), *at)?
            }
        };
        Ok(Cow::Owned(Value::Bool(bool)))
    }

    /// Where it begins.
    pub fn at(&self) -> usize {
        match self {
            Expr::Literal { at, .. } | Expr::Not { at, .. } => *at,
            Expr::Reference(reference) => reference.at,
            Expr::And { left, .. } | Expr::Or { left, .. } | Expr::Compare { left, .. } => left.at(),
        }
    }

    /// Every reference in it, from left to right.
    pub fn references(&self) -> Vec<&Reference> {
        match self {
            Expr::Literal { .. } => Vec::new(),
            Expr::Reference(reference) => vec![reference],
            Expr::Not { inner, .. } => inner.references(),
            Expr::And { left, right } | Expr::Or { left, right } | Expr::Compare { left, right, .. } => {
                left.references().into_iter().chain(right.references()).collect()
            }
        }
    }
}

fn compare(how: Comparison, left: &Value, right: &Value, at: usize) -> Result<bool, ExprError> {
    let order = match (how, left, right) {
        (Comparison::Equal, ..) => return Ok(left == right),
        (Comparison::NotEqual, ..) => return Ok(left != right),
        (_, Value::Number(left), Value::Number(right)) => left.partial_cmp(right),
        (_, Value::Text(left), Value::Text(right)) => Some(left.cmp(right)),
        _ => {
            let (left, right) = (left.kind(), right.kind());
            return Err(ExprError::new(at, format!("{left} and {right} have no order")));
        }
    };
    Ok(match how {
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        Comparison::Equal | Comparison::NotEqual => false,
    })
}
