//! Rules about redundant services.

use holdfast_policy::standby::Tier;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Config, Kind, Service, Standby, Warm};
use crate::quantity::format_duration;
use crate::reader::Findings;

pub(super) fn check(out: &mut Findings, config: &Config) {
    for service in config.services.values() {
        if let Some(standby) = &service.standby {
            refuse(out, service, standby);
            advise(out, service, standby, config.cluster.is_none());
        }
    }
}

fn refuse(out: &mut Findings, service: &Service, standby: &Standby) {
    let path = format!("service.{}", service.name);
    let mut error = |key: &str, message: String, label: &str, hint: &str| {
        let span = out.spans.key(&format!("{path}.{key}"));
        out.push(Diagnostic::new(Severity::Error, code::STANDBY, message).at(span, label).hint(hint));
    };
    let name = &service.name;
    if service.kind == Kind::Job {
        error("standby", format!("the job `{name}` cannot have standbys"), "a job ends", "remove `standby`");
        return;
    }
    if standby.declared_replicas(service) != 1 {
        let label = "one is active, the others stand by";
        error(
            "replicas",
            format!("`{name}` has both `replicas` and `standby`"),
            label,
            "remove `replicas`; use `standby.count`",
        );
    }
    let unprobed = service.ready.is_none();
    if unprobed && standby.tier != Tier::Cold {
        let message = format!("nobody can tell when a standby of `{name}` is ready");
        error("standby", message, "no `ready` probe", "add: ready = { tcp = true }");
    } else if unprobed && standby.dry_start.is_some() {
        let message = format!("a dry start of `{name}` cannot succeed");
        error("standby.dry_start", message, "no `ready` probe", "add: ready = { tcp = true }");
    }
    if standby.max_staleness.is_some() && standby.sync.is_none() {
        let message = format!("no standby of `{name}` would ever be fresh");
        error("standby.max_staleness", message, "there is no `sync`", "add `sync`, or remove `max_staleness`");
    }
    if let Some(limit) = standby.max_staleness.filter(|limit| standby.sync_every > *limit) {
        let label = format!("longer than `max_staleness`, {}", format_duration(limit));
        error(
            "standby.sync_every",
            format!("standbys of `{name}` are stale between two runs of `sync`"),
            &label,
            "shorten it",
        );
    }
    if standby.restore.is_some() && standby.tier != Tier::Cold {
        error(
            "standby.restore",
            format!("`restore` of `{name}` would never run"),
            "only `cold` restores",
            "use `sync`, or tier = \"cold\"",
        );
    }
    if standby.dry_start.is_some() && !standby.is_started_when_needed() {
        let label = "it runs anyway";
        error("standby.dry_start", format!("a dry start of `{name}` shows nothing"), label, "remove `dry_start`");
    }
    if standby.warm == Warm::Stopped && standby.tier != Tier::Warm {
        error("standby.warm", format!("`warm` does not fit `{}`", standby.tier.name()), "another tier", "remove it");
    }
}

fn advise(out: &mut Findings, service: &Service, standby: &Standby, alone: bool) {
    let span = out.spans.key(&format!("service.{}.standby", service.name));
    let name = &service.name;
    if alone {
        out.push(
            Diagnostic::new(
                Severity::Advice,
                code::STANDBY_ONE_NODE,
                format!("all {} members of `{name}` run on this machine", standby.count + 1),
            )
            .at(span, "survives the death of a process, not of the machine")
            .hint("several machines become one with [cluster]; see docs/cluster.md"),
        );
    }
    if standby.tier == Tier::Warm && standby.sync.is_none() && standby.warm == Warm::Stopped {
        let span = out.spans.key(&format!("service.{name}.standby"));
        out.push(
            Diagnostic::new(
                Severity::Advice,
                code::STANDBY_UNSYNCED,
                format!("the data of `{name}` is not kept by holdfast"),
            )
            .at(span, "warm without `sync`")
            .hint("add `sync` and `max_staleness`, or make sure that all members see the same data"),
        );
    }
}
