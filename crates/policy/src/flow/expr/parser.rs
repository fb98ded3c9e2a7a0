//! Recursive descent: `or` binds least, then `and`, `not`, comparisons.

use super::token::{Token, tokens};
use super::{EXPR_BYTES_MAX, EXPR_DEPTH_MAX, Expr, ExprError};
use crate::flow::Value;

impl Expr {
    pub fn parse(text: &str) -> Result<Expr, ExprError> {
        if text.len() > EXPR_BYTES_MAX {
            return Err(ExprError::new(EXPR_BYTES_MAX, format!("the condition is longer than {EXPR_BYTES_MAX} bytes")));
        }
        let mut parser = Parser { tokens: tokens(text)?, next: 0, end: text.len(), depth: 0 };
        let expr = parser.either()?;
        match parser.tokens.get(parser.next) {
            None => Ok(expr),
            Some((at, _)) => Err(ExprError::new(*at, "the condition should end here, or go on with `and` or `or`")),
        }
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    end: usize,
    depth: u32,
}

impl Parser {
    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = matches!(self.tokens.get(self.next), Some((_, Token::Word(w))) if w == word);
        self.next += usize::from(found);
        found
    }

    fn either(&mut self) -> Result<Expr, ExprError> {
        let mut left = self.both()?;
        while self.eat_word("or") {
            left = Expr::Or { left: Box::new(left), right: Box::new(self.both()?) };
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Expr, ExprError> {
        let mut left = self.negation()?;
        while self.eat_word("and") {
            left = Expr::And { left: Box::new(left), right: Box::new(self.negation()?) };
        }
        Ok(left)
    }

    fn negation(&mut self) -> Result<Expr, ExprError> {
        let at = self.at();
        if !self.eat_word("not") {
            return self.comparison();
        }
        self.deeper(at)?;
        let inner = Box::new(self.negation()?);
        self.depth -= 1;
        Ok(Expr::Not { inner, at })
    }

    fn comparison(&mut self) -> Result<Expr, ExprError> {
        let left = self.primary()?;
        let Some((at, Token::Compare(how))) = self.tokens.get(self.next) else { return Ok(left) };
        let (at, how) = (*at, *how);
        self.next += 1;
        let right = self.primary()?;
        if let Some((again, Token::Compare(_))) = self.tokens.get(self.next) {
            return Err(ExprError::new(*again, "comparisons do not chain: join two with `and`"));
        }
        Ok(Expr::Compare { how, left: Box::new(left), right: Box::new(right), at })
    }

    fn primary(&mut self) -> Result<Expr, ExprError> {
        let at = self.at();
        let Some((_, token)) = self.tokens.get(self.next).cloned() else {
            return Err(ExprError::new(at, "a value is missing here"));
        };
        self.next += 1;
        let value = match token {
            Token::Reference(reference) => return Ok(Expr::Reference(reference)),
            Token::Open => return self.group(at),
            Token::Text(text) => Value::Text(text),
            Token::Number(number) => Value::Number(number),
            Token::Word(word) => match word.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "null" => Value::Null,
                _ => return Err(ExprError::new(at, format!("`{word}` is no value: texts have quotes"))),
            },
            Token::Close | Token::Compare(_) => return Err(ExprError::new(at, "a value is missing here")),
        };
        Ok(Expr::Literal { value, at })
    }

    fn group(&mut self, at: usize) -> Result<Expr, ExprError> {
        self.deeper(at)?;
        let inner = self.either()?;
        self.depth -= 1;
        match self.tokens.get(self.next) {
            Some((_, Token::Close)) => {
                self.next += 1;
                Ok(inner)
            }
            _ => Err(ExprError::new(at, "this `(` is never closed")),
        }
    }

    fn deeper(&mut self, at: usize) -> Result<(), ExprError> {
        self.depth += 1;
        if self.depth > EXPR_DEPTH_MAX {
            return Err(ExprError::new(at, format!("nested deeper than {EXPR_DEPTH_MAX}")));
        }
        Ok(())
    }
}
