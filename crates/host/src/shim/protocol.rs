//! What is said over `ctl.sock`: one JSON message a packet. Shims outlive upgrades of the agent, so this only grows.

use holdfast_policy::Incarnation;
use serde::{Deserialize, Serialize};

use super::state::{State, incarnation_text};

pub const VERSION: u32 = 1;

/// Largest packet; a `State` is far below.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Descriptors in one packet (the kernel allows 253). More are sent in several `HoldFds`.
/// A shim holds no more than that, so that it can give them all back at once.
pub const FDS_MAX: usize = 250;

/// From a client to the shim. Answered by exactly one [`Told`] with the same `id`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    #[serde(default)]
    pub version: u32,
    pub id: u64,
    #[serde(rename = "do")]
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Answered by `Ack`; a `State` follows.
    Hello {},
    /// Start a child now unless one lives; ends back-off and forgets failures.
    Start {},
    Stop {
        #[serde(with = "incarnation_text")]
        incarnation: Incarnation,
        reason: String,
        #[serde(default)]
        grace_ms: Option<u64>,
    },
    /// Stop gracefully, then start at once, without back-off and without counting a failure.
    Restart {
        #[serde(with = "incarnation_text")]
        incarnation: Incarnation,
        reason: String,
        #[serde(default)]
        grace_ms: Option<u64>,
    },
    /// SIGKILL to everything the child left; counts as a failure, so policy decides what follows.
    Kill {
        #[serde(with = "incarnation_text")]
        incarnation: Incarnation,
        #[serde(default)]
        reason: String,
    },
    /// Whether the shim may restart on its own.
    Grant {
        restart: bool,
    },
    /// How long the shim waits after a fault before it restarts on its own, so that another member can take over.
    Hold {
        ms: u64,
    },
    /// What the child is, and the fencing token under which: written durably to the token file before it is
    /// acknowledged. A token below one of before is refused.
    Role {
        #[serde(with = "incarnation_text")]
        incarnation: Incarnation,
        role: String,
        token: String,
    },
    /// SIGSTOP (true) or SIGCONT to the child and its process group.
    Freeze {
        #[serde(with = "incarnation_text")]
        incarnation: Incarnation,
        frozen: bool,
    },
    /// The agent's probes found the child ready.
    Ready {
        #[serde(with = "incarnation_text")]
        incarnation: Incarnation,
    },
    /// Fenced instances: run until then (CLOCK_BOOTTIME). Answered with the deadline in force.
    Deadline {
        boot_ns: u64,
    },
    /// Keep the descriptors that come with this packet, named in their order.
    HoldFds {
        names: Vec<String>,
    },
    DropFds {
        names: Vec<String>,
    },
    /// Answered by `Ack` with names and descriptors.
    GiveFds {},
    Signal {
        #[serde(with = "incarnation_text")]
        incarnation: Incarnation,
        signo: i32,
    },
    /// Stop the child, then end the shim itself.
    Exit {
        #[serde(default)]
        reason: String,
        #[serde(default)]
        grace_ms: Option<u64>,
    },
}

impl Body {
    /// For messages about a request.
    pub fn name(&self) -> &'static str {
        match self {
            Body::Hello {} => "hello",
            Body::Start {} => "start",
            Body::Stop { .. } => "stop",
            Body::Restart { .. } => "restart",
            Body::Kill { .. } => "kill",
            Body::Grant { .. } => "grant",
            Body::Hold { .. } => "hold",
            Body::Role { .. } => "role",
            Body::Freeze { .. } => "freeze",
            Body::Ready { .. } => "ready",
            Body::Deadline { .. } => "deadline",
            Body::HoldFds { .. } => "hold_fds",
            Body::DropFds { .. } => "drop_fds",
            Body::GiveFds {} => "give_fds",
            Body::Signal { .. } => "signal",
            Body::Exit { .. } => "exit",
        }
    }
}

/// From the shim to a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The request is accepted; what it leads to is seen in `State`.
    Ack {
        id: u64,
        #[serde(default)]
        deadline_boot_ns: Option<u64>,
        /// Names of the descriptors that come with this packet.
        #[serde(default)]
        names: Vec<String>,
    },
    Refused {
        id: u64,
        code: String,
        reason: String,
        /// The incarnation that is, when another one was meant.
        #[serde(default)]
        incarnation: Option<String>,
    },
    /// Sent on connection and after every change.
    State(Box<State>),
    /// A message of a newer release.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_look_as_the_protocol_says() {
        let stop = Request {
            version: VERSION,
            id: 7,
            body: Body::Stop {
                incarnation: Incarnation { generation: 2, run: 1 },
                reason: "update".into(),
                grace_ms: None,
            },
        };
        let text = serde_json::to_string(&stop).unwrap();
        assert_eq!(
            text,
            r#"{"version":1,"id":7,"do":{"stop":{"incarnation":"2.1","reason":"update","grace_ms":null}}}"#
        );
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), stop);
        let newer = r#"{"version":9,"id":8,"do":{"start":{"gently":true}},"more":[]}"#;
        assert_eq!(serde_json::from_str::<Request>(newer).unwrap().body, Body::Start {});
    }
}
