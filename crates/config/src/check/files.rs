//! Programs and files that are not there yet. Only warnings: they may still come, and the shim says so at exec if not.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Command, Config, Service, Value};
use crate::reader::Findings;

pub(crate) fn check(out: &mut Findings, config: &Config) {
    for service in config.services.values() {
        let path = format!("service.{}", service.name);
        if !service.workdir.is_dir() {
            let what = format!("there is no directory {}", service.workdir.display());
            not_there(out, &format!("{path}.workdir"), what, "create it");
            continue;
        }
        program(out, service, &path);
        for (n, file) in service.env_files.iter().enumerate() {
            readable(out, &format!("{path}.env_files[{n}]"), file);
        }
        for (name, value) in &service.env {
            if let Value::File(file) = value {
                readable(out, &format!("{path}.env.{name}"), file);
            }
        }
    }
}

fn program(out: &mut Findings, service: &Service, path: &str) {
    let Command::Argv(argv) = &service.command else { return };
    let Some(name) = argv.first().filter(|name| !name.contains('{')) else { return };
    let at = format!("{path}.command");
    if name.contains('/') {
        let file = service.workdir.join(name);
        if !file.is_file() {
            not_there(
                out,
                &at,
                format!("there is no program {}", file.display()),
                "build or install it, or correct the path",
            );
        } else if !is_executable(&file) {
            let hint = format!("chmod +x {}", file.display());
            not_there(out, &at, format!("{} is not executable", file.display()), &hint);
        }
        return;
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&search).any(|dir| is_executable(&dir.join(name))) {
        not_there(out, &at, format!("there is no program `{name}` in PATH"), "install it, or write the whole path");
    }
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn readable(out: &mut Findings, at: &str, file: &Path) {
    if let Err(error) = std::fs::File::open(file) {
        let what = match error.kind() {
            std::io::ErrorKind::NotFound => format!("there is no file {}", file.display()),
            _ => format!("cannot read {}: {error}", file.display()),
        };
        not_there(out, at, what, "it is read each time an instance starts; without it none does");
    }
}

fn not_there(out: &mut Findings, at: &str, what: String, hint: &str) {
    let span = out.spans.value(at);
    out.push(Diagnostic::new(Severity::Warning, code::NOT_THERE, what).at(span, "not there when checked").hint(hint));
}
