//! The environment of a child, resolved at exec: the only place where secrets are plain.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::spec::{Spec, Value};
use super::state::Failure;
use crate::files;
use crate::user::Account;

/// Largest env file or secret; the kernel takes at most 128 KiB for one variable.
const SIZE_BYTES_MAX: u64 = 128 * 1024;

/// What is passed on when the whole environment is not. `LC_*` as well.
const PASSED_ON: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "TERM"];

const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) type Environment = BTreeMap<OsString, OsString>;

fn unreadable(text: String, hint: &str) -> Failure {
    Failure { code: "HF0202".into(), text, hint: Some(hint.into()) }
}

/// Later sources win: inherited, account, env files in their order, `env`.
pub(crate) fn resolve(spec: &Spec, account: Option<&Account>) -> Result<Environment, Failure> {
    let mut env: Environment = std::env::vars_os().filter(|(name, _)| spec.env_inherit || passed_on(name)).collect();
    env.retain(|name, _| !name.to_string_lossy().starts_with("HOLDFAST_"));
    env.entry("PATH".into()).or_insert_with(|| PATH_DEFAULT.into());
    if let Some(account) = account {
        describe(account, &mut env);
    }
    for path in &spec.env_files {
        read_file(path, &mut env)?;
    }
    for (name, value) in &spec.env {
        env.insert(name.into(), resolve_value(name, value)?);
    }
    Ok(env)
}

fn passed_on(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|n| PASSED_ON.contains(&n) || n.starts_with("LC_"))
}

fn describe(account: &Account, env: &mut Environment) {
    if let Some(name) = &account.name {
        env.insert("USER".into(), name.into());
        env.insert("LOGNAME".into(), name.into());
    }
    if let Some(home) = &account.home {
        env.insert("HOME".into(), home.into());
    }
}

fn resolve_value(name: &str, value: &Value) -> Result<OsString, Failure> {
    match value {
        Value::Plain(text) => Ok(text.into()),
        Value::Env(source) => std::env::var_os(source).ok_or_else(|| {
            let text = format!("environment variable {source}, wanted for {name}, is not set");
            unreadable(text, "set it where `holdfast up` is run, then run it again")
        }),
        Value::File(path) => {
            let mut bytes = read(path)?;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            Ok(OsString::from_vec(bytes))
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    files::read_limited(path, SIZE_BYTES_MAX)
        .map_err(|e| unreadable(e.to_string(), "the user who runs holdfast must be able to read the file"))
}

fn read_file(path: &Path, env: &mut Environment) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    for (number, line) in text.lines().enumerate() {
        match parse(line) {
            Line::Pair(name, value) => {
                env.insert(name.into(), value.into());
            }
            Line::Nothing => {}
            // The line itself may be a secret, so it is not shown.
            Line::Wrong => {
                let text = format!("{} line {}: not NAME=value", path.display(), number + 1);
                return Err(unreadable(text, "one NAME=value a line; values may be quoted; # begins a comment"));
            }
        }
    }
    Ok(())
}

enum Line {
    Pair(String, String),
    Nothing,
    Wrong,
}

fn parse(line: &str) -> Line {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Line::Nothing;
    }
    let line = line.strip_prefix("export ").unwrap_or(line);
    let Some((name, value)) = line.split_once('=') else { return Line::Wrong };
    let name = name.trim_end();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.') {
        return Line::Wrong;
    }
    Line::Pair(name.to_owned(), unquote(value.trim()))
}

/// Single quotes keep everything; double quotes know `\n`, `\"`, `\\` and `\$`; nothing is expanded.
fn unquote(value: &str) -> String {
    if let Some(inner) = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')) {
        return inner.to_owned();
    }
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else { return value.to_owned() };
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('\\', Some('n')) => {
                chars.next();
                out.push('\n');
            }
            ('\\', Some(escaped @ ('"' | '\\' | '$'))) => {
                chars.next();
                out.push(escaped);
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_are_read_as_people_write_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        std::fs::write(&path, "# comment\n\nA=1\nexport B=two words\nC='$x #'\nD=\"a\\n\\\"b\\\"\"\nE=\nF=a=b\n")
            .unwrap();
        let mut env = Environment::new();
        read_file(&path, &mut env).unwrap();
        let got: Vec<String> =
            env.iter().map(|(k, v)| format!("{}={}", k.to_str().unwrap(), v.to_str().unwrap())).collect();
        assert_eq!(got, ["A=1", "B=two words", "C=$x #", "D=a\n\"b\"", "E=", "F=a=b"]);
        std::fs::write(&path, "A=1\nsecret-without-name\n").unwrap();
        let failure = read_file(&path, &mut env).unwrap_err();
        assert!(failure.text.contains("line 2") && !failure.text.contains("secret-without-name"));
    }

    #[test]
    fn references_are_resolved_or_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "s3cret\n").unwrap();
        let mut spec = Spec { env: vec![("TOKEN".into(), Value::File(path.clone()))], ..Spec::default() };
        assert_eq!(resolve(&spec, None).unwrap()[&OsString::from("TOKEN")], "s3cret");
        spec.env = vec![("X".into(), Value::Env("NO_SUCH_VARIABLE_HERE".into()))];
        let failure = resolve(&spec, None).unwrap_err();
        assert_eq!(failure.code, "HF0202");
        assert!(failure.text.contains("NO_SUCH_VARIABLE_HERE"));
    }
}
