//! A cluster on one Linux machine: each machine has network, process, mount and host name spaces of its own behind a
//! bridge, real etcd members run in some of them, faults are injected between them. For tests only.
//!
//! Everything lives inside an enclosure (`enclosure`) that dies with whoever built it, however that dies.

mod cgroup;
mod disk;
mod enclosure;
mod error;
mod etcd;
mod fault;
pub mod load;
mod machine;
mod network;
mod process;
mod running;
mod stall;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use disk::{FullDisk, SlowDisk};
use enclosure::Enclosure;
pub use error::{Error, Result};
pub use etcd::{Member, Status, TOKEN as ETCD_TOKEN};
pub use fault::{Direction, Fault};
pub use machine::Machine;
pub use process::Process;
pub use stall::Stalls;

/// Machines of a lab without the client: as many as the plan of addresses has room for.
pub const MACHINES_MAX: usize = 90;

/// Members of etcd; more than seven only slow it down.
pub const MEMBERS_MAX: usize = 7;

/// How long etcd may take from its start to its first write, on two busy cores.
pub const ETCD_READY_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `node-1` to `node-N`, addresses 10.77.0.1 to 10.77.0.N.
    pub machines: usize,
    /// Members of etcd, each on a machine of its own: `etcd-1` at 10.77.0.101 and so on.
    pub etcd: usize,
    /// Members run on `node-1` and so on instead.
    pub etcd_on_nodes: bool,
    /// Folder with the `etcd` (and `etcdctl`, when it is there) of another version than the system's.
    pub etcd_from: Option<PathBuf>,
    /// More arguments for every member, such as `--quota-backend-bytes=…`.
    pub etcd_arguments: Vec<String>,
    /// The directory of each machine is a file system in memory of this size: a disk that can be filled.
    pub disk_bytes: Option<u64>,
    /// How far the monotonic and the boot clock of `node-i` are from ours, in seconds; a machine without one shares ours.
    pub clock_offsets_s: Vec<i64>,
}

/// A running lab. Dropping it kills everything inside and returns when nothing is left.
pub struct Lab {
    machines: Vec<Arc<Machine>>,
    etcd_machines: Vec<Arc<Machine>>,
    client: Arc<Machine>,
    members: Vec<Member>,
    etcdctl: String,
    enclosure: Arc<Enclosure>,
}

impl Lab {
    /// `Error::Skipped` when this machine does not allow a lab, with what is missing.
    pub fn build(options: &Options) -> Result<Lab> {
        check(options)?;
        let enclosure = Arc::new(Enclosure::open()?);
        network::bridge(&enclosure)?;
        let apart = if options.etcd_on_nodes { 0 } else { options.etcd };
        let node = |i: usize| machine::Blueprint {
            name: format!("node-{}", i + 1),
            number: i + 1,
            disk_bytes: options.disk_bytes,
            clock_offset_s: options.clock_offsets_s.get(i).copied(),
        };
        let other = |name: String, number| machine::Blueprint { name, number, disk_bytes: None, clock_offset_s: None };
        let plans: Vec<machine::Blueprint> = (0..options.machines)
            .map(node)
            .chain((1..=apart).map(|i| other(format!("etcd-{i}"), network::FIRST_ETCD + i)))
            .chain([other("client".into(), network::CLIENT)])
            .collect();
        network::write_hosts(&enclosure, &plans)?;
        let build = |plan| Machine::build(&enclosure, plan).map(Arc::new);
        let mut built = plans.into_iter().map(build).collect::<Result<Vec<_>>>()?;
        let client = built.pop().ok_or_else(|| Error::failed("build the lab", "no client was planned"))?;
        let etcd_machines = built.split_off(options.machines);
        let members = etcd::plan(options, if apart == 0 { &built } else { &etcd_machines });
        let etcdctl = etcd::program(options, "etcdctl");
        let lab = Lab { machines: built, etcd_machines, client, members, etcdctl, enclosure };
        for member in &lab.members {
            member.start()?;
        }
        if !lab.members.is_empty() {
            lab.wait_for_etcd(ETCD_READY_LIMIT)?;
        }
        Ok(lab)
    }

