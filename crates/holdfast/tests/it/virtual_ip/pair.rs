//! Two machines and a client on a switch, real etcd beside them: how long a client waits when the owner dies, hangs or leaves.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{KERNEL_LATE, ip};
use crate::site::{PATIENCE, Site, kill, origin};

const ADDRESS: &str = "10.68.0.100";
const ETCD: &str = "10.68.0.250";
/// Of the fast profile.
const LEASE: Duration = Duration::from_secs(6);
/// etcd ends a lease up to a second late; then a watch, three probes and an announcement, on a machine where all else runs too.
const TAKEOVER: Duration = Duration::from_secs(2);

struct Pair {
    mark: String,
    etcd: Option<Child>,
    sites: Vec<Site>,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Pair {
    fn start() -> Option<Pair> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("hfp{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("holdfast.toml");
        let mut pair = Pair { mark, etcd: None, sites: Vec::new(), file, _dir: dir };
        if let Err(reason) = pair.network() {
            println!("skipped: {reason}");
            return None;
        }
        pair.etcd = Some(pair.start_etcd()?);
        std::fs::write(&pair.file, pair.text()).expect("the file is writable");
        for n in 1..=2 {
            let namespace = pair.host(n);
            let words = ["ip", "netns", "exec", &namespace];
            pair.sites.push(Site::member_through(&words, &format!("n{n}"), &pair.file));
        }
        for site in &pair.sites {
            site.up();
        }
        Some(pair)
    }

    /// Hosts 1 and 2 are machines, 3 is the client.
    fn host(&self, n: usize) -> String {
        format!("{}h{n}", self.mark)
    }

    fn switch(&self) -> String {
        format!("{}s", self.mark)
    }

    fn network(&self) -> Result<(), String> {
        let switch = self.switch();
        let mut lines = vec![
            format!("netns add {switch}"),
            format!("-n {switch} link set lo up"),
            format!("-n {switch} link add br0 type bridge"),
            format!("-n {switch} link set br0 up"),
            format!("-n {switch} addr add {ETCD}/24 dev br0"),
        ];
        for n in 1..=3 {
            let host = self.host(n);
            lines.extend([
                format!("netns add {host}"),
                format!("-n {switch} link add p{n} type veth peer name eth0 netns {host}"),
                format!("-n {switch} link set p{n} master br0 up"),
                format!("-n {host} link set lo up"),
                format!("-n {host} link set eth0 up"),
                format!("-n {host} addr add 10.68.0.{n}/24 dev eth0"),
            ]);
        }
        lines.iter().try_for_each(|line| ip(line).map(drop))
    }

    fn start_etcd(&self) -> Option<Child> {
        let data = self.file.with_file_name("etcd");
        let url = format!("http://{ETCD}:2379");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.switch(), "etcd", "--listen-client-urls", &url]);
        command.args(["--advertise-client-urls", &url, "--listen-peer-urls", "http://127.0.0.1:2380", "--data-dir"]);
        let started = command.arg(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        match Command::new("etcd").arg("--version").output().and(started) {
            Ok(child) => Some(child),
            Err(error) => {
                println!("skipped: etcd cannot be run: {error}");
                None
            }
        }
    }

    fn text(&self) -> String {
        format!(
            "[cluster]\nname = \"pair\"\netcd = [\"http://{ETCD}:2379\"]\nlease = \"fast\"\n\
             [node.n1]\naddress = \"10.68.0.1\"\n[node.n2]\naddress = \"10.68.0.2\"\n\
             [service.web]\ncommand = [{:?}, \"{{port}}\", \"{{host}}\"]\nreplicas = 2\nready = {{ http = \"/\", every = \"200ms\" }}\n\
             [balancer.public]\nlisten = \"{ADDRESS}:8080\"\nservice = \"web\"\n\
             virtual_ip = \"{ADDRESS}/24\"\nvirtual_ip_lease = \"fast\"\n",
            origin()
        )
    }

    fn state(&self, n: usize) -> String {
        let status = self.sites[n - 1].api("/v1/status");
        status["balancers"]["public"]["virtual_ips"][0]["state"].as_str().unwrap_or_default().to_owned()
    }

