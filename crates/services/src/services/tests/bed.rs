//! A data directory with an agent's services in it; everything is killed when the bed is dropped.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use holdfast_cluster::Embedded;
use holdfast_config::{Command, Config, Node, Service, Stop};
use holdfast_host::process::{self, Identity};
use holdfast_host::shim::{self, Dir};
use holdfast_policy::NodeId;

use crate::services::{Handle, Options, Services};
use crate::supervisor::{Definition, InstanceStatus};

/// A loaded machine is slow; a test that waits for this long has failed.
const LIMIT: Duration = Duration::from_secs(40);

pub(crate) fn service(name: &str, argv: &[&str]) -> Service {
    Service {
        stop: Stop { command: None, signal: 15, grace: Duration::from_secs(5), drain: Duration::ZERO },
        ..Service::new(name, Command::Argv(argv.iter().map(|s| (*s).to_owned()).collect()))
    }
}

pub(crate) fn definition(name: &str) -> Arc<Definition> {
    Arc::new(Definition::new(service(name, &["true"])))
}

/// The shim of crate `host`; built here when only this crate is tested.
fn exe() -> &'static Path {
    static EXE: OnceLock<PathBuf> = OnceLock::new();
    EXE.get_or_init(|| {
        let own = std::env::current_exe().unwrap();
        let target = own.parent().unwrap().parent().unwrap();
        let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "-q", "-p", "holdfast-host", "--bin", "holdfast-shim"]);
        assert!(cargo.status().unwrap().success());
        target.join("holdfast-shim")
    })
}

pub(crate) struct Bed {
    root: tempfile::TempDir,
    store: Arc<Embedded>,
    /// `None` only while the bed is dropped.
    handle: Option<Handle>,
    life: u32,
    ports: u16,
}

impl Bed {
    pub(crate) async fn new() -> Bed {
        let root = tempfile::tempdir().unwrap();
        let options = holdfast_cluster::embedded::Options::default();
        let store = Arc::new(Embedded::open(root.path().join("coord.db"), options).await.unwrap());
        // Tests run beside each other: each has a range of its own.
        let ports = 20_000 + u16::try_from(std::process::id() % 90).unwrap() * 100 + next_range();
        let handle = start(root.path(), &store, ports, 1).await;
        Bed { root, store, handle: Some(handle), life: 1, ports }
    }

    /// As after the death of the agent: nothing is told to anybody.
    pub(crate) async fn new_agent(&mut self) {
        self.life += 1;
        self.handle = Some(start(self.root.path(), &self.store, self.ports, self.life).await);
    }

    pub(crate) async fn apply<const N: usize>(&self, services: [Service; N]) {
        let node = Node {
            name: "here".into(),
            zone: None,
            ports: self.ports..=self.ports + 19,
            metrics: None,
            balancer_processes: 1,
            balancer_threads: None,
            journal_days: 1,
            journal_size_bytes: 1 << 20,
        };
        let services = services.into_iter().map(|s| (s.name.clone(), s)).collect();
        let (nodes, balancers, drills) = Default::default();
        let (keys, queues, workers, pools, workflows) = Default::default();
        let (cluster, tasks) = (None, None);
        let config = Config {
            node,
            cluster,
            nodes,
            services,
            balancers,
            drills,
            tasks,
            keys,
            queues,
            workers,
            pools,
            workflows,
        };
        self.handle().apply(&config, Vec::new()).await.unwrap();
    }

