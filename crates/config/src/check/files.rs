//! Programs and files that are not there yet. Only warnings: they may still come, and the shim says so at exec if not.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Command, Config, Service, StepWork, Undo, Value, Work, Workflow};
use crate::reader::Findings;

/// Where Linux keeps the time zones.
const ZONES: &str = "/usr/share/zoneinfo";

const FOR_INSTANCES: &str = "it is read each time an instance starts; without it none does";
const FOR_REQUESTS: &str = "without it, no request that this key signs is accepted";
const FOR_TRIES: &str = "it is read at each try; without it none can begin";

pub(crate) fn check(out: &mut Findings, config: &Config) {
    config.services.values().for_each(|of| service(out, of));
    for (name, worker) in &config.workers {
        let Work::Program(of) = &worker.work else { continue };
        let path = format!("worker.{name}");
        if is_dir(out, &path, &of.workdir) {
            if let Command::Argv(argv) = &of.command {
                program(out, &of.workdir, argv, &format!("{path}.command"));
            }
            values(out, &path, "env", &of.env, FOR_TRIES);
        }
    }
    config.workflows.values().for_each(|of| workflow(out, of));
    // In a cluster one machine alone reads them.
    let keeps_tasks = config.cluster.is_none()
        || config.tasks.as_ref().and_then(|tasks| tasks.node.as_ref()).is_some_and(|node| *node == config.node.name);
    for (name, key) in config.keys.iter().filter(|_| keeps_tasks) {
        if let Value::File(file) = &key.secret {
            readable(out, &format!("key.{name}.secret"), file, FOR_REQUESTS);
        }
    }
}

fn service(out: &mut Findings, service: &Service) {
    let path = format!("service.{}", service.name);
    if !is_dir(out, &path, &service.workdir) {
        return;
    }
    if let Command::Argv(argv) = &service.command {
        program(out, &service.workdir, argv, &format!("{path}.command"));
    }
    for (n, file) in service.env_files.iter().enumerate() {
        readable(out, &format!("{path}.env_files[{n}]"), file, FOR_INSTANCES);
    }
    values(out, &path, "env", &service.env, FOR_INSTANCES);
}

fn workflow(out: &mut Findings, workflow: &Workflow) {
    let zone = Path::new(ZONES).join(&workflow.timezone);
    if workflow.timezone != "UTC" && !zone.is_file() {
        let what = format!("there is no time zone {} in {ZONES}", workflow.timezone);
        let hint = "correct the name, or install the zones (package tzdata); without it no scheduled run starts";
        not_there(out, &format!("workflow.{}.timezone", workflow.name), what, hint);
    }
    for step in workflow.steps.values() {
        let path = format!("workflow.{}.step.{}", workflow.name, step.name);
        if step.runs_programs() && is_dir(out, &path, &step.workdir) {
            if let StepWork::Command(argv) = &step.work {
                program(out, &step.workdir, argv, &format!("{path}.command"));
            }
            if let Some(Undo::Command(argv)) = &step.undo {
                program(out, &step.workdir, argv, &format!("{path}.undo.command"));
            }
            values(out, &path, "env", &step.env, FOR_TRIES);
        }
        if let StepWork::Http(call) = &step.work {
            values(out, &path, "http.headers", &call.headers, FOR_TRIES);
        }
        if let Some(Undo::Http(call)) = &step.undo {
            values(out, &path, "undo.http.headers", &call.headers, FOR_TRIES);
        }
    }
}

fn is_dir(out: &mut Findings, path: &str, workdir: &Path) -> bool {
    let found = workdir.is_dir();
    if !found {
        let what = format!("there is no directory {}", workdir.display());
        not_there(out, &format!("{path}.workdir"), what, "create it");
    }
    found
}

fn values(out: &mut Findings, path: &str, key: &str, values: &BTreeMap<String, Value>, hint: &str) {
    for (name, value) in values {
        if let Value::File(file) = value {
            readable(out, &format!("{path}.{key}.{name}"), file, hint);
        }
    }
}

/// `at` is the place of the command in the file.
fn program(out: &mut Findings, workdir: &Path, argv: &[String], at: &str) {
    let Some(name) = argv.first().filter(|name| !name.contains('{')) else { return };
    if name.contains('/') {
        let file = workdir.join(name);
        if !file.is_file() {
            not_there(
                out,
                at,
                format!("there is no program {}", file.display()),
                "build or install it, or correct the path",
            );
        } else if !is_executable(&file) {
            let hint = format!("chmod +x {}", file.display());
            not_there(out, at, format!("{} is not executable", file.display()), &hint);
        }
        return;
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&search).any(|dir| is_executable(&dir.join(name))) {
        not_there(out, at, format!("there is no program `{name}` in PATH"), "install it, or write the whole path");
    }
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn readable(out: &mut Findings, at: &str, file: &Path, hint: &str) {
    if let Err(error) = std::fs::File::open(file) {
        let what = match error.kind() {
            std::io::ErrorKind::NotFound => format!("there is no file {}", file.display()),
            _ => format!("cannot read {}: {error}", file.display()),
        };
        not_there(out, at, what, hint);
    }
}

fn not_there(out: &mut Findings, at: &str, what: String, hint: &str) {
    let span = out.spans.value(at);
    out.push(Diagnostic::new(Severity::Warning, code::NOT_THERE, what).at(span, "not there when checked").hint(hint));
}
