//! Other versions of etcd than the installed one, for tests: from later Debian releases, unpacked beside the system.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::install;

/// Releases after the one that the tests run on; their binaries need no library that it lacks.
const RELEASES: [&str; 2] = ["trixie", "forky"];

/// Of Debian's archive, as every Debian machine has it.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

pub(crate) fn fetch() -> Result<()> {
    let cache = cache()?;
    for release in RELEASES {
        let work = cache.join(format!("{release}.part"));
        let fetched = one(release, &work, &cache);
        // Lists and package are of no more use, whatever became of it.
        if work.exists() {
            fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
        }
        println!("{}", fetched?.display());
    }
    Ok(())
}

/// As the fixture of crate `cluster` looks for it.
fn cache() -> Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(base.join("holdfast/etcd"))
}

fn one(release: &str, work: &Path, cache: &Path) -> Result<PathBuf> {
    for dir in ["state/lists/partial", "cache/archives/partial", "root"] {
        fs::create_dir_all(work.join(dir)).with_context(|| format!("cannot make {}", work.join(dir).display()))?;
    }
    let source = format!("deb [signed-by={KEYS}] http://deb.debian.org/debian {release} main\n");
    fs::write(work.join("sources.list"), source)?;
    apt(work, &["update", "-q"])?;
    apt(work, &["download", "-q", "etcd-server"])?;
    let package = fs::read_dir(work)?.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "deb"));
    let package = package.with_context(|| format!("apt-get downloaded no etcd-server of {release}"))?;
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(work.join("root")))?;
    let binary = work.join("root/usr/bin/etcd");
    let version = version(&binary)?;
    let kept = cache.join(&version).join("etcd");
    fs::create_dir_all(cache.join(&version))?;
    fs::copy(&binary, &kept).with_context(|| format!("cannot keep {}", kept.display()))?;
    Ok(kept)
}

fn version(binary: &Path) -> Result<String> {
    let output =
        Command::new(binary).arg("--version").output().with_context(|| format!("cannot run {}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: ")).context("etcd tells no version")?;
    Ok(version.trim().to_owned())
}

/// With lists of its own: what the machine knows of its packages stays as it is.
fn apt(work: &Path, arguments: &[&str]) -> Result<()> {
    let own = |name: &str, path: &str| format!("{name}={}", work.join(path).display());
    let options = [
        own("Dir::State", "state"),
        own("Dir::Cache", "cache"),
        own("Dir::Etc::sourcelist", "sources.list"),
        "Dir::Etc::sourceparts=-".into(),
        "Dir::State::status=/dev/null".into(),
        "APT::Sandbox::User=root".into(),
        "Acquire::Languages=none".into(),
    ];
    let mut command = Command::new(install::path("apt-get")?);
    options.iter().for_each(|option| {
        command.args(["-o", option]);
    });
    run(command.args(arguments).current_dir(work))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?} failed: {status}", command.get_program());
    }
    Ok(())
}