    pub(crate) async fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !condition() {
            assert!(Instant::now() < deadline, "waited for: {what}; {}", self.states());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn wait_states(&self, expected: &str) {
        self.wait_for(expected, || self.states() == expected).await;
    }

    pub(crate) fn states(&self) -> String {
        let status = self.handle().status();
        let all = status.services.values().flat_map(|s| &s.instances);
        all.map(|i| format!("{} {}", i.id, i.state)).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn instance(&self, name: &str) -> InstanceStatus {
        let status = self.handle().status();
        let found = status.services.values().flat_map(|s| &s.instances).find(|i| i.id.to_string() == name).cloned();
        found.unwrap_or_else(|| panic!("no {name} in {}", self.states()))
    }

    pub(crate) fn generation(&self, name: &str) -> Option<u64> {
        let status = self.handle().status();
        let mut all = status.services.values().flat_map(|s| &s.instances);
        all.find(|i| i.id.to_string() == name).map(|i| i.incarnation.generation)
    }

    pub(crate) fn pid_now(&self, name: &str) -> Option<i32> {
        self.instance(name).pid.and_then(|p| i32::try_from(p).ok())
    }

    pub(crate) fn pid(&self, name: &str) -> i32 {
        self.pid_now(name).unwrap_or_else(|| panic!("{name} does not run: {}", self.states()))
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        self.handle().endpoints().borrow().values().map(|e| e.endpoint.addr.port()).collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn dirs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.root.path().join("run")).into_iter().flatten();
        entries.flatten().map(|e| e.path()).collect()
    }

    pub(crate) fn kill_shim(&self, name: &str) {
        let state = Dir::new(self.root.path().join("run").join(name)).read_state().unwrap();
        process::signal(state.shim.unwrap(), 9).unwrap();
    }

    /// As after a reboot: nothing runs, and what the run directories say is of another boot.
    pub(crate) fn reboot(&self) {
        self.wait_all_dead();
        for dir in self.dirs() {
            let path = Dir::new(dir).state();
            let text = std::fs::read_to_string(&path).unwrap();
            let boot = holdfast_host::clock::boot_id();
            // The pid of a process that must not be touched: this one.
            let own = process::identity(i32::try_from(std::process::id()).unwrap()).unwrap();
            let mut state: serde_json::Value = serde_json::from_str(&text.replace(boot, "another-boot")).unwrap();
            state["child"] = serde_json::to_value(own).unwrap();
            state["phase"] = "running".into();
            std::fs::write(&path, state.to_string()).unwrap();
        }
    }

    /// Again and again: an agent that is ending may be launching something just now.
    fn wait_all_dead(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut quiet = 0;
        while quiet < 5 && Instant::now() < deadline {
            quiet = if self.kill_all() { 0 } else { quiet + 1 };
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// True when something lived.
    fn kill_all(&self) -> bool {
        let states: Vec<_> = self.dirs().into_iter().filter_map(|dir| Dir::new(dir).read_state()).collect();
        let shims = states.iter().filter_map(|s| s.shim);
        let children = states.iter().filter_map(|s| s.child);
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let alive: Vec<Identity> =
            shims.chain(children).filter(|who| who.pid != own && process::is_alive(*who)).collect();
        for who in &alive {
            let _ = process::signal(*who, 9);
        }
        !alive.is_empty()
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.handle.as_ref().expect("there from the beginning to the drop")
    }

    /// Ends the agent's part and nothing else.
    pub(crate) fn stop_agent(&mut self) {
        self.handle = None;
    }

    /// Processes of instances without a living shim.
    pub(crate) fn strays(&self) -> Vec<(PathBuf, Vec<Identity>)> {
        let absent = |dir: &PathBuf| shim::absent(dir).unwrap().map(|a| a.orphans());
        let all = self.dirs().into_iter().filter_map(|dir| absent(&dir).map(|o| (dir, o)));
        all.filter(|(_, orphans)| !orphans.is_empty()).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // First the agent's part, which would start everything again.
        self.handle = None;
        self.wait_all_dead();
    }
}

fn next_range() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    NEXT.fetch_add(20, Ordering::Relaxed) % 100
}

async fn start(data_dir: &Path, store: &Arc<Embedded>, ports: u16, life: u32) -> Handle {
    let options = Options {
        epoch: Arc::new(holdfast_cluster::epoch::Current::of(1)),
        data_dir: data_dir.to_owned(),
        node: NodeId::from("here"),
        zone: None,
        exe: exe().to_owned(),
        ports: ports..=ports + 19,
        store: store.clone(),
        leases: store.clone(),
        journal: None,
        waiting: None,
        life: format!("1.{life}"),
        seed: 7,
    };
    Services::start(options).await.unwrap()
}
