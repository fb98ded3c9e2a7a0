//! Rules about the documents: links lead somewhere, every page is linked from another, and tests that a page names
//! exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::Finding;
use super::source::Source;

/// Pages that are reached by name, not by link.
const UNLINKED: &[&str] = &["docs/errors/", "CHANGELOG.md", "SECURITY.md", "README.md"];

const PROMISES: &str = "docs/guarantees.md";

pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let pages = pages(root)?;
    let mut findings = Vec::new();
    let mut reached = BTreeSet::new();
    for page in &pages {
        let text = fs::read_to_string(root.join(page)).with_context(|| format!("cannot read {}", page.display()))?;
        for (line, link) in links(&text) {
            let target = resolve(page, &link);
            if !root.join(&target).exists() {
                let at = format!("{}:{line}", page.display());
                findings.push(Finding { at, says: format!("the link `{link}` leads nowhere") });
            }
            reached.insert(target);
        }
    }
    for page in pages {
        let name = page.to_string_lossy().into_owned();
        if !reached.contains(&page) && !UNLINKED.iter().any(|prefix| name.starts_with(prefix)) {
            findings.push(Finding { at: name, says: "no other page leads here".into() });
        }
    }
    Ok(findings)
}

/// What a promise is shown by must be there: `module::name` in the page of promises is a test.
pub(crate) fn tests_named(root: &Path, sources: &[Source], findings: &mut Vec<Finding>) -> Result<()> {
    let text = fs::read_to_string(root.join(PROMISES)).with_context(|| format!("cannot read {PROMISES}"))?;
    for (line, module, name) in names_of_tests(&text) {
        let in_module =
            |s: &&Source| s.path.ends_with(&format!("/{module}.rs")) || s.path.contains(&format!("/{module}/"));
        if !sources.iter().filter(in_module).any(|s| s.functions.iter().any(|f| f.name == name)) {
            let at = format!("{PROMISES}:{line}");
            findings.push(Finding { at, says: format!("there is no test `{module}::{name}`") });
        }
    }
    Ok(())
}

/// Every `module::name` between backticks, with its line.
fn names_of_tests(text: &str) -> Vec<(usize, String, String)> {
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2).filter(|quoted| *quoted != "module::name") {
            if let Some((module, name)) = quoted.split_once("::") {
                found.push((n + 1, module.to_owned(), name.to_owned()));
            }
        }
    }
    found
}

/// Markdown files at the root, below `docs` and `examples`, relative to the root.
pub(crate) fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut left = vec![root.join("docs"), root.join("examples")];
    let mut found: Vec<PathBuf> = markdown_in(root)?.0;
    while let Some(dir) = left.pop() {
        let (files, dirs) = markdown_in(&dir)?;
        found.extend(files);
        left.extend(dirs);
    }
    Ok(found.into_iter().filter_map(|path| path.strip_prefix(root).ok().map(Path::to_owned)).collect())
}

fn markdown_in(dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut dirs) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden {
            dirs.push(path);
        } else if path.extension().is_some_and(|e| e == "md") {
            files.push(path);
        }
    }
    files.sort();
    Ok((files, dirs))
}

/// Targets of `](…)` inside the repository, with their line, without what stands behind `#`.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        for part in line.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default().split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                found.push((n + 1, target.to_owned()));
            }
        }
    }
    found
}

fn resolve(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_names_of_tests_are_found() {
        let text = "see [a](../b.md#c) and [d](https://x.y/z)\n[e](#here)\n";
        assert_eq!(links(text), [(1, "../b.md".to_owned())]);
        let named = names_of_tests("`a::b_c` and\n`d` or `module::name`, `e::f`\n");
        let named: Vec<_> = named.iter().map(|(n, module, name)| (*n, module.as_str(), name.as_str())).collect();
        assert_eq!(named, [(1, "a", "b_c"), (2, "e", "f")]);
        assert_eq!(resolve(Path::new("docs/how-to/x.md"), "../b.md"), Path::new("docs/b.md"));
    }
}
