//! The edge: what failed, where, because, a hint, a code, and the exit code of the process.

use std::fmt::{Display, Write as _};

use serde::{Deserialize, Serialize};

use crate::terminal::{Style, wrap};

/// Exit codes of every command; documented in `docs/reference/cli.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    Ok,
    Failed,
    /// `plan` found something to change.
    Changes,
    /// Something runs, but not all of it.
    Degraded,
    /// Not ready, or no agent to ask.
    Unhealthy,
    /// A guard rule said no; nothing was done.
    Refused,
    Usage,
    Interrupted,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Changes => 2,
            Exit::Degraded => 3,
            Exit::Unhealthy => 4,
            Exit::Refused => 5,
            Exit::Usage => 64,
            Exit::Interrupted => 130,
        }
    }
}

/// An error as a person, or a program with `--json`, sees it. It also travels over the API.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) what: String,
    #[serde(default)]
    pub(crate) because: Vec<String>,
    #[serde(default)]
    pub(crate) hint: Option<String>,
    pub(crate) exit: Exit,
    /// Already printed in full (diagnostics of the configuration).
    #[serde(default)]
    pub(crate) shown: bool,
}

impl Failure {
    pub(crate) fn new(code: &str, what: impl Into<String>) -> Self {
        Failure {
            code: code.into(),
            what: what.into(),
            because: Vec::new(),
            hint: None,
            exit: Exit::Failed,
            shown: false,
        }
    }

    pub(crate) fn because(mut self, cause: impl Display) -> Self {
        self.because.push(cause.to_string());
        self
    }

    /// The cause and everything behind it.
    pub(crate) fn because_of(mut self, error: &dyn std::error::Error) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            self.because.push(error.to_string());
            cause = error.source();
        }
        self.because.dedup();
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// At most `width` columns wide, where there are spaces to break at.
    pub(crate) fn render(&self, style: Style, width: usize) -> String {
        let lead = format!("error[{}]:", self.code);
        let what = wrap(&self.what, lead.len() + 1, 2, width);
        let mut text = format!("{} {}", style.red(&lead), style.bold(&what));
        for cause in &self.because {
            let _ = write!(text, "\n  because: {}", wrap(cause, 11, 11, width));
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\n  {} {}", style.cyan("hint:"), wrap(hint, 8, 8, width));
        }
        let _ = write!(text, "\n  more: holdfast explain {}", self.code);
        text
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.what)?;
        self.because.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for Failure {}
