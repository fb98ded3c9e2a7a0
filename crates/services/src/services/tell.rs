//! An entry of the Supervisor as a log line and as a journal event.

use holdfast_host::clock;
use holdfast_host::event::Event;
use holdfast_policy::NodeId;

use crate::supervisor::{Entry, Phase};

/// Source of these events in the journal.
pub(crate) const SOURCE: &str = "services";

pub(crate) fn log(entry: &Entry) {
    let t = &entry.transition;
    let inputs: Vec<String> = t.inputs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    tracing::info!(
        target: "holdfast::services",
        subject = %entry.subject, from = t.from, to = t.to, reason = %t.reason, inputs = inputs.join(" "), "transition"
    );
}

pub(crate) fn event(entry: &Entry, node: &NodeId, life: &str) -> Event {
    let is_instance = entry.subject.parse::<holdfast_policy::InstanceId>().is_ok();
    let subject =
        if is_instance { format!("instance/{}", entry.subject) } else { format!("service/{}", entry.subject) };
    let t = &entry.transition;
    let mut event = Event::now(&node.0, SOURCE, life, &subject).change(t.from, t.to, t.reason.to_string());
    let age = clock::now().since(entry.at);
    event.boot_ns = entry.at.as_nanos();
    event.wall_ms = event.wall_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(0));
    event.seq = entry.seq;
    event.cause = entry.cause.map(|seq| key(node, life, seq));
    for (name, value) in &t.inputs {
        event = event.with(name, value);
    }
    if let Some(incarnation) = entry.incarnation {
        event = event.with("incarnation", incarnation);
    }
    if let Some((incident, _)) = entry.incident {
        event = event.with("incident", key(node, life, incident));
    }
    event.with(holdfast_observe::incident::STAGE, stage(entry))
}

fn stage(entry: &Entry) -> &'static str {
    match entry.incident {
        Some((_, phase)) => phase.name(),
        // Wanted no more: what was open about it ends without a recovery.
        None if entry.transition.to == "absent" => "gone",
        None if entry.transition.to == "ready" => Phase::Ready.name(),
        None => "neutral",
    }
}

fn key(node: &NodeId, life: &str, seq: u64) -> String {
    format!("{node}:{SOURCE}:{life}:{seq}")
}
