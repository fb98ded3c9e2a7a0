//! What clients need beside this repository, made once and kept in the cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says of which recipe the environment was made; the last thing that is written into one.
const MADE: &str = "made-of";

pub(crate) struct Environment(PathBuf);

impl Environment {
    /// Python with these packages, each as `NAME==VERSION`.
    pub(crate) fn of_python(packages: &[&str]) -> Result<Environment, String> {
        let name = packages.join("-").replace("==", "-");
        Environment::keep(&format!("venv-{name}"), &packages.join("\n"), |dir| {
            succeed(Command::new("python3").args(["-m", "venv"]).arg(dir))?;
            let pip = ["-m", "pip", "install", "--quiet", "--retries", "1"];
            succeed(Command::new(dir.join("bin/python")).args(pip).args(packages))
        })
    }

    /// The environment of this name, made of this recipe. Whoever comes first makes it, others wait for its lock.
    pub(crate) fn keep(
        name: &str,
        recipe: &str,
        make: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<Environment, String> {
        let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
        let cache = Path::new(&home).join(".cache/holdfast");
        fs::create_dir_all(&cache).map_err(|e| format!("cannot create {}: {e}", cache.display()))?;
        let dir = cache.join(name);
        let lock =
            File::create(cache.join(format!("{name}.lock"))).map_err(|e| format!("cannot create the lock: {e}"))?;
        lock.lock().map_err(|e| format!("cannot lock: {e}"))?;
        if fs::read_to_string(dir.join(MADE)).is_ok_and(|made| made == recipe) {
            return Ok(Environment(dir));
        }
        // What an interrupted maker left behind is no environment.
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(|e| format!("cannot remove {}: {e}", dir.display()))?;
        }
        make(&dir)?;
        fs::write(dir.join(MADE), recipe).map_err(|e| format!("cannot write into {}: {e}", dir.display()))?;
        Ok(Environment(dir))
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.0.join(inside)
    }
}

pub(crate) fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
