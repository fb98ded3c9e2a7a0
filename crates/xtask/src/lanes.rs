//! The lanes: `test` is what every change passes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::steps::Lane;
use crate::{install, tidy};

/// A cold build of everything on two cores takes minutes; twice that is a hang.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// The tests themselves stay under 15 minutes; more is a hang.
const TEST_LIMIT: Duration = Duration::from_secs(20 * 60);

pub(crate) fn test(root: &Path) -> Result<()> {
    install::ensure(install::TESTS)?;
    let mut lane = Lane::new()?;
    checks(root, &mut lane);
    lane.run("build", cargo(root, &["test", "--workspace", "--no-run", "--locked"]), BUILD_LIMIT);
    lane.tests("test", cargo(root, &["test", "--workspace", "--locked", "--no-fail-fast"]), TEST_LIMIT);
    lane.close()
}

/// What needs no running program.
fn checks(root: &Path, lane: &mut Lane) {
    lane.step("tidy", || tidy::run(root));
    match component(root, "fmt") {
        true => lane.run("format", cargo(root, &["fmt", "--all", "--check"]), BUILD_LIMIT),
        false => lane.skip("format", "rustfmt is not installed (rustup component add rustfmt)"),
    }
    match component(root, "clippy") {
        true => lane.run(
            "clippy",
            cargo(root, &["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"]),
            BUILD_LIMIT,
        ),
        false => lane.skip("clippy", "clippy is not installed (rustup component add clippy)"),
    }
    let mut doc = cargo(root, &["doc", "--workspace", "--no-deps", "--locked", "--quiet", "--document-private-items"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    lane.run("docs", doc, BUILD_LIMIT);
    match component(root, "deny") {
        true => lane.run(
            "licences",
            cargo(root, &["deny", "--locked", "--offline", "check", "bans", "licenses", "sources"]),
            BUILD_LIMIT,
        ),
        false => lane.skip("licences", "cargo-deny is not installed (cargo install cargo-deny --locked)"),
    }
}

/// Whether a cargo subcommand answers; asking rustup first installs what the toolchain file allows.
fn component(root: &Path, name: &str) -> bool {
    let answers = || cargo(root, &[name, "--version"]).output().is_ok_and(|out| out.status.success());
    if answers() {
        return true;
    }
    let part = match name {
        "fmt" => "rustfmt",
        "clippy" => "clippy",
        _ => return false,
    };
    println!("installing the {part} component");
    let added = Command::new("rustup").args(["component", "add", part]).current_dir(root).status();
    added.is_ok_and(|status| status.success()) && answers()
}

pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root);
    // Set by the `cargo run` around us; they would make the inner cargo rebuild what it has.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}
