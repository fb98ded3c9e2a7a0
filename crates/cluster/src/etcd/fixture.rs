//! For tests of this crate and of others: real etcd processes on an address of their own, gone when dropped.
//!
//! Everything panics with what is wrong, as a test would. Start members from the test's own thread: the kernel kills
//! them when the thread that started them ends.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use holdfast_host::process;

use super::Options;

/// More binaries to test with, as in `PATH`.
pub const BINARIES: &str = "HOLDFAST_ETCD";

/// A member is ready in some 200 ms; this is for machines on which everything else runs too.
const READY_MAX: Duration = Duration::from_secs(60);

/// Ports on the address of a cluster, which nobody else uses.
const LOCK_PORT: u16 = 23_788;
const CLIENT_PORT: u16 = 23_790;
const PEER_PORT: u16 = 23_890;

const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;

/// Server certificate, its key, and who must have signed the clients'.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub ca: PathBuf,
    /// Must be good for clients too: the gateway is a client of its own member.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

pub struct Spec {
    pub binary: PathBuf,
    pub members: usize,
    pub tls: Option<TlsFiles>,
    pub arguments: Vec<String>,
    /// Held by the cluster as long as it lives.
    pub site: Site,
}

impl Spec {
    pub fn new(members: usize) -> Spec {
        Spec { binary: binary(), members, tls: None, arguments: Vec::new(), site: Site::take() }
    }
}

/// A loopback address that no other test uses, and a directory.
pub struct Site {
    pub address: Ipv4Addr,
    pub dir: PathBuf,
    _lock: TcpListener,
}

static SITES: AtomicU32 = AtomicU32::new(0);

impl Site {
    /// Ports on 127.0.0.1 can be taken by anybody between a member's death and its restart; addresses are plenty.
    pub fn take() -> Site {
        for _ in 0..1000 {
            let n = SITES.fetch_add(1, Ordering::Relaxed);
            let mixed = std::process::id().wrapping_mul(2_654_435_761).wrapping_add(n.wrapping_mul(40_503)) >> 8;
            let [_, a, b, c] = mixed.to_be_bytes();
            let address = Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254));
            let Ok(lock) = TcpListener::bind((address, LOCK_PORT)) else { continue };
            let dir = std::env::temp_dir().join(format!("holdfast-etcd-{}-{n}", std::process::id()));
            fs::create_dir_all(&dir).expect("a directory for etcd");
            return Site { address, dir, _lock: lock };
        }
        panic!("no loopback address is free");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Every etcd on this machine: those of `HOLDFAST_ETCD`, Debian's, and what `cargo xtask etcd` fetched.
pub fn binaries() -> Vec<PathBuf> {
    let named = std::env::var_os(BINARIES).map(|list| std::env::split_paths(&list).collect()).unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|dir| dir.join("etcd"));
    let mut found: Vec<PathBuf> = named;
    found.extend(installed.filter(|file| file.is_file()).take(1));
    found.extend(fetched());
    assert!(
        !found.is_empty(),
        "etcd is not on this machine: sudo apt-get install -y --no-install-recommends etcd-server etcd-client"
    );
    found
}

pub fn binary() -> PathBuf {
    binaries().swap_remove(0)
}

/// `~/.cache/holdfast/etcd/VERSION/etcd`.
fn fetched() -> Vec<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let Some(cache) = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home) else { return Vec::new() };
    let versions = fs::read_dir(cache.join("holdfast/etcd")).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|dir| dir.path().join("etcd")).filter(|file| file.is_file()).collect();
    found.sort();
    found
}

