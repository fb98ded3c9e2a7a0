//! The vocabulary of [`crate::Store`].

use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    pub id: LeaseId,
    pub ttl: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Vec<u8>,
    /// Revision at which the key was last created (it was absent before).
    pub create_revision: u64,
    pub mod_revision: u64,
    /// Writes since it was created, from 1.
    pub version: u64,
    pub lease: Option<LeaseId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub items: Vec<KeyValue>,
    pub revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Equal,
    NotEqual,
    Less,
    Greater,
}

impl Order {
    pub fn holds<T: Ord + ?Sized>(self, found: &T, wanted: &T) -> bool {
        match self {
            Order::Equal => found == wanted,
            Order::NotEqual => found != wanted,
            Order::Less => found < wanted,
            Order::Greater => found > wanted,
        }
    }
}

/// Of an absent key every number is 0, and a value guard never holds (not even `NotEqual`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    Value { key: String, order: Order, value: Vec<u8> },
    CreateRevision { key: String, order: Order, revision: u64 },
    ModRevision { key: String, order: Order, revision: u64 },
    Version { key: String, order: Order, version: u64 },
}

impl Guard {
    pub fn absent(key: impl Into<String>) -> Guard {
        Guard::CreateRevision { key: key.into(), order: Order::Equal, revision: 0 }
    }

    pub fn present(key: impl Into<String>) -> Guard {
        Guard::CreateRevision { key: key.into(), order: Order::Greater, revision: 0 }
    }

    /// Unchanged since it was read; 0 for absent.
    pub fn unchanged(key: impl Into<String>, mod_revision: u64) -> Guard {
        Guard::ModRevision { key: key.into(), order: Order::Equal, revision: mod_revision }
    }

    pub fn created_at(key: impl Into<String>, revision: u64) -> Guard {
        Guard::CreateRevision { key: key.into(), order: Order::Equal, revision }
    }

    pub fn key(&self) -> &str {
        match self {
            Guard::Value { key, .. }
            | Guard::CreateRevision { key, .. }
            | Guard::ModRevision { key, .. }
            | Guard::Version { key, .. } => key,
        }
    }

    pub fn holds(&self, found: Option<&KeyValue>) -> bool {
        let number = |of: fn(&KeyValue) -> u64| found.map_or(0, of);
        match self {
            Guard::Value { order, value, .. } => found.is_some_and(|kv| order.holds(&kv.value, value)),
            Guard::CreateRevision { order, revision, .. } => order.holds(&number(|kv| kv.create_revision), revision),
            Guard::ModRevision { order, revision, .. } => order.holds(&number(|kv| kv.mod_revision), revision),
            Guard::Version { order, version, .. } => order.holds(&number(|kv| kv.version), version),
        }
    }
}

/// In order; a read after a write in the same transaction sees it. One key may be written once only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Get { key: String },
    List { prefix: String },
    Put { key: String, value: Vec<u8>, lease: Option<LeaseId> },
    Delete { key: String },
    DeletePrefix { prefix: String },
}

impl Op {
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Op {
        Op::Put { key: key.into(), value: value.into(), lease: None }
    }

    pub fn delete(key: impl Into<String>) -> Op {
        Op::Delete { key: key.into() }
    }

    pub fn get(key: impl Into<String>) -> Op {
        Op::Get { key: key.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    Get(Option<KeyValue>),
    List(Vec<KeyValue>),
    Put,
    /// How many keys went.
    Deleted(u64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub guards: Vec<Guard>,
    pub then: Vec<Op>,
    pub otherwise: Vec<Op>,
}

impl Txn {
    pub fn always(ops: impl IntoIterator<Item = Op>) -> Txn {
        Txn { then: ops.into_iter().collect(), ..Txn::default() }
    }

    pub fn when(guards: impl IntoIterator<Item = Guard>) -> Txn {
        Txn { guards: guards.into_iter().collect(), ..Txn::default() }
    }

    pub fn then(mut self, ops: impl IntoIterator<Item = Op>) -> Txn {
        self.then.extend(ops);
        self
    }

    pub fn otherwise(mut self, ops: impl IntoIterator<Item = Op>) -> Txn {
        self.otherwise.extend(ops);
        self
    }

    /// What every engine refuses before it looks at any value.
    pub fn validate(&self) -> crate::Result<()> {
        for count in [self.guards.len(), self.then.len(), self.otherwise.len()] {
            if count > crate::TXN_OPS_MAX {
                return Err(crate::Error::TooManyOps { count });
            }
        }
        if self.guards.iter().any(|g| g.key().is_empty()) {
            return Err(crate::Error::EmptyKey);
        }
        validate_ops(&self.then)?;
        validate_ops(&self.otherwise)
    }
}

fn validate_ops(ops: &[Op]) -> crate::Result<()> {
    let mut puts = std::collections::BTreeSet::new();
    for op in ops {
        match op {
            Op::Get { key } | Op::Delete { key } | Op::Put { key, .. } if key.is_empty() => {
                return Err(crate::Error::EmptyKey);
            }
            Op::Put { key, value, .. } => {
                if value.len() > crate::VALUE_BYTES_MAX {
                    return Err(crate::Error::TooLarge { key: key.clone(), bytes: value.len() });
                }
                if !puts.insert(key.as_str()) {
                    return Err(crate::Error::DuplicateKey { key: key.clone() });
                }
            }
            _ => {}
        }
    }
    for op in ops {
        let overlapped = match op {
            Op::Delete { key } => puts.get(key.as_str()),
            Op::DeletePrefix { prefix } => puts.iter().find(|key| key.starts_with(prefix.as_str())),
            _ => None,
        };
        if let Some(key) = overlapped {
            return Err(crate::Error::DuplicateKey { key: (*key).to_owned() });
        }
    }
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the guards held.
    pub succeeded: bool,
    /// Of this transaction when it changed something, else of the state it read.
    pub revision: u64,
    /// One for each operation of the branch that ran.
    pub responses: Vec<Response>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(KeyValue),
    Delete { key: String },
}

impl Change {
    pub fn key(&self) -> &str {
        match self {
            Change::Put(kv) => &kv.key,
            Change::Delete { key } => key,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All changes of one revision under the prefix; revisions rise.
    Changes { revision: u64, changes: Vec<Change> },
    /// Nothing happened under the prefix up to `revision`.
    Progress { revision: u64 },
    /// History before `compacted` is gone: list again, compare (deletes!), watch from there. The last event.
    Compacted { compacted: u64 },
    /// The watcher was too slow or the engine went away: as after `Compacted`. The last event.
    Lost,
}

/// Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<Event>,
    over: bool,
}

impl Watch {
    /// For engines: what they send; dropping the sender means [`Event::Lost`].
    pub fn new(events: mpsc::Receiver<Event>) -> Watch {
        Watch { events, over: false }
    }

    #[cfg(test)]
    pub(crate) fn is_given_up(&self) -> bool {
        self.events.is_closed()
    }

    /// Safe to cancel. After the last event it answers `Lost` for ever.
    pub async fn next(&mut self) -> Event {
        if self.over {
            return Event::Lost;
        }
        let event = self.events.recv().await.unwrap_or(Event::Lost);
        self.over = matches!(event, Event::Compacted { .. } | Event::Lost);
        event
    }
}
