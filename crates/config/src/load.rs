//! The way in: a path or a text, to a configuration with its warnings, or to everything that is wrong with it.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::check::{Environment, check};
use crate::code;
use crate::diagnostic::{Diagnostic, Severity, Source};
use crate::model::Config;
use crate::reader::Findings;

/// A larger file is a mistake (a log, a binary), not a configuration.
const FILE_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub source: Source,
    /// Warnings and advice, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

/// The file is refused. `diagnostics` holds every error, and the warnings too, in the order of the file.
#[derive(Debug)]
pub struct Failed {
    pub source: Source,
    pub diagnostics: Vec<Diagnostic>,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let errors = self.diagnostics.iter().filter(|d| d.is_error()).count();
        let plural = if errors == 1 { "" } else { "s" };
        write!(f, "{}: {errors} error{plural}", self.source.path.display())
    }
}

impl std::error::Error for Failed {}

impl Config {
    /// Reads and checks a file against this machine.
    pub fn load(path: &Path) -> Result<Loaded, Failed> {
        let unreadable = |message: String, hint: &str| Failed {
            source: Source::new(path, ""),
            diagnostics: vec![Diagnostic::new(Severity::Error, code::UNREADABLE, message).hint(hint)],
        };
        let shown = path.display();
        let bytes = std::fs::read(path).map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "name the file with -f FILE, or create it; the README shows a first one"
                }
                std::io::ErrorKind::PermissionDenied => "its permissions must let this user read it",
                _ => "check the path",
            };
            unreadable(format!("cannot read {shown}: {error}"), hint)
        })?;
        if bytes.len() > FILE_BYTES_MAX {
            return Err(unreadable(format!("{shown} is larger than 4 MiB"), "is this the right file?"));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            unreadable(format!("{shown} is not UTF-8 text (line {line})"), "save it as UTF-8")
        })?;
        read(&text, path, &Environment::here(), true)
    }
}

/// Reads and checks a text as if it stood in a file at `path`. Nothing on disk is looked at.
pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Loaded, Failed> {
    read(text, path, environment, false)
}

fn read(text: &str, path: &Path, environment: &Environment, look_at_files: bool) -> Result<Loaded, Failed> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base = absolute.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
    let mut source = Source::new(path, text);
    let mut out = Findings::new(base, text);
    let sound = crate::syntax::sound_part(text);
    let (file, _) = DeTable::parse_recoverable(&sound.text);
    let config = crate::read::read(&mut out, file.get_ref(), environment);
    if sound.faults.is_empty() {
        check(&mut out, &config, environment);
        if look_at_files {
            crate::check::files::check(&mut out, &config);
        }
    } else {
        // What is missing or contradicts itself may stand in the part that cannot be read.
        let certain = [code::UNKNOWN_KEY, code::WRONG_TYPE, code::BAD_VALUE, code::BAD_NAME];
        out.diagnostics.retain(|d| certain.contains(&d.code));
    }
    source.hide(std::mem::take(&mut out.secrets));
    let mut diagnostics = out.diagnostics;
    diagnostics.extend(sound.faults);
    diagnostics.sort_by_key(|d| (d.labels.first().map_or(0, |l| l.span.start), d.severity));
    if diagnostics.iter().any(Diagnostic::is_error) {
        diagnostics.retain(|d| d.severity != Severity::Advice);
        return Err(Failed { source, diagnostics });
    }
    Ok(Loaded { config, source, warnings: diagnostics })
}
