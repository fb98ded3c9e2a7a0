//! Three machines of a lab that share one file and one etcd; the first two have a balancer each.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_lab::load::{Load, Plan, Summary};
use holdfast_lab::{Lab, Options, Process};
use serde_json::Value;

use crate::proof;

/// Whatever is waited for longer has not happened, on two busy cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `holdfast up -d` and other commands, on a machine where everything starts at once.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Of the fast profile: after this long without a renewal a machine's lease has ended.
pub(crate) const LEASE: Duration = Duration::from_secs(6);

pub(crate) const MACHINES: usize = 3;
/// Machines with a balancer: the first ones.
pub(crate) const BALANCERS: usize = 2;
pub(crate) const PORT: u16 = 8080;
pub(crate) const REPLICAS: usize = 6;

/// Requests a second through each balancer.
const RATE: u64 = 50;
/// Longer than any scenario.
const PROBE_LIMIT: Duration = Duration::from_secs(3600);
/// A request that takes longer has failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Labs that run: one where figures are taken, because two would share two cores and every figure with them. Else two, which
/// mostly wait for leases.
static LABS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());
const LABS_MAX: usize = 2;

pub(crate) struct Town {
    pub(crate) lab: Lab,
    pub(crate) file: PathBuf,
    _place: Place,
}

/// Of a machine, as holdfast knows it: `node-1` would be an instance.
pub(crate) fn name(n: usize) -> String {
    format!("node{}", n + 1)
}

/// An instance as a machine sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) node: String,
    pub(crate) state: String,
    pub(crate) pid: u64,
}

/// Held by whoever has a lab.
pub(crate) struct Place;

impl Place {
    pub(crate) fn take() -> Place {
        let most = if proof::proving() { 1 } else { LABS_MAX };
        let running = LABS.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = LABS.1.wait_while(running, |n| *n >= most).unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *LABS.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        LABS.1.notify_one();
    }
}

impl Town {
    /// Machines that run nothing of holdfast yet; `None` where no lab is allowed.
    pub(crate) fn build(options: &Options) -> Option<Town> {
        let place = Place::take();
        let lab = Lab::or_skip(&Options { machines: MACHINES, ..options.clone() })?;
        let town = Town { file: lab.dir().join("holdfast.toml"), lab, _place: place };
        town.write(&town.web(REPLICAS));
        Some(town)
    }

    /// Machines on which everything is ready, with three members of etcd on machines of their own.
    pub(crate) fn ready() -> Option<Town> {
        Town::ready_with(&Options { etcd: 3, ..Options::default() })
    }

    pub(crate) fn ready_with(options: &Options) -> Option<Town> {
        let town = Town::build(options)?;
        town.up_all();
        town.wait_settled(REPLICAS);
        Some(town)
    }

    pub(crate) fn write(&self, services: &str) {
        let endpoints: Vec<String> = self.lab.etcd_endpoints().iter().map(|e| format!("{e:?}")).collect();
        let mut text = format!("[cluster]\nname = \"town\"\netcd = [{}]\nlease = \"fast\"\n", endpoints.join(", "));
        for (n, machine) in self.lab.machines().iter().enumerate() {
            text += &format!("[node.{}]\naddress = \"{}\"\n", name(n), machine.addr());
        }
        std::fs::write(&self.file, text + services).expect("the lab's folder is writable");
    }

    /// What was applied.
    pub(crate) fn applied(&self) -> String {
        std::fs::read_to_string(&self.file).expect("it was written")
    }

    pub(crate) fn web(&self, replicas: usize) -> String {
        let origin = binary().with_file_name("examples").join("origin");
        format!(
            "[service.web]\ncommand = [\"{}\", \"{{port}}\", \"{{host}}\"]\nreplicas = {replicas}\n\
             ready = {{ http = \"/healthz\", every = \"200ms\" }}\n\
             [balancer.public]\nlisten = \"0.0.0.0:{PORT}\"\nservice = \"web\"\non = {{ node = [\"node1\", \"node2\"] }}\n",
            origin.display()
        )
    }

    /// A command line of holdfast as somebody on this machine would type it.
    pub(crate) fn typed(&self, n: usize, arguments: &[&str]) -> Vec<String> {
        let data = self.data(n).display().to_string();
        let file = self.file.display().to_string();
        let words = [&binary().display().to_string(), "--node", &name(n), "--data-dir", &data, "--file", &file];
        words.iter().chain(arguments).map(|word| (*word).to_owned()).collect()
    }

