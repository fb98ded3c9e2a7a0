//! What can keep a drill from being run at all. A drill that ran and missed its targets is a report, no error.

use std::io;
use std::path::PathBuf;

use holdfast_policy::drill::Refusal;

use crate::system::Unanswered;

#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    #[error("drill {drill} was not started: {}", list(reasons))]
    Refused { drill: String, reasons: Vec<Refusal> },
    #[error("another drill is under way (its lock {} is held)", lock.display())]
    AnotherRunning { lock: PathBuf },
    #[error("drill {drill} cannot be aimed: {because}")]
    NoTarget { drill: String, because: String },
    #[error("cannot start the guard that would undo the drill: {because}")]
    Guard { because: String },
    #[error("cannot {operation} the undo journal {}: {source}", path.display())]
    Journal { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("the system does not answer: {0}")]
    System(#[from] Unanswered),
    #[error("cannot inject {fault} into {target}: {because}")]
    Inject { fault: &'static str, target: String, because: String },
    #[error("drill {drill} was stopped by the operator before anything was injected")]
    Interrupted { drill: String },
    #[error("cannot start the prober: {0}")]
    Prober(io::Error),
}

fn list(reasons: &[Refusal]) -> String {
    reasons.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; ")
}

impl DrillError {
    pub fn code(&self) -> &'static str {
        match self {
            DrillError::Refused { .. } => "HF0601",
            DrillError::AnotherRunning { .. } => "HF0602",
            DrillError::NoTarget { .. } => "HF0603",
            DrillError::Guard { .. } => "HF0604",
            DrillError::Journal { .. } => "HF0605",
            DrillError::System(_) => "HF0606",
            DrillError::Inject { .. } => "HF0607",
            DrillError::Prober(_) => "HF0608",
            DrillError::Interrupted { .. } => "HF0609",
        }
    }

    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            DrillError::Refused { reasons, .. } => match reasons.first()? {
                Refusal::Paused(_) => "`holdfast resume`, then drill again",
                Refusal::TooFewLeft { .. } => "more replicas: `holdfast scale NAME N`",
                Refusal::OnlyPlane => "set `balancer_processes = 2` under [node]",
                Refusal::ProbesFailing { .. } | Refusal::NothingProbed => {
                    "ask the balancer by hand: `curl -v http://ADDRESS/PATH`; the drill's `path` must answer below 500"
                }
                _ => "`holdfast status` says what is wrong and what to do",
            },
            DrillError::AnotherRunning { .. } => "wait for it to end, or end it with Ctrl-C where it runs",
            DrillError::NoTarget { .. } => "`holdfast status` lists services, instances and balancers",
            DrillError::Guard { .. } => "nothing was injected; free memory or process slots and try again",
            DrillError::Journal { .. } => "check free space and permissions of the data directory",
            DrillError::System(_) => "`holdfast status`; start it with `holdfast up`",
            DrillError::Inject { .. } => "what was injected so far was undone; `holdfast status`",
            DrillError::Prober(_) | DrillError::Interrupted { .. } => return None,
        };
        Some(hint.to_owned())
    }

    /// 5 where a rule refused, 130 for Ctrl-C, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            DrillError::Refused { .. } | DrillError::AnotherRunning { .. } => 5,
            DrillError::Interrupted { .. } => 130,
            _ => 1,
        }
    }
}
