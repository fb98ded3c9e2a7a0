//! `cargo xtask bare`: the README's commands in a fresh Debian 12 with nothing but Rust and its linker,
//! and an empty cargo home.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{install, process, steps};

#[derive(Args)]
pub(crate) struct Options {
    /// Run this instead of the README's commands; may be given several times
    #[arg(long)]
    run: Vec<String>,
    /// Where to build the root; about 6 GB
    #[arg(long, default_value = "/var/tmp")]
    folder: PathBuf,
    /// Keep the root when done
    #[arg(long)]
    keep: bool,
    /// Enter a root that was kept, with the checkout as it is now, instead of making one; it is kept again
    #[arg(long, value_name = "DIR", conflicts_with = "folder")]
    root: Option<PathBuf>,
}

/// What "a machine with Rust" has: Rust cannot link the smallest program without these.
const INCLUDED: &str = "ca-certificates,gcc,libc6-dev";

const DEBOOTSTRAP_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Download, build and run of everything, twice over.
const COMMAND_LIMIT: Duration = Duration::from_secs(90 * 60);

/// How this machine reaches Debian's archive and the crates registry, where it is told to by files.
const ACCESS_FILES: &[&str] = &["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"];

/// The same, where it is told to by the environment.
const ACCESS_VARIABLES: &[&str] =
    &["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE"];

/// The README's block of commands stands behind this line.
const MARK: &str = "<!-- run by cargo xtask bare -->";

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    if !install::is_root() {
        println!("skipped: only root can make and enter a Debian root");
        return Ok(());
    }
    install::ensure(install::BARE)?;
    let stop = steps::on_interrupt()?;
    let commands = if options.run.is_empty() { readme_commands(root)? } else { options.run.clone() };
    let bare = match &options.root {
        Some(kept) => Bare::again(root, kept)?,
        None => Bare::make(root, &options.folder, &stop)?,
    };
    let passed = commands.iter().try_for_each(|command| bare.timed(command, &stop));
    if options.keep || options.root.is_some() {
        println!("\nkept; enter it again with `cargo xtask bare --root {}`", bare.dir.display());
    } else {
        bare.remove()?;
    }
    passed?;
    println!("\n{} commands passed in a bare Debian 12", commands.len());
    Ok(())
}

/// The lines of the marked block; the demo is asked to end by itself.
fn readme_commands(root: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(root.join("README.md")).context("cannot read README.md")?;
    let commands = marked_block(&text);
    if commands.is_empty() {
        bail!("README.md has no commands behind `{MARK}`");
    }
    let once = |line: String| if line.starts_with("cargo xtask demo") { format!("{line} --once") } else { line };
    Ok(commands.into_iter().map(once).collect())
}

fn marked_block(text: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| line.trim() != MARK).skip_while(|line| !line.starts_with("```")).skip(1);
    lines
        .take_while(|line| !line.starts_with("```"))
        .map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

struct Bare {
    dir: PathBuf,
}

impl Bare {
    fn make(root: &Path, folder: &Path, stop: &Arc<AtomicBool>) -> Result<Bare> {
        let dir = folder.join(format!("holdfast-bare-{}", std::process::id()));
        let bare = Bare { dir };
        println!("making a Debian 12 root in {}", bare.dir.display());
        let mut debootstrap = Command::new(install::path("debootstrap")?);
        debootstrap
            .args(["--variant=minbase", &format!("--include={INCLUDED}"), "bookworm"])
            .arg(&bare.dir)
            .arg(mirror());
        debootstrap.stdout(Stdio::null());
        process::run(debootstrap, DEBOOTSTRAP_LIMIT, stop)?;
        bare.copy_access()?;
        bare.copy_rust()?;
        bare.copy_checkout(root)?;
        Ok(bare)
    }

    /// A root that was kept: what was built in it stays, the checkout is copied again.
    fn again(root: &Path, kept: &Path) -> Result<Bare> {
        let dir = std::path::absolute(kept).with_context(|| format!("cannot find {}", kept.display()))?;
        if !dir.join("opt/rust/bin/cargo").exists() {
            bail!("{} is no root that `cargo xtask bare --keep` has left", dir.display());
        }
        let bare = Bare { dir };
        for entry in fs::read_dir(bare.inside("/src")).context("cannot list the old checkout")? {
            let path = entry?.path();
            match path.is_dir() {
                true if path.ends_with("target") => {}
                true => fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?,
                false => fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?,
            }
        }
        bare.copy_checkout(root)?;
        Ok(bare)
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }

