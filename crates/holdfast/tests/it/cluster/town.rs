//! Machines `n1`, `n2`, … that share one file and one etcd; n1 has the balancer.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use holdfast_cluster::etcd::fixture::{Cluster, Site as Place, Spec};
use serde_json::Value;

use crate::site::{Site, alive, free_port, get, kill, origin};

pub(super) struct Town {
    pub(super) sites: Vec<Site>,
    pub(super) etcd: Cluster,
    pub(super) port: u16,
    addresses: Vec<Ipv4Addr>,
    lease: String,
    /// How long certificates are valid; `None` has none.
    certificates: Option<String>,
    managed: bool,
    file: PathBuf,
    _places: Vec<Place>,
    _dir: tempfile::TempDir,
}

impl Town {
    /// Machines that run nothing yet, with certificates of an authority on n1.
    pub(super) fn start(machines: usize, lease: &str) -> Town {
        Town::with(machines, lease, Some("90d"))
    }

    pub(super) fn with(machines: usize, lease: &str, certificates: Option<&str>) -> Town {
        let town = Town { certificates: certificates.map(str::to_owned), ..Town::empty(machines, lease) };
        town.write("");
        for (n, site) in town.sites.iter().enumerate() {
            match (&town.certificates, n) {
                (None, _) => {}
                (Some(_), 0) => drop(site.ok(&["cluster", "init"])),
                (Some(_), _) => town.join(site),
            }
            site.up();
        }
        town.wait_for_all();
        town
    }

    /// Machines that run etcd themselves and nothing else yet.
    pub(super) fn managed(machines: usize, lease: &str) -> Town {
        let town = Town { managed: true, ..Town::empty(machines, lease) };
        town.write("");
        std::thread::scope(|scope| {
            // The first of them has a quorum only once the second is there.
            town.sites.iter().for_each(|site| drop(scope.spawn(|| site.up())));
        });
        town.wait_for_all();
        town
    }

    /// Every machine sees every other.
    pub(super) fn wait_for_all(&self) {
        for site in &self.sites {
            site.wait_for("all machines to see each other", || self.all_proved(site));
        }
    }

    /// Nothing has been started but etcd.
    pub(super) fn empty(machines: usize, lease: &str) -> Town {
        let etcd = Cluster::start(Spec::new(1));
        let places: Vec<Place> = (0..machines).map(|_| Place::take()).collect();
        let addresses = places.iter().map(|place| place.address).collect();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("holdfast.toml");
        let sites = (1..=machines).map(|n| Site::member(&format!("n{n}"), &file)).collect();
        let port = free_port();
        let lease = lease.to_owned();
        Town {
            sites,
            etcd,
            port,
            addresses,
            lease,
            certificates: None,
            managed: false,
            file,
            _places: places,
            _dir: dir,
        }
    }

    /// Everybody is ready in the eyes of this one, and nothing keeps it from being sure.
    pub(super) fn all_proved(&self, site: &Site) -> bool {
        let nodes = site.api("/v1/status")["nodes"].as_object().cloned().unwrap_or_default();
        let sure = |node: &Value| node["state"] == "ready" && node["reason"] == Value::Null;
        nodes.len() == self.sites.len() && nodes.values().all(sure)
    }

    /// A token of n1, and where to use it.
    pub(super) fn token(&self, more: &[&str]) -> (String, String) {
        let mut args = vec!["--json", "cluster", "token"];
        args.extend(more);
        let mut found = None;
        self.sites[0].wait_for("n1 to answer on its link", || {
            let told: Value = serde_json::from_str(&self.sites[0].ok(&args)).expect("JSON");
            let pair = told["token"].as_str().zip(told["from"][0].as_str());
            found = pair.map(|(token, from)| (token.to_owned(), from.to_owned()));
            found.is_some()
        });
        found.expect("it was waited for")
    }

    pub(super) fn join(&self, site: &Site) {
        let (token, from) = self.token(&[]);
        site.ok(&["cluster", "join", &token, "--from", &from]);
    }

    pub(super) fn warnings(&self, n: usize) -> String {
        self.sites[n].api("/v1/status")["warnings"].to_string()
    }

    /// Where a machine answers the others.
    pub(super) fn link(&self, n: usize) -> std::net::SocketAddr {
        let link = self.sites[n].api("/v1/cluster")["link"].clone();
        link.as_str().and_then(|text| text.parse().ok()).expect("the agent listens")
    }

    /// A file without a cluster.
    pub(super) fn write_alone(&self, services: &str) {
        let text = services.replace("{origin}", &origin().to_string_lossy());
        std::fs::write(&self.file, text).expect("the file is writable");
    }

    pub(super) fn write(&self, services: &str) {
        let endpoints: Vec<String> = self.etcd.endpoints().iter().map(|e| format!("{e:?}")).collect();
        let etcd = if self.managed { "\"managed\"".to_owned() } else { format!("[{}]", endpoints.join(", ")) };
        let mut text = format!("[cluster]\nname = \"town\"\netcd = {etcd}\nlease = {:?}\nlink = 0\n", self.lease);
        if let Some(valid) = &self.certificates {
            text.push_str(&format!("certificates = {valid:?}\n"));
        }
        for (n, address) in self.addresses.iter().enumerate() {
            text.push_str(&format!("[node.n{}]\naddress = \"{address}\"\netcd = {}\n", n + 1, self.managed));
        }
        text.push_str(services);
        let text = text.replace("{origin}", &origin().to_string_lossy());
        std::fs::write(&self.file, text).expect("the file is writable");
    }

