//! What a plane says about itself when asked.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub const VERSION: u32 = 1;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    pub version: u32,
    pub pid: u32,
    /// Place in the shared table.
    pub process: usize,
    pub epoch: u64,
    pub seq: u64,
    pub draining: bool,
    pub connections: u32,
    /// Access log lines that could not be written.
    pub log_lines_dropped: u64,
    pub faults: Vec<crate::fault::Fault>,
    pub balancers: Vec<Balancer>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Balancer {
    pub name: String,
    pub in_flight: u32,
    pub retrying: u32,
    pub connections: u32,
    /// Addresses that this process accepts on.
    pub listening: Vec<SocketAddr>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    pub instance: String,
    /// Tries of this process, retries included.
    pub requests: u64,
    pub connect_failures: u64,
    pub transport_failures: u64,
    pub timeouts: u64,
    pub gateway_errors: u64,
    pub retries: u64,
    pub hedges: u64,
    pub moves: u64,
    /// Over all processes.
    pub in_flight: u32,
    /// Left of an ejection, 0 when it is in rotation.
    pub ejected_ms: u64,
    pub ejections: u32,
    /// `ok`, `stopped`, `no_progress`, `busy`.
    pub verdict: String,
    /// Highest of the cores.
    pub ewma_us: u64,
    /// To the first byte, over the last minute; absent without requests.
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
    pub idle_connections: usize,
}