    /// Runs a command of holdfast on a machine; its stdout, or both outputs when it fails.
    pub(crate) fn run(&self, n: usize, arguments: &[&str]) -> Result<String, String> {
        let process = self.lab.machine(n).spawn(&self.typed(n, arguments), &[("NO_COLOR", "1")]);
        finish(process.map_err(|e| e.to_string())?)
    }

    pub(crate) fn ok(&self, n: usize, arguments: &[&str]) -> String {
        self.run(n, arguments)
            .unwrap_or_else(|why| panic!("holdfast {arguments:?} on {n}: {why}\n{}", self.agent_log(n)))
    }

    /// On all machines at once.
    pub(crate) fn up_all(&self) {
        let ups: Vec<Process> = (0..MACHINES)
            .map(|n| self.lab.machine(n).spawn(&self.typed(n, &["up", "-d"]), &[("NO_COLOR", "1")]).expect("it starts"))
            .collect();
        for (n, up) in ups.into_iter().enumerate() {
            finish(up).unwrap_or_else(|why| panic!("up on {}: {why}\n{}", name(n), self.agent_log(n)));
        }
    }

    pub(crate) fn data(&self, n: usize) -> PathBuf {
        self.lab.machine(n).dir().join("data")
    }

    pub(crate) fn agent_log(&self, n: usize) -> String {
        std::fs::read_to_string(self.data(n).join("run/_agent-1/log/current")).unwrap_or_default()
    }

    /// An answer of a machine's agent; a socket in the file system is reached through any network.
    pub(crate) fn api(&self, n: usize, path: &str) -> Value {
        let ask = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(self.data(n).join("agent.sock"))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = ask().unwrap_or_default();
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        serde_json::from_str(body).unwrap_or(Value::Null)
    }

    pub(crate) fn status(&self, n: usize) -> Value {
        self.api(n, "/v1/status")
    }

    /// Instances of all machines, as this one sees them.
    pub(crate) fn instances(&self, n: usize) -> Vec<Instance> {
        instances(&self.status(n))
    }

    /// Process of every instance, by name and machine.
    pub(crate) fn pids(&self, n: usize) -> BTreeMap<String, u64> {
        self.instances(n).into_iter().map(|i| (format!("{}@{}", i.id, i.node), i.pid)).collect()
    }

    /// What this machine believes of each.
    pub(crate) fn standing(&self, n: usize) -> BTreeMap<String, String> {
        let nodes = self.status(n)["nodes"].as_object().cloned().unwrap_or_default();
        nodes.into_iter().map(|(name, node)| (name, node["state"].as_str().unwrap_or_default().to_owned())).collect()
    }

    /// The machine that leads, as this one sees it.
    pub(crate) fn leader(&self, n: usize) -> Option<usize> {
        let nodes = self.status(n)["nodes"].as_object().cloned().unwrap_or_default();
        let leader = nodes.into_iter().find(|(_, node)| node["leader"] == true)?.0;
        (0..MACHINES).find(|n| name(*n) == leader)
    }

    /// So many are ready, none is left over, and nobody is doubted.
    pub(crate) fn is_settled(&self, n: usize, replicas: usize) -> bool {
        let status = self.status(n);
        let nodes = status["nodes"].as_object().cloned().unwrap_or_default();
        let all = instances(&status);
        status["services"]["web"]["ready"] == replicas
            && all.len() == replicas
            && all.iter().all(|i| i.state == "ready")
            && nodes.len() == MACHINES
            && nodes.values().all(|node| node["state"] == "ready")
    }

    /// All machines see everything ready, spread evenly, and both balancers answer.
    pub(crate) fn wait_settled(&self, replicas: usize) {
        self.wait(&format!("{replicas} ready, evenly, as all machines see it"), || {
            (0..MACHINES).all(|n| self.is_settled(n, replicas) && self.is_even(n))
        });
        self.wait("balancers that answer", || (0..BALANCERS).all(|n| self.get(n, "/").is_some()));
    }

    fn is_even(&self, n: usize) -> bool {
        let mut counts = BTreeMap::new();
        self.instances(n).into_iter().for_each(|i| *counts.entry(i.node).or_insert(0) += 1);
        counts.len() == MACHINES && counts.values().max() == counts.values().min()
    }

    /// Waits for a condition; panics with how everything looks when it never comes.
    pub(crate) fn wait(&self, what: &str, condition: impl FnMut() -> bool) -> Duration {
        self.wait_for(what, PATIENCE, condition)
    }

