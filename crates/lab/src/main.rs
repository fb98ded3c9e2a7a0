//! `holdfast-lab`: builds a lab, says how to enter each machine, and keeps it until its stdin ends or it is interrupted.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use holdfast_lab::{Error, Lab, Options};

/// A cluster of machines on this one, from network namespaces, with real etcd
#[derive(Parser)]
#[command(name = "holdfast-lab")]
struct Arguments {
    /// Machines, node-1 and so on, at 10.77.0.1 and so on
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Members of etcd, each on a machine of its own
    #[arg(long, default_value_t = 3)]
    etcd: usize,
    /// Members of etcd on the first nodes instead
    #[arg(long)]
    etcd_on_nodes: bool,
    /// The disk of each node is in memory and has this many MiB
    #[arg(long, value_name = "MIB")]
    disk: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let options = Options {
        machines: arguments.nodes,
        etcd: arguments.etcd,
        etcd_on_nodes: arguments.etcd_on_nodes,
        disk_bytes: arguments.disk.map(|mib| mib << 20),
        ..Options::default()
    };
    let lab = match Lab::build(&options) {
        Err(Error::Skipped { reason }) => anyhow::bail!("no lab can be built here: {reason}"),
        other => other?,
    };
    print(&lab)?;
    // A signal ends us without a word; the lab goes all the same.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn print(lab: &Lab) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "the lab is in {}\n", lab.dir().display())?;
    let machines = lab.machines().iter().chain(lab.etcd_machines()).map(|m| &**m).chain([lab.client()]);
    for machine in machines {
        writeln!(out, "{:<8} {:<12} {}", machine.name(), machine.addr(), machine.entrance().display())?;
    }
    if !lab.members().is_empty() {
        writeln!(
            out,
            "\non any of them: ETCDCTL_API=3 etcdctl --endpoints {} member list",
            lab.etcd_endpoints().join(",")
        )?;
    }
    out.flush()?;
    Ok(())
}
