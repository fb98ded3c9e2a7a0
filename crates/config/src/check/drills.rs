//! Whether drills fit what they hit.

use holdfast_policy::InstanceId;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Concurrency, Config, Drill, Fault, Kind, Service, Work};
use crate::reader::Findings;

use super::references::undefined;

pub(super) fn check(out: &mut Findings, config: &Config) {
    for drill in config.drills.values() {
        let path = format!("drill.{}", drill.name);
        if !out.is_good(&format!("{path}.fault")) || !out.is_good(&format!("{path}.target")) {
            continue;
        }
        if let Some(balancer) = drill.balancer.as_ref().filter(|b| !config.balancers.contains_key(*b)) {
            undefined(
                out,
                &format!("{path}.balancer"),
                "balancer",
                balancer,
                config.balancers.keys().map(String::as_str),
            );
        }
        match drill.fault {
            Fault::BalancerKill | Fault::BalancerHang => balancer_target(out, config, drill, &path),
            Fault::AgentKill => no_target(out, drill, &path),
            fault if fault.hits_tasks() => plane_target(out, config, drill, &path),
            fault if fault.hits_worker() => worker_target(out, config, drill, &path),
            _ => service_target(out, config, drill, &path),
        }
        if drill.fault == Fault::Busy && drill.busy_path.is_none() && out.is_good(&format!("{path}.busy_path")) {
            let span = out.spans.value(&format!("{path}.fault"));
            missing(out, drill, "busy_path", span, "busy_path = \"/burn?seconds=10\": a path that keeps a CPU busy");
        }
    }
}

fn missing(out: &mut Findings, drill: &Drill, key: &str, span: crate::Span, hint: &str) {
    let message = format!("`drill.{}` needs `{key}` for the fault \"{}\"", drill.name, drill.fault.name());
    out.push(
        Diagnostic::new(Severity::Error, code::MISSING_KEY, message)
            .at(span, format!("`{key}` is missing"))
            .hint(format!("add: {hint}")),
    );
}

fn balancer_target(out: &mut Findings, config: &Config, drill: &Drill, path: &str) {
    if let Some(target) = drill.target.as_ref().filter(|t| !config.balancers.contains_key(*t)) {
        undefined(out, &format!("{path}.target"), "balancer", target, config.balancers.keys().map(String::as_str));
    }
    if config.balancers.is_empty() {
        misfit(
            out,
            &format!("{path}.fault"),
            "there is no balancer to hit".into(),
            "nothing to hit",
            "define a [balancer.NAME]",
        );
    } else if config.node.balancer_processes == 1 && drill.targets.failed == Some(0) {
        let span = out.spans.value(&format!("{path}.failed"));
        let processes = out.spans.value("node.balancer_processes");
        hopeless(out, drill, span, processes, "the only balancer process is hit", "balancer_processes = 2");
    }
}

fn no_target(out: &mut Findings, drill: &Drill, path: &str) {
    if drill.target.is_some() {
        let message = format!("the fault \"{}\" takes no target", drill.fault.name());
        misfit(out, &format!("{path}.target"), message, "hits holdfast itself", "remove `target`");
    }
}

/// The plane of tasks runs where the file has something for it to do.
fn plane_target(out: &mut Findings, config: &Config, drill: &Drill, path: &str) {
    no_target(out, drill, path);
    if config.tasks.is_none() {
        let message = "there is no plane of tasks to hit".to_owned();
        misfit(out, &format!("{path}.fault"), message, "nothing to hit", "define a [queue.NAME]");
    }
}

fn worker_target(out: &mut Findings, config: &Config, drill: &Drill, path: &str) {
    let Some(target) = &drill.target else {
        let span = out.spans.value(&format!("{path}.fault"));
        let example = config.workers.keys().next().map_or("mailer", String::as_str);
        missing(out, drill, "target", span, &format!("target = \"{example}\""));
        return;
    };
    let at = format!("{path}.target");
    let Some(worker) = config.workers.get(target) else {
        undefined(out, &at, "worker", target, config.workers.keys().map(String::as_str));
        return;
    };
    let places = match (&worker.work, worker.concurrency) {
        (Work::Http(http), _) => {
            let message = format!("the worker `{target}` has no programs, it asks a service");
            let hint = format!("drill the service: fault = \"kill\", target = \"{}\"", http.service);
            return misfit(out, &at, message, "asks a service", &hint);
        }
        (Work::Program(_), Concurrency::Fixed(places)) => places,
        (Work::Program(_), Concurrency::Scaled(scale)) => scale.max,
    };
    if drill.count > places {
        let message = format!("the worker `{target}` never runs {} programs at once", drill.count);
        misfit(
            out,
            &format!("{path}.count"),
            message,
            &format!("it has {places}"),
            "lower `count`, or raise `concurrency`",
        );
    }
}

