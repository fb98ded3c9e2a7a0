//! `[service.NAME]`.

use std::path::Path;

use holdfast_policy::restart::{Policy, When};

use crate::keys::{LIVE, LOG, MOUNT, NEEDS, READY, RESTART, SERVICE, STANDBY, STARTUP, STOP, Section};
use crate::model::{Check, Command, Condition, Failback, Kind, Port, Probe, Service, Standby, Stop, Value, Warm};
use crate::read::signal_name;
use crate::secret::{is_secret, mask_line, mask_words};

use super::{HIDDEN, Setting, Settings, duration, list, share, size, text, texts};

pub(crate) fn service(service: &Service) -> Vec<Setting> {
    let mut out = Settings::new(&SERVICE);
    out.put("type", text(if service.kind == Kind::Job { "job" } else { "service" }));
    command(&mut out, &service.command);
    let others = service.standby.as_ref().map_or(0, |s| s.count);
    out.put("replicas", service.replicas.saturating_sub(others).to_string());
    service.env.iter().for_each(|(name, value)| env(&mut out, &format!("env.{name}"), name, value));
    if !service.env_files.is_empty() {
        out.put("env_files", list(service.env_files.iter().map(|p| path(p))));
    }
    out.put("workdir", path(&service.workdir));
    out.put_some("user", service.user.as_ref(), text);
    out.put_some("group", service.group.as_ref(), text);
    out.put_some("umask", service.umask, |mask| text(format!("{mask:03o}")));
    out.put_some("open_files", service.open_files, |n| n.to_string());
    out.put("host", text(service.host.to_string()));
    let port = match service.port {
        Port::None => "false".into(),
        Port::Assigned => text("auto"),
        Port::Fixed(port) => port.to_string(),
    };
    out.put_derived("port", port, "false");
    for (other, condition) in &service.after {
        let condition = match condition {
            Condition::Started => "started",
            Condition::Ready => "ready",
            Condition::Completed => "completed",
        };
        out.put(&format!("after.{other}"), text(condition));
    }
    if service.kind == Kind::Service {
        let derived = match service.standby {
            Some(_) => 1,
            None => service.replicas.saturating_sub(service.max_unavailable),
        };
        out.put_derived("min_available", service.min_available.to_string(), &derived.to_string());
        out.put("max_unavailable", service.max_unavailable.to_string());
    }
    out.put("fenced", (service.fenced && service.standby.is_none()).to_string());
    if !service.on.is_empty() {
        out.put("on", super::on(&service.on));
    }
    if !service.apart_from.is_empty() {
        out.put("apart_from", super::list(service.apart_from.iter().map(text)));
    }
    out.put_some("availability", service.availability, share);
    restart(&mut out, service.kind, &service.restart);
    probe(&mut out, "startup", &STARTUP, service.startup.as_ref());
    probe(&mut out, "ready", &READY, service.ready.as_ref());
    probe(&mut out, "live", &LIVE, service.live.as_ref());
    stop(&mut out, &service.stop);
    standby(&mut out, service.standby.as_ref());
    out.table("log", &LOG);
    out.put("size", size(service.log.size_bytes_max));
    out.put("keep", service.log.keep.to_string());
    out.table("needs", &NEEDS);
    out.put_some("cpu_millis", Some(service.needs.cpu_millis).filter(|n| *n > 0), |n| n.to_string());
    out.put_some("memory", Some(service.needs.memory_bytes).filter(|n| *n > 0), size);
    out.finish()
}

