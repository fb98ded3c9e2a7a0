//! Peers from npm: what their lock file names, in the cache, with the scripts that drive them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{install, process};

/// In the repository.
const SOURCES: &str = "crates/xtask/peers/tasks";

const LOCK: &str = "package-lock.json";

/// The lock file of what is installed: the last thing that is written.
const INSTALLED: &str = "installed.json";

/// 120 MB over a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(15 * 60);

pub(super) struct Peers {
    pub(super) dir: PathBuf,
    /// Both peers need a later one than Debian has.
    pub(super) node: PathBuf,
}

pub(super) fn ensure(root: &Path, stop: &AtomicBool) -> Result<Peers> {
    let dir = cache()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let sources = root.join(SOURCES);
    for entry in fs::read_dir(&sources).with_context(|| format!("cannot list {}", sources.display()))? {
        let path = entry?.path();
        let to = dir.join(path.file_name().unwrap_or_default());
        fs::copy(&path, &to).with_context(|| format!("cannot copy {} to {}", path.display(), to.display()))?;
    }
    let wanted = fs::read(sources.join(LOCK)).with_context(|| format!("cannot read {SOURCES}/{LOCK}"))?;
    let installed = dir.join(INSTALLED);
    if fs::read(&installed).ok().as_ref() != Some(&wanted) {
        println!("installing pg-boss, graphile-worker and node in {}", dir.display());
        let mut command = Command::new(install::path("npm")?);
        // No script of a package runs here.
        command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(&dir);
        process::run(command, INSTALL_LIMIT, stop)?;
        fs::write(&installed, &wanted).with_context(|| format!("cannot write {}", installed.display()))?;
    }
    let node = node_in(&dir).with_context(|| format!("npm installed no node in {}", dir.display()))?;
    Ok(Peers { dir, node })
}

fn node_in(dir: &Path) -> Option<PathBuf> {
    ["x64", "arm64"]
        .map(|arch| dir.join(format!("node_modules/node-linux-{arch}/bin/node")))
        .into_iter()
        .find(|p| p.is_file())
}

fn cache() -> Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("holdfast/bench-tasks"))
}

/// `pg-boss 12.38.0`, as it is installed.
pub(super) fn version(peers: &Peers, package: &str) -> String {
    let file = peers.dir.join("node_modules").join(package).join("package.json");
    let text = fs::read_to_string(file).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    format!("{package} {}", value["version"].as_str().unwrap_or("unknown"))
}
