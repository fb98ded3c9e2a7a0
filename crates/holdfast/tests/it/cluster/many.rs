//! Fifty machines that only say that they are there and that everything runs, on real etcd, with one real agent that leads.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_cluster::etcd::{Etcd, Options};
use holdfast_cluster::members::{
    ALIVE, ASSIGNED, Assignment, InstanceState, NODE, NodeState, Registration, STATE, put,
};
use holdfast_cluster::{Change, Event, Op, Store, Txn};
use holdfast_observe::status::{Instance, State};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// Of the simulated machines' leases, renewed three times in it.
const TTL: Duration = Duration::from_secs(10);

/// Machines `m1`, `m2`, …, for as long as it lives.
pub(super) struct Many {
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    writes: AtomicU64,
    running: AtomicU64,
}

impl Many {
    pub(super) fn start(endpoints: &[String], cluster: &str, machines: usize) -> Many {
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
        let mut options = Options::new(endpoints.to_vec());
        options.key_prefix = format!("/holdfast/{cluster}/");
        let etcd = Etcd::new(options).expect("endpoints");
        for n in 1..=machines {
            runtime.spawn(machine(shared.clone(), etcd.clone(), format!("m{n}")));
        }
        Many { shared, runtime: Some(runtime) }
    }

    /// Transactions that the simulated machines have written.
    pub(super) fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::Relaxed)
    }

    pub(super) fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn machine(shared: Arc<Shared>, etcd: Etcd, name: String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let link = listener.local_addr().expect("its address");
    tokio::spawn(greet(listener, name.clone()));
    let lease = etcd.grant(TTL).await.expect("a lease").id;
    let ops = [
        Op::Put { key: format!("{ALIVE}{name}"), value: b"{}".to_vec(), lease: Some(lease) },
        put(NODE, &name, &registration(&name, link)).expect("a record"),
    ];
    write(&shared, &etcd, ops.to_vec()).await;
    let key = format!("{ASSIGNED}{name}");
    let found = etcd.list(key.clone()).await.expect("a list");
    let mut told = found.items.into_iter().find(|kv| kv.key == key).map(|kv| kv.value);
    let mut watch = etcd.watch(key.clone(), found.revision + 1).await.expect("a watch");
    let mut renew = tokio::time::interval(TTL / 3);
    loop {
        if let Some(value) = told.take() {
            let assignment: Assignment = serde_json::from_slice(&value).expect("an assignment");
            shared.running.fetch_add(1, Ordering::Relaxed);
            let state = state(&name, &assignment);
            write(&shared, &etcd, vec![put(STATE, &name, &state).expect("a record")]).await;
        }
        tokio::select! {
            event = watch.next() => match event {
                Event::Changes { changes, .. } => {
                    let ours = changes.into_iter().rev().find(|c| c.key() == key);
                    told = ours.and_then(|c| match c { Change::Put(kv) => Some(kv.value), Change::Delete { .. } => None });
                }
                Event::Progress { .. } => {}
                Event::Compacted { .. } | Event::Lost => panic!("{name} lost its watch"),
            },
            _ = renew.tick() => { etcd.keep_alive(lease).await.expect("the lease lives"); }
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

async fn write(shared: &Shared, etcd: &Etcd, ops: Vec<Op>) {
    shared.writes.fetch_add(1, Ordering::Relaxed);
    etcd.txn(Txn::always(ops)).await.expect("etcd takes it");
}

/// As an agent answers its peers.
async fn greet(listener: TcpListener, name: String) {
    while let Ok((stream, _)) = listener.accept().await {
        let name = name.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            if stream.read_line(&mut line).await.is_ok() {
                let _ = stream.write_all(format!("{} {name}\n", line.trim_end()).as_bytes()).await;
            }
        });
    }
}

fn registration(name: &str, link: SocketAddr) -> Registration {
    Registration {
        version: 1,
        name: name.into(),
        address: link.ip(),
        link: Some(link),
        secured: false,
        authority: false,
        labels: BTreeMap::from([("sim".into(), "yes".into()), ("host".into(), name.into())]),
        cpu_millis: None,
        memory_bytes: None,
        program: env!("CARGO_PKG_VERSION").into(),
        boot: "sim".into(),
    }
}

fn state(name: &str, assignment: &Assignment) -> NodeState {
    let one = |id: &String| {
        let (service, ordinal) = id.rsplit_once('-').expect("an instance");
        let shown = Instance {
            id: id.clone(),
            state: State::Ready,
            incarnation: Some("1.1".into()),
            node: Some(name.into()),
            ..Instance::default()
        };
        InstanceState {
            shown,
            service: service.into(),
            ordinal: ordinal.parse().expect("a number"),
            addr: Some(SocketAddr::from(([127, 0, 0, 1], 9))),
            endpoint: Some("ready".into()),
            ..InstanceState::default()
        }
    };
    NodeState {
        version: 1,
        revision: 1,
        instances: assignment.instances.keys().map(one).collect(),
        ..NodeState::default()
    }
}

/// How long it is looked whether anybody writes although nothing happens.
pub(super) fn hold_still(time: Duration) {
    std::thread::sleep(time);
}
