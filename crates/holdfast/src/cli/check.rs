//! `holdfast check`: every error, warning and single point of failure of the file, at once. Needs no agent.

use holdfast_config::{Config, Diagnostic, Loaded, Severity, Source};
use serde_json::json;

use super::{Common, print_json, print_text};
use crate::failure::{Exit, Failure};
use crate::terminal::{Style, plural, width, width_of_stderr};

/// Wider snippets are harder to read than wrapped ones.
const WIDTH_MAX: usize = 100;

/// A file that may be applied.
#[derive(Debug)]
pub(super) struct Readable {
    pub(super) config: Config,
    pub(super) path: String,
    pub(super) text: String,
}

pub(super) fn run(common: &Common, strict: bool) -> Result<Exit, Failure> {
    let (source, diagnostics, config) = match Config::load(&common.file) {
        Ok(Loaded { config, source, warnings }) => (source, warnings, Some(config)),
        Err(failed) => (failed.source, failed.diagnostics, None),
    };
    let errors = count(&diagnostics, Severity::Error);
    let warnings = count(&diagnostics, Severity::Warning);
    if common.json {
        print_json(&json!({ "ok": errors == 0, "diagnostics": holdfast_config::to_json(&diagnostics, &source) }))?;
    } else {
        print_text(&render(&diagnostics, &source, Style::stdout(), width()));
        print_text(&summary(common, config.as_ref(), &diagnostics));
    }
    Ok(if errors > 0 || (strict && warnings > 0) { Exit::Failed } else { Exit::Ok })
}

/// For commands that need a valid file: errors are printed in full, warnings are left to `check`.
pub(super) fn load(common: &Common) -> Result<Readable, Failure> {
    match Config::load(&common.file) {
        Ok(loaded) => {
            let path = std::path::absolute(&loaded.source.path).unwrap_or_else(|_| loaded.source.path.clone());
            Ok(Readable {
                config: loaded.config,
                path: path.to_string_lossy().into_owned(),
                text: loaded.source.text().to_owned(),
            })
        }
        Err(failed) => {
            let errors: Vec<Diagnostic> = failed.diagnostics.into_iter().filter(Diagnostic::is_error).collect();
            if !common.json {
                eprint!("{}", render(&errors, &failed.source, Style::stderr(), width_of_stderr()));
            }
            let mut failure = Failure::new(
                errors.first().map_or("HF0101", |e| e.code),
                format!("{} has {}; nothing was changed", common.file.display(), plural(errors.len(), "error")),
            );
            for error in &errors {
                failure = failure.because(format!("{}: {}", error.code, error.message));
            }
            failure.shown = !common.json;
            Err(failure)
        }
    }
}

fn render(diagnostics: &[Diagnostic], source: &Source, style: Style, width: usize) -> String {
    holdfast_config::render(diagnostics, source, style.is_colored(), width.min(WIDTH_MAX))
}

fn count(diagnostics: &[Diagnostic], severity: Severity) -> usize {
    diagnostics.iter().filter(|d| d.severity == severity).count()
}

fn summary(common: &Common, config: Option<&Config>, diagnostics: &[Diagnostic]) -> String {
    let file = common.file.display();
    let found = holdfast_config::summary(diagnostics);
    match config {
        None => format!("\n{file}: {found}\n"),
        Some(config) => {
            let mut nouns = vec![
                plural(config.services.len(), "service"),
                plural(config.balancers.len(), "balancer"),
                plural(config.drills.len(), "drill"),
            ];
            let tasks = [
                ("queue", config.queues.len()),
                ("worker", config.workers.len()),
                ("workflow", config.workflows.len()),
            ];
            nouns.extend(tasks.iter().filter(|(_, many)| *many > 0).map(|(noun, many)| plural(*many, noun)));
            let (before, after) = if found.is_empty() { ("", "") } else { ("\n", "; ") };
            format!("{before}{file}: ok, {}{after}{found}\n", nouns.join(", "))
        }
    }
}
