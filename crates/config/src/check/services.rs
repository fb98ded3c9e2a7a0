//! Rules about one service at a time.

use holdfast_policy::restart::When;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Check, Config, Kind, Service};
use crate::quantity::format_duration;
use crate::read::settle::probes;
use crate::reader::Findings;

use super::Environment;

pub(super) fn check(out: &mut Findings, config: &Config, environment: &Environment) {
    for service in config.services.values() {
        let path = format!("service.{}", service.name);
        probe_times(out, service, &path);
        liveness(out, service, &path);
        available(out, service, &path);
        needs_root(out, service, &path, environment);
        match service.kind {
            Kind::Job => job(out, service, &path),
            Kind::Service => fenced(out, service, &path),
        }
    }
    for (name, balancer) in &config.balancers {
        let path = format!("balancer.{name}.service");
        if config.services.get(&balancer.service).is_some_and(|s| s.kind == Kind::Job) {
            let (span, job) = (out.spans.value(&path), out.spans.value(&format!("service.{}.type", balancer.service)));
            let message = format!("balancer `{name}` sends requests to a job");
            out.push(
                Diagnostic::new(Severity::Error, code::NOT_FOR_JOBS, message)
                    .at(span, "a job ends and answers nobody")
                    .at(job, "a job")
                    .hint("balance a service, or remove type = \"job\""),
            );
        }
    }
}

fn probe_times(out: &mut Findings, service: &Service, path: &str) {
    for (name, probe) in probes(service) {
        let at = format!("{path}.{name}");
        if probe.timeout > probe.every && out.is_good(&format!("{at}.timeout")) && out.is_good(&format!("{at}.every")) {
            let (timeout, every) = (out.spans.value(&format!("{at}.timeout")), out.spans.value(&format!("{at}.every")));
            out.push(
                Diagnostic::new(Severity::Error, code::PROBE_SLOW, format!("`{at}` may take longer than its period"))
                    .at(timeout, format!("up to {}", format_duration(probe.timeout)))
                    .at(every, format!("and the next one after {}", format_duration(probe.every)))
                    .hint("probes would pile up; make `timeout` at most `every`"),
            );
        }
        if name == "startup" && probe.within < probe.every && out.is_good(&format!("{at}.within")) {
            let span = out.spans.value(&format!("{at}.within"));
            out.push(
                Diagnostic::new(Severity::Error, code::BAD_VALUE, format!("`{at}` gives time for less than one probe"))
                    .at(span, format!("shorter than `every`, {}", format_duration(probe.every)))
                    .hint("raise `within`, or shorten `every`"),
            );
        }
    }
}

fn liveness(out: &mut Findings, service: &Service, path: &str) {
    let Some(live) = &service.live else { return };
    if live.thresholds.fall == 1 {
        let span = out.spans.value(&format!("{path}.live.fall"));
        out.push(
            Diagnostic::new(
                Severity::Warning,
                code::EAGER_LIVENESS,
                format!("one missed probe restarts an instance of `{}`", service.name),
            )
            .at(span, "a single slow answer is enough")
            .hint("fall = 3; a restart costs more than a moment of patience"),
        );
    }
    let Some(ready) = &service.ready else { return };
    let (dead, unready) = (live.every * live.thresholds.fall, ready.every * ready.thresholds.fall);
    if dead < unready && live.check != Check::Notify && ready.check != Check::Notify {
        let (live_at, ready_at) = (out.spans.key(&format!("{path}.live")), out.spans.key(&format!("{path}.ready")));
        out.push(
            Diagnostic::new(
                Severity::Warning,
                code::LIVENESS_FIRST,
                format!("`{}` is restarted before it leaves the balancer", service.name),
            )
            .at(live_at, format!("restarted after {} (`every` x `fall`)", format_duration(dead)))
            .at(ready_at, format!("not ready after {}", format_duration(unready)))
            .hint("let `live` take several times as long as `ready`"),
        );
    }
}