    fn copy_access(&self) -> Result<()> {
        for file in ACCESS_FILES.iter().filter(|file| Path::new(file).exists()) {
            let to = self.inside(file);
            // Often a link that leads out of the new root.
            let _ = fs::remove_file(&to);
            fs::copy(file, &to).with_context(|| format!("cannot copy {file}"))?;
        }
        let _ = fs::remove_file(self.inside("/etc/apt/sources.list"));
        sh(
            "cp -a /etc/apt/sources.list* /etc/apt/auth.conf.d /etc/apt/apt.conf.d /etc/apt/trusted.gpg.d \"$1/etc/apt/\" 2>/dev/null; true",
            &[&self.dir],
        )?;
        let home = self.inside("/root/.cargo");
        fs::create_dir_all(&home)?;
        let ours = cargo_home();
        for name in ["config.toml", "config"] {
            let from = ours.join(name);
            if from.is_file() {
                fs::copy(&from, home.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
            }
        }
        Ok(())
    }

    fn copy_rust(&self) -> Result<()> {
        let out = Command::new("rustc").args(["--print", "sysroot"]).output().context("cannot run rustc")?;
        let sysroot = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
        println!("copying Rust from {}", sysroot.display());
        sh(
            "mkdir -p \"$2/opt/rust/lib\" && cp -a \"$1/bin\" \"$2/opt/rust/\" && cp -a \"$1/lib/.\" \"$2/opt/rust/lib/\" && { [ ! -d \"$1/libexec\" ] || cp -a \"$1/libexec\" \"$2/opt/rust/\"; }",
            &[&sysroot, &self.dir],
        )
    }

    /// What git would hand over, with changes not committed yet.
    fn copy_checkout(&self, root: &Path) -> Result<()> {
        sh(
            "mkdir -p \"$2/src\" && cd \"$1\" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -c | tar -x -C \"$2/src\"",
            &[root, &self.dir],
        )
    }

    fn timed(&self, line: &str, stop: &Arc<AtomicBool>) -> Result<()> {
        println!("\n==> in the bare root: {line}");
        let began = Instant::now();
        let result = self.run(line, stop);
        println!("==> {} s", began.elapsed().as_secs());
        result.with_context(|| format!("in the bare root, `{line}`"))
    }

    /// Runs a line in the root, in mount and process namespaces that end with it.
    fn run(&self, line: &str, stop: &Arc<AtomicBool>) -> Result<()> {
        // The root is a mount of its own, as a machine's is: making namespaces inside needs that.
        let enter = "mount --bind \"$1\" \"$1\" && mount -t proc proc \"$1/proc\" && mount --rbind /sys \"$1/sys\" && mount --rbind /dev \"$1/dev\" && exec chroot \"$1\" /bin/sh -c \"cd /src && $2\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", enter, "sh"])
            .arg(&self.dir)
            .arg(line);
        command.env_clear();
        command
            .env("PATH", "/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root");
        for (name, value) in std::env::vars().filter(|(name, _)| passed_on(name)) {
            command.env(name, value);
        }
        process::run(command, COMMAND_LIMIT, stop)
    }

    fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }
}

/// Access to registries, and nothing secret or machine-dependent besides.
fn passed_on(name: &str) -> bool {
    ACCESS_VARIABLES.contains(&name)
        || name == "TERM"
        || name.starts_with("CARGO_HTTP_")
        || name.starts_with("CARGO_NET_")
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// The archive this machine installs from.
fn mirror() -> String {
    let files = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    let text: String = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    text.lines()
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .flat_map(str::split_whitespace)
        .find(|word| word.contains("://"))
        .unwrap_or("http://deb.debian.org/debian")
        .to_owned()
}

fn sh(script: &str, arguments: &[&Path]) -> Result<()> {
    let status =
        Command::new("/bin/sh").args(["-euc", script, "sh"]).args(arguments).status().context("cannot run sh")?;
    if !status.success() {
        bail!("`{script}` ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_from_the_marked_block_alone() {
        let text = format!(
            "```sh\nno\n```\n{MARK}\n\n```sh\ncargo xtask demo     # the shop\n\ncargo xtask test\n```\n```sh\nno\n```\n"
        );
        assert_eq!(marked_block(&text), ["cargo xtask demo", "cargo xtask test"]);
    }

    #[test]
    fn secrets_are_not_passed_on() {
        assert!(passed_on("https_proxy") && passed_on("CARGO_HTTP_CAINFO"));
        assert!(!passed_on("CARGO_REGISTRY_TOKEN") && !passed_on("AWS_SECRET_ACCESS_KEY"));
    }
}
