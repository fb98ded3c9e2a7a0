//! `cargo xtask gen`: pages that are printed from the program, and the check that they are fresh.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{lanes, process};

#[derive(Args)]
pub(crate) struct Options {
    /// Only say whether the pages are fresh
    #[arg(long)]
    check: bool,
}

const CLI_PAGE: &str = "docs/reference/cli.md";

/// Help texts wrap at this width, so that the page is the same on every terminal.
const COLUMNS: &str = "100";

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    process::run(
        lanes::cargo(root, &["build", "--locked", "--package", "holdfast"]),
        lanes::BUILD_LIMIT,
        &AtomicBool::new(false),
    )?;
    let fresh = cli(&process::target_dir(root).join("debug/holdfast"))?;
    let page = root.join(CLI_PAGE);
    if fs::read_to_string(&page).is_ok_and(|text| text == fresh) {
        println!("{CLI_PAGE} is fresh");
        return Ok(());
    }
    if options.check {
        bail!("{CLI_PAGE} is not what the program says; run `cargo xtask gen`");
    }
    fs::write(&page, fresh).with_context(|| format!("cannot write {CLI_PAGE}"))?;
    println!("wrote {CLI_PAGE}");
    Ok(())
}

/// For the test lane: the pages are what the program says now.
pub(crate) fn fresh(root: &Path) -> Result<()> {
    run(root, &Options { check: true })
}

fn cli(binary: &Path) -> Result<String> {
    let top = help(binary, &["--help"])?;
    let mut page =
        String::from("# Commands\n\nPrinted by `cargo xtask gen` from the program's own help; not edited by hand.\n\n");
    page += &block(&top);
    let names = commands(&top);
    if names.is_empty() {
        bail!("`holdfast --help` lists no commands");
    }
    for name in names {
        page += &format!("\n## holdfast {name}\n\n{}", block(&help(binary, &[&name, "--help"])?));
    }
    Ok(page)
}

fn block(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    format!("```text\n{}\n```\n", lines.join("\n").trim_end())
}

fn help(binary: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binary);
    command.args(arguments).env("COLUMNS", COLUMNS).env("NO_COLOR", "1");
    let out = command.output().with_context(|| format!("cannot run {}", binary.display()))?;
    if !out.status.success() {
        bail!("`holdfast {}` ended with {}", arguments.join(" "), out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Names in the list below `Commands:`, without `help`.
fn commands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| line.trim() != "Commands:").skip(1);
    list.take_while(|line| !line.trim().is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_the_help() {
        let text = "Keeps things up\n\nUsage: holdfast <COMMAND>\n\nCommands:\n  up      Start\n          wrapped words\n  status  Say how it is\n  help    Print this\n\nOptions:\n  -h\n";
        assert_eq!(commands(text), ["up", "status"]);
    }
}
