//! The house rules, run as code: crate edges, purity of `policy`, sizes that may only fall, words that
//! may not appear. Every rule names the file, the line and what to do instead.

mod pages;
mod rules;
mod source;
mod workspace;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub(crate) use pages::pages as markdown;
use source::Source;

/// One broken rule.
pub(crate) struct Finding {
    pub(crate) at: String,
    pub(crate) says: String,
}

/// Prints every finding; an error when there is one.
pub(crate) fn run(root: &Path) -> Result<()> {
    let findings = check(root)?;
    for finding in &findings {
        println!("tidy: {}: {}", finding.at, finding.says);
    }
    if findings.is_empty() {
        println!("tidy: all house rules hold");
        return Ok(());
    }
    bail!("{} house rules broken", findings.len())
}

pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut sources = Vec::new();
    for path in rust_files(&root.join("crates"))? {
        sources.push(Source::read(root, &path)?);
    }
    let mut findings = workspace::check(root)?;
    findings.extend(pages::check(root)?);
    for source in &sources {
        rules::file(source, &mut findings);
    }
    rules::function_lengths(root, &sources, &mut findings)?;
    rules::error_codes(root, &sources, &mut findings)?;
    pages::tests_named(root, &sources, &mut findings)?;
    findings.sort_by(|a, b| a.at.cmp(&b.at));
    Ok(findings)
}

fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("target") {
                left.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_house_is_tidy() {
        let findings = super::check(&crate::root().expect("cargo runs this")).expect("the checkout can be read");
        let lines: Vec<String> = findings.iter().map(|f| format!("{}: {}", f.at, f.says)).collect();
        assert!(lines.is_empty(), "house rules broken:\n{}", lines.join("\n"));
    }
}
