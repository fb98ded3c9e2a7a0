//! `[node]`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use toml::de::DeValue;

use crate::check::Environment;
use crate::model::Node;
use crate::reader::{Fault, Findings, Reader};

/// Ports below are privileged.
const PORT_UNPRIVILEGED_MIN: u16 = 1024;

pub(super) fn read(out: &mut Findings, table: &Reader<'_>, environment: &Environment) -> Node {
    Node {
        name: table.text(out, "name").unwrap_or_else(|| environment.hostname.clone()),
        zone: table.text(out, "zone"),
        ports: table.form(out, "ports", ports).expect("the catalogue gives a default"),
        metrics: table.form(out, "metrics", socket_addr),
        balancer_processes: u16::try_from(table.u32(out, "balancer_processes")).unwrap_or(u16::MAX),
        balancer_threads: table.opt_u32(out, "balancer_threads").and_then(|n| u16::try_from(n).ok()),
        journal_days: table.u32(out, "journal_days"),
        journal_size_bytes: table.opt_size(out, "journal_size").expect("the catalogue gives a default"),
    }
}

fn ports(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("a text such as \"20000-29999\"", value))?;
    let range = text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    match range {
        Some((first, last)) if first > last => Err(Fault::value("the first port is above the last")),
        Some((first, _)) if first < PORT_UNPRIVILEGED_MIN => Err(Fault::value("ports below 1024 are privileged")),
        Some((first, last)) => Ok(first..=last),
        None => Err(Fault::value("not a range of ports")),
    }
}

pub(super) fn socket_addr(value: &DeValue<'_>) -> Result<SocketAddr, Fault> {
    let text = match value {
        DeValue::String(text) => text,
        DeValue::Integer(n) => {
            return Err(Fault::kind("an address with a port", value)
                .hint(format!("write \"127.0.0.1:{n}\" or \"0.0.0.0:{n}\"")));
        }
        other => return Err(Fault::kind("an address with a port", other)),
    };
    text.parse().map_err(|_| Fault::value("not an ADDRESS:PORT").hint(address_hint(text)))
}

fn address_hint(text: &str) -> String {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "8080"));
    let port = if port.parse::<u16>().is_ok() { port } else { "8080" };
    match host {
        "localhost" => format!("write \"127.0.0.1:{port}\""),
        "" | "*" => format!("write \"0.0.0.0:{port}\" for all addresses of this machine"),
        _ if host.parse::<std::net::Ipv6Addr>().is_ok() => format!("write \"[{host}]:{port}\""),
        _ => format!(
            "an IP address and a port, such as \"127.0.0.1:{port}\" or \"[::1]:{port}\"; host names are not resolved"
        ),
    }
}
