//! Tokens of a condition, with their positions.

use super::{Comparison, ExprError, Reference};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Reference(Reference),
    Text(String),
    Number(f64),
    Word(String),
    Compare(Comparison),
    Open,
    Close,
}

pub(crate) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ExprError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        if c.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let (token, len) = token(text, at, c)?;
        found.push((at, token));
        at += len;
    }
    Ok(found)
}

fn token(text: &str, at: usize, first: char) -> Result<(Token, usize), ExprError> {
    let rest = &text[at..];
    match first {
        '(' => Ok((Token::Open, 1)),
        ')' => Ok((Token::Close, 1)),
        '$' => reference(rest, at).map(|(reference, len)| (Token::Reference(reference), len)),
        '"' | '\'' => quoted(rest, at, first),
        '=' | '!' | '<' | '>' => comparison(rest, at),
        c if c.is_ascii_digit() || c == '-' => number(rest, at),
        c if c.is_ascii_alphabetic() => {
            let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            Ok((Token::Word(rest[..len].to_owned()), len))
        }
        c => Err(ExprError::new(at, format!("`{c}` has no meaning here"))),
    }
}

/// A reference at the beginning of `rest`, and how many bytes it takes.
pub(crate) fn reference(rest: &str, at: usize) -> Result<(Reference, usize), ExprError> {
    let inner = rest.strip_prefix("${").ok_or_else(|| ExprError::new(at, "a reference is written ${…}"))?;
    let end = inner.find('}').ok_or_else(|| ExprError::new(at, "`${` without `}`"))?;
    let path: Vec<String> = inner[..end].trim().split('.').map(str::to_owned).collect();
    if let Some(wrong) = path.iter().find(|s| !is_segment(s)) {
        return Err(ExprError::new(at, format!("`{wrong}` is not a name in a reference")));
    }
    Ok((Reference { path, at }, end + 3))
}

fn is_segment(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// `\` before a quote or a backslash takes its meaning away.
fn quoted(rest: &str, at: usize, quote: char) -> Result<(Token, usize), ExprError> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((n, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((Token::Text(text), n + 1)),
            '\\' => match chars.next() {
                Some((_, c)) if c == quote || c == '\\' => text.push(c),
                _ => return Err(ExprError::new(at + n, "`\\` stands before a quote or another `\\` only")),
            },
            c => text.push(c),
        }
    }
    Err(ExprError::new(at, "this text has no end"))
}

fn comparison(rest: &str, at: usize) -> Result<(Token, usize), ExprError> {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    let all =
        [("==", Equal), ("!=", NotEqual), ("<=", LessOrEqual), (">=", GreaterOrEqual), ("<", Less), (">", Greater)];
    let found = all.iter().find(|(sign, _)| rest.starts_with(sign));
    let (sign, how) = found.ok_or_else(|| ExprError::new(at, "a comparison is one of == != < <= > >="))?;
    Ok((Token::Compare(*how), sign.len()))
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), ExprError> {
    let len = rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '.').map_or(rest.len(), |n| n + 1);
    let word = &rest[..len];
    let plain = word.bytes().skip(1).all(|b| b.is_ascii_digit() || b == b'.');
    match word.parse::<f64>() {
        Ok(number) if plain && number.is_finite() => Ok((Token::Number(number), len)),
        _ => Err(ExprError::new(at, format!("`{word}` is not a number"))),
    }
}
