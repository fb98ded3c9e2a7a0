//! Queues, their workers, and who may use them: the `tasks` plane without its workflows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use holdfast_policy::backoff::Backoff;

use super::{Command, Value};

/// What AWS appends to the name of a FIFO queue.
const FIFO_ENDING: &str = ".fifo";

/// `[tasks]`: the plane that keeps queues and workflows. It runs when this table, a queue, a worker or a workflow is
/// in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tasks {
    /// Where SQS is spoken; loopback while the file has no [`AccessKey`]. Default 127.0.0.1:9324.
    pub listen: SocketAddr,
    /// In ARNs. Default `us-east-1`.
    pub region: String,
    /// 12 digits, in ARNs and URLs. Default all zeros.
    pub account: String,
    /// Somebody has accepted that the tasks of a cluster live on one machine.
    pub single_node_accepted: bool,
    /// The machine that runs the plane; always there in a cluster.
    pub node: Option<String>,
    /// Where they are kept instead of in a file of this machine.
    pub postgres: Option<Postgres>,
    /// Limit of caches, 64 MiB to 64 GiB. Default 256 MiB.
    pub memory_bytes: u64,
}

impl Default for Tasks {
    fn default() -> Self {
        Tasks {
            listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9324),
            region: "us-east-1".into(),
            account: "000000000000".into(),
            single_node_accepted: false,
            node: None,
            postgres: None,
            memory_bytes: 256 << 20,
        }
    }
}

/// A database that every machine reaches.
#[derive(Clone, Debug, PartialEq)]
pub struct Postgres {
    /// `postgres://USER@HOST:PORT/DATABASE`, without a password.
    pub url: String,
    /// A reference, never plain text.
    pub password: Option<Value>,
    pub ca: Option<PathBuf>,
    pub schema: String,
}

/// `[key.NAME]`: a pair that signs requests. Without any, every signature is accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessKey {
    pub name: String,
    /// 3 to 128 letters and digits.
    pub id: String,
    /// A reference, never plain text.
    pub secret: Value,
    /// Names of queues, `*` at the end stands for any rest. Default `*`.
    pub queues: Vec<String>,
    /// Default all.
    pub allow: BTreeSet<Permission>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    Send,
    /// And delete, and change of visibility.
    Receive,
    /// Attributes, tags, purge, redrive; to make and to delete queues.
    Manage,
}

impl Permission {
    /// As the file spells it.
    pub const ALL: [(&'static str, Permission); 3] =
        [("send", Permission::Send), ("receive", Permission::Receive), ("manage", Permission::Manage)];

    pub fn name(self) -> &'static str {
        Permission::ALL.iter().find(|(_, p)| *p == self).map_or("unknown", |(name, _)| name)
    }
}

impl AccessKey {
    /// Whether it may do this with a queue, named with or without `.fifo`.
    pub fn may(&self, permission: Permission, queue: &str) -> bool {
        let stem = queue.strip_suffix(FIFO_ENDING).unwrap_or(queue);
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => queue.starts_with(start),
            None => pattern == queue || pattern == stem,
        };
        self.allow.contains(&permission) && self.queues.iter().any(fits)
    }
}

/// `[queue.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    pub name: String,
    pub fifo: bool,
    /// 0 to 12 h. Default 30 s.
    pub visibility_timeout: Duration,
    /// 0 to 365 d. Default 0.
    pub delay: Duration,
    /// 1 min to 365 d, more than `delay`. Default 4 d.
    pub retention: Duration,
    /// Body and attributes, 1 KiB to 1 MiB. Default 1 MiB.
    pub message_bytes_max: u32,
    /// Of a receive that does not say, 0 to 20 s. Default 0.
    pub wait: Duration,
    pub dead_letter: Option<DeadLetter>,
    /// FIFO only.
    pub deduplicate_by_content: bool,
    /// Between redeliveries when a worker asks for another try; `None` is at once.
    pub retry: Option<Backoff>,
    /// A message whose worker crashed this often goes to the dead letters, or is quarantined without them. Default 3.
    pub crashes: u32,
    /// Messages handed out a second; `None` is no limit.
    pub rate: Option<u32>,
    /// How long an idempotency key is remembered, 1 min to 30 d. Default 1 d.
    pub idempotency: Duration,
    pub tags: BTreeMap<String, String>,
}

