//! Addresses that come and go: interfaces, addresses with kernel lifetimes, and what the network is told and says about them.
//!
//! Raw sockets of our own: four kinds of message are needed, and the crates for rtnetlink bring a whole client each.

mod frame;
mod link;
mod netlink;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

pub use frame::{Heard, Mac};
pub use link::Link;
pub use netlink::{Netlink, Watch};

/// Bits of `CapEff` in `/proc/self/status`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("addresses of this machine cannot be changed: this process lacks {missing}")]
    Forbidden { missing: &'static str },
    #[error("no interface carries a network with {address}")]
    NoNetwork { address: IpAddr },
    #[error("there is no interface {name}")]
    NoInterface { name: String },
    #[error("interface {name} has no hardware address, so {address} cannot be announced on it")]
    NoHardware { name: String, address: IpAddr },
    #[error("cannot {what}: {source}")]
    Kernel { what: String, source: io::Error },
    #[error("cannot {what} on {interface}: {source}")]
    Packet { what: &'static str, interface: String, source: io::Error },
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Error::Forbidden { .. } => "HF0360",
            Error::NoNetwork { .. } | Error::NoInterface { .. } | Error::NoHardware { .. } => "HF0361",
            Error::Kernel { .. } => "HF0362",
            Error::Packet { .. } => "HF0363",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Forbidden { .. } => {
                Some("run the agent as root, or: setcap cap_net_admin,cap_net_raw+ep $(command -v holdfast)".into())
            }
            Error::NoNetwork { .. } => Some("name one: virtual_ip_interface = \"eth0\" (see: ip addr)".into()),
            Error::NoInterface { .. } | Error::NoHardware { .. } => Some("see: ip link".into()),
            Error::Kernel { .. } | Error::Packet { .. } => None,
        }
    }
}

/// Refused as a whole where something would be missing in the middle of a takeover.
pub fn may_manage() -> Result<(), Error> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    let caps = u64::from_str_radix(field.trim(), 16).unwrap_or(0);
    let has = |bit: u32| caps & (1 << bit) != 0;
    match (has(CAP_NET_ADMIN), has(CAP_NET_RAW)) {
        (true, true) => Ok(()),
        (false, true) => Err(Error::Forbidden { missing: "CAP_NET_ADMIN" }),
        (true, false) => Err(Error::Forbidden { missing: "CAP_NET_RAW" }),
        (false, false) => Err(Error::Forbidden { missing: "CAP_NET_ADMIN and CAP_NET_RAW" }),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// `None` on loopback, tunnels and the like.
    pub mac: Option<Mac>,
    pub loopback: bool,
}

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefixed {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Prefixed {
    pub fn contains(&self, other: IpAddr) -> bool {
        let top = |bits: u128, width: u32| bits.checked_shr(width - u32::from(self.prefix)).unwrap_or(0);
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => top(u32::from(a).into(), 32) == top(u32::from(b).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => top(a.into(), 128) == top(b.into(), 128),
            _ => false,
        }
    }
}

impl std::fmt::Display for Prefixed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An address that an interface has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub interface: u32,
    pub at: Prefixed,
    /// `None` is for ever.
    pub valid_for: Option<Duration>,
    /// Added by holdfast, in this or another life.
    pub ours: bool,
}

/// The interface of that name, or the one whose network contains the address.
pub fn find_interface(netlink: &Netlink, address: IpAddr, name: Option<&str>) -> Result<Interface, Error> {
    let interfaces = netlink.interfaces()?;
    let found = match name {
        Some(name) => {
            let named = interfaces.into_iter().find(|i| i.name == name);
            named.ok_or_else(|| Error::NoInterface { name: name.to_owned() })?
        }
        None => {
            let mut networks = netlink.addresses()?;
            // The narrowest network wins, as in routing; a virtual address is no network by itself.
            networks.retain(|a| !a.ours && a.at.contains(address));
            networks.sort_by_key(|a| std::cmp::Reverse(a.at.prefix));
            let index = networks.first().map(|a| a.interface);
            let found = interfaces.into_iter().find(|i| Some(i.index) == index && !i.loopback);
            found.ok_or(Error::NoNetwork { address })?
        }
    };
    match found.mac {
        Some(_) => Ok(found),
        None => Err(Error::NoHardware { name: found.name, address }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_knows_what_it_contains() {
        let at = |address: &str, prefix| Prefixed { address: address.parse().unwrap(), prefix };
        for (network, address, want) in [
            (at("10.0.0.1", 24), "10.0.0.100", true),
            (at("10.0.0.1", 24), "10.0.1.100", false),
            (at("10.0.0.1", 32), "10.0.0.1", true),
            (at("10.0.0.1", 32), "10.0.0.2", false),
            (at("10.0.0.1", 0), "192.0.2.1", true),
            (at("fd00::1", 64), "fd00::ffff", true),
            (at("fd00::1", 64), "fd00:0:0:1::1", false),
            (at("10.0.0.1", 24), "fd00::1", false),
        ] {
            assert_eq!(network.contains(address.parse().unwrap()), want, "{network} {address}");
        }
    }

    #[test]
    fn this_machine_has_a_loopback_with_its_address() {
        let netlink = Netlink::open().unwrap();
        let interfaces = netlink.interfaces().unwrap();
        let lo = interfaces.iter().find(|i| i.name == "lo").expect("every machine has one");
        assert!(lo.loopback && lo.mac.is_none());
        let addresses = netlink.addresses().unwrap();
        let home = addresses.iter().find(|a| a.at.address == IpAddr::from([127, 0, 0, 1])).expect("127.0.0.1");
        assert_eq!((home.interface, home.valid_for, home.ours), (lo.index, None, false));
        let error = find_interface(&netlink, "127.0.0.9".parse().unwrap(), None).unwrap_err();
        assert_eq!(error.code(), "HF0361");
        let error = find_interface(&netlink, "10.0.0.1".parse().unwrap(), Some("none0")).unwrap_err();
        assert!(error.to_string().contains("none0"), "{error}");
    }
}
