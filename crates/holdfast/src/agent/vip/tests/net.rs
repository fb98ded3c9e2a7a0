//! Network namespaces on a switch of their own; gone with the value.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_host::address::{Interface, Link, Netlink, Prefixed};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(super) const ADDRESS: &str = "10.66.0.100";

pub(super) struct Net {
    names: Vec<String>,
    hosts: Vec<(Netlink, Interface)>,
}

fn ip(args: &str) -> Result<String, String> {
    let done = Command::new("ip").args(args.split(' ')).output().map_err(|e| format!("ip cannot be run: {e}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(format!("ip {args}: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

/// Runs on a thread of its own inside the namespace; sockets that it opens stay there.
pub(super) fn inside<T: Send + 'static>(
    name: &str,
    act: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = File::open(format!("/run/netns/{name}")).expect("the namespace was made");
    std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
        act()
    })
}

impl Net {
    /// So many hosts, 10.66.0.1 and on, each with `eth0`.
    pub(super) fn new(hosts: u32) -> Result<Net, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("hfv{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut net = Net { names: Vec::new(), hosts: Vec::new() };
        let switch = format!("{mark}s");
        net.namespace(&switch)?;
        ip(&format!("-n {switch} link add br0 type bridge"))?;
        ip(&format!("-n {switch} link set br0 up"))?;
        for n in 1..=hosts {
            let name = format!("{mark}h{n}");
            net.namespace(&name)?;
            ip(&format!("-n {switch} link add p{n} type veth peer name eth0 netns {name}"))?;
            ip(&format!("-n {switch} link set p{n} master br0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} addr add 10.66.0.{n}/24 dev eth0"))?;
            let opened = inside(&name, || {
                let netlink = Netlink::open().expect("netlink");
                let all = netlink.interfaces().expect("interfaces");
                let eth0 = all.into_iter().find(|i| i.name == "eth0").expect("it was made");
                (netlink, eth0)
            });
            net.hosts.push(opened.join().expect("it was opened"));
        }
        Ok(net)
    }

    fn namespace(&mut self, name: &str) -> Result<(), String> {
        ip(&format!("netns add {name}"))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    pub(super) fn name(&self, host: usize) -> &str {
        &self.names[host + 1]
    }

    pub(super) fn at() -> Prefixed {
        Prefixed { address: ADDRESS.parse::<IpAddr>().unwrap(), prefix: 24 }
    }

    /// Whether the kernel of that host carries the address.
    pub(super) fn has(&self, host: usize) -> bool {
        let all = self.hosts[host].0.addresses().expect("addresses");
        all.iter().any(|a| a.at == Net::at())
    }

    pub(super) fn mac(&self, host: usize) -> String {
        self.hosts[host].1.mac.expect("a veth has one").to_string()
    }

    /// What a host does that knows nothing of leases.
    pub(super) fn add(&self, host: usize) {
        ip(&format!("-n {} addr add {ADDRESS}/24 dev eth0", self.name(host))).unwrap();
    }

    pub(super) fn remove(&self, host: usize) {
        ip(&format!("-n {} addr del {ADDRESS}/24 dev eth0", self.name(host))).unwrap();
    }

    pub(super) fn announce(&self, host: usize) {
        let eth0 = self.hosts[host].1.clone();
        let told = inside(self.name(host), move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { Link::open(&eth0, Net::at().address).unwrap().announce().unwrap() });
        });
        told.join().unwrap();
    }

    /// As after a packet from there.
    pub(super) fn learn(&self, host: usize, mac: String) {
        ip(&format!("-n {} neigh replace {ADDRESS} dev eth0 lladdr {mac} nud stale", self.name(host))).unwrap();
    }

    pub(super) fn neighbour(&self, host: usize) -> Option<String> {
        let text = ip(&format!("-n {} neigh show to {ADDRESS}", self.name(host))).unwrap();
        let mut words = text.split_whitespace().skip_while(|w| *w != "lladdr");
        words.nth(1).map(str::to_owned)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}
