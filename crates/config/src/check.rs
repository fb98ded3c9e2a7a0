//! What a file that reads well still gets wrong: rules over the whole [`Config`].

mod cluster;
mod cycles;
mod drills;
pub(crate) mod files;
mod ports;
mod references;
mod sagas;
mod services;
mod standby;
mod tasks;
mod virtual_ips;
mod weak_points;
mod workflows;

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::model::Config;
use crate::reader::Findings;

/// What the rules need to know of the machine.
#[derive(Clone, Debug)]
pub struct Environment {
    pub hostname: String,
    /// Ports that the kernel gives to outgoing connections; `None` where it does not say.
    pub ephemeral_ports: Option<RangeInclusive<u16>>,
    /// Ports below need a privilege.
    pub unprivileged_port_min: u16,
    pub cpus: usize,
    pub is_root: bool,
    /// Where other machines reach this one, once it is known.
    pub address: Option<IpAddr>,
}

impl Environment {
    /// This machine, read from `/proc`.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let ports: Vec<u16> =
            read("/proc/sys/net/ipv4/ip_local_port_range").split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let hostname = read("/proc/sys/kernel/hostname").trim().to_owned();
        let status = read("/proc/self/status");
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        Environment {
            hostname: if hostname.is_empty() { "localhost".into() } else { hostname },
            ephemeral_ports: if let [first, last] = ports[..] { Some(first..=last) } else { None },
            unprivileged_port_min: read("/proc/sys/net/ipv4/ip_unprivileged_port_start").trim().parse().unwrap_or(1024),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            is_root: uids.split_whitespace().nth(1) == Some("0"),
            address: None,
        }
    }
}

/// Runs every rule; the order does not matter, because findings are sorted by place.
pub(crate) fn check(out: &mut Findings, config: &Config, environment: &Environment) {
    references::check(out, config);
    cycles::check(out, config);
    ports::check(out, config, environment);
    services::check(out, config, environment);
    virtual_ips::check(out, config);
    standby::check(out, config);
    cluster::check(out, config);
    tasks::check(out, config, environment);
    workflows::check(out, config, environment);
    sagas::check(out, config);
    drills::check(out, config);
    weak_points::check(out, config);
}
