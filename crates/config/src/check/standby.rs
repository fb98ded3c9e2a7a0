//! Rules about redundant services.

use std::path::{Component, PathBuf};

use holdfast_policy::standby::Tier;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity, Span};
use crate::model::{Config, Kind, Service, Standby, Warm};
use crate::quantity::format_duration;
use crate::reader::Findings;

pub(super) fn check(out: &mut Findings, config: &Config) {
    for service in config.services.values() {
        if let Some(standby) = &service.standby {
            refuse(out, service, standby);
            refuse_mount(out, config, service, standby);
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

/// Two machines that write to one volume destroy it.
fn refuse_mount(out: &mut Findings, config: &Config, service: &Service, standby: &Standby) {
    let Some(mount) = &standby.mount else { return };
    let path = format!("service.{}.standby.mount", service.name);
    let (whole, target) = (out.spans.key(&path), out.spans.value(&format!("{path}.target")));
    let dry = out.spans.key(&format!("service.{}.standby.dry_start", service.name));
    let mut error = |span: &Span, message: String, label: &str, hint: &str| {
        out.push(Diagnostic::new(Severity::Error, code::STANDBY, message).at(span.clone(), label).hint(hint));
    };
    let (name, shown) = (&service.name, mount.target.display());
    if !standby.is_started_when_needed() {
        let hint = "tier = \"cold\", or tier = \"warm\" with warm = \"stopped\"";
        let message = format!("a standby of `{name}` would run without its volume");
        error(&whole, message, "it runs before it is active", hint);
    }
    if standby.dry_start.is_some() {
        let message = format!("a dry start of `{name}` would run without its volume");
        error(&dry, message, "it has a `mount`", "remove `dry_start`");
    }
    if standby.fence.is_none() && config.cluster.is_some() {
        let message = format!("two machines could mount `{}` at a time", mount.source);
        let hint = "add `fence`, a command that powers the other machine off";
        error(&whole, message, "there is no `fence`", hint);
    }
    let plain = mount.target.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !mount.target.is_absolute() || !plain || mount.target.parent().is_none() {
        let message = format!("`{name}` cannot mount on `{shown}`");
        error(&target, message, "not an absolute path of a directory", "e.g. \"/srv/db\"");
    }
    let of = |other: &Service| other.standby.as_ref().and_then(|s| s.mount.as_ref()).map(|m| m.target.clone());
    let mut others = config.services.values().filter(|other| other.name < service.name);
    let meets = |other: &PathBuf| other.starts_with(&mount.target) || mount.target.starts_with(other);
    if let Some(other) = others.find(|other| of(other).as_ref().is_some_and(meets)) {
        let message = format!("`{}` and `{name}` mount on the same path", other.name);
        error(&target, message, "inside or around the other's target", "give each a directory of its own");
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tests::environment;

    fn messages(cluster: &str, standby: &str) -> Vec<String> {
        let text =
            format!("{cluster}[service.db]\ncommand = [\"db\"]\nready = {{ tcp = true }}\nstandby = {{ {standby} }}\n");
        let failed = crate::parse(&text, Path::new("/etc/holdfast.toml"), &environment()).err();
        let all = failed.map(|failed| failed.diagnostics).unwrap_or_default();
        all.iter().filter(|d| d.code == code::STANDBY).map(|d| d.message.clone()).collect()
    }

    #[test]
    fn a_volume_is_refused_where_two_machines_could_have_it() {
        let cluster = "[cluster]\netcd = \"http://10.0.0.1:2379\"\n";
        let mount =
            |more: &str| format!("tier = \"cold\", mount = {{ source = \"/dev/x\", target = \"/srv/x\" }}{more}");
        assert_eq!(messages("", &mount("")), [""; 0]);
        assert_eq!(messages(cluster, &mount(", fence = [\"off\"]")), [""; 0]);
        assert_eq!(messages(cluster, &mount("")), ["two machines could mount `/dev/x` at a time"]);
        let hot = mount("").replace("cold", "hot");
        assert_eq!(messages("", &hot), ["a standby of `db` would run without its volume"]);
        let dry = mount(", dry_start = \"1h\"");
        assert_eq!(messages("", &dry), ["a dry start of `db` would run without its volume"]);
        for target in ["srv/x", "/", "/srv/../x"] {
            let wrong = mount("").replace("/srv/x", target);
            assert_eq!(messages("", &wrong), [format!("`db` cannot mount on `{target}`")]);
        }
    }
}