fn available(out: &mut Findings, service: &Service, path: &str) {
    let at = format!("{path}.min_available");
    let (min, replicas) = (service.min_available, service.replicas);
    let known = out.is_good(&at) && out.is_good(&format!("{path}.replicas"));
    if !known || replicas == 0 || service.kind == Kind::Job {
        return;
    }
    let (span, count) = (out.spans.value(&at), out.spans.value(&format!("{path}.replicas")));
    if min > replicas {
        out.push(
            Diagnostic::new(
                Severity::Error,
                code::MIN_AVAILABLE,
                format!("`{}` can never have {min} instances available", service.name),
            )
            .at(span, format!("{min} wanted"))
            .at(count, format!("{replicas} there"))
            .hint(format!("raise `replicas` to {}, or lower `min_available`", min.saturating_add(1))),
        );
    } else if min == replicas {
        out.push(
            Diagnostic::new(
                Severity::Warning,
                code::BLOCKS_REPLACEMENT,
                format!("no instance of `{}` may ever be replaced", service.name),
            )
            .at(span, "as many as there are")
            .at(count, format!("{replicas} there"))
            .hint(format!(
                "replicas = {}, or min_available = {}",
                replicas.saturating_add(1),
                replicas - 1
            )),
        );
    }
    if replicas > 1 && min == 0 && service.max_unavailable >= replicas {
        let span = out.spans.value(&format!("{path}.max_unavailable"));
        out.push(
            Diagnostic::new(
                Severity::Warning,
                code::ALL_AT_ONCE,
                format!("all instances of `{}` may be down at the same time", service.name),
            )
            .at(span, format!("as many as there are, {replicas}"))
            .hint(format!("max_unavailable = {}", (replicas / 2).max(1))),
        );
    }
}

fn needs_root(out: &mut Findings, service: &Service, path: &str, environment: &Environment) {
    for (key, given) in [("user", service.user.is_some()), ("group", service.group.is_some())] {
        if given {
            only_root(out, environment, &format!("{path}.{key}"), key, &service.name);
        }
    }
}

/// Of a program that is to run as somebody else.
pub(super) fn only_root(out: &mut Findings, environment: &Environment, path: &str, key: &str, name: &str) {
    if environment.is_root || !out.is_good(path) {
        return;
    }
    let span = out.spans.value(path);
    out.push(
        Diagnostic::new(Severity::Warning, code::NEEDS_ROOT, format!("only root can set the {key} of `{name}`"))
            .at(span, "this check does not run as root")
            .hint("run the agent as root; without it, instances do not start"),
    );
}

fn job(out: &mut Findings, service: &Service, path: &str) {
    let mut refuse = |key: &str, label: &str, hint: &str| {
        let span = out.spans.key(&format!("{path}.{key}"));
        out.push(
            Diagnostic::new(
                Severity::Error,
                code::NOT_FOR_JOBS,
                format!("`{key}` does not fit the job `{}`", service.name),
            )
            .at(span, label)
            .hint(hint),
        );
    };
    for (name, _) in probes(service) {
        refuse(name, "a job is judged by its exit code", "remove the probe");
    }
    if service.replicas != 1 {
        refuse("replicas", "a job has one instance", "remove `replicas`");
    }
    if service.restart.when == When::Always {
        refuse("restart", "it would never complete", "\"on-failure\" tries again until it succeeds");
    }
}

fn fenced(out: &mut Findings, service: &Service, path: &str) {
    if service.fenced && service.standby.is_none() && service.replicas > 1 {
        let (span, count) = (out.spans.key(&format!("{path}.fenced")), out.spans.value(&format!("{path}.replicas")));
        out.push(
            Diagnostic::new(
                Severity::Warning,
                code::FENCED_REPLICAS,
                format!("`{}` is fenced and still runs {} times", service.name, service.replicas),
            )
            .at(count, "each instance is fenced by itself")
            .at(span, "fenced here")
            .hint("replicas = 1 where only one may run; keep it where each instance owns a part of the work"),
        );
    }
}