    pub(crate) fn wait_for(&self, what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
        let began = Instant::now();
        while !condition() {
            if began.elapsed() > limit {
                (0..MACHINES).filter(|n| self.lab.machine(*n).is_on()).for_each(|n| self.show(n));
                panic!("waited {limit:?} for {what}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        began.elapsed()
    }

    fn show(&self, n: usize) {
        let log = self.agent_log(n);
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n");
        let (standing, leader) = (self.standing(n), self.leader(n));
        eprintln!("--- {}: {standing:?}, led by {leader:?}, warns {}", name(n), self.status(n)["warnings"]);
        self.instances(n).iter().for_each(|i| eprintln!("{} on {}: {} pid {}", i.id, i.node, i.state, i.pid));
        eprintln!("{last}");
    }

    /// Holds a state for a time, and looks all the while that something stays true.
    pub(crate) fn hold_while(&self, length: Duration, what: &str, mut stays: impl FnMut() -> bool) {
        let until = Instant::now() + length;
        while Instant::now() < until {
            if !stays() {
                (0..MACHINES).filter(|n| self.lab.machine(*n).is_on()).for_each(|n| self.show(n));
                panic!("no longer true: {what}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Requests from the client to a machine's balancer, at a fixed rate.
    pub(crate) fn probe(&self, n: usize) -> Load {
        let url = format!("http://{}:{PORT}/", self.lab.machine(n).addr());
        let plan = Plan { url, rate_per_s: RATE, length: PROBE_LIMIT, timeout: ANSWER_LIMIT };
        self.lab.client().probe(plan).expect("the client is on")
    }

    /// One GET from the client through a machine's balancer.
    pub(crate) fn get(&self, n: usize, path: &str) -> Option<String> {
        self.get_within(n, path, ANSWER_LIMIT)
    }

    pub(crate) fn get_within(&self, n: usize, path: &str, limit: Duration) -> Option<String> {
        let target = format!("{}:{PORT}", self.lab.machine(n).addr()).parse().expect("an address");
        let ask = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect_timeout(&target, limit)?;
            stream.set_read_timeout(Some(limit))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: town\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = self.lab.client().within(ask).expect("the client is on").ok()?;
        text.starts_with("HTTP/1.1 200").then(|| text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()))?
    }

    /// The agent of a machine as we see it, not as its own process namespace does.
    pub(crate) fn agent_pid(&self, n: usize) -> Option<u32> {
        let data = self.data(n).display().to_string();
        let is_agent = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
            words.last() == Some(&&b"agent"[..]) && words.contains(&data.as_bytes())
        };
        pids().into_iter().find(is_agent)
    }

    /// Processes of instances of a machine, whatever holdfast says of them.
    pub(crate) fn origins(&self, n: usize) -> usize {
        let ours = |pid: &&u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).next().is_some_and(|program| program.ends_with(b"/examples/origin"))
        };
        self.lab.machine(n).pids().iter().filter(ours).count()
    }

    /// The epoch of fencing tokens, as etcd has it.
    pub(crate) fn epoch(&self) -> u64 {
        let text = self.lab.etcdctl(&["get", "--print-value-only", "/holdfast/town//epoch"]).expect("etcd answers");
        let record: Value = serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        record["epoch"].as_u64().expect("an epoch")
    }
}

/// Everything that was asked was answered.
pub(crate) fn none_failed(what: &str, load: Load) -> Summary {
    let found = load.finish().expect("the prober works");
    println!(
        "{what}: {} of {} requests failed, longest gap {:?}, p99 {:?}, max {:?}",
        found.failed,
        found.sent,
        found.longest_gap,
        found.quantile(0.99),
        found.quantile(1.0)
    );
    let some: Vec<_> = found.failures.iter().take(20).collect();
    assert!(found.sent > RATE && found.failed == 0, "{what}: {} of {} failed: {some:#?}", found.failed, found.sent);
    found
}

fn instances(status: &Value) -> Vec<Instance> {
    let all = status["services"]["web"]["instances"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |i: &Value| Instance {
        id: text(&i["id"]),
        node: text(&i["node"]),
        state: text(&i["state"]),
        pid: i["pid"].as_u64().unwrap_or(0),
    };
    all.iter().map(one).collect()
}

pub(crate) fn finish(mut process: Process) -> Result<String, String> {
    let status = process.wait(COMMAND_LIMIT).map_err(|e| e.to_string())?;
    match status.success() {
        true => Ok(process.stdout()),
        false => Err(format!("{status}\n{}{}", process.stdout(), process.stderr())),
    }
}

fn pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_holdfast"))
}

/// The shell's own `kill`, by a pid as we see it.
pub(crate) fn kill(pid: u32, signal: &str) {
    let line = format!("kill -s {signal} {pid}");
    let done = std::process::Command::new("/bin/sh").args(["-c", &line]).status();
    assert!(done.is_ok_and(|status| status.success()), "{line}");
}
