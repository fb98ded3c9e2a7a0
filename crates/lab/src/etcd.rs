//! Real members of etcd: started, killed, stopped, stalled, and restored from a snapshot.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

use crate::machine::Machine;
use crate::process::Process;
use crate::{Error, Lab, Options, Result, Stalls, stall};

pub(crate) const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// With the names of the members it makes the id of a cluster.
pub const TOKEN: &str = "lab";

/// Of a member that is told to end; it hands over its leadership first.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A member that hangs must not hang who asks.
const STATUS_LIMIT: &str = "--command-timeout=2s";

/// Lines of a log that an error shows.
const LAST_LINES: usize = 5;

pub struct Member {
    name: String,
    machine: Arc<Machine>,
    program: String,
    initial_cluster: String,
    arguments: Vec<String>,
    process: Mutex<Option<Process>>,
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub member: u64,
    /// 0 while there is none.
    pub leader: u64,
    pub term: u64,
    pub revision: u64,
    pub version: String,
    pub db_bytes: u64,
}

impl Status {
    pub fn is_leader(&self) -> bool {
        self.leader == self.member
    }
}

/// Members on the first machines of these.
pub(crate) fn plan(options: &Options, machines: &[Arc<Machine>]) -> Vec<Member> {
    let name = |i: usize| format!("member-{}", i + 1);
    let machines = machines.iter().take(options.etcd);
    let peers = machines.clone().enumerate().map(|(i, m)| format!("{}=http://{}:{PEER_PORT}", name(i), m.addr()));
    let initial_cluster = peers.collect::<Vec<_>>().join(",");
    let member = |(i, machine): (usize, &Arc<Machine>)| Member {
        name: name(i),
        machine: machine.clone(),
        program: program(options, "etcd"),
        initial_cluster: initial_cluster.clone(),
        arguments: options.etcd_arguments.clone(),
        process: Mutex::default(),
    };
    machines.enumerate().map(member).collect()
}

/// A folder with another etcd may be without an etcdctl: the system's does for it.
pub(crate) fn program(options: &Options, name: &str) -> String {
    let other = options.etcd_from.as_ref().map(|folder| folder.join(name)).filter(|file| file.is_file());
    other.map_or_else(|| name.to_owned(), |file| file.display().to_string())
}

impl Member {
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    pub fn client_url(&self) -> String {
        format!("http://{}:{CLIENT_PORT}", self.machine.addr())
    }

    fn peer_url(&self) -> String {
        format!("http://{}:{PEER_PORT}", self.machine.addr())
    }

    fn data(&self) -> PathBuf {
        self.machine.dir().join("etcd")
    }

    /// Starts it with the data it has; after a reboot of its machine this is up to the test, too.
    pub fn start(&self) -> Result<()> {
        let mut process = self.process();
        if process.as_ref().is_some_and(Process::is_running) {
            return Err(Error::failed(format!("start {}", self.name), "it runs"));
        }
        let local = format!("http://127.0.0.1:{CLIENT_PORT}");
        let data = self.data().display().to_string();
        let mut argv: Vec<String> = [
            &self.program,
            "--logger=zap",
            "--initial-cluster-state=new",
            &format!("--initial-cluster-token={TOKEN}"),
            &format!("--name={}", self.name),
            &format!("--data-dir={data}"),
            &format!("--listen-client-urls={},{local}", self.client_url()),
            &format!("--advertise-client-urls={}", self.client_url()),
            &format!("--listen-peer-urls={}", self.peer_url()),
            &format!("--initial-advertise-peer-urls={}", self.peer_url()),
            &format!("--initial-cluster={}", self.initial_cluster),
        ]
        .map(String::from)
        .into();
        argv.extend(self.arguments.iter().cloned());
        *process = Some(self.machine.spawn(&argv, &[])?);
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        self.process().as_ref().is_some_and(Process::is_running)
    }

