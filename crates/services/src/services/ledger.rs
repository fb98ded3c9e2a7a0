//! What must outlive the agent, in the coordination store: one record for each instance, and its port.
//!
//! One task writes, so that the records of a hundred instances that start together share a few transactions.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::records::Records;
use holdfast_cluster::{Op, Store, TXN_OPS_MAX, Txn};
use holdfast_host::clock;
use holdfast_policy::InstanceId;
use holdfast_policy::time::millis;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Error;
use crate::supervisor::{Event, Finished, Record};

const PREFIX: &str = "/instance/";
const VERSION: u32 = 1;

/// As stored. Later releases add fields and never change the meaning of one.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default)]
    version: u32,
    generation: u64,
    #[serde(default)]
    definition: u64,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    finished: Option<StoredResult>,
    /// When the last `sync` that succeeded began.
    #[serde(default)]
    synced_wall_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct StoredResult {
    definition: u64,
    success: bool,
    #[serde(default)]
    code: Option<i32>,
    #[serde(default)]
    signal: Option<i32>,
}

impl From<&Record> for Stored {
    fn from(r: &Record) -> Stored {
        let finished = r.finished.map(|f| StoredResult {
            definition: f.definition,
            success: f.success,
            code: f.code,
            signal: f.signal,
        });
        let synced_wall_ms = r.synced.map(|at| clock::wall_ms().saturating_sub(millis(clock::now().since(at))));
        Stored {
            version: VERSION,
            generation: r.generation,
            definition: r.definition,
            port: r.port,
            finished,
            synced_wall_ms,
        }
    }
}

impl Stored {
    fn record(self, instance: InstanceId) -> Record {
        let Stored { generation, definition, port, finished, synced_wall_ms, .. } = self;
        let age = |wall| Duration::from_millis(clock::wall_ms().saturating_sub(wall));
        let synced = synced_wall_ms.map(|wall| clock::now() - age(wall));
        let finished =
            finished.map(|f| Finished { definition: f.definition, success: f.success, code: f.code, signal: f.signal });
        Record { instance, generation, definition, port, finished, synced }
    }
}

/// Every instance that was ever launched here and is not forgotten.
pub(crate) async fn load(store: &dyn Store) -> Result<Vec<Record>, Error> {
    let listing = store.list(PREFIX.into()).await.map_err(Error::Records)?;
    let mut records = Vec::new();
    for kv in listing.items {
        let name = &kv.key[PREFIX.len()..];
        let unreadable = |reason: String| Error::Record { key: kv.key.clone(), reason };
        let stored: Stored = serde_json::from_slice(&kv.value).map_err(|e| unreadable(e.to_string()))?;
        if stored.version > VERSION {
            return Err(Error::NewerRecord { key: kv.key, found: stored.version, known: VERSION });
        }
        let instance = name.parse().map_err(|e: holdfast_policy::ids::NotAnInstance| unreadable(e.to_string()))?;
        records.push(stored.record(instance));
    }
    Ok(records)
}

/// What is asked of the writing task.
pub(crate) enum Entry {
    Record(Record),
    Port { instance: InstanceId, host: IpAddr, range: RangeInclusive<u16> },
}

#[derive(Clone)]
pub(crate) struct Ledger {
    queue: mpsc::UnboundedSender<Entry>,
}

impl Ledger {
    pub(crate) fn start(store: Arc<dyn Store>, scope: u64, results: mpsc::Sender<Event>) -> Ledger {
        // Bounded by the Supervisor: one record and one port under way for each instance.
        let (queue, entries) = mpsc::unbounded_channel();
        tokio::spawn(write(store, scope, entries, results));
        Ledger { queue }
    }

    pub(crate) fn enter(&self, entry: Entry) {
        let _ = self.queue.send(entry);
    }
}

async fn write(
    store: Arc<dyn Store>,
    scope: u64,
    mut entries: mpsc::UnboundedReceiver<Entry>,
    results: mpsc::Sender<Event>,
) {
    let ports = Records::new(store.clone());
    let mut batch = Vec::new();
    while entries.recv_many(&mut batch, TXN_OPS_MAX).await > 0 {
        let mut records: BTreeMap<InstanceId, Record> = BTreeMap::new();
        for entry in batch.drain(..) {
            match entry {
                Entry::Record(record) => drop(records.insert(record.instance.clone(), record)),
                Entry::Port { instance, host, range } => {
                    let event = assign(&ports, scope, instance, host, range).await;
                    let _ = results.send(event).await;
                }
            }
        }
        if !records.is_empty() {
            write_records(&*store, records, &results).await;
        }
    }
}

async fn write_records(store: &dyn Store, records: BTreeMap<InstanceId, Record>, results: &mpsc::Sender<Event>) {
    let ops = records.values().filter_map(|r| {
        let value = serde_json::to_vec(&Stored::from(r)).ok()?;
        Some(Op::put(format!("{PREFIX}{}", r.instance), value))
    });
    let outcome = store.txn(Txn::always(ops)).await;
    for (instance, record) in records {
        let generation = record.generation;
        let event = match &outcome {
            Ok(_) => Event::Persisted { instance, generation },
            Err(e) => Event::PersistFailed { instance, generation, reason: format!("cannot record it: {e}") },
        };
        let _ = results.send(event).await;
    }
}

/// Several holdfasts on one machine look for free ports at the same time; each begins at a place of its own, so that
/// they do not find the same one.
async fn assign(ports: &Records, scope: u64, instance: InstanceId, host: IpAddr, range: RangeInclusive<u16>) -> Event {
    let count = u64::from(*range.end()).saturating_sub(u64::from(*range.start())).max(1);
    let first = range.start().saturating_add(u16::try_from(scope % count).unwrap_or(0));
    let usable = |port| TcpListener::bind(SocketAddr::new(host, port)).is_ok();
    match ports.assign_port(&instance.to_string(), range, first, usable).await {
        Ok(port) => Event::PortAssigned { instance, port },
        Err(e) => Event::PortFailed { instance, reason: format!("no port for it: {e}") },
    }
}
