//! Rules about single files and functions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Finding;
use super::source::{Source, has_token};

/// Longer files are split; tables (one row after the other, no logic) may be listed.
const FILE_LINES_MAX: usize = 700;
const TABLES: &[&str] = &[];

/// A function that does not fit two screens is split.
const FUNCTION_LINES_MAX: usize = 100;

/// Path and function with their present length; numbers may only fall.
const RATCHET: &str = "crates/xtask/src/tidy/ratchet.txt";

/// What `policy` must not touch, and what it does instead.
const IMPURE: &[(&str, &str)] = &[
    ("Instant", "take `now: Timestamp` as an argument"),
    ("SystemTime", "take `WallTime` as an argument"),
    ("std::fs", "files belong to `host`"),
    ("std::net::TcpStream", "sockets belong to `host`"),
    ("std::net::TcpListener", "sockets belong to `host`"),
    ("std::net::UdpSocket", "sockets belong to `host`"),
    ("std::process", "processes belong to `host`"),
    ("std::thread", "threads belong to the shells"),
    ("HashMap", "use BTreeMap: iteration order must come from the data"),
    ("HashSet", "use BTreeSet: iteration order must come from the data"),
    ("async", "machines are synchronous"),
    ("await", "machines are synchronous"),
    ("tracing", "return a Transition; the shell logs it"),
    ("println!", "return a Transition; the shell prints it"),
    ("serde", "the owning shell encodes its records"),
    ("unsafe", "unsafe belongs to `host`"),
];

/// Macros that stand for work not done.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// A test may sleep only in a function that waits for a condition, keeps a rate, or holds a fault for a time,
const MAY_SLEEP: &[&str] = &["wait", "poll_", "until_", "pace_", "hold_", "eventually"];

/// in a loop that names its deadline, or inside a server that is slow on purpose or a condition that is waited for,
const SLOW_SERVERS: &[&str] = &["Backend::start(", "serve(", "wait_for("];

/// which begins at most this many lines above.
const SERVER_WITHIN: usize = 7;

const BAD_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "manager", "misc"];

/// How far above an `unsafe` its reason may stand, in lines.
const SAFETY_WITHIN: usize = 8;

pub(crate) fn file(source: &Source, findings: &mut Vec<Finding>) {
    let mut add = |line: Option<usize>, says: String| {
        let at = line.map_or_else(|| source.path.clone(), |n| format!("{}:{}", source.path, n + 1));
        findings.push(Finding { at, says });
    };
    shape(source, &mut add);
    words(source, &mut add);
    sleeps(source, &mut add);
    safety(source, &mut add);
    if source.path.starts_with("crates/policy/src/") {
        purity(source, &mut add);
    }
}

fn shape(source: &Source, add: &mut impl FnMut(Option<usize>, String)) {
    let name = source.path.rsplit('/').next().unwrap_or_default();
    if name == "mod.rs" {
        add(None, "mod.rs is not used here; name the file after its module".into());
    }
    if BAD_NAMES.contains(&name.trim_end_matches(".rs")) {
        add(None, "a file named for no concept collects all of them; name what it holds".into());
    }
    let first = source.text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("#!["));
    // The tests of a module stand under the header of that module.
    if name != "tests.rs" && !first.is_some_and(|line| line.starts_with("//!")) {
        add(None, "no module header: begin with `//!` and one line that says what this file is".into());
    }
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX && !TABLES.contains(&source.path.as_str()) {
        add(None, format!("{lines} lines, at most {FILE_LINES_MAX}: split it"));
    }
}

fn words(source: &Source, add: &mut impl FnMut(Option<usize>, String)) {
    for (n, line) in source.code.lines().enumerate() {
        for word in UNFINISHED {
            if has_token(line, word) {
                add(Some(n), format!("`{word}` cannot land"));
            }
        }
        if line.contains("#[ignore") {
            add(Some(n), "#[ignore] hides a test; mend it, or move it to the prove lane".into());
        }
        if has_token(line, "should_panic") && !line.contains("expected") {
            add(Some(n), "should_panic alone passes on any panic: say which by `expected`".into());
        }
    }
    for (n, line) in source.comments.lines().enumerate() {
        if has_token(line, concat!("FIX", "ME")) || has_token(line, concat!("XX", "X")) {
            add(Some(n), "a note to oneself cannot land: mend it, or describe the limit in words".into());
        }
    }
}