/// `3.5.16`
pub fn version(binary: &Path) -> String {
    let output = Command::new(binary).arg("--version").output().expect("etcd runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("etcd Version: ")).expect("etcd tells its version").trim().to_owned()
}

struct Member {
    name: String,
    client_url: String,
    peer_url: String,
    process: Option<Child>,
    starts: u32,
}

/// Members that run; dropping it kills them and removes their data.
pub struct Cluster {
    members: Vec<Member>,
    spec: Spec,
}

impl Cluster {
    /// Returns when all members serve.
    pub fn start(spec: Spec) -> Cluster {
        let scheme = if spec.tls.is_some() { "https" } else { "http" };
        let address = spec.site.address;
        let member = |n: u16| Member {
            name: format!("m{n}"),
            client_url: format!("{scheme}://{address}:{}", CLIENT_PORT + n),
            peer_url: format!("http://{address}:{}", PEER_PORT + n),
            process: None,
            starts: 0,
        };
        let members = (0..spec.members as u16).map(member).collect();
        let mut cluster = Cluster { members, spec };
        (0..cluster.members.len()).for_each(|n| cluster.spawn(n));
        (0..cluster.members.len()).for_each(|n| cluster.wait_ready(n));
        cluster
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| m.client_url.clone()).collect()
    }

    /// To reach all members, otherwise as by default.
    pub fn options(&self) -> Options {
        Options::new(self.endpoints())
    }

    pub fn dir(&self) -> &Path {
        &self.spec.site.dir
    }

    /// At once, as by a crash.
    pub fn kill(&mut self, n: usize) {
        if let Some(mut process) = self.members[n].process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }

    /// With the data it had; returns when it serves.
    pub fn restart(&mut self, n: usize) {
        self.kill(n);
        self.spawn(n);
        self.wait_ready(n);
    }

    /// Stops it and starts it with the data of a copy, as a cluster of another id that answers at the same address.
    pub fn restore(&mut self, n: usize, snapshot: &Path) {
        self.kill(n);
        let (member, data) = (&self.members[n], self.dir().join(&self.members[n].name));
        fs::remove_dir_all(&data).expect("its data can be removed");
        let peer = format!("--initial-advertise-peer-urls={}", member.peer_url);
        self.etcdctl(&[
            "snapshot",
            "restore",
            &snapshot.to_string_lossy(),
            &format!("--name={}", member.name),
            &format!("--data-dir={}", data.display()),
            &format!("--initial-cluster={}={}", member.name, member.peer_url),
            "--initial-cluster-token=restored",
            &peer,
        ]);
        self.restart(n);
    }

    /// It keeps its sockets and answers nobody.
    pub fn pause(&self, n: usize) {
        self.signal(n, SIGSTOP);
    }

    pub fn resume(&self, n: usize) {
        self.signal(n, SIGCONT);
    }

    /// What it wrote since it was started last.
    pub fn log(&self, n: usize) -> String {
        fs::read_to_string(self.log_file(n)).unwrap_or_default()
    }

    /// Runs `etcdctl` against the first member; panics unless it succeeds.
    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(&self.members[0].client_url)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("etcdctl: sudo apt-get install -y --no-install-recommends etcd-client");
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn signal(&self, n: usize, signal: i32) {
        let process = self.members[n].process.as_ref().expect("the member runs");
        let who = process::identity(process.id() as i32).expect("the member lives");
        assert!(process::signal(who, signal).expect("it can be signalled"), "the member is gone");
    }

    fn log_file(&self, n: usize) -> PathBuf {
        let member = &self.members[n];
        self.spec.site.dir.join(format!("{}-{}.log", member.name, member.starts))
    }

    fn spawn(&mut self, n: usize) {
        self.members[n].starts += 1;
        let log = File::create(self.log_file(n)).expect("a log for etcd");
        let mut command = self.command(n);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let process = command.spawn().expect("setpriv (Debian package util-linux) runs etcd");
        self.members[n].process = Some(process);
    }

    fn command(&self, n: usize) -> Command {
        let member = &self.members[n];
        let peers: Vec<String> = self.members.iter().map(|m| format!("{}={}", m.name, m.peer_url)).collect();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.spec.binary);
        command.arg("--name").arg(&member.name);
        command.arg("--data-dir").arg(self.spec.site.dir.join(&member.name));
        command.args(["--listen-client-urls", &member.client_url, "--advertise-client-urls", &member.client_url]);
        command.args(["--listen-peer-urls", &member.peer_url, "--initial-advertise-peer-urls", &member.peer_url]);
        command.args(["--initial-cluster", &peers.join(","), "--enable-grpc-gateway=true"]);
        if let Some(tls) = &self.spec.tls {
            command.arg("--cert-file").arg(&tls.certificate).arg("--key-file").arg(&tls.key);
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.ca);
        }
        command.args(&self.spec.arguments);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command
    }

    fn wait_ready(&mut self, n: usize) {
        let deadline = Instant::now() + READY_MAX;
        while !self.log(n).contains("ready to serve client requests") {
            let process = self.members[n].process.as_mut().expect("it was started");
            let ended = process.try_wait().expect("its state is known");
            assert!(ended.is_none(), "etcd ended ({ended:?}):\n{}", self.log(n));
            assert!(Instant::now() < deadline, "etcd is not ready after {READY_MAX:?}:\n{}", self.log(n));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|n| self.kill(n));
    }
}
