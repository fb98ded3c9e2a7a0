//! Programs from outside that the lanes need: found on the machine, or installed from Debian's archive.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program, and the Debian package that brings it.
#[derive(Clone, Copy)]
pub(crate) struct Need {
    program: &'static str,
    package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// What the integration tests start beside holdfast: real programs and a load generator.
pub(crate) const TESTS: &[Need] = &[
    need("cc", "gcc"),
    need("haproxy", "haproxy"),
    need("nginx", "nginx"),
    need("wrk", "wrk"),
    need("taskset", "util-linux"),
    need("python3", "python3"),
    need("node", "nodejs"),
    need("curl", "curl"),
    need("ip", "iproute2"),
    need("nft", "nftables"),
    need("etcd", "etcd-server"),
    need("etcdctl", "etcd-client"),
    need("arping", "iputils-arping"),
    need("mkfs.ext4", "e2fsprogs"),
    need("named", "bind9"),
    need("dig", "bind9-dnsutils"),
    need("pg_createcluster", "postgresql"),
    need("mariadbd", "mariadb-server"),
    need("setpriv", "util-linux"),
    need("npm", "npm"),
    // By its path: what else is called `aws` is often the older one, which is no package of Debian.
    need("/usr/bin/aws", "awscli"),
];

/// What the lab is made of.
pub(crate) const LAB: &[Need] = &[
    need("unshare", "util-linux"),
    need("ip", "iproute2"),
    need("nft", "nftables"),
    need("etcd", "etcd-server"),
    need("etcdctl", "etcd-client"),
    need("arping", "iputils-arping"),
];

pub(crate) const SHOP: &[Need] =
    &[need("cc", "gcc"), need("nginx", "nginx"), need("python3", "python3"), need("node", "nodejs")];

pub(crate) const BENCH: &[Need] =
    &[need("haproxy", "haproxy"), need("nginx", "nginx"), need("wrk", "wrk"), need("taskset", "util-linux")];

/// Peers of the queues; those from npm come besides, into the cache. `pg_createcluster` is the server's, `psql` is not.
pub(crate) const BENCH_TASKS: &[Need] = &[
    need("rabbitmq-server", "rabbitmq-server"),
    need("epmd", "erlang-base"),
    need("pg_createcluster", "postgresql"),
    need("node", "nodejs"),
    need("npm", "npm"),
    need("taskset", "util-linux"),
];

pub(crate) const BARE: &[Need] =
    &[need("debootstrap", "debootstrap"), need("git", "git"), need("unshare", "util-linux")];

/// Daemons such as nginx live in sbin, which ordinary users do not search.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRS.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| executable(file))
}

fn executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The path of a program that `ensure` has seen.
pub(crate) fn path(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("{program} is not on this machine"))
}

/// Installs what is missing, as root by apt-get; otherwise says the exact command to run.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needs.iter().filter(|n| find(n.program).is_none()).map(|n| n.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if find("apt-get").is_none() {
        bail!("these programs are missing and there is no apt-get to install them: {packages}");
    }
    if !is_root() {
        bail!(
            "these programs are missing; run\n\n    sudo apt-get update && sudo apt-get install -y --no-install-recommends {packages}\n\nand then this command again"
        );
    }
    println!("installing {packages}");
    let quiet = NoAutostart::set()?;
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(&missing);
    let done = apt(&install);
    drop(quiet);
    done?;
    match needs.iter().find(|n| find(n.program).is_none()) {
        Some(still) => bail!("apt-get installed {} without giving a program `{}`", still.package, still.program),
        None => Ok(()),
    }
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .context("cannot run apt-get")?;
    if !status.success() {
        bail!("`apt-get {}` failed: {status}", arguments.join(" "));
    }
    Ok(())
}

pub(crate) fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|uids| uids.split_whitespace().nth(1).map(|effective| effective == "0"))
        .unwrap_or(false)
}

/// Debian starts a daemon when it is installed; while this value lives it does not (policy-rc.d).
struct NoAutostart {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# Written by holdfast's `cargo xtask` while it installs packages; remove it if found.\nexit 101\n";

impl NoAutostart {
    fn set() -> Result<NoAutostart> {
        use std::os::unix::fs::PermissionsExt;
        let stale = fs::read_to_string(POLICY).is_ok_and(|text| text == POLICY_TEXT);
        if Path::new(POLICY).exists() && !stale {
            return Ok(NoAutostart { ours: false });
        }
        fs::write(POLICY, POLICY_TEXT).with_context(|| format!("cannot write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {POLICY} executable"))?;
        Ok(NoAutostart { ours: true })
    }
}

impl Drop for NoAutostart {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("warning: cannot remove {POLICY}: {error}; remove it, or no service will start when installed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
        assert!(path("no-such-program-here").is_err());
    }
}