fn standby(out: &mut Settings, standby: Option<&Standby>) {
    let Some(s) = standby else { return };
    out.table("standby", &STANDBY);
    out.put("tier", text(s.tier.name()));
    out.put("count", s.count.to_string());
    out.put("warm", text(if s.warm == Warm::Stopped { "stopped" } else { "paused" }));
    let commands = [
        ("promote", &s.promote),
        ("demote", &s.demote),
        ("fence", &s.fence),
        ("sync", &s.sync),
        ("restore", &s.restore),
    ];
    for (name, argv) in commands {
        if let Some(argv) = argv {
            out.put_hidden(name, texts(argv), texts(&mask_words(argv)));
        }
    }
    let derived = s.max_staleness.map_or("1m".into(), |d| duration(d / 2));
    out.put_some("max_staleness", s.max_staleness, duration);
    out.put_derived("sync_every", duration(s.sync_every), &derived);
    out.put_some("dry_start", s.dry_start, duration);
    out.put("failback", text(if s.failback == Failback::Preferred { "preferred" } else { "sticky" }));
    out.put("stable_for", duration(s.stable_for));
    out.put_some("rto", s.rto, duration);
    out.put_some("rpo", s.rpo, duration);
    out.put("lease", text(s.lease));
    out.put("timeout", duration(s.timeout));
    out.put("restore_timeout", duration(s.restore_timeout));
    let Some(mount) = &s.mount else { return };
    out.table("standby.mount", &MOUNT);
    out.put("source", text(&mount.source));
    out.put("target", path(&mount.target));
    out.put_some("type", mount.kind.as_ref(), text);
    if !mount.options.is_empty() {
        out.put("options", texts(&mount.options));
    }
}

pub(super) fn command(out: &mut Settings, command: &Command) {
    match command {
        Command::Argv(argv) => out.put_hidden("command", texts(argv), texts(&mask_words(argv))),
        Command::Shell(line) => out.put_hidden("shell", text(line), text(mask_line(line))),
    }
}

pub(super) fn path(path: &Path) -> String {
    text(path.to_string_lossy())
}

/// A value that may be a secret, under its key in the table.
pub(super) fn env(out: &mut Settings, key: &str, name: &str, value: &Value) {
    match value {
        Value::Plain(plain) if is_secret(name, plain) => out.put_hidden(key, text(plain), HIDDEN.into()),
        Value::Plain(plain) => out.put(key, text(plain)),
        Value::File(file) => out.put(key, format!("{{ file = {} }}", path(file))),
        Value::Env(variable) => out.put(key, format!("{{ env = {} }}", text(variable))),
    }
}

fn restart(out: &mut Settings, kind: Kind, policy: &Policy) {
    out.table("restart", &RESTART);
    let when = match policy.when {
        When::Always => "always",
        When::OnFailure => "on-failure",
        When::Never => "never",
    };
    out.put_derived("when", text(when), if kind == Kind::Job { "\"on-failure\"" } else { "\"always\"" });
    out.put("delay", duration(policy.backoff.base));
    out.put("max", duration(policy.backoff.max));
    out.put_some("attempts", policy.attempts, |n| n.to_string());
    out.put("within", duration(policy.window));
    out.put("reset", duration(policy.reset));
    let lists = [
        ("success_codes", &policy.success_codes),
        ("restart_codes", &policy.restart_codes),
        ("stop_codes", &policy.stop_codes),
    ];
    for (name, codes) in lists.into_iter().filter(|(_, codes)| !codes.is_empty()) {
        out.put(name, list(codes.iter().map(i32::to_string)));
    }
}

fn probe(out: &mut Settings, name: &'static str, section: &'static Section, probe: Option<&Probe>) {
    let Some(probe) = probe else { return };
    out.table(name, section);
    match &probe.check {
        Check::Http { path, status } => {
            out.put("http", text(path));
            out.put("status", text(format!("{}-{}", status.start(), status.end())));
        }
        Check::Tcp => out.put("tcp", "true".into()),
        Check::Command(argv) => out.put_hidden("command", texts(argv), texts(&mask_words(argv))),
        Check::Notify => out.put("notify", "true".into()),
    }
    out.put("every", duration(probe.every));
    out.put("timeout", duration(probe.timeout));
    out.put("rise", probe.thresholds.rise.to_string());
    out.put("fall", probe.thresholds.fall.to_string());
    if name == "startup" {
        out.put("within", duration(probe.within));
    }
}

fn stop(out: &mut Settings, stop: &Stop) {
    out.table("stop", &STOP);
    out.put("signal", signal_name(stop.signal).map_or_else(|| stop.signal.to_string(), text));
    out.put("grace", duration(stop.grace));
    out.put("drain", duration(stop.drain));
    if let Some(argv) = &stop.command {
        out.put_hidden("command", texts(argv), texts(&mask_words(argv)));
    }
}
