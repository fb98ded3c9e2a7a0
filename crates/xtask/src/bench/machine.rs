//! The machine a measurement was taken on, and the CPU time of its processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{install, process};

/// `/proc` counts CPU time in hundredths of a second on every Linux that users see (USER_HZ).
const TICKS_PER_SECOND: u64 = 100;

/// The proxies get the first half of the CPUs, load and backends the rest.
pub(crate) struct Cores {
    pub(crate) proxies: String,
    pub(crate) load: String,
    pub(crate) proxy_count: usize,
}

impl Cores {
    pub(crate) fn split() -> Result<Cores> {
        let count = std::thread::available_parallelism()?.get();
        if count < 2 {
            bail!("two CPUs are needed: one for the proxy, one for load and backends");
        }
        let half = count / 2;
        let range = |from: usize, to: usize| if from == to { from.to_string() } else { format!("{from}-{to}") };
        Ok(Cores { proxies: range(0, half - 1), load: range(half, count - 1), proxy_count: half })
    }

    pub(crate) fn command(cores: &str, program: &Path) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", cores]).arg(program);
        command
    }
}

/// CPU time used so far, user and system, by every process that `belongs`.
pub(crate) fn cpu_by_process(belongs: impl Fn(u32) -> bool) -> BTreeMap<u32, Duration> {
    process::pids().into_iter().filter(|pid| belongs(*pid)).filter_map(|pid| Some((pid, cpu(pid)?))).collect()
}

fn cpu(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    ticks(&stat).map(|ticks| Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Fields 14 and 15, counted behind the name, which may hold spaces and brackets.
fn ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

pub(crate) fn conditions(cores: &Cores, binary: &Path) -> Result<Value> {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    Ok(json!({
        "kernel": kernel.trim(),
        "cpu": model.trim_start_matches(['\t', ' ', ':']),
        "cpus": std::thread::available_parallelism()?.get(),
        "proxy_cpus": cores.proxies,
        "load_cpus": cores.load,
        "load_average_before": load.split(' ').next().unwrap_or_default(),
        "versions": {
            "holdfast": first_line(binary, &["--version"])?,
            "haproxy": first_line(&install::path("haproxy")?, &["-v"])?,
            "nginx": first_line(&install::path("nginx")?, &["-v"])?,
            "wrk": first_line(&install::path("wrk")?, &["-v"])?,
        },
    }))
}

/// Versions go to stdout or stderr, with any exit code: wrk says 1.
fn first_line(program: &Path, arguments: &[&str]) -> Result<String> {
    let out =
        Command::new(program).args(arguments).output().with_context(|| format!("cannot run {}", program.display()))?;
    let text = [out.stdout, out.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stand_behind_the_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 100";
        assert_eq!(ticks(stat), Some(200));
        assert_eq!(ticks("no brackets"), None);
        let own = std::process::id();
        assert_eq!(cpu_by_process(|pid| pid == own).len(), 1);
    }
}