    fn has(&self, n: usize) -> bool {
        ip(&format!("-n {} -o addr show to {ADDRESS}", self.host(n))).unwrap_or_default().contains(ADDRESS)
    }

    fn wait_settled(&self) -> (usize, usize) {
        let settled = || {
            let states = (self.state(1), self.state(2));
            [("owned", "standby"), ("standby", "owned")].contains(&(&*states.0, &*states.1))
        };
        self.sites[0].wait_for("one to carry it and one to wait for it", settled);
        self.wait_answer("the client's first answer", Instant::now());
        if self.has(1) { (1, 2) } else { (2, 1) }
    }

    /// Until a balancer answers the client at the address, with whatever there is to say: where instances run is another
    /// question. Never do both kernels have it.
    fn wait_answer(&self, what: &str, began: Instant) -> Duration {
        let url = format!("http://{ADDRESS}:8080/");
        let host = self.host(3);
        loop {
            let words =
                ["netns", "exec", &host, "curl", "-s", "-m", "0.3", "-o", "/dev/null", "-w", "%{http_code}", &url];
            let done = Command::new("ip").args(words).output().expect("curl runs");
            assert!(!(self.has(1) && self.has(2)), "two kernels carry it");
            if done.stdout != b"000" {
                return began.elapsed();
            }
            assert!(began.elapsed() < PATIENCE, "no answer: {what}; {} {}", self.state(1), self.state(2));
        }
    }

    /// Until the other one has it.
    fn wait_at(&self, n: usize, began: Instant) -> Duration {
        while !self.has(n) {
            assert!(began.elapsed() < PATIENCE, "{} {}", self.state(1), self.state(2));
            assert!(!(self.has(1) && self.has(2)), "two kernels carry it");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.wait_answer("from the new owner", began)
    }

    /// Everything that runs in the namespace of a machine.
    fn processes(&self, n: usize) -> Vec<u32> {
        let text = ip(&format!("netns pids {}", self.host(n))).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for n in 1..=2 {
            self.processes(n).iter().for_each(|pid| kill(*pid, "KILL"));
        }
        if let Some(mut etcd) = self.etcd.take() {
            let _ = etcd.kill();
            let _ = etcd.wait();
        }
        for name in [self.switch(), self.host(1), self.host(2), self.host(3)] {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

#[test]
fn a_client_is_answered_again_when_the_owner_hangs_leaves_or_dies() {
    let Some(pair) = Pair::start() else { return };
    let (owner, other) = pair.wait_settled();

    // The kernel of the owner lives on and answers for the address, until its lifetime ends.
    let stopped = pair.processes(owner);
    let began = Instant::now();
    stopped.iter().for_each(|pid| kill(*pid, "STOP"));
    let took = pair.wait_at(other, began);
    println!("owner stopped: the client was answered again after {took:?}");
    assert!(took < LEASE + TAKEOVER, "{took:?}");
    stopped.iter().for_each(|pid| kill(*pid, "CONT"));
    pair.sites[owner - 1].wait_for("the old owner to wait", || pair.state(owner) == "standby");
    assert!(pair.has(other) && !pair.has(owner), "no failback");

    let (owner, other) = (other, owner);
    let began = Instant::now();
    let all = pair.processes(owner);
    all.iter().for_each(|pid| kill(*pid, "STOP"));
    all.iter().for_each(|pid| kill(*pid, "KILL"));
    let took = pair.wait_at(other, began);
    println!("owner killed: the client was answered again after {took:?}");
    assert!(took < LEASE + TAKEOVER, "{took:?}");
    assert!(took > LEASE - KERNEL_LATE - Duration::from_secs(2), "before the lease ended: {took:?}");
    pair.sites[other - 1].wait_for("the journal to tell it as an incident", || {
        let told = pair.sites[other - 1].ok(&["why", ADDRESS]);
        told.contains("the lease of n") && told.contains("incident ready")
    });

    pair.sites[owner - 1].up();
    pair.sites[owner - 1].wait_for("it to wait", || pair.state(owner) == "standby" && pair.state(other) == "owned");
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| pair.sites[other - 1].ok(&["down"]));
        let took = pair.wait_at(owner, began);
        println!("owner left: the client was answered again after {took:?}");
        assert!(took < TAKEOVER, "{took:?}");
    });
}
