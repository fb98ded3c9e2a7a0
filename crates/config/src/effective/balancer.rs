//! `[balancer.NAME]`.

use crate::keys::{BALANCER, DNS, EJECT, FALLBACK, LIMITS, RETRY, TIMEOUTS};
use crate::model::{Algorithm, Balancer, Dns, DnsBy};
use crate::secret::mask_words;

use super::{Setting, Settings, duration, list, reference, share, size, text, texts};

pub(crate) fn balancer(balancer: &Balancer) -> Vec<Setting> {
    let mut out = Settings::new(&BALANCER);
    out.put("listen", list(balancer.listen.iter().map(|addr| text(addr.to_string()))));
    out.put("service", text(&balancer.service));
    out.put(
        "algorithm",
        text(match balancer.algorithm {
            Algorithm::P2c => "p2c",
            Algorithm::LeastRequests => "least-requests",
            Algorithm::RoundRobin => "round-robin",
        }),
    );
    for (name, enabled) in [("retry", balancer.retry.enabled), ("eject", balancer.eject.enabled)] {
        if !enabled {
            out.put(name, "false".into());
        }
    }
    out.put("slow_start", duration(balancer.slow_start));
    out.put("access_log", balancer.access_log.to_string());
    if !balancer.on.is_empty() {
        out.put("on", super::on(&balancer.on));
    }
    if !balancer.trusted_proxies.is_empty() {
        out.put("trusted_proxies", list(balancer.trusted_proxies.iter().map(|ip| text(ip.to_string()))));
    }
    out.put_some("availability", balancer.availability, share);
    if !balancer.virtual_ips.is_empty() {
        out.put("virtual_ip", list(balancer.virtual_ips.iter().map(|ip| text(ip.to_string()))));
        out.put_some("virtual_ip_interface", balancer.virtual_ip_interface.as_ref(), text);
        out.put("virtual_ip_lease", text(balancer.virtual_ip_lease));
        if !balancer.virtual_ip_prefer.is_empty() {
            out.put("virtual_ip_prefer", list(balancer.virtual_ip_prefer.iter().map(text)));
        }
    }
    faults(&mut out, balancer);
    bounds(&mut out, balancer);
    dns(&mut out, balancer.dns.as_ref());
    if let Some(fallback) = &balancer.fallback {
        out.table("fallback", &FALLBACK);
        out.put("queue", text(&fallback.queue));
        out.put_some("key", fallback.key.as_ref(), text);
    }
    out.finish()
}

fn faults(out: &mut Settings, balancer: &Balancer) {
    let (retry, eject) = (&balancer.retry, &balancer.eject);
    if retry.enabled {
        out.table("retry", &RETRY);
        out.put("tries", retry.tries_max.to_string());
        out.put("budget", share(retry.budget_ratio));
        out.put("budget_min", retry.budget_min.to_string());
        if !retry.statuses.is_empty() {
            out.put("statuses", list(retry.statuses.iter().map(u16::to_string)));
        }
    }
    if eject.enabled {
        out.table("eject", &EJECT);
        out.put("failures", eject.failures.to_string());
        out.put("gateway_errors", eject.gateway_errors.to_string());
        out.put("base", duration(eject.base));
        out.put("max", duration(eject.max));
    }
}

fn bounds(out: &mut Settings, balancer: &Balancer) {
    let (times, limits) = (&balancer.timeouts, &balancer.limits);
    out.table("timeouts", &TIMEOUTS);
    out.put("connect", duration(times.connect));
    out.put("first_byte", duration(times.first_byte));
    out.put("idle", duration(times.idle));
    out.put("total", duration(times.total));
    out.put("request_head", duration(times.request_head));
    out.put("keep_alive", duration(times.keep_alive));
    out.table("limits", &LIMITS);
    out.put("connections", limits.connections.to_string());
    out.put("header", size(u64::from(limits.header_bytes)));
    out.put("headers", limits.headers.to_string());
    out.put_some("body", limits.body_bytes, size);
    out.put_some("in_flight", limits.in_flight, |n| n.to_string());
}

fn dns(out: &mut Settings, dns: Option<&Dns>) {
    let Some(dns) = dns else { return };
    out.table("dns", &DNS);
    out.put("name", text(&dns.name));
    out.put("ttl", duration(dns.ttl));
    out.put("stable", duration(dns.stable));
    match &dns.by {
        DnsBy::Command(argv) => out.put_hidden("command", texts(argv), texts(&mask_words(argv))),
        DnsBy::Server { servers, zone, key } => {
            out.put("server", list(servers.iter().map(|addr| text(addr.to_string()))));
            let derived = dns.name.split_once('.').map(|(_, rest)| text(rest)).unwrap_or_default();
            out.put_derived("zone", text(zone), &derived);
            if let Some((name, secret)) = key {
                out.put("key", text(name));
                out.put("secret", reference(secret));
            }
        }
    }
}