fn sleeps(source: &Source, add: &mut impl FnMut(Option<usize>, String)) {
    for (n, line) in source.code.lines().enumerate() {
        let sleeps = has_token(line, "sleep(") || has_token(line, "sleep_until(") || has_token(line, "sleep_ms(");
        if !sleeps || !source.is_test(n) {
            continue;
        }
        let lines: Vec<&str> = source.code.lines().collect();
        let slow = |line: &&str| SLOW_SERVERS.iter().any(|start| line.contains(start));
        let in_server = lines[n.saturating_sub(SERVER_WITHIN)..=n].iter().any(slow);
        let in_waiting = source.function_at(n).is_some_and(|f| {
            MAY_SLEEP.iter().any(|prefix| f.name.starts_with(prefix))
                || lines[f.lines.clone()].iter().any(|line| has_token(line, "deadline"))
        });
        let allowed = in_server || in_waiting;
        if !allowed {
            add(
                Some(n),
                "a test that sleeps is slow or flaky: wait for the condition in a `wait_…` function with a deadline, or name it `hold_…`"
                    .into(),
            );
        }
    }
}

fn safety(source: &Source, add: &mut impl FnMut(Option<usize>, String)) {
    let in_host = source.path.starts_with("crates/host/");
    let lines: Vec<&str> = source.text.lines().collect();
    for n in source.lines_with("unsafe") {
        if !in_host {
            add(Some(n), "unsafe outside crate `host`".into());
            continue;
        }
        // An unsafe function says it at its first block.
        let below = if lines[n].contains("unsafe fn") { SAFETY_WITHIN } else { 0 };
        let (from, to) = (n.saturating_sub(SAFETY_WITHIN), (n + below).min(lines.len() - 1));
        if !lines[from..=to].iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
            add(Some(n), "unsafe without a `SAFETY:` comment that says why it is sound".into());
        }
    }
}

fn purity(source: &Source, add: &mut impl FnMut(Option<usize>, String)) {
    for (word, instead) in IMPURE {
        for n in source.lines_with(word) {
            if !source.is_test(n) {
                add(Some(n), format!("`{word}` in policy: {instead}"));
            }
        }
    }
}

pub(crate) fn function_lengths(root: &Path, sources: &[Source], findings: &mut Vec<Finding>) -> Result<()> {
    let mut allowed = ratchet(root)?;
    for source in sources {
        for function in &source.functions {
            let key = format!("{} {}", source.path, function.name);
            let lines = function.lines.len();
            let listed = allowed.get(&key).copied();
            if lines <= listed.unwrap_or(FUNCTION_LINES_MAX) {
                if listed.is_some_and(|limit| lines < limit) && lines > FUNCTION_LINES_MAX {
                    findings.push(Finding {
                        at: RATCHET.into(),
                        says: format!("{key} has fallen to {lines}: lower its number"),
                    });
                }
                if lines > FUNCTION_LINES_MAX {
                    allowed.remove(&key);
                }
                continue;
            }
            let at = format!("{}:{}", source.path, function.lines.start + 1);
            findings.push(Finding {
                at,
                says: format!(
                    "fn {} has {lines} lines, at most {}",
                    function.name,
                    listed.unwrap_or(FUNCTION_LINES_MAX)
                ),
            });
            allowed.remove(&key);
        }
    }
    for key in allowed.keys() {
        findings.push(Finding { at: RATCHET.into(), says: format!("{key} is short or gone: remove its line") });
    }
    Ok(())
}

fn ratchet(root: &Path) -> Result<BTreeMap<String, usize>> {
    let text = fs::read_to_string(root.join(RATCHET)).with_context(|| format!("cannot read {RATCHET}"))?;
    let mut allowed = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (key, lines) =
            line.rsplit_once(' ').with_context(|| format!("{RATCHET}: `{line}` is not `path function lines`"))?;
        allowed.insert(key.to_owned(), lines.parse().with_context(|| format!("{RATCHET}: {lines} is no number"))?);
    }
    Ok(allowed)
}

/// Every `HFnnnn` that the program can print has a page, and every page a use.
pub(crate) fn error_codes(root: &Path, sources: &[Source], findings: &mut Vec<Finding>) -> Result<()> {
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    for source in sources.iter().filter(|s| !s.path.starts_with("crates/xtask/")) {
        for (n, line) in source.text.lines().enumerate().filter(|(n, _)| !source.is_test(*n)) {
            // Comments may speak of codes that are only examples.
            let line = line.split("//").next().unwrap_or_default();
            for code in codes_in(line) {
                used.entry(code).or_insert_with(|| format!("{}:{}", source.path, n + 1));
            }
        }
    }
    let pages = pages(&root.join("docs/errors"))?;
    for (code, at) in used.iter().filter(|(code, _)| !pages.contains(*code)) {
        findings.push(Finding { at: at.clone(), says: format!("{code} has no page docs/errors/{code}.md") });
    }
    for code in &pages {
        let at = format!("docs/errors/{code}.md");
        if !used.contains_key(code) {
            findings.push(Finding { at: at.clone(), says: "no code gives this error; remove the page".into() });
        }
        page_shape(root, &at, code, findings)?;
    }
    Ok(())
}