    /// For tests: a lab, or nothing with a line that says why not.
    ///
    /// # Panics
    /// When the lab is allowed here and cannot be built all the same.
    pub fn or_skip(options: &Options) -> Option<Lab> {
        match Lab::build(options) {
            Ok(lab) => Some(lab),
            Err(Error::Skipped { reason }) => {
                println!("skipped: {reason}");
                None
            }
            Err(error) => panic!("no lab: {error}"),
        }
    }

    /// `node-{i + 1}`.
    pub fn machine(&self, i: usize) -> &Machine {
        &self.machines[i]
    }

    pub fn machines(&self) -> &[Arc<Machine>] {
        &self.machines
    }

    /// The machines that only etcd runs on; empty when the members are on the nodes.
    pub fn etcd_machines(&self) -> &[Arc<Machine>] {
        &self.etcd_machines
    }

    /// A machine without a role: the place of load generators, probers and etcdctl.
    pub fn client(&self) -> &Machine {
        &self.client
    }

    pub fn etcd(&self, i: usize) -> &Member {
        &self.members[i]
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Where everything of this lab is, for as long as it lives.
    pub fn dir(&self) -> &Path {
        &self.enclosure.dir
    }

    /// etcdctl on the client machine, against all members unless the arguments name endpoints.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        let endpoints = self.etcd_endpoints().join(",");
        let mut argv = vec![self.etcdctl.as_str()];
        if !arguments.iter().any(|a| a.starts_with("--endpoints")) {
            argv.extend(["--endpoints", &endpoints]);
        }
        argv.extend(arguments);
        self.client.run_env(&argv, &[("ETCDCTL_API", "3")])
    }

    pub fn etcd_endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::client_url).collect()
    }

    /// Until a write goes through.
    pub fn wait_for_etcd(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let why = match self.etcdctl(&["--command-timeout=2s", "--dial-timeout=1s", "put", "lab/ready", "1"]) {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            };
            if Instant::now() > deadline {
                let logs: Vec<String> = self.members.iter().map(Member::last_lines).collect();
                return Err(Error::failed("wait until etcd takes writes", format!("{why}\n{}", logs.join("\n"))));
            }
        }
    }

    /// The member that leads, as seen by itself.
    pub fn etcd_leader(&self) -> Option<usize> {
        self.members.iter().position(|member| member.status(self).is_some_and(|s| s.is_leader()))
    }

    /// Saves what the first member that answers holds.
    pub fn etcd_snapshot(&self) -> Result<PathBuf> {
        etcd::snapshot(self)
    }

    /// Every member is stopped, loses its data, and starts from the snapshot as a cluster of this token: with the one that it
    /// had ([`ETCD_TOKEN`]) it looks like the old one.
    pub fn etcd_restore(&self, snapshot: &Path, token: &str) -> Result<()> {
        etcd::restore(self, snapshot, token)?;
        self.wait_for_etcd(ETCD_READY_LIMIT)
    }

    /// Every packet between two machines is lost with this probability.
    pub fn loss(&self, percent: f64) -> Result<Fault> {
        fault::inject(&self.enclosure, &[format!("{} drop", fault::by_chance(percent)?)])
    }

    /// Every packet between two of these is lost with this probability.
    pub fn loss_among(&self, machines: &[&Machine], percent: f64) -> Result<Fault> {
        let names: Vec<String> = machines.iter().map(|machine| format!("\"{}\"", machine.name())).collect();
        let set = format!("{{ {} }}", names.join(", "));
        fault::inject(&self.enclosure, &[format!("iifname {set} oifname {set} {} drop", fault::by_chance(percent)?)])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.enclosure.close();
    }
}

fn check(options: &Options) -> Result<()> {
    let wrong = |why: String| Err(Error::failed("build the lab", why));
    if options.machines > MACHINES_MAX {
        return wrong(format!("{} machines, at most {MACHINES_MAX}", options.machines));
    }
    if options.etcd > MEMBERS_MAX || (options.etcd_on_nodes && options.etcd > options.machines) {
        return wrong(format!("no room for {} members of etcd", options.etcd));
    }
    Ok(())
}

/// A program that this workspace builds, beside the running test or binary.
pub fn program(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().map_err(|e| Error::io("find this program", e))?;
    let found = exe.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| Error::failed("find a program", format!("no {name} near {}: build it first", exe.display())))
}
