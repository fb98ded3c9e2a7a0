//! `cargo xtask lab`: the lab of the tests, to walk around in.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process::{self, left_behind};
use crate::{install, lanes, steps};

#[derive(Args)]
pub(crate) struct Options {
    /// Machines, node-1 and so on
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Members of etcd, each on a machine of its own
    #[arg(long, default_value_t = 3)]
    etcd: u32,
    /// Members of etcd on the first nodes instead
    #[arg(long)]
    etcd_on_nodes: bool,
    /// The disk of each node is in memory and has this many MiB, so that it can be full
    #[arg(long, value_name = "MIB")]
    disk: Option<u32>,
}

/// The whole workspace is named, so that cargo chooses the same features of libraries as for the tests.
const BUILD: &[&str] = &["build", "--locked", "--workspace", "--bin", "holdfast", "--bin", "holdfast-lab"];

/// Only an upper end: it lasts until Ctrl-C.
const LAB_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

const GONE_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    install::ensure(install::LAB)?;
    let stop = steps::on_interrupt()?;
    println!("building holdfast and the lab");
    process::run(lanes::cargo(root, BUILD), lanes::BUILD_LIMIT, &stop)?;
    let binaries = process::target_dir(root).join("debug");
    let mut lab = Command::new(binaries.join("holdfast-lab"));
    lab.args(["--nodes", &options.nodes.to_string(), "--etcd", &options.etcd.to_string()]);
    lab.args(options.etcd_on_nodes.then_some("--etcd-on-nodes"));
    lab.args(options.disk.map(|mib| format!("--disk={mib}")));
    println!("holdfast is {}; Ctrl-C ends the lab\n", binaries.join("holdfast").display());
    // A place of its own, so that what is left behind can be told from other labs.
    let folder = std::env::temp_dir().join(format!("holdfast-xtask-lab-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    lab.env("TMPDIR", &folder);
    let ended = process::run(lab, LAB_LIMIT, &stop);
    wait_gone(&folder)?;
    println!("\nthe lab has gone; nothing is left behind");
    if stop.load(Ordering::Relaxed) { Ok(()) } else { ended }
}

/// It cleans up behind itself also when it was killed; this only looks.
fn wait_gone(folder: &Path) -> Result<()> {
    let deadline = Instant::now() + GONE_LIMIT;
    // Removed only when it is empty.
    while !left_behind(folder).is_empty() || fs::remove_dir(folder).is_err() {
        if Instant::now() > deadline {
            bail!("left behind: {} {}", folder.display(), left_behind(folder).join("; "));
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