    pub(super) fn apply(&self, on: usize, services: &str) {
        self.write(services);
        self.sites[on].up();
    }

    pub(super) fn web(&self, replicas: u32) -> String {
        format!(
            "[service.web]\ncommand = [\"{{origin}}\", \"{{port}}\", \"{{host}}\"]\nreplicas = {replicas}\nenv = {{ ORIGIN_NAME = \"a\" }}\n\
             ready = {{ http = \"/\", every = \"200ms\" }}\n\
             [balancer.public]\nlisten = \"127.0.0.1:{}\"\nservice = \"web\"\non = {{ node = \"n1\" }}\n",
            self.port
        )
    }

    /// A service of which one is active, on n1's balancer.
    pub(super) fn db(&self, count: u32, more: &str) -> String {
        format!(
            "[service.db]\ncommand = [\"{{origin}}\", \"{{port}}\", \"{{host}}\"]\n\
             env = {{ ORIGIN_ROLES = \"{}\" }}\nready = {{ http = \"/healthz\", every = \"200ms\" }}\n\
             stop = {{ grace = \"2s\", drain = \"2s\" }}\n\
             standby = {{ count = {count}, lease = \"fast\", {more} }}\n\
             [balancer.public]\nlisten = \"127.0.0.1:{}\"\nservice = \"db\"\non = {{ node = \"n1\" }}\n",
            self.roles_file().display(),
            self.port
        )
    }

    pub(super) fn roles_file(&self) -> PathBuf {
        self._dir.path().join("roles")
    }

    pub(super) fn instances_of(&self, on: usize) -> Vec<Value> {
        crate::site::instances(&self.sites[on].api("/v1/status"))
    }

    /// Who is active, as machine `on` is told, and the index of its machine.
    pub(super) fn active(&self, on: usize) -> Option<(String, usize)> {
        let ready = self.instances_of(on).into_iter().find(|i| i["state"] == "ready" && i["role"] == "active")?;
        let node = ready["node"].as_str()?.strip_prefix('n')?.parse::<usize>().ok()?;
        Some((ready["id"].as_str()?.to_owned(), node - 1))
    }

    pub(super) fn ready(&self) -> u64 {
        self.sites[0].api("/v1/status")["services"]["web"]["ready"].as_u64().unwrap_or(0)
    }

    pub(super) fn wait_ready(&self, count: u64) {
        for site in &self.sites {
            site.wait_for(&format!("{count} ready"), || {
                let web = &site.api("/v1/status")["services"]["web"];
                web["ready"] == count
                    && web["desired"] == count
                    && web["instances"].as_array().map(Vec::len) == Some(count as usize)
            });
        }
    }

    fn instances(&self) -> Vec<Value> {
        crate::site::instances(&self.sites[0].api("/v1/status"))
    }

    /// As n1 is told; not what its own supervisor runs only.
    pub(super) fn instances_on(&self, n: usize) -> Vec<String> {
        let node = format!("n{}", n + 1);
        let ours = self.instances().into_iter().filter(|i| i["node"] == node.as_str());
        ours.filter_map(|i| i["id"].as_str().map(str::to_owned)).collect()
    }

    /// Of all instances, by name and machine.
    pub(super) fn pids(&self) -> BTreeMap<String, u64> {
        let named = |i: Value| Some((format!("{}@{}", i["id"].as_str()?, i["node"].as_str()?), i["pid"].as_u64()?));
        self.instances().into_iter().filter_map(named).collect()
    }

    /// Which instance answered.
    pub(super) fn who_answers(&self) -> Option<String> {
        get(self.port, "/instance").ok().filter(|(status, _)| *status == 200).map(|(_, body)| body)
    }

    pub(super) fn has_leader(&self) -> bool {
        let nodes = self.sites[0].api("/v1/status")["nodes"].as_object().cloned().unwrap_or_default();
        nodes.values().filter(|node| node["leader"] == true).count() == 1
    }

    pub(super) fn leader(&self) -> usize {
        let nodes = self.sites[0].api("/v1/status")["nodes"].as_object().cloned().unwrap_or_default();
        nodes.values().position(|node| node["leader"] == true).expect("a leader")
    }

    /// Everything of a machine at once, as when its power goes.
    pub(super) fn kill_machine(&mut self, n: usize) {
        let data = self.sites[n].data().to_string_lossy().into_owned();
        loop {
            let all = tree(&data);
            if all.is_empty() {
                return;
            }
            all.iter().for_each(|pid| kill(*pid, "STOP"));
            all.iter().for_each(|pid| kill(*pid, "KILL"));
        }
    }

    /// As a virtual machine that is paused: nothing of it runs, and nobody is told.
    pub(super) fn freeze_machine(&self, n: usize) -> Vec<u32> {
        let data = self.sites[n].data().to_string_lossy().into_owned();
        let all = tree(&data);
        all.iter().for_each(|pid| kill(*pid, "STOP"));
        all
    }

    /// Another data directory under the name of a machine.
    pub(super) fn twin(&self, n: usize) -> Site {
        self.another(&format!("n{}", n + 1))
    }

    /// A machine that is no member.
    pub(super) fn another(&self, name: &str) -> Site {
        Site::member(name, &self.file)
    }
}

/// Processes that name the data directory in their command line, and everything that they started.
fn tree(data: &str) -> Vec<u32> {
    let mut parents = BTreeMap::new();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.insert(pid, parent.unwrap_or(0));
        if alive(pid) && String::from_utf8_lossy(&cmdline).contains(data) {
            found.push(pid);
        }
    }
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| !found.contains(pid) && found.contains(parent) && alive(**pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}
