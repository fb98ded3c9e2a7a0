//! `[balancer.NAME]`.

use std::net::IpAddr;

use toml::de::{DeTable, DeValue};

use crate::keys::{EJECT, LIMITS, RETRY, Section, TIMEOUTS};
use crate::model::{Algorithm, Balancer, Eject, Limits, Retry, Timeouts, VirtualIp};
use crate::reader::{Fault, Findings, Reader};

use super::node::socket_addr;

pub(super) fn read(out: &mut Findings, table: &Reader<'_>, name: &str) -> Balancer {
    table.require(out, &["listen", "service"]);
    let listen = table.list(out, "listen", socket_addr);
    if listen.is_empty() && table.has("listen") && out.is_good(&table.at("listen")) {
        let span = out.spans.value(&table.at("listen"));
        out.fault(&table.at("listen"), span, Fault::value("no address to listen on"));
    }
    Balancer {
        name: name.to_owned(),
        listen,
        service: table.text(out, "service").unwrap_or_default(),
        algorithm: algorithm(table.choice(out, "algorithm")),
        retry: retry(out, table),
        eject: eject(out, table),
        slow_start: table.duration(out, "slow_start"),
        timeouts: timeouts(out, table),
        limits: limits(out, table),
        access_log: table.boolean(out, "access_log"),
        trusted_proxies: table.list(out, "trusted_proxies", |v| {
            let text = v.as_str().ok_or_else(|| Fault::kind("an IP address", v))?;
            text.parse().map_err(|_| Fault::value("not an IP address"))
        }),
        on: table.form(out, "on", super::cluster::on).unwrap_or_default(),
        availability: table.opt_share(out, "availability"),
        virtual_ips: table.list(out, "virtual_ip", virtual_ip),
        virtual_ip_interface: table.text(out, "virtual_ip_interface"),
        virtual_ip_lease: table.choice(out, "virtual_ip_lease").unwrap_or("default"),
        virtual_ip_prefer: table.list(out, "virtual_ip_prefer", |v| {
            v.as_str().map(str::to_owned).ok_or_else(|| Fault::kind("the name of a node", v))
        }),
        dns: super::dns::read(out, table),
        fallback: super::tasks::fallback(out, table),
    }
}

/// `10.0.0.100/24`: the address of one host, with the prefix of its network.
fn virtual_ip(value: &DeValue<'_>) -> Result<VirtualIp, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("an address with a prefix", value))?;
    let Some((address, prefix)) = text.split_once('/') else {
        return Err(Fault::value("no prefix").hint(format!("write the length of its network: \"{text}/24\"")));
    };
    let address: IpAddr = address.parse().map_err(|_| Fault::value("not an IP address"))?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|n| (1..=width).contains(n));
    let prefix: u8 = prefix.ok_or_else(|| Fault::value(format!("the prefix is a number from 1 to {width}")))?;
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err(Fault::value("not an address that one host can have in a network"));
    }
    let is_end = match address {
        IpAddr::V4(ip) if prefix < 31 => {
            let host = u32::MAX >> prefix;
            u32::from(ip) & host == 0 || u32::from(ip) & host == host
        }
        _ => false,
    };
    if is_end {
        return Err(Fault::value("the first or last address of its network belongs to no host"));
    }
    Ok(VirtualIp { address, prefix })
}

fn algorithm(word: Option<&str>) -> Algorithm {
    match word {
        Some("round-robin") => Algorithm::RoundRobin,
        Some("least-requests") => Algorithm::LeastRequests,
        _ => Algorithm::P2c,
    }
}

/// `key = true`, `key = false` or a table, which means true.
fn switch<'t>(
    out: &mut Findings,
    table: &Reader<'t>,
    name: &str,
    section: &'static Section,
    empty: &'t DeTable<'t>,
) -> (bool, Reader<'t>) {
    let is_table = table.raw(name).is_some_and(|v| v.get_ref().is_table());
    if is_table {
        return (true, table.inner_or_empty(out, name, section, empty));
    }
    let read = |v: &DeValue<'_>| match v {
        DeValue::Boolean(b) => Ok(*b),
        other => Err(Fault::kind("true, false or a table", other)),
    };
    let enabled = table.form(out, name, read).unwrap_or(true);
    (enabled, Reader::new(out, table.at(name), section, empty))
}

fn retry(out: &mut Findings, balancer: &Reader<'_>) -> Retry {
    let empty = DeTable::new();
    let (enabled, table) = switch(out, balancer, "retry", &RETRY, &empty);
    Retry {
        enabled,
        tries_max: table.u32(out, "tries"),
        budget_ratio: table.opt_share(out, "budget").expect("the catalogue gives a default"),
        budget_min: table.u32(out, "budget_min"),
        statuses: table.integers(out, "statuses").into_iter().filter_map(|n| u16::try_from(n).ok()).collect(),
    }
}

fn eject(out: &mut Findings, balancer: &Reader<'_>) -> Eject {
    let empty = DeTable::new();
    let (enabled, table) = switch(out, balancer, "eject", &EJECT, &empty);
    let eject = Eject {
        enabled,
        failures: table.u32(out, "failures"),
        gateway_errors: table.u32(out, "gateway_errors"),
        base: table.duration(out, "base"),
        max: table.duration(out, "max"),
    };
    if eject.base > eject.max && out.is_good(&table.path) {
        let span = out.spans.value(&table.at("base"));
        out.fault(&table.at("base"), span, Fault::value("longer than `max`").hint("raise `max`, or shorten `base`"));
    }
    eject
}

fn timeouts(out: &mut Findings, balancer: &Reader<'_>) -> Timeouts {
    let empty = DeTable::new();
    let table = balancer.inner_or_empty(out, "timeouts", &TIMEOUTS, &empty);
    Timeouts {
        connect: table.duration(out, "connect"),
        first_byte: table.duration(out, "first_byte"),
        idle: table.duration(out, "idle"),
        total: table.duration(out, "total"),
        request_head: table.duration(out, "request_head"),
        keep_alive: table.duration(out, "keep_alive"),
    }
}

fn limits(out: &mut Findings, balancer: &Reader<'_>) -> Limits {
    let empty = DeTable::new();
    let table = balancer.inner_or_empty(out, "limits", &LIMITS, &empty);
    let header = table.opt_size(out, "header").expect("the catalogue gives a default");
    Limits {
        connections: table.u32(out, "connections"),
        header_bytes: u32::try_from(header).unwrap_or(u32::MAX),
        headers: table.u32(out, "headers"),
        body_bytes: table.opt_size(out, "body"),
        in_flight: table.opt_u32(out, "in_flight"),
    }
}
