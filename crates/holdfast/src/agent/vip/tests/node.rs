//! The tasks of one agent, in a namespace and a runtime of its own, that can be killed.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_cluster::embedded::Embedded;
use holdfast_cluster::{Answer, Error, KeyValue, LeaseId, LeaseInfo, Listing, Outcome, Store, Txn, Watch};
use holdfast_host::event::Event;
use holdfast_observe::incident::STAGE;
use holdfast_observe::status::VirtualIp;
use holdfast_policy::lease::Timings;
use holdfast_policy::vip::{Peers as Found, Rules};
use tokio::sync::mpsc;

use super::super::{Alone, Context, Peers, Vips, Want};
use super::net::{Net, inside};

pub(super) struct Scene {
    pub(super) net: Net,
    pub(super) store: Arc<Embedded>,
    /// What the others answer.
    pub(super) clear: Arc<AtomicBool>,
    pub(super) _runtime: tokio::runtime::Runtime,
    pub(super) _dir: tempfile::TempDir,
}

enum Order {
    Leave,
    Kill,
}

pub(super) struct Node {
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
    vips: Arc<Vips>,
    told: Arc<Mutex<Vec<Event>>>,
}

/// One other node, which answers as it is told.
pub(super) struct Asked(pub(super) Arc<AtomicBool>);

impl Peers for Asked {
    fn others(&self) -> bool {
        true
    }

    fn ask(&self, _: IpAddr, _: bool) -> Pin<Box<dyn Future<Output = Found> + Send + '_>> {
        let clear = self.0.load(Ordering::SeqCst);
        Box::pin(std::future::ready(if clear { Found::AllClear } else { Found::Silent }))
    }
}

impl Node {
    pub(super) fn start(scene: &Scene, host: usize, name: &str, timings: Timings, store: Arc<dyn Store>) -> Node {
        Node::start_with(scene, host, name, timings, store, Arc::new(Alone))
    }

    pub(super) fn start_with(
        scene: &Scene,
        host: usize,
        name: &str,
        timings: Timings,
        store: Arc<dyn Store>,
        peers: Arc<dyn Peers>,
    ) -> Node {
        let told: Arc<Mutex<Vec<Event>>> = Arc::default();
        let (heard, node) = (told.clone(), name.to_owned());
        let context = Context {
            store,
            clock: holdfast_cluster::boot_clock(),
            node: name.to_owned(),
            holder: name.to_owned(),
            epoch: 1,
            claims: Arc::new(holdfast_cluster::epoch::Current::of(1)),
            life: format!("{:?}", std::time::Instant::now()),
            peers,
            well: Arc::new(|| Some(true)),
            event: Arc::new(move |subject| Event::now(&node, "agent", "1.1", subject)),
            journal: Arc::new(move |event| heard.lock().unwrap().push(event)),
            rules: Rules::default(),
        };
        let want = Want { at: Net::at(), interface: None, timings, quick: false, prefer: Vec::new() };
        let vips = Arc::new(Vips::new(context));
        let (orders, mut given) = mpsc::unbounded_channel();
        let inner = vips.clone();
        let thread = inside(scene.net.name(host), move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let one = inner.start(want.clone());
                inner.running().insert(want.at.address, one);
                if let Some(Order::Leave) = given.recv().await {
                    inner.stop_all().await;
                }
            });
            // What runs ends in the middle, as when the process is killed.
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        Node { orders, thread: Some(thread), vips, told }
    }

    pub(super) fn seen(&self) -> VirtualIp {
        self.vips.seen().into_values().next().unwrap_or_default()
    }

    pub(super) fn state(&self) -> String {
        self.seen().state
    }

    /// `FROM -> TO STAGE` of each event.
    pub(super) fn told(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        let stage = |e: &Event| e.inputs.iter().find(|(n, _)| n == STAGE).map_or(String::new(), |(_, s)| s.clone());
        told.iter().map(|e| format!("{} -> {} {}", e.from, e.to, stage(e))).collect()
    }

    fn end(&mut self, order: Order) {
        let _ = self.orders.send(order);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    pub(super) fn kill(mut self) {
        self.end(Order::Kill);
    }

    pub(super) fn leave(mut self) {
        self.end(Order::Leave);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end(Order::Kill);
    }
}

/// A store that is away when it is told to be.
pub(super) struct Flaky {
    store: Arc<Embedded>,
    pub(super) away: AtomicBool,
}

impl Flaky {
    pub(super) fn new(store: Arc<Embedded>) -> Flaky {
        Flaky { store, away: AtomicBool::new(false) }
    }

    fn unless_away<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        match self.away.load(Ordering::SeqCst) {
            true => Box::pin(std::future::ready(Err(Error::Unavailable { reason: "away".into() }))),
            false => answer,
        }
    }
}

impl Store for Flaky {
    fn get(&self, key: String) -> Answer<'_, Option<KeyValue>> {
        self.unless_away(self.store.get(key))
    }

    fn list(&self, prefix: String) -> Answer<'_, Listing> {
        self.unless_away(self.store.list(prefix))
    }

    fn txn(&self, txn: Txn) -> Answer<'_, Outcome> {
        self.unless_away(self.store.txn(txn))
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseInfo> {
        self.unless_away(self.store.grant(ttl))
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, Duration> {
        self.unless_away(self.store.keep_alive(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.unless_away(self.store.revoke(lease))
    }

    fn watch(&self, prefix: String, from: u64) -> Answer<'_, Watch> {
        self.unless_away(self.store.watch(prefix, from))
    }

    fn compact(&self, revision: u64) -> Answer<'_, ()> {
        self.unless_away(self.store.compact(revision))
    }
}
