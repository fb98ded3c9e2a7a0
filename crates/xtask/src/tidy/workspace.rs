//! Rules about the workspace: the crate table of ARCHITECTURE.md against the manifests, one test
//! executable a crate, the lock file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Finding;

const MAP: &str = "ARCHITECTURE.md";

pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let map = fs::read_to_string(root.join(MAP)).with_context(|| format!("cannot read {MAP}"))?;
    let legal = table(&map);
    let crates = crates(root)?;
    let mut findings = Vec::new();
    for name in legal.keys().filter(|name| !crates.contains_key(*name)) {
        findings.push(Finding { at: MAP.into(), says: format!("the map lists crate `{name}`, which is not there") });
    }
    for (name, used) in &crates {
        let at = format!("crates/{name}/Cargo.toml");
        let Some(may_use) = legal.get(name) else {
            findings.push(Finding { at, says: format!("crate `{name}` is not in the table of {MAP}") });
            continue;
        };
        for edge in used.difference(may_use) {
            findings.push(Finding { at: at.clone(), says: format!("{name} -> {edge} is not a legal edge in {MAP}") });
        }
    }
    test_executables(root, &crates, &mut findings)?;
    lock_file(root, &mut findings)?;
    Ok(findings)
}

/// The rows `| crate | may use | … |`; "all of the above" means every row before.
fn table(map: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut legal: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let rows = map.lines().skip_while(|line| !line.starts_with("| crate | may use |")).skip(2);
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, uses, ..] = cells.as_slice() else { continue };
        let uses = match *uses {
            "-" => BTreeSet::new(),
            "all of the above" => legal.keys().cloned().collect(),
            list => list.split(',').map(|c| c.trim().to_owned()).collect(),
        };
        legal.insert((*name).to_owned(), uses);
    }
    legal
}

/// Crates of the workspace with the workspace crates that their manifests name.
fn crates(root: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut crates = BTreeMap::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let dir = entry?.path();
        let manifest = dir.join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let text = fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        crates.insert(name, edges(&text));
    }
    Ok(crates)
}

fn edges(manifest: &str) -> BTreeSet<String> {
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]")
            && let Some(rest) = line.strip_prefix("holdfast")
        {
            let end = rest.find(['.', ' ', '=']).unwrap_or(rest.len());
            let name = rest[..end].trim_start_matches('-');
            found.insert(if name.is_empty() { "holdfast" } else { name }.to_owned());
        }
    }
    found
}

/// Executables of their own all the same: what such a test does to the machine would disturb every test beside it.
const ALONE: &[&str] = &["crates/holdfast/tests/alarms", "crates/holdfast/tests/lab"];

/// Each test executable is linked anew on two cores: one a crate is enough.
fn test_executables(
    root: &Path,
    crates: &BTreeMap<String, BTreeSet<String>>,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    for name in crates.keys() {
        let dir = root.join("crates").join(name).join("tests");
        if !dir.is_dir() {
            continue;
        }
        let mut targets = 0;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if ALONE.iter().any(|alone| path == root.join(alone)) {
                continue;
            }
            targets += usize::from(path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").is_file());
        }
        if targets > 1 {
            findings.push(Finding {
                at: format!("crates/{name}/tests"),
                says: format!("{targets} test executables; one with modules links faster"),
            });
        }
    }
    Ok(())
}

fn lock_file(root: &Path, findings: &mut Vec<Finding>) -> Result<()> {
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
    if !root.join("Cargo.lock").is_file() || ignored.lines().any(|line| line.contains("Cargo.lock")) {
        findings.push(Finding { at: "Cargo.lock".into(), says: "the lock file belongs into the repository".into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_manifest_are_read() {
        let map = "x\n| crate | may use | what |\n|---|---|---|\n| policy | - | p |\n| host | policy | h |\n| holdfast | all of the above | b |\n\n| no | yes | z |\n";
        let legal = table(map);
        assert_eq!(legal.len(), 3);
        assert!(legal["holdfast"].contains("host") && legal["holdfast"].contains("policy"));
        let used = edges(
            "[dependencies]\nholdfast-policy.workspace = true\nserde = \"1\"\n[dev-dependencies]\nholdfast-host = { path = \"x\" }\n[package]\nname = \"holdfast-z\"\n",
        );
        assert_eq!(used.into_iter().collect::<Vec<_>>(), ["host", "policy"]);
    }
}
