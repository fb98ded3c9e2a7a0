//! Planes in threads of the test process, with sockets and a shared table of their own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_balancer::control::{Applied, Client};
use holdfast_balancer::error::Error;
use holdfast_balancer::plane::{self, Options};
use holdfast_balancer::shared::Table;
use holdfast_balancer::snapshot::{BalancerSnapshot, EndpointSnapshot, Snapshot};
use holdfast_balancer::stats::Stats;
use holdfast_policy::Incarnation;

use super::backend::wait_for;

pub(crate) const THREADS: usize = 2;

pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) addr: SocketAddr,
    pub(crate) sockets: Vec<TcpListener>,
    pub(crate) snapshot: Snapshot,
}

pub(crate) struct Plane {
    pub(crate) dir: PathBuf,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

pub(crate) fn endpoint(number: u16, addr: SocketAddr) -> EndpointSnapshot {
    EndpointSnapshot {
        instance: format!("web-{number}"),
        incarnation: Incarnation { generation: u64::from(number), run: 1 },
        slot: number - 1,
        addr,
        ..EndpointSnapshot::default()
    }
}

impl Node {
    /// A balancer in front of `backends`, changed by `adjust`.
    pub(crate) fn new(backends: &[SocketAddr], adjust: impl FnOnce(&mut BalancerSnapshot)) -> Node {
        let sockets = holdfast_host::listen::bind("127.0.0.1:0".parse().unwrap(), THREADS).unwrap();
        let addr = sockets[0].local_addr().unwrap();
        let mut balancer = BalancerSnapshot { name: "public".into(), service: "web".into(), ..Default::default() };
        balancer.listen = vec![addr];
        balancer.slow_start_ms = 0;
        balancer.endpoints = backends.iter().enumerate().map(|(i, a)| endpoint(i as u16 + 1, *a)).collect();
        adjust(&mut balancer);
        let snapshot = Snapshot { version: 1, epoch: 1, seq: 1, processes: 1, balancers: vec![balancer] };
        Node { dir: tempfile::tempdir().unwrap(), addr, sockets, snapshot }
    }

    pub(crate) fn start(&self, number: u16) -> Plane {
        let dir = self.dir.path().join(format!("plane-{number}"));
        let mut options = Options::new(dir.clone(), self.shared());
        options.drain_max = Duration::from_secs(10);
        options.threads = Some(THREADS);
        options.listeners = self.sockets.iter().map(|s| s.try_clone().unwrap()).collect();
        let thread = std::thread::spawn(move || plane::run(options));
        let plane = Plane { dir, thread: Some(thread) };
        wait_for("control socket", || with(async { Client::connect(&plane.dir).await?.ping().await }).ok());
        plane
    }

    /// Starts plane 1 with the snapshot of this node.
    pub(crate) fn serve(&self) -> Plane {
        let plane = self.start(1);
        plane.apply(&self.snapshot).unwrap();
        plane
    }

    pub(crate) fn shared(&self) -> PathBuf {
        self.dir.path().join("shared")
    }

    pub(crate) fn table(&self) -> Table {
        Table::open(&self.shared()).unwrap()
    }

    pub(crate) fn next(&mut self, change: impl FnOnce(&mut BalancerSnapshot)) -> &Snapshot {
        self.snapshot.seq += 1;
        change(&mut self.snapshot.balancers[0]);
        &self.snapshot
    }
}

impl Plane {
    pub(crate) fn apply(&self, snapshot: &Snapshot) -> Result<Applied, Error> {
        self.ask(async |mut client: Client| client.snapshot(snapshot).await)
    }

    pub(crate) fn stats(&self) -> Stats {
        self.ask(async |mut client: Client| client.stats().await).unwrap()
    }

    pub(crate) fn ask<T>(&self, request: impl AsyncFnOnce(Client) -> Result<T, Error>) -> Result<T, Error> {
        let dir: &Path = &self.dir;
        with(async { request(Client::connect(dir).await?).await })
    }

    /// Tells it to drain and waits for its end.
    pub(crate) fn drain(mut self) -> Result<(), Error> {
        let _ = self.ask(async |mut client: Client| client.drain().await);
        self.thread.take().unwrap().join().unwrap()
    }

    pub(crate) fn begin_drain(&self) {
        self.ask(async |mut client: Client| client.drain().await).unwrap();
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.ask(async |mut client: Client| client.drain().await);
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

fn with<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