/// Where messages go that were received too often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// A key of `queues`, of the same kind.
    pub queue: String,
    /// 1 to 1000. Default 10.
    pub receives: u32,
}

impl Queue {
    /// With nothing that the file would have to say.
    pub fn new(name: impl Into<String>) -> Queue {
        const DAY: u64 = 86_400;
        Queue {
            name: name.into(),
            fifo: false,
            visibility_timeout: Duration::from_secs(30),
            delay: Duration::ZERO,
            retention: Duration::from_secs(4 * DAY),
            message_bytes_max: 1 << 20,
            wait: Duration::ZERO,
            dead_letter: None,
            deduplicate_by_content: false,
            retry: None,
            crashes: 3,
            rate: None,
            idempotency: Duration::from_secs(DAY),
            tags: BTreeMap::new(),
        }
    }

    /// As SQS calls it.
    pub fn sqs_name(&self) -> String {
        if self.fifo { format!("{}{FIFO_ENDING}", self.name) } else { self.name.clone() }
    }
}

/// `[worker.NAME]`: what is done with the messages of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    pub name: String,
    /// A key of `queues`.
    pub queue: String,
    pub work: Work,
    pub concurrency: Concurrency,
    /// How long a message stays hidden without a heartbeat, 1 s to 12 h. Heartbeats are sent at a third of it. Default 30 s.
    pub lease: Duration,
    /// An attempt is ended after it, 1 s to 12 h. Default 15 min.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// One process for each message.
    Program(Program),
    /// One request for each message.
    Http(HttpWork),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    pub command: Command,
    pub env: BTreeMap<String, Value>,
    /// Absolute; default the directory of the configuration file.
    pub workdir: PathBuf,
    pub user: Option<String>,
    pub input: Input,
    /// Exit codes, 0 to 255. Default 0 alone.
    pub done: Vec<i32>,
    /// Exit codes that send a message to the dead letters at once. Default 65 alone; every other code is another try.
    pub dead: Vec<i32>,
}

/// How a program gets the body of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Stdin,
    /// In `HOLDFAST_MESSAGE`.
    Env,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpWork {
    /// A key of `services`, with a port.
    pub service: String,
    pub path: String,
    /// Of one request; at most the worker's `timeout`, which is the default.
    pub timeout: Duration,
}

/// Messages worked on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// 1 to 1000. Default 1.
    Fixed(u32),
    /// Between `min` and `max`, by what waits.
    Scaled(Autoscale),
}

/// One more while more than `backlog` messages wait for each, or the oldest waits longer than `age`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Autoscale {
    /// 0 to 1000. Default 0.
    pub min: u32,
    /// 1 to 1000, at least `min`.
    pub max: u32,
    /// 1 to 1,000,000. Default 100.
    pub backlog: u32,
    /// 1 s to 1 d. Default 30 s.
    pub age: Duration,
}

/// `[pool.NAME]`: steps of all workflows that share something scarce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    /// 1 to 10,000.
    pub slots: u32,
}

/// `fallback` of a balancer: the queue for requests that no instance can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// A key of `queues`.
    pub queue: String,
    /// Header whose value is the message group; FIFO only.
    pub key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_use_the_queues_that_its_patterns_name() {
        let key = |queues: &[&str], allow: &[Permission]| AccessKey {
            name: "shop".into(),
            id: "shop".into(),
            secret: Value::Env("SECRET".into()),
            queues: queues.iter().map(|q| (*q).to_owned()).collect(),
            allow: allow.iter().copied().collect(),
        };
        let send = Permission::Send;
        for (pattern, queue, may) in [
            ("*", "orders", true),
            ("orders", "orders", true),
            ("orders", "orders.fifo", true),
            ("orders.fifo", "orders.fifo", true),
            ("orders", "orders-dead", false),
            ("orders*", "orders-dead.fifo", true),
            ("orders-*", "orders", false),
        ] {
            assert_eq!(key(&[pattern], &[send]).may(send, queue), may, "{pattern} {queue}");
        }
        assert!(!key(&["*"], &[send]).may(Permission::Receive, "orders"));
        assert!(key(&["mail", "orders"], &[send]).may(send, "orders"));
    }

    #[test]
    fn a_fifo_queue_is_called_so_by_sqs() {
        let queue = Queue::new("orders");
        assert_eq!(queue.sqs_name(), "orders");
        assert_eq!(Queue { fifo: true, ..queue }.sqs_name(), "orders.fifo");
    }
}
