//! A Rust file split into what the house rules look at: code without comments and strings, comments
//! without code, where test code lies, and where functions begin and end. No parser: braces suffice.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};

pub(crate) struct Source {
    /// Relative to the workspace root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// `text` with comments and the insides of strings blanked; same lines, same columns.
    pub(crate) code: String,
    /// `text` with everything but comments blanked.
    pub(crate) comments: String,
    pub(crate) functions: Vec<Function>,
    tests: Vec<Range<usize>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Lines, counted from 0, the closing brace included.
    pub(crate) lines: Range<usize>,
}

impl Source {
    pub(crate) fn read(root: &Path, path: &Path) -> Result<Source> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let path = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        Ok(Source::new(path, text))
    }

    pub(crate) fn new(path: String, text: String) -> Source {
        let (code, comments) = split(&text);
        let functions = functions(&code);
        let tests = test_regions(&code, &path);
        Source { path, text, code, comments, functions, tests }
    }

    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&line))
    }

    /// The innermost function around a line.
    pub(crate) fn function_at(&self, line: usize) -> Option<&Function> {
        self.functions.iter().filter(|f| f.lines.contains(&line)).min_by_key(|f| f.lines.len())
    }

    /// Lines (from 0) whose code holds `token` with no identifier character on either side.
    pub(crate) fn lines_with(&self, token: &str) -> Vec<usize> {
        self.code.lines().enumerate().filter(|(_, line)| has_token(line, token)).map(|(n, _)| n).collect()
    }
}

pub(crate) fn has_token(line: &str, token: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(token).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + token.len()..].chars().next();
        let open = token.starts_with(word) && before.is_some_and(word);
        let close = token.ends_with(word) && after.is_some_and(word);
        !open && !close
    })
}

/// Blanks comments and string insides in one copy, everything but comments in the other.
fn split(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let mut kinds = vec![Kind::Code; chars.len()];
    let mut at = 0;
    while at < chars.len() {
        let (end, kind) = token(&chars, at);
        for slot in &mut kinds[at..end] {
            *slot = kind;
        }
        at = end;
    }
    let pick = |wanted: Kind| -> String {
        chars.iter().zip(&kinds).map(|(c, k)| if *k == wanted || *c == '\n' { *c } else { ' ' }).collect()
    };
    (pick(Kind::Code), pick(Kind::Comment))
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Text,
}

/// The end and kind of the token at `at`.
fn token(chars: &[char], at: usize) -> (usize, Kind) {
    let next = chars.get(at + 1).copied();
    match (chars[at], next) {
        ('/', Some('/')) => (line_end(chars, at), Kind::Comment),
        ('/', Some('*')) => (block_comment_end(chars, at), Kind::Comment),
        ('"', _) => (string_end(chars, at + 1), Kind::Text),
        ('\'', _) => char_end(chars, at),
        (c, _) if c.is_alphabetic() || c == '_' => word_end(chars, at),
        _ => (at + 1, Kind::Code),
    }
}

