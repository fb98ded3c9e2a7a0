//! A shim's state in the Supervisor's words.

use std::net::IpAddr;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_host::shim::spec::Spec;
use holdfast_host::shim::state::{self, State};
use holdfast_policy::Timestamp;

use super::launch::{LABEL_DEFINITION, LABEL_HOST, LABEL_PORT};
use crate::supervisor::{Exit, Role, ShimPhase, ShimState};

/// Labels of the spec that a shim runs from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) definition: Option<u64>,
    pub(crate) port: Option<u16>,
    pub(crate) host: Option<IpAddr>,
}

impl Labels {
    pub(crate) fn of(spec: &Spec) -> Labels {
        let label = |name: &str| spec.labels.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        Labels {
            definition: label(LABEL_DEFINITION).and_then(|text| u64::from_str_radix(text, 16).ok()),
            port: label(LABEL_PORT).and_then(|text| text.parse().ok()),
            host: label(LABEL_HOST).and_then(|text| text.parse().ok()),
        }
    }
}

pub(crate) fn shim_state(state: &State, seq: u64, labels: Labels) -> ShimState {
    let at = Timestamp::from_nanos;
    let phase = match state.phase {
        state::Phase::Waiting | state::Phase::Unknown => ShimPhase::Starting,
        state::Phase::Starting | state::Phase::Running => ShimPhase::Running,
        state::Phase::Backoff => ShimPhase::Backoff { until: at(state.next_start_boot_ns.unwrap_or(0)) },
        state::Phase::Stopping => ShimPhase::Stopping,
        state::Phase::Stopped => ShimPhase::Stopped,
        state::Phase::Completed => ShimPhase::Finished { success: true },
        state::Phase::Failed => ShimPhase::Finished { success: false },
    };
    ShimState {
        incarnation: state.incarnation,
        seq,
        phase,
        pid: state.child.and_then(|c| u32::try_from(c.pid).ok()),
        since: at(state.started_boot_ns),
        ready_at: state.ready_boot_ns.map(at),
        stopped_at: state.stopped_boot_ns.map(at),
        notified_ready: state.notified_ready,
        watchdog_at: state.watchdog_boot_ns.map(at),
        status_text: Some(state.status.clone()).filter(|s| !s.is_empty()),
        failures: state.failures,
        last_exit: state.last_exit.as_ref().map(exit),
        spawn_error: state.error.as_ref().map(|e| match &e.hint {
            Some(hint) => format!("{} [{}] hint: {hint}", e.text, e.code),
            None => format!("{} [{}]", e.text, e.code),
        }),
        deadline: state.deadline_boot_ns.map(at),
        role: Role::from_name(&state.role),
        token: state.token.as_deref().and_then(|text| text.parse().ok()),
        hold: Duration::from_millis(state.hold_ms),
        granted: state.granted,
        crash_looping: state.crash_looping,
        restarts: state.restarts,
        definition: labels.definition,
        port: labels.port,
        host: labels.host,
    }
}

fn exit(exit: &state::Exit) -> Exit {
    let at = if clock::same_boot(&exit.boot_id) { exit.ended_boot_ns } else { 0 };
    Exit {
        at: Timestamp::from_nanos(at),
        code: exit.code,
        signal: exit.signal,
        out_of_memory: exit.oom,
        wanted: exit.wanted,
    }
}
