//! Who listens where: clashes, ranges, and what needs a port but has none.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Config, Kind, Port, Service, Value};
use crate::read::settle::{asks_by_network, mentions_port, probes};
use crate::reader::Findings;

use super::Environment;

/// One or several ports that somebody will listen on.
struct Listener {
    who: String,
    addr: IpAddr,
    ports: RangeInclusive<u16>,
    path: String,
}

pub(super) fn check(out: &mut Findings, config: &Config, environment: &Environment) {
    let listeners = listeners(out, config);
    for (n, later) in listeners.iter().enumerate() {
        if let Some(earlier) = listeners[..n].iter().find(|earlier| clash(earlier, later)) {
            tell_clash(out, earlier, later);
        }
        ephemeral_listener(out, later, environment);
        privileged(out, later, environment);
    }
    assigned(out, config, environment, &listeners);
    for service in config.services.values() {
        no_port(out, service);
        untold(out, service);
        overridden(out, service);
    }
    for balancer in config.balancers.values() {
        balanced_without_port(out, config, &balancer.name, &balancer.service);
    }
}

fn listeners(out: &mut Findings, config: &Config) -> Vec<Listener> {
    let mut all = Vec::new();
    if let Some(metrics) = config.node.metrics {
        let ports = metrics.port()..=metrics.port();
        all.push(Listener { who: "`node.metrics`".into(), addr: metrics.ip(), ports, path: "node.metrics".into() });
    }
    if let Some(tasks) = &config.tasks {
        let (addr, port, path) = (tasks.listen.ip(), tasks.listen.port(), "tasks.listen".to_owned());
        all.push(Listener { who: "`tasks.listen`".into(), addr, ports: port..=port, path });
    }
    for (name, balancer) in &config.balancers {
        for (n, listen) in balancer.listen.iter().enumerate() {
            let path = format!("balancer.{name}.listen[{n}]");
            all.push(Listener {
                who: format!("balancer `{name}`"),
                addr: listen.ip(),
                ports: listen.port()..=listen.port(),
                path,
            });
        }
    }
    for (name, service) in &config.services {
        let Port::Fixed(first) = service.port else { continue };
        let path = format!("service.{name}.port");
        let extra = u16::try_from(service.replicas.saturating_sub(1)).ok();
        match extra.and_then(|extra| first.checked_add(extra)) {
            Some(last) => {
                all.push(Listener { who: format!("service `{name}`"), addr: service.host, ports: first..=last, path })
            }
            None => {
                let span = out.spans.value(&path);
                let what = format!("{} instances from port {first} on pass 65535", service.replicas);
                out.push(
                    Diagnostic::new(Severity::Error, code::BAD_VALUE, what)
                        .at(span, "too high")
                        .hint("choose a lower port"),
                );
            }
        }
    }
    // Port 0 is whatever is free.
    all.retain(|l| *l.ports.start() != 0);
    all
}

fn overlap(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

fn clash(a: &Listener, b: &Listener) -> bool {
    // `[::]` takes IPv4 connections too.
    let all_of = |wide: IpAddr, other: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || other.is_ipv4());
    overlap(&a.ports, &b.ports) && (a.addr == b.addr || all_of(a.addr, b.addr) || all_of(b.addr, a.addr))
}

fn tell_clash(out: &mut Findings, earlier: &Listener, later: &Listener) {
    let port = *earlier.ports.start().max(later.ports.start());
    let (a, b) = (out.spans.value(&earlier.path), out.spans.value(&later.path));
    let message = format!("{} and {} both want port {port}", earlier.who, later.who);
    let several = |l: &Listener| match (l.ports.start(), l.ports.end()) {
        (a, b) if a == b => format!("{} listens here", l.who),
        (a, b) => format!("{} takes {a} to {b}, one for each instance", l.who),
    };
    out.push(
        Diagnostic::new(Severity::Error, code::PORT_CLASH, message)
            .at(b, several(later))
            .at(a, several(earlier))
            .hint("give one of them another port; services may leave it to holdfast with port = \"auto\""),
    );
}

/// Fixed ports there are a gamble, not a fault: they are lost only while some outgoing connection happens to hold one.
fn ephemeral_listener(out: &mut Findings, listener: &Listener, environment: &Environment) {
    let Some(ephemeral) = &environment.ephemeral_ports else { return };
    if overlap(&listener.ports, ephemeral) {
        let span = out.spans.value(&listener.path);
        let message = format!("{} listens on a port that outgoing connections may take first", listener.who);
        out.push(
            Diagnostic::new(Severity::Warning, code::EPHEMERAL, message)
                .at(span, format!("the kernel hands out {} to {}", ephemeral.start(), ephemeral.end()))
                .hint(format!("choose a port below {}", ephemeral.start())),
        );
    }
}

fn privileged(out: &mut Findings, listener: &Listener, environment: &Environment) {
    if !environment.is_root && *listener.ports.start() < environment.unprivileged_port_min {
        let span = out.spans.value(&listener.path);
        out.push(
            Diagnostic::new(Severity::Warning, code::NEEDS_ROOT, format!("{} wants a privileged port", listener.who))
                .at(span, format!("ports below {} are for root", environment.unprivileged_port_min))
                .hint("run the agent as root, or: sysctl net.ipv4.ip_unprivileged_port_start=80"),
        );
    }
}

