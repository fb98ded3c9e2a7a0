//! What a drill says when it is over. The JSON only grows.

use holdfast_policy::drill::Refusal;
use serde::Serialize;

use crate::error::DrillError;
use crate::prober::queue::Kept;
use crate::spec::Spec;
use crate::watcher::Outside;

/// All drills of one call; its JSON is what `holdfast drill --json` prints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reports {
    pub drills: Vec<Report>,
}

/// Times are milliseconds from the injection; absent means that it was not seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub name: String,
    pub fault: &'static str,
    pub target: String,
    /// From the incident in the journal.
    pub detected_ms: Option<f64>,
    /// From the incident in the journal; for a crash loop since the last kill.
    pub recovered_ms: Option<f64>,
    /// `incident`, or `status` where no incident was recorded and the drill itself saw all well again.
    pub recovered_from: Option<&'static str>,
    /// When the balancer stopped giving requests to what was struck.
    pub rotated_out_ms: Option<f64>,
    /// Requests that ended after the injection, and those of them that failed.
    pub requests: u64,
    pub failed: u64,
    /// Of the failed ones, those already in flight at the injection.
    pub failed_in_flight: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    /// First failed request to the first of ten good ones in a row.
    pub outage_ms: Option<f64>,
    /// How late the prober itself sent at worst; it is part of the latencies.
    pub sent_late_ms: f64,
    /// Restarts of what the drill did not kill.
    pub restarts: u32,
    /// What became of the probes of a queue; absent where a balancer was asked.
    pub kept: Option<Kept>,
    /// Seen at the struck instance's own endpoint.
    pub outside: Outside,
    pub injected_boot_ns: u64,
    pub injected_wall_ms: u64,
    pub undone: bool,
    /// Why it was ended early.
    pub stopped: Option<String>,
    /// Why it was not started.
    pub refused: Vec<String>,
    pub passed: bool,
    /// What it missed; empty when it passed.
    pub why_not: Vec<String>,
}

/// What a dry run says will happen.
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    pub name: String,
    pub fault: &'static str,
    pub target: String,
    /// Processes, endpoints and control sockets that will be hit.
    pub hits: Vec<String>,
    pub expected: String,
    pub protected: Vec<String>,
    pub undo: String,
    /// Why it would be refused now; empty when it would start.
    pub refused: Vec<String>,
}

impl Report {
    /// A rule said no.
    pub(crate) fn refused(spec: &Spec, reasons: &[Refusal]) -> Report {
        let refused: Vec<String> = reasons.iter().map(Refusal::to_string).collect();
        Report { why_not: refused.clone(), refused, ..Report::empty(spec) }
    }

    /// It could not be carried out; what was injected by then was undone.
    pub(crate) fn not_run(spec: &Spec, error: &DrillError) -> Report {
        let stopped = format!("{error} ({})", error.code());
        Report { why_not: vec![stopped.clone()], stopped: Some(stopped), ..Report::empty(spec) }
    }

    fn empty(spec: &Spec) -> Report {
        Report {
            name: spec.drill.name.clone(),
            fault: spec.drill.fault.name(),
            target: spec.drill.target.clone().unwrap_or_default(),
            undone: true,
            ..Report::default()
        }
    }
}

impl Reports {
    /// 0 all passed, 1 some ran and failed, 5 some were refused and the others passed.
    pub fn exit_code(&self) -> u8 {
        let failed = self.drills.iter().any(|d| !d.passed && d.refused.is_empty());
        let refused = self.drills.iter().any(|d| !d.refused.is_empty());
        match (failed, refused) {
            (true, _) => 1,
            (false, true) => 5,
            (false, false) => 0,
        }
    }
}