fn service_target(out: &mut Findings, config: &Config, drill: &Drill, path: &str) {
    let Some(target) = &drill.target else {
        let span = out.spans.value(&format!("{path}.fault"));
        let example = config.services.keys().next().map_or("web", String::as_str);
        missing(out, drill, "target", span, &format!("target = \"{example}\""));
        return;
    };
    let at = format!("{path}.target");
    let instance = target.parse::<InstanceId>().ok();
    let name = instance.as_ref().map_or(target.as_str(), |id| &id.service);
    let Some(service) = config.services.get(name) else {
        undefined(out, &at, "service", target, config.services.keys().map(String::as_str));
        return;
    };
    if let Some(id) = instance.as_ref().filter(|id| id.ordinal > service.replicas) {
        let message = format!("there is no instance `{id}`");
        misfit(
            out,
            &at,
            message,
            &format!("`{name}` has {}", service.replicas),
            "name an instance that exists, or the service",
        );
    }
    if service.kind == Kind::Job {
        let hint = "a job is no target: it is not kept up";
        misfit(out, &at, format!("`{name}` is a job"), "a job", hint);
    }
    prober(out, config, drill, service, path);
    lonely(out, config, drill, service, path);
}

/// The prober needs a balancer to ask.
fn prober(out: &mut Findings, config: &Config, drill: &Drill, service: &Service, path: &str) {
    let in_front = config.balancers.values().any(|b| b.service == service.name);
    let made_there = matches!(drill.fault, Fault::Latency | Fault::Errors | Fault::Reset | Fault::NoAnswer);
    if made_there && !in_front {
        let message = format!("the fault \"{}\" is made by the balancer in front of its target", drill.fault.name());
        let hint = "name a service behind a balancer; to stop a dependency use the fault \"dependency-stall\"";
        misfit(out, &format!("{path}.target"), message, "not balanced", hint);
        return;
    }
    if drill.balancer.is_some() || in_front {
        return;
    }
    let message = format!("no balancer stands in front of `{}`, so nobody would notice", service.name);
    let hint = "add balancer = \"NAME\": the balancer whose requests must survive this";
    misfit(out, &format!("{path}.target"), message, "not balanced", hint);
}

/// Taking away the only instance and losing no request: nothing can do that.
fn lonely(out: &mut Findings, config: &Config, drill: &Drill, service: &Service, path: &str) {
    let takes_away = matches!(drill.fault, Fault::Kill | Fault::Hang | Fault::CrashLoop);
    let in_front = config.balancers.values().any(|b| b.service == service.name);
    if takes_away && in_front && service.replicas == 1 && drill.targets.failed == Some(0) {
        let span = out.spans.value(&format!("{path}.failed"));
        let replicas = out.spans.value(&format!("service.{}.replicas", service.name));
        hopeless(out, drill, span, replicas, "the only instance is hit", "replicas = 2");
    }
}

fn hopeless(out: &mut Findings, drill: &Drill, span: crate::Span, cause: crate::Span, why: &str, hint: &str) {
    let message = format!("drill `{}` cannot pass: {why}", drill.name);
    out.push(
        Diagnostic::new(Severity::Warning, code::HOPELESS_DRILL, message)
            .at(span, "no failed request allowed")
            .at(cause, "only one")
            .hint(hint),
    );
}

fn misfit(out: &mut Findings, at: &str, message: String, label: &str, hint: &str) {
    let span = out.spans.value(at);
    out.push(Diagnostic::new(Severity::Error, code::DRILL_TARGET, message).at(span, label).hint(hint));
}
