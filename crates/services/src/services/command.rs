//! Probes that are commands: run with the instance's environment, judged by their exit code.

use std::process::Stdio;

use holdfast_config::Value;
use holdfast_host::process::{self, Table};
use tokio::process::Command;

use super::launch;
use crate::supervisor::{Outcome, Probe};

/// Kills the whole process group when a probe is given up at its timeout.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.0 else { return };
        for stat in Table::read().group(group) {
            let _ = process::signal(stat.identity(), 9);
        }
    }
}

pub(crate) async fn run(argv: &[String], probe: &Probe) -> Outcome {
    let fill = |text: &String| launch::fill(text, &probe.definition, &probe.instance, probe.port);
    let mut words = argv.iter().map(fill);
    let Some(program) = words.next() else { return Outcome::Late };
    let mut command = Command::new(program);
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    command.current_dir(&probe.definition.service.workdir);
    for (name, value) in &probe.definition.service.env {
        match value {
            Value::Plain(text) => drop(command.env(name, fill(text))),
            // The reference is resolved here, as it is for the instance, and goes nowhere but into the environment.
            Value::File(path) => {
                drop(std::fs::read_to_string(path).map(|text| command.env(name, text.trim_end_matches('\n'))))
            }
            Value::Env(from) => drop(std::env::var_os(from).map(|text| command.env(name, text))),
        }
    }
    probe.port.map(|port| command.env("PORT", port.to_string()));
    let Ok(mut child) = command.spawn() else { return Outcome::ConnectError };
    let mut group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()));
    let status = child.wait().await;
    group.0 = None;
    match status.map(|s| s.code()) {
        Ok(Some(0)) => Outcome::Pass,
        Ok(code) => Outcome::Refused(code.unwrap_or(-1)),
        Err(_) => Outcome::ConnectError,
    }
}
