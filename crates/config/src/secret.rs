//! Which plain values look like secrets, so that they are never shown.

use std::ops::Range;

const WORDS: [&str; 10] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "APIKEY",
    "API_KEY",
    "PRIVATE_KEY",
    "CREDENTIAL",
    "AUTHORIZATION",
];

/// Keys that speak about a secret without holding one: `TOKEN_TTL`, `PASSWORD_FILE`.
const HARMLESS_ENDINGS: [&str; 14] = [
    "_FILE",
    "_PATH",
    "_DIR",
    "_TTL",
    "_TIMEOUT",
    "_LENGTH",
    "_SIZE",
    "_EXPIRY",
    "_TOKENS",
    "_COUNT",
    "_NAME",
    "_HEADER",
    "_ENABLED",
    "_REQUIRED",
];

/// Whether a plain value under this name is treated as a secret.
pub(crate) fn is_secret(key: &str, value: &str) -> bool {
    if value.is_empty() {
        return false;
    }
    has_credentials(value) || is_secret_key(key)
}

fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_uppercase().replace('-', "_");
    let names_secret = WORDS.iter().any(|word| key.contains(word)) || key.ends_with("_PASS") || key == "PASS";
    names_secret && !HARMLESS_ENDINGS.iter().any(|ending| key.ends_with(ending))
}

/// `scheme://user:password@host`.
fn has_credentials(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, p)| !p.is_empty()))
}

const MASK: &str = "***";

/// Arguments with what looks like a secret replaced: `--token=x`, `--token x`, `TOKEN=x`, addresses with a password.
pub(crate) fn mask_words(words: &[String]) -> Vec<String> {
    let mut after_flag = false;
    let mut masked = Vec::with_capacity(words.len());
    for word in words {
        let flag = word.starts_with('-') && !word.contains('=') && is_secret_key(word.trim_start_matches('-'));
        masked.push(if after_flag && !word.starts_with('-') { MASK.into() } else { mask_word(word) });
        after_flag = flag;
    }
    masked
}

/// A line for a shell, word by word.
pub(crate) fn mask_line(line: &str) -> String {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    mask_words(&words).join(" ")
}

fn mask_word(word: &str) -> String {
    match word.split_once('=') {
        Some((key, value)) if is_secret(key.trim_start_matches('-'), value) => format!("{key}={MASK}"),
        _ if has_credentials(word) => MASK.into(),
        _ => word.to_owned(),
    }
}

/// The parts of one line of TOML to hide, found without parsing: quoted text after `SECRETKEY =`, and passwords in addresses.
/// It must also work where the file does not parse, so it errs towards hiding.
pub(crate) fn spans_in_line(line: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    for (equals, _) in line.match_indices('=') {
        let key = line[..equals].trim_end().trim_end_matches(['"', '\'']);
        let word_start = key
            .rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-')
            .map_or(0, |at| at + char_len(key, at));
        if is_secret_key(&key[word_start..]) {
            spans.extend(value_after(line, equals + 1));
        }
    }
    for (scheme, _) in line.match_indices("://") {
        let end = line[scheme..].find(['"', '\'', ' ']).map_or(line.len(), |n| scheme + n);
        if has_credentials(&line[..end][line[..scheme].rfind(['"', '\'', ' ']).map_or(0, |n| n + 1)..]) {
            spans.push(scheme + 3..end);
        }
    }
    spans
}

/// The inside of the quoted text that follows, or everything up to the end when the quote never closes. A table (`{ file = … }`) is no secret.
fn value_after(line: &str, from: usize) -> Option<Range<usize>> {
    let start = from + (line[from..].len() - line[from..].trim_start().len());
    let first = line[start..].chars().next()?;
    match first {
        '{' | '[' => None,
        '"' | '\'' => {
            let inside = start + 1;
            let end = line[inside..].find(first).map_or(line.len(), |n| inside + n);
            Some(inside..end)
        }
        _ => Some(start..line.len()),
    }
}

fn char_len(text: &str, at: usize) -> usize {
    text[at..].chars().next().map_or(0, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_hold_secrets_are_told_from_keys_about_them() {
        for key in ["DB_PASSWORD", "api-token", "SECRET", "AWS_SECRET_ACCESS_KEY", "SMTP_PASS"] {
            assert!(is_secret(key, "x"), "{key}");
        }
        for key in ["DB_PASSWORD_FILE", "TOKEN_TTL", "COMPASS", "PATH", "KEYBOARD", "MAX_TOKENS"] {
            assert!(!is_secret(key, "x"), "{key}");
        }
        assert!(is_secret("DATABASE_URL", "postgres://app:hunter2@db/app"));
        assert!(!is_secret("DATABASE_URL", "postgres://app@db/app"));
    }

    #[test]
    fn lines_are_masked_even_when_they_do_not_parse() {
        let masked = |line: &str| {
            let spans = spans_in_line(line);
            line.char_indices()
                .map(|(at, c)| if spans.iter().any(|s| s.contains(&at)) { '*' } else { c })
                .collect::<String>()
        };
        assert_eq!(masked(r#"PASSWORD = "hunter2""#), r#"PASSWORD = "*******""#);
        assert_eq!(masked(r#"env = { A = "b", "MY_TOKEN" = 'xyz' }"#), r#"env = { A = "b", "MY_TOKEN" = '***' }"#);
        assert_eq!(masked(r#"PASSWORD = "hunter2"#), r#"PASSWORD = "*******"#);
        assert_eq!(masked(r#"PASSWORD = { file = "/run/p" }"#), r#"PASSWORD = { file = "/run/p" }"#);
        assert_eq!(masked(r#"DB = "pg://u:p@h/d""#), r#"DB = "pg://*******""#);
    }
}
