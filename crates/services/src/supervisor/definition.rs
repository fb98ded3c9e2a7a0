//! A service as it should be, and the number that tells whether a running one is it.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use holdfast_config::{Command, Kind, Port, Probe, Service, Standby, Value};
use holdfast_policy::InstanceId;
use holdfast_policy::lease::Timings;

use super::action::ProbeKind;

#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    pub service: Service,
    /// Part of holdfast itself (`_balancer`): not in the file.
    pub internal: bool,
    /// Listening sockets that its shims hold and its children inherit, by name.
    pub listeners: Vec<String>,
    /// It starts shims that outlive it.
    pub starts_others: bool,
    /// A balancer is in front of it and will tell when it is drained.
    pub balanced: bool,
    /// Of everything that a running process cannot take over without a restart.
    pub hash: u64,
}

impl Definition {
    pub fn new(service: Service) -> Self {
        let hash = hash(&service);
        Definition { service, internal: false, listeners: Vec::new(), starts_others: false, balanced: false, hash }
    }

    pub fn internal(service: Service, listeners: Vec<String>) -> Self {
        // A socket more or less is handed to what runs; it replaces nothing.
        let hash = hash(&service);
        Definition { service, internal: true, listeners, starts_others: false, balanced: false, hash }
    }

    pub(crate) fn is_job(&self) -> bool {
        self.service.kind == Kind::Job
    }

    pub(crate) fn standby(&self) -> Option<&Standby> {
        self.service.standby.as_ref()
    }

    pub(crate) fn timings(&self) -> Timings {
        self.standby().map_or(Timings::DEFAULT, Standby::timings)
    }

    pub(crate) fn probe(&self, kind: ProbeKind) -> Option<&Probe> {
        match kind {
            ProbeKind::Startup => self.service.startup.as_ref(),
            ProbeKind::Ready => self.service.ready.as_ref(),
            ProbeKind::Live => self.service.live.as_ref(),
        }
    }

    pub(crate) fn fixed_port(&self, instance: &InstanceId) -> Option<u16> {
        match self.service.port {
            Port::Fixed(base) => u16::try_from(u32::from(base) + instance.ordinal.saturating_sub(1)).ok(),
            Port::Assigned | Port::None => None,
        }
    }

    /// Where probes and balancers reach it: a wildcard bind is reached by loopback.
    pub(crate) fn addr(&self, port: u16) -> SocketAddr {
        let host = match self.service.host {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            host => host,
        };
        SocketAddr::new(host, port)
    }
}

/// FNV-1a over a spelled-out text. It must not change between releases, or an upgrade of the agent restarts
/// everything: a field added later is written only when it differs from its default.
fn hash(service: &Service) -> u64 {
    let mut text = String::new();
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        let value = value.to_string();
        let _ = write!(text, "{name}={}:{value};", value.len());
    };
    match &service.command {
        Command::Argv(argv) => argv.iter().for_each(|arg| field("arg", arg)),
        Command::Shell(line) => field("shell", line),
    }
    if service.kind == Kind::Job {
        field("kind", &"job");
    }
    for (name, value) in &service.env {
        field("env", name);
        match value {
            Value::Plain(text) => field("plain", text),
            Value::File(path) => field("file", &path.display()),
            Value::Env(name) => field("from", name),
        }
    }
    service.env_files.iter().for_each(|path| field("env_file", &path.display()));
    field("workdir", &service.workdir.display());
    for (name, value) in [("user", &service.user), ("group", &service.group)] {
        value.iter().for_each(|v| field(name, v));
    }
    service.umask.iter().for_each(|v| field("umask", v));
    service.open_files.iter().for_each(|v| field("open_files", v));
    field("host", &service.host);
    match service.port {
        Port::None => {}
        Port::Assigned => field("port", &"assigned"),
        Port::Fixed(port) => field("port", &port),
    }
    spec_fields(service, &mut field);
    fnv1a(text.as_bytes())
}

/// What the shim itself goes by.
fn spec_fields(service: &Service, field: &mut dyn FnMut(&str, &dyn std::fmt::Display)) {
    let restart = &service.restart;
    field("restart", &format!("{:?}", restart.when));
    let b = restart.backoff;
    for (name, value) in [
        ("base", b.base.as_millis()),
        ("factor", (b.factor * 1000.0) as u128),
        ("max", b.max.as_millis()),
        ("jitter", (b.jitter * 1000.0) as u128),
        ("reset", restart.reset.as_millis()),
        ("window", restart.window.as_millis()),
        ("grace", service.stop.grace.as_millis()),
        ("log_size", u128::from(service.log.size_bytes_max)),
        ("log_keep", u128::from(service.log.keep)),
    ] {
        field(name, &value);
    }
    restart.attempts.iter().for_each(|n| field("attempts", n));
    for (name, codes) in
        [("success", &restart.success_codes), ("again", &restart.restart_codes), ("never", &restart.stop_codes)]
    {
        codes.iter().for_each(|code| field(name, code));
    }
    field("signal", &service.stop.signal);
    service.stop.command.iter().flatten().for_each(|arg| field("stop", arg));
    if service.fenced {
        field("fenced", &true);
    }
    if let Some(standby) = &service.standby {
        field("standby", &format!("{} {:?}", standby.tier.name(), standby.warm));
        if let Some(mount) = &standby.mount {
            field("mount", &mount.source);
            field("on", &mount.target.display());
            mount.kind.iter().for_each(|kind| field("type", kind));
            mount.options.iter().for_each(|option| field("option", option));
        }
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
