//! Python environments with one version of boto3, made once and kept in the cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) struct Environment(PathBuf);

impl Environment {
    /// The environment with this version of boto3. Whoever comes first makes it, others wait for its lock.
    pub(crate) fn boto3(version: &str) -> Result<Environment, String> {
        let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
        let cache = Path::new(&home).join(".cache/holdfast");
        fs::create_dir_all(&cache).map_err(|e| format!("cannot create {}: {e}", cache.display()))?;
        let dir = cache.join(format!("venv-boto3-{version}"));
        let lock = File::create(cache.join(format!("venv-boto3-{version}.lock")))
            .map_err(|e| format!("cannot create the lock: {e}"))?;
        lock.lock().map_err(|e| format!("cannot lock: {e}"))?;
        let environment = Environment(dir);
        if !environment.works(version) {
            environment.make(version)?;
        }
        Ok(environment)
    }

    pub(crate) fn python(&self) -> PathBuf {
        self.0.join("bin/python")
    }

    fn works(&self, version: &str) -> bool {
        let check = format!("import boto3; assert boto3.__version__ == '{version}'");
        let status = Command::new(self.python()).args(["-c", &check]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    fn make(&self, version: &str) -> Result<(), String> {
        // What an interrupted maker left behind is no environment.
        if self.0.exists() {
            fs::remove_dir_all(&self.0).map_err(|e| format!("cannot remove {}: {e}", self.0.display()))?;
        }
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&self.0))?;
        let package = format!("boto3=={version}");
        succeed(Command::new(self.python()).args(["-m", "pip", "install", "--quiet", "--retries", "1", &package]))?;
        if self.works(version) { Ok(()) } else { Err(format!("{package} was installed and does not import")) }
    }
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
