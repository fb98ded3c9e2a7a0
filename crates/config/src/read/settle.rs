//! What only the whole file can tell: conditions that `after` leaves open, and ports that the file leaves open.

use std::collections::BTreeMap;

use crate::model::{Check, Command, Condition, Config, Kind, Port, Probe, Service, Value, Work};
use crate::reader::Findings;

pub(super) fn settle(out: &mut Findings, config: &mut Config) {
    let strongest: BTreeMap<String, Condition> =
        config.services.iter().map(|(name, service)| (name.clone(), strongest_condition(service))).collect();
    let posted_to = config.workers.values().filter_map(|worker| match &worker.work {
        Work::Http(http) => Some(http.service.clone()),
        Work::Program(_) => None,
    });
    let asked: Vec<String> = config.balancers.values().map(|b| b.service.clone()).chain(posted_to).collect();
    for (name, service) in &mut config.services {
        for (other, condition) in &mut service.after {
            // In an array the condition was left open; a table's entries have keys of their own.
            let open = !out.spans.has(&format!("service.{name}.after.{other}"));
            if open && let Some(best) = strongest.get(other) {
                *condition = *best;
            }
        }
        if !out.spans.has(&format!("service.{name}.port")) && (asked.contains(name) || uses_port(service)) {
            service.port = Port::Assigned;
        }
    }
}

fn strongest_condition(service: &Service) -> Condition {
    match (service.kind, &service.ready) {
        (Kind::Job, _) => Condition::Completed,
        (Kind::Service, Some(_)) => Condition::Ready,
        (Kind::Service, None) => Condition::Started,
    }
}

pub(crate) fn uses_port(service: &Service) -> bool {
    mentions_port(service) || service.kind == Kind::Service && probes(service).any(|(_, p)| asks_by_network(p))
}

/// Whether command or environment speak of the port.
pub(crate) fn mentions_port(service: &Service) -> bool {
    let placeholder = |text: &str| text.contains("{port}");
    let in_command = match &service.command {
        Command::Argv(argv) => argv.iter().any(|word| placeholder(word)),
        Command::Shell(line) => placeholder(line) || line.contains("$PORT") || line.contains("${PORT"),
    };
    in_command || service.env.values().any(|v| matches!(v, Value::Plain(text) if placeholder(text)))
}

pub(crate) fn asks_by_network(probe: &Probe) -> bool {
    matches!(probe.check, Check::Http { .. } | Check::Tcp)
}

pub(crate) fn probes(service: &Service) -> impl Iterator<Item = (&'static str, &Probe)> {
    let all = [("startup", &service.startup), ("ready", &service.ready), ("live", &service.live)];
    all.into_iter().filter_map(|(name, probe)| probe.as_ref().map(|p| (name, p)))
}
