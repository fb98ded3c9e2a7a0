//! The agent's own deaths as incidents: told by the next agent, from what its shim saw.

use std::sync::Arc;

use holdfast_host::process::signal_name;
use holdfast_host::{clock, shim};
use holdfast_observe::incident::STAGE;
use holdfast_observe::journal::IncidentQuery;

use super::core::Core;
use crate::layout::AGENT;

/// Subject of the agent's own incidents.
pub(crate) const SUBJECT: &str = "instance/_agent-1";

/// When the life before this one ended unasked, that is an incident, recovered now.
pub(super) async fn watch_agent(core: &Arc<Core>) {
    let dir = shim::Dir::new(core.layout.run_dir(AGENT));
    let Some(state) = dir.read_state() else { return };
    let exits = dir.read_exits();
    let Some(last) = exits.iter().max_by_key(|e| e.incarnation) else {
        return close_left_open(core, state.started_boot_ns).await;
    };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let ours = state.child.is_some_and(|child| child.pid == own);
    // Only an end that this very life follows: anything older was told by the agent after it.
    let follows = last.incarnation.generation == state.incarnation.generation
        && last.incarnation.run + 1 == state.incarnation.run;
    if !ours || !follows || last.wanted || !clock::same_boot(&last.boot_id) {
        return close_left_open(core, state.started_boot_ns).await;
    }
    let how = match (last.signal, last.code) {
        (Some(signal), _) => format!("killed by {}", signal_name(signal)),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "ended".into(),
    };
    tell(core, last.ended_boot_ns, "detected", "running", "exited", &how);
    tell(core, last.ended_boot_ns, "decided", "exited", "restarting", "its shim restarts it at once");
    tell_return(core, state.started_boot_ns);
}

/// What the agent before told of its own end: its shim had gone.
async fn close_left_open(core: &Core, started_boot_ns: u64) {
    let query = IncidentQuery { open_only: true, subject: Some(SUBJECT.into()), ..IncidentQuery::default() };
    if core.journal.incidents(query).await.is_ok_and(|open| !open.is_empty()) {
        tell_return(core, started_boot_ns);
    }
}

fn tell_return(core: &Core, started_boot_ns: u64) {
    tell(core, started_boot_ns, "acted", "restarting", "running", "a new agent was started");
    tell(core, clock::now().as_nanos(), "ready", "running", "ready", "state read, instances adopted, API open");
}

fn tell(core: &Core, boot_ns: u64, stage: &str, from: &str, to: &str, reason: &str) {
    let mut event = super::agent_event(core, SUBJECT).change(from, to, reason);
    let age_ms = clock::now().as_nanos().saturating_sub(boot_ns) / 1_000_000;
    event.boot_ns = boot_ns;
    event.wall_ms = event.wall_ms.saturating_sub(age_ms);
    core.journal.append(event.with(STAGE, stage).with("life", &core.life));
}
