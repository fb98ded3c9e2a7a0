//! Every configuration that a reader may copy is checked by the program itself: blocks in the documents, and the shop.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tidy;

struct Example {
    at: String,
    text: String,
}

pub(crate) fn check(root: &Path, binary: &Path) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("holdfast-examples-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut examples = Vec::new();
    for page in tidy::markdown(root)? {
        let text = fs::read_to_string(root.join(&page)).with_context(|| format!("cannot read {}", page.display()))?;
        examples.extend(blocks(&page.display().to_string(), &text));
    }
    let mut bad = Vec::new();
    for example in &examples {
        let file = dir.join("holdfast.toml");
        fs::write(&file, &example.text).with_context(|| format!("cannot write {}", file.display()))?;
        if let Some(said) = refused(binary, &file)? {
            bad.push(format!("{}:\n{said}", example.at));
        }
    }
    let shop = root.join("examples/shop/shop.toml");
    if let Some(said) = refused(binary, &shop)? {
        bad.push(format!("{}:\n{said}", shop.display()));
    }
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    if bad.is_empty() && !examples.is_empty() {
        println!("{} examples in documents and the shop are good files", examples.len());
        return Ok(());
    }
    bail!("{} of {} examples are refused\n{}", bad.len(), examples.len() + 1, bad.join("\n"))
}

/// What `holdfast check` says of a file that it refuses; warnings are no refusal.
fn refused(binary: &Path, file: &PathBuf) -> Result<Option<String>> {
    let out = Command::new(binary).args(["check", "-f"]).arg(file).env("NO_COLOR", "1").output();
    let out = out.with_context(|| format!("cannot run {}", binary.display()))?;
    let text = [out.stdout, out.stderr].concat();
    Ok((!out.status.success()).then(|| String::from_utf8_lossy(&text).into_owned()))
}

/// Blocks of TOML that define a service.
fn blocks(page: &str, text: &str) -> Vec<Example> {
    let mut found = Vec::new();
    let mut block: Option<Example> = None;
    for (n, line) in text.lines().enumerate() {
        match (&mut block, line.trim_end()) {
            (None, "```toml") => block = Some(Example { at: format!("{page}:{}", n + 1), text: String::new() }),
            (Some(_), "```") => found.extend(block.take().filter(|b| b.text.contains("[service."))),
            (Some(block), line) => block.text += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_define_a_service_are_examples() {
        let text = "```toml\n[service.a]\n```\n```sh\n[service.b]\n```\n```toml\n[balancer.c]\n```\n";
        let found = blocks("p.md", text);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].at.as_str(), found[0].text.as_str()), ("p.md:1", "[service.a]\n"));
    }
}