fn assigned(out: &mut Findings, config: &Config, environment: &Environment, listeners: &[Listener]) {
    let range = &config.node.ports;
    let users = || config.services.values().filter(|s| s.port == Port::Assigned);
    let given = out.spans.has("node.ports");
    let span = out.spans.value("node.ports");
    let place = |found: Diagnostic, label: String| if given { found.at(span.clone(), label) } else { found };
    let shown = format!("`node.ports`, {}-{},", range.start(), range.end());
    let overlapped = environment.ephemeral_ports.as_ref().filter(|e| overlap(e, range));
    if let Some(ephemeral) = overlapped.filter(|_| given || users().next().is_some()) {
        let found =
            Diagnostic::new(Severity::Error, code::EPHEMERAL, format!("{shown} overlaps the kernel's ephemeral ports"));
        let label = format!("the kernel hands out {} to {}", ephemeral.start(), ephemeral.end());
        out.push(
            place(found, label)
                .hint(format!("choose a range outside of it: [node] ports = \"{}\"", outside(ephemeral))),
        );
    }
    let wanted: u64 = users().map(|s| u64::from(s.replicas)).sum();
    let available = u64::from(range.end() - range.start()) + 1;
    if wanted > available {
        let message = format!("{wanted} instances need a port, and {shown} has {available}");
        let found = Diagnostic::new(Severity::Error, code::PORTS_SHORT, message);
        let hint = "make the range wider, for example ports = \"20000-29999\"";
        out.push(place(found, format!("{available} ports")).hint(hint));
    }
    for listener in listeners.iter().filter(|l| overlap(&l.ports, range) && users().next().is_some()) {
        let at = out.spans.value(&listener.path);
        let message = format!("{} listens inside `node.ports`, from which instances get theirs", listener.who);
        out.push(
            Diagnostic::new(Severity::Warning, code::PORT_CLASH, message)
                .at(at, format!("`node.ports` is {}-{}", range.start(), range.end()))
                .hint("choose a port outside of the range, or move the range"),
        );
    }
}

/// A range of up to 10,000 ports beside the ephemeral one.
fn outside(ephemeral: &RangeInclusive<u16>) -> String {
    if *ephemeral.start() >= 30_000 {
        "20000-29999".into()
    } else if *ephemeral.start() > 12_000 {
        format!("{}-{}", ephemeral.start() - 10_000, ephemeral.start() - 1)
    } else {
        format!("{}-65535", ephemeral.end().saturating_add(1))
    }
}

fn no_port(out: &mut Findings, service: &Service) {
    let path = format!("service.{}.port", service.name);
    if service.port != Port::None || !out.spans.has(&path) || !out.is_good(&path) {
        return;
    }
    let name = &service.name;
    let span = out.spans.value(&path);
    let asks = probes(service).find(|(_, p)| asks_by_network(p)).map(|(name, _)| name);
    let (place, why) = match asks {
        Some(probe) => (format!("service.{name}.{probe}"), format!("the `{probe}` probe asks by network")),
        None if mentions_port(service) => (format!("service.{name}.command"), "the port is used here".into()),
        None => return,
    };
    let user = out.spans.key(&place);
    out.push(
        Diagnostic::new(Severity::Error, code::NO_PORT, format!("`service.{name}` needs a port and has none"))
            .at(span, "switched off here")
            .at(user, why)
            .hint("remove `port = false`, and holdfast assigns one; or name the port that it listens on"),
    );
}

/// `env` wins over what holdfast passes, so the program would listen where nobody asks.
fn overridden(out: &mut Findings, service: &Service) {
    let at = format!("service.{}.env.PORT", service.name);
    let Some(Value::Plain(text)) = service.env.get("PORT").filter(|_| service.port == Port::Assigned) else { return };
    if text.contains("{port}") {
        return;
    }
    let span = out.spans.value(&at);
    let message = format!("`{}` gets a port from holdfast, and `env` replaces it", service.name);
    let hint = format!("write port = {text} for the service, or remove PORT from `env`");
    let found = out.conflict(&at, message);
    out.push(found.at(span, "the program listens here, probes and balancers ask elsewhere").hint(hint));
}

/// A program may read `PORT` by itself, so this is advice; but most often the port was forgotten.
fn untold(out: &mut Findings, service: &Service) {
    let path = format!("service.{}", service.name);
    let decided = out.spans.has(&format!("{path}.port"));
    if service.port != Port::Assigned || decided || mentions_port(service) || !out.is_good(&format!("{path}.command")) {
        return;
    }
    let span = out.spans.key(&format!("{path}.command"));
    let message = format!("`{}` gets a port from holdfast, and its command does not mention it", service.name);
    out.push(
        Diagnostic::new(Severity::Advice, code::PORT_UNTOLD, message)
            .at(span, "no `{port}`")
            .hint("fine if the program reads the variable PORT; else pass {port}, or name its own: port = 8080"),
    );
}

fn balanced_without_port(out: &mut Findings, config: &Config, balancer: &str, service: &str) {
    let Some(target) = config.services.get(service) else { return };
    let path = format!("service.{service}.port");
    if target.kind == Kind::Service && target.port == Port::None && out.is_good(&path) {
        let (span, port) = (out.spans.value(&format!("balancer.{balancer}.service")), out.spans.value(&path));
        out.push(
            Diagnostic::new(Severity::Error, code::NO_PORT, format!("balancer `{balancer}` cannot reach `{service}`"))
                .at(span, "sends requests to it")
                .at(port, "it listens on no port")
                .hint("remove `port = false`, and holdfast assigns one; or name the port that it listens on"),
        );
    }
}
