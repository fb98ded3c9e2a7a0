//! The wire: a bridge in the enclosure, a pair of virtual interfaces to each machine, and a switch that silences one.

use std::fs;

use crate::enclosure::Enclosure;
use crate::machine::Plan;
use crate::running::{finish, tool};
use crate::{Error, Result};

/// Each lab has a network of its own: all use the same addresses. 10.77.0.201 and higher are free for virtual addresses.
const NET: &str = "10.77.0";
const PREFIX_LENGTH: u8 = 24;

/// Numbers of machines: nodes from 1 to `MACHINES_MAX`, members of etcd after this one.
pub(crate) const FIRST_ETCD: usize = 100;
pub(crate) const CLIENT: usize = 200;

pub(crate) fn address(number: usize) -> String {
    format!("{NET}.{number}")
}

/// Ports of the bridge in `silent` are as if unplugged, without a loss of carrier.
const TABLE: &str = "table bridge lab {
    set silent {
        type ifname
    }
    chain forward {
        type filter hook forward priority -10
        iifname @silent drop
        oifname @silent drop
    }
}
";

pub(crate) fn bridge(enclosure: &Enclosure) -> Result<()> {
    let lines = "link set lo up\nlink add lan type bridge mcast_snooping 0\nlink set lan up\n";
    enclosure.tool(&["ip", "-batch", "-"], lines)?;
    enclosure.tool(&["nft", "-f", "-"], TABLE).map(drop)
}

/// All machines know each other by name.
pub(crate) fn write_hosts(enclosure: &Enclosure, plans: &[Plan]) -> Result<()> {
    let lines: String = plans.iter().map(|plan| format!("{} {}\n", address(plan.number), plan.name)).collect();
    let text = format!("127.0.0.1 localhost\n::1 localhost\n{lines}");
    fs::write(enclosure.dir.join("hosts"), text).map_err(|e| Error::io("write the hosts file", e))
}

/// Connects the network namespace of process `init` to the bridge; the same hardware address at every boot.
pub(crate) fn plug(enclosure: &Enclosure, plan: &Plan, init: u32) -> Result<()> {
    let Plan { name, number, .. } = plan;
    unplug(enclosure, plan)?;
    let lines = format!(
        "link add {name} type veth peer name eth0 address 02:00:0a:4d:00:{number:02x} netns {init}\n\
         link set {name} master lan up\n"
    );
    enclosure.tool(&["ip", "-batch", "-"], &lines)?;
    let lines = format!(
        "link set lo up\naddr add {}/{PREFIX_LENGTH} brd + dev eth0\nlink set eth0 up\n\
         addr add fd77::{number:x}/64 dev eth0 nodad\n",
        address(*number)
    );
    let mut inside = tool(&["nsenter", "--target", &init.to_string(), "--net", "--"]);
    finish(inside.args(["ip", "-batch", "-"]), &lines).map(drop)
}

/// The kernel removes the interfaces of a namespace some time after its last process: this does not wait for it.
pub(crate) fn unplug(enclosure: &Enclosure, plan: &Plan) -> Result<()> {
    // With -force it is no error when it has gone already.
    match enclosure.tool(&["ip", "-force", "-batch", "-"], &format!("link del {}\n", plan.name)) {
        Err(Error::Failed { why, .. }) if why.contains("Cannot find device") => Ok(()),
        other => other.map(drop),
    }
}

/// From now on no packet leaves or reaches the machine, or all do again.
pub(crate) fn silence(enclosure: &Enclosure, name: &str, silent: bool) -> Result<()> {
    let change = if silent { "add" } else { "delete" };
    enclosure.tool(&["nft", "-f", "-"], &format!("{change} element bridge lab silent {{ \"{name}\" }}\n")).map(drop)
}