fn line_end(chars: &[char], at: usize) -> usize {
    (at..chars.len()).find(|i| chars[*i] == '\n').unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => {
                (depth, i) = (depth - 1, i + 2);
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// A character literal, or the tick of a lifetime.
fn char_end(chars: &[char], at: usize) -> (usize, Kind) {
    if chars.get(at + 1) == Some(&'\\') {
        let close = (at + 3..chars.len()).find(|i| chars[*i] == '\'').map_or(chars.len(), |i| i + 1);
        return (close, Kind::Text);
    }
    if chars.get(at + 2) == Some(&'\'') { (at + 3, Kind::Text) } else { (at + 1, Kind::Code) }
}

/// An identifier, or a string with a prefix: `r"…"`, `b"…"`, `br#"…"#`, `c"…"`.
fn word_end(chars: &[char], at: usize) -> (usize, Kind) {
    let end = (at..chars.len()).find(|i| !(chars[*i].is_alphanumeric() || chars[*i] == '_')).unwrap_or(chars.len());
    let word: String = chars[at..end].iter().collect();
    let hashes = chars[end..].iter().take_while(|c| **c == '#').count();
    let quoted = chars.get(end + hashes) == Some(&'"');
    if quoted && matches!(word.as_str(), "r" | "br" | "cr") {
        return (raw_string_end(chars, end + hashes + 1, hashes), Kind::Text);
    }
    if quoted && hashes == 0 && matches!(word.as_str(), "b" | "c") {
        return (string_end(chars, end + 1), Kind::Text);
    }
    (end, Kind::Code)
}

fn raw_string_end(chars: &[char], from: usize, hashes: usize) -> usize {
    (from..chars.len())
        .find(|i| chars[*i] == '"' && chars[*i + 1..].iter().take_while(|c| **c == '#').count() >= hashes)
        .map_or(chars.len(), |i| i + 1 + hashes)
}

/// The line on which the block that opens at or after byte `from` closes; `None` when a `;` comes first.
fn block_end(code: &str, from: usize) -> Option<usize> {
    let (mut depth, mut round) = (0_i32, 0_i32);
    for (at, c) in code[from..].char_indices() {
        match c {
            '(' | '[' => round += 1,
            ')' | ']' => round -= 1,
            ';' if depth == 0 && round == 0 => return None,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(line_of(code, from + at));
                }
            }
            _ => {}
        }
    }
    None
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count()
}

fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let word_before = code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if word_before || name.is_empty() {
            continue;
        }
        if let Some(end) = block_end(code, at) {
            found.push(Function { name, lines: line_of(code, at)..end + 1 });
        }
    }
    found
}

/// Whole files under `tests/` or named `tests.rs`, and every item behind `#[cfg(test)]`.
fn test_regions(code: &str, path: &str) -> Vec<Range<usize>> {
    if path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/benches/") {
        return std::iter::once(0..usize::MAX).collect();
    }
    let mut regions = Vec::new();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        if let Some(end) = block_end(code, at + "#[cfg(test)]".len()) {
            regions.push(line_of(code, at)..end + 1);
        }
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("crates/x/src/a.rs".into(), text.into())
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        let s =
            source("let a = \"HashMap // no\"; // HashMap\nlet b = r#\"\"HashMap\"\"#; /* HashMap */ let c = 'x';\n");
        assert!(s.lines_with("HashMap").is_empty(), "{}", s.code);
        assert!(s.comments.contains("// HashMap") && s.comments.contains("/* HashMap */"));
        assert!(s.code.contains("let c ="));
    }

    #[test]
    fn lifetimes_and_char_literals_do_not_swallow_code() {
        let s = source("fn f<'a>(x: &'a str) -> char { let q = '\"'; let n = '\\''; g(x) }\nfn g() {}\n");
        let names: Vec<&str> = s.functions.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["f", "g"]);
        assert!(s.code.contains("g(x)"));
    }

    #[test]
    fn functions_know_their_lines_and_arrays_do_not_end_them() {
        let s = source("fn f(a: [u8; 4])\n{\n  let x = { 1 };\n}\ntrait T { fn declared(&self); }\n");
        assert_eq!(s.functions.len(), 1);
        assert_eq!(s.functions[0].lines, 0..4);
        assert_eq!(s.function_at(2).map(|f| f.name.as_str()), Some("f"));
    }

    #[test]
    fn test_modules_are_regions() {
        let s = source("fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n");
        assert!(!s.is_test(0) && s.is_test(3) && !s.is_test(5));
    }

    #[test]
    fn tokens_respect_word_borders() {
        assert!(has_token("let x: HashMap<A>", "HashMap"));
        assert!(!has_token("let x: MyHashMapper", "HashMap"));
        assert!(has_token("std::fs::read", "std::fs"));
    }
}
