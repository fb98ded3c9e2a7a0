//! The records, versioned: a release only adds fields.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use holdfast_observe::status;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::records::codec;
use crate::{Op, Result};

/// Where a machine is and what it offers; it outlives the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    #[serde(default)]
    pub version: u32,
    pub name: String,
    pub address: IpAddr,
    /// Where its agent answers the others.
    #[serde(default)]
    pub link: Option<SocketAddr>,
    /// Its agent shows a certificate there, and wants one.
    #[serde(default)]
    pub secured: bool,
    /// It keeps the authority's key: others join and renew there.
    #[serde(default)]
    pub authority: bool,
    /// With `node`, `host`, `rack` and `zone`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub cpu_millis: Option<u64>,
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Of the program, such as `0.1.0`.
    #[serde(default)]
    pub program: String,
    /// Boot id of the kernel.
    #[serde(default)]
    pub boot: String,
}

/// What people want of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admin {
    #[serde(default)]
    pub version: u32,
    /// Takes nothing new.
    #[serde(default)]
    pub cordoned: bool,
    /// Is emptied.
    #[serde(default)]
    pub draining: bool,
    /// Is forgotten once it is empty.
    #[serde(default)]
    pub removing: bool,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub by: String,
    #[serde(default)]
    pub since_wall_ms: u64,
}

/// What a machine should run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    #[serde(default)]
    pub version: u32,
    /// By instance, such as `web-2`.
    pub instances: BTreeMap<String, Assigned>,
    /// By service: instances that may be taken down by plan at the same time.
    #[serde(default)]
    pub turns: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Of two machines that have one instance, the later one is where it moves to.
    pub since_wall_ms: u64,
}

/// Under which lease of its machine, and in which epoch of the store, something was said. What was said before the machine
/// lost its power, or stands in an older copy of the store, is how things were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Under {
    pub epoch: u64,
    /// Revision at which the key of the machine's lease was created.
    pub alive: u64,
}

/// What runs on a machine, as its own agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    #[serde(default)]
    pub version: u32,
    /// Missing where an earlier release wrote it.
    #[serde(default)]
    pub under: Option<Under>,
    /// Revision of the configuration that is in force there.
    #[serde(default)]
    pub revision: u64,
    #[serde(default)]
    pub instances: Vec<InstanceState>,
    /// Balancer processes that serve by the newest snapshot.
    #[serde(default)]
    pub planes: u32,
    /// Endpoints that leave and have no request of this machine's balancers in flight.
    #[serde(default)]
    pub idle: BTreeSet<Idle>,
    /// What is wrong there, in words.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Incidents that are open.
    #[serde(default)]
    pub incidents: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Idle {
    pub node: String,
    pub instance: String,
    pub incarnation: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceState {
    /// As `status` shows it, without times that run.
    pub shown: status::Instance,
    pub since_wall_ms: u64,
    pub service: String,
    pub ordinal: u32,
    #[serde(default)]
    pub addr: Option<SocketAddr>,
    /// `ready`, `suspect`, `not_ready` or `draining`, for balancers.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Failed starts in a row.
    #[serde(default)]
    pub failures: u32,
    /// It runs another definition than the one in force.
    #[serde(default)]
    pub outdated: bool,
    /// It is away by plan, or about to be.
    #[serde(default)]
    pub acting: bool,
    /// It waits for a turn to be replaced.
    #[serde(default)]
    pub due: bool,
    /// Member of a redundant service that could take over now.
    #[serde(default)]
    pub able: bool,
}

/// Machines that one cannot reach, and how they answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    #[serde(default)]
    pub version: u32,
    /// Missing where an earlier release wrote it.
    #[serde(default)]
    pub under: Option<Under>,
    #[serde(default)]
    pub silent: BTreeSet<String>,
    #[serde(default)]
    pub refused: BTreeSet<String>,
    /// Those that answered; who is in none of the three was not looked at.
    #[serde(default)]
    pub answers: BTreeSet<String>,
}

/// `/KIND/NAME` with the record as it is stored.
pub fn put<T: Serialize>(kind: &str, name: &str, record: &T) -> Result<Op> {
    let key = format!("{kind}{name}");
    let value = codec::encode(&key, record)?;
    Ok(Op::put(key, value))
}

pub(super) fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    codec::decode(key, value)
}