fn page_shape(root: &Path, at: &str, code: &str, findings: &mut Vec<Finding>) -> Result<()> {
    let text = fs::read_to_string(root.join(at)).with_context(|| format!("cannot read {at}"))?;
    let mut need = vec![format!("# {code}: ")];
    need.extend(["## What happened", "## Why", "## What to do"].map(String::from));
    for heading in need {
        if !text.lines().any(|line| line.starts_with(&heading)) {
            findings
                .push(Finding { at: at.to_owned(), says: format!("a line that begins with `{heading}` is missing") });
        }
    }
    Ok(())
}

fn codes_in(line: &str) -> Vec<String> {
    let digits = |at: usize| line.get(at + 2..at + 6).is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()));
    let longer = |at: usize| line.as_bytes().get(at + 6).is_some_and(u8::is_ascii_alphanumeric);
    line.match_indices("HF")
        .filter(|(at, _)| digits(*at) && !longer(*at))
        .map(|(at, _)| line[at..at + 6].to_owned())
        .collect()
}

fn pages(dir: &Path) -> Result<BTreeSet<String>> {
    let mut pages = BTreeSet::new();
    if !dir.is_dir() {
        return Ok(pages);
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(code) = name.strip_suffix(".md").filter(|code| codes_in(code) == [code.to_string()]) {
            pages.insert(code.to_owned());
        }
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        file(&Source::new(path.into(), text.into()), &mut findings);
        findings.into_iter().map(|f| format!("{} {}", f.at, f.says)).collect()
    }

    #[test]
    fn each_rule_finds_its_fault_and_spares_the_rest() {
        let head = "//! x\n";
        let cases: &[(&str, &str, &str)] = &[
            ("crates/a/src/b.rs", "fn f() {}", "no module header"),
            ("crates/a/src/b/mod.rs", "//! x", "mod.rs"),
            ("crates/a/src/util.rs", "//! x", "named for no concept"),
            ("crates/a/src/b.rs", "//! x\nfn f() { todo!() }", "`todo!`"),
            ("crates/a/src/b.rs", "//! x\n// FIXME later", "note to oneself"),
            ("crates/a/src/b.rs", "//! x\nunsafe fn f() {}", "outside crate `host`"),
            ("crates/host/src/b.rs", "//! x\nfn f() { unsafe { g() } }", "SAFETY"),
            ("crates/policy/src/b.rs", "//! x\nuse std::collections::HashMap;", "BTreeMap"),
            ("crates/policy/src/b.rs", "//! x\nfn f() { Instant::now(); }", "now: Timestamp"),
            ("crates/a/tests/it/main.rs", "//! x\nfn f() { sleep(d); }", "wait for the condition"),
            ("crates/a/tests/it/main.rs", "//! x\n#[ignore]\nfn f() {}", "#[ignore]"),
        ];
        for (path, text, expected) in cases {
            let found = says(path, text);
            assert!(found.iter().any(|s| s.contains(expected)), "{path} {text:?}: wanted {expected:?}, got {found:?}");
        }
        let fine: &[(&str, String)] = &[
            ("crates/a/src/b.rs", format!("{head}fn f() {{ sleep(d); }}")),
            ("crates/a/tests/it/main.rs", format!("{head}fn wait_for() {{ sleep(d); }}")),
            ("crates/host/src/b.rs", format!("{head}fn f() {{\n // SAFETY: fine\n unsafe {{ g() }} }}")),
            (
                "crates/policy/src/b.rs",
                format!("{head}fn f() {{}}\n#[cfg(test)]\nmod tests {{ use std::collections::HashMap; }}"),
            ),
        ];
        for (path, text) in fine {
            assert_eq!(says(path, text), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn long_files_and_functions_are_found() {
        let long = format!("//! x\n{}", "// y\n".repeat(FILE_LINES_MAX));
        assert!(says("crates/a/src/b.rs", &long).iter().any(|s| s.contains("split it")));
    }

    #[test]
    fn codes_are_six_characters() {
        assert_eq!(codes_in("a \"HF0042\" HF00421 HFx HF0101."), ["HF0042", "HF0101"]);
    }
}