    /// Without a chance to hand anything over. Returns when it is dead.
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::KILL)
    }

    /// In order.
    pub fn terminate(&self) -> Result<()> {
        self.end(Signal::TERM)
    }

    fn end(&self, signal: Signal) -> Result<()> {
        let mut process = self.process();
        if let Some(running) = process.as_mut().filter(|p| p.is_running()) {
            running.signal(signal)?;
            running.wait(STOP_LIMIT)?;
        }
        *process = None;
        Ok(())
    }

    /// It hangs, its connections stay open, its kernel still answers.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let off = || Error::failed(format!("send a signal to {}", self.name), "it does not run");
        self.process().as_ref().ok_or_else(off)?.signal(signal)
    }

    /// It is stopped for `length` once in `every`, until the guard is dropped. For a disk alone see `Machine::slow_disk`.
    pub fn stalls(&self, length: Duration, every: Duration) -> Result<Stalls> {
        let off = || Error::failed(format!("stall {}", self.name), "it does not run");
        let pid = self.process().as_ref().and_then(Process::pid).ok_or_else(off)?;
        stall::start(pid, length, every)
    }

    /// What it says when asked from the client machine; `None` when it does not answer.
    pub fn status(&self, lab: &Lab) -> Option<Status> {
        let endpoint = format!("--endpoints={}", self.client_url());
        let text = lab.etcdctl(&[&endpoint, STATUS_LIMIT, "endpoint", "status", "--write-out=json"]).ok()?;
        status(&text)
    }

    pub(crate) fn last_lines(&self) -> String {
        let log = self.process().as_ref().map(Process::stderr).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{}: {}", self.name, lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"))
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status(text: &str) -> Option<Status> {
    let all: serde_json::Value = serde_json::from_str(text).ok()?;
    let status = all.get(0)?.get("Status")?;
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
    let header = &status["header"];
    Some(Status {
        member: header["member_id"].as_u64()?,
        leader: number(&status["leader"]),
        term: number(&status["raftTerm"]),
        revision: number(&header["revision"]),
        version: status["version"].as_str().unwrap_or_default().to_owned(),
        db_bytes: number(&status["dbSize"]),
    })
}

pub(crate) fn snapshot(lab: &Lab) -> Result<PathBuf> {
    let file = lab.client().dir().join(format!("snapshot-{}.db", lab.enclosure.number()));
    let living = lab.members.iter().find(|member| member.status(lab).is_some());
    let living = living.ok_or_else(|| Error::failed("save a snapshot of etcd", "no member answers"))?;
    let endpoint = format!("--endpoints={}", living.client_url());
    lab.etcdctl(&[&endpoint, "snapshot", "save", &file.display().to_string()])?;
    Ok(file)
}

pub(crate) fn restore(lab: &Lab, snapshot: &Path, token: &str) -> Result<()> {
    for member in &lab.members {
        member.kill()?;
    }
    for member in &lab.members {
        let data = member.data().display().to_string();
        member.machine.run(&["rm", "-rf", &data])?;
        let argv = [
            &lab.etcdctl,
            "snapshot",
            "restore",
            &snapshot.display().to_string(),
            &format!("--name={}", member.name),
            &format!("--data-dir={data}"),
            &format!("--initial-cluster-token={token}"),
            &format!("--initial-cluster={}", member.initial_cluster),
            &format!("--initial-advertise-peer-urls={}", member.peer_url()),
        ];
        member.machine.run_env(&argv, &[("ETCDCTL_API", "3")])?;
    }
    lab.members.iter().try_for_each(Member::start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_as_etcd_3_4_prints_it() {
        let text = r#"[{"Endpoint":"http://10.77.0.101:2379","Status":{"header":{"cluster_id":1,"member_id":15060521882999422335,
            "revision":7,"raft_term":2},"version":"3.4.23","dbSize":20480,"leader":15060521882999422335,"raftIndex":9,"raftTerm":2}}]"#;
        let status = status(text).expect("a status");
        assert!(status.is_leader());
        assert_eq!((status.term, status.revision, status.db_bytes), (2, 7, 20480));
        assert_eq!(super::status("[]"), None);
    }
}
