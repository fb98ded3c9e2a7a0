//! What is wrong with the machine: no idle core, stalls of 200 ms, lost packets. Nothing outside a network namespace of
//! the test's own is touched but the processor.

use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::site::kill;

/// Set for the run inside the namespace.
const INSIDE: &str = "HOLDFAST_ALARMS_INSIDE";

const SPIN: &str = "while :; do :; done";

/// As the promise states it.
const STALL: Duration = Duration::from_millis(200);

/// Between two stalls, least and most: one instant in ten is stalled somewhere.
const BETWEEN_MS: (u64, u64) = (500, 2500);

fn quietly(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs this test again in a network namespace of its own. `None` when that is where it is, or when there is none to be
/// had; the reason is in the `Err`.
pub(crate) fn in_a_namespace(test: &str) -> Result<Option<Output>, String> {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        return Ok(None);
    }
    for (program, args) in
        [("unshare", &["--net", "true"][..]), ("unshare", &["--net", "nft", "add", "table", "ip", "alarms"])]
    {
        if !quietly(program, args) {
            return Err(format!("`{program} {}` fails here (not root, or nftables missing)", args.join(" ")));
        }
    }
    let own = std::env::current_exe().expect("the test's own path");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net"]).arg(own).args([test, "--exact", "--nocapture"]);
    Ok(Some(command.env(INSIDE, "1").stdin(Stdio::null()).output().expect("it runs")))
}

/// Loss by nftables in the namespace; it ends with it.
pub(crate) struct Loss;

impl Loss {
    /// One packet in a hundred to or from these ports is lost: probes, and requests as well.
    pub(crate) fn one_percent(ports: &[u16]) -> Loss {
        assert!(std::env::var_os(INSIDE).is_some(), "never in the machine's own network");
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let ports = ports.join(", ");
        let lose = "numgen random mod 100 < 1 counter name lost drop";
        let rules = format!(
            "table ip alarms {{
                counter seen {{ }}
                counter lost {{ }}
                chain input {{
                    type filter hook input priority 0; policy accept;
                    tcp dport {{ {ports} }} counter name seen
                    tcp sport {{ {ports} }} counter name seen
                    tcp dport {{ {ports} }} {lose}
                    tcp sport {{ {ports} }} {lose}
                }}
            }}"
        );
        run("nft", &[&rules]);
        Loss
    }

    /// Packets seen and lost so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let text = run("nft", &["-j", "list", "counters"]);
        let value: serde_json::Value = serde_json::from_slice(&text.stdout).expect("nft speaks JSON");
        let count = |name: &str| {
            let all = value["nftables"].as_array().expect("a list");
            let found = all.iter().find(|c| c["counter"]["name"] == name).expect("ours");
            found["counter"]["packets"].as_u64().expect("a number")
        };
        (count("seen"), count("lost"))
    }

    /// Nothing reaches this port any more.
    pub(crate) fn blackhole(&self, port: u16) {
        run("nft", &["insert", "rule", "ip", "alarms", "input", "tcp", "dport", &port.to_string(), "drop"]);
    }

    pub(crate) fn end(self) {
        run("nft", &["delete", "table", "ip", "alarms"]);
    }
}

/// One process that never sleeps for each core, at ordinary priority.
pub(crate) struct Saturation {
    burners: Vec<Child>,
}

impl Saturation {
    pub(crate) fn begin(cores: usize) -> Saturation {
        let burner = |_| {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "sh", "-c", SPIN]).stdin(Stdio::null());
            command.spawn().expect("a burner")
        };
        Saturation { burners: (0..cores).map(burner).collect() }
    }

    /// Share of the machine that was not idle since the last look at `/proc/stat`.
    pub(crate) fn busy_share(last: &mut (u64, u64)) -> f64 {
        let text = std::fs::read_to_string("/proc/stat").expect("there is a /proc");
        let ticks: Vec<u64> = text.lines().next().unwrap_or("").split_whitespace().flat_map(str::parse).collect();
        let (all, idle) = (ticks.iter().take(8).sum::<u64>(), ticks.get(3).copied().unwrap_or(0));
        let (before_all, before_idle) = std::mem::replace(last, (all, idle));
        1.0 - (idle - before_idle) as f64 / (all - before_all).max(1) as f64
    }
}

impl Drop for Saturation {
    fn drop(&mut self) {
        for burner in &mut self.burners {
            let _ = burner.kill();
            let _ = burner.wait();
        }
    }
}

/// Who may be stalled. Instances are never sent SIGSTOP: a process in state T is a hang, and has to be taken for one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Victims {
    pub(crate) instances: Vec<u32>,
    /// Agent, balancers, shims.
    pub(crate) own: Vec<u32>,
}

/// How often which stall was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// A core or all of them were taken away by a real-time process.
    pub(crate) cores: u32,
    /// A process was put on the core that was taken away, so that it alone stood still.
    pub(crate) pinned: u32,
    /// A part of holdfast was stopped and continued.
    pub(crate) stopped: u32,
}

pub(crate) struct Stalls {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
    thread: Option<JoinHandle<()>>,
}

/// Whether real-time priority is to be had.
pub(crate) fn real_time() -> bool {
    quietly("chrt", &["--fifo", "60", "taskset", "-c", "0", "true"])
}

impl Stalls {
    pub(crate) fn begin(victims: Victims, cores: usize, real_time: bool) -> Stalls {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Counts::default())));
        let (stopped, counted) = (stop.clone(), counts.clone());
        let thread = std::thread::spawn(move || {
            // Always the same order: what is random is when it meets what.
            let mut random = Random(0x5eed);
            while !stopped.load(Ordering::Relaxed) {
                hold_for(Duration::from_millis(BETWEEN_MS.0 + random.below(BETWEEN_MS.1 - BETWEEN_MS.0)));
                let kind = if real_time { random.below(4) } else { 3 };
                let core = random.below(cores as u64) as usize;
                match kind {
                    0 => take_cores(&[core]),
                    1 => take_cores(&(0..cores).collect::<Vec<_>>()),
                    2 => stand_still(random.of(&[&victims.instances[..], &victims.own].concat()), core, cores),
                    _ => hold_stopped(random.of(&victims.own)),
                }
                let mut counts = counted.lock().expect("no panic");
                match kind {
                    0 | 1 => counts.cores += 1,
                    2 => counts.pinned += 1,
                    _ => counts.stopped += 1,
                }
            }
        });
        Stalls { stop, counts, thread: Some(thread) }
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().expect("no panic")
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Nothing of ordinary priority runs on these cores for a while. The timer ranks above the spinner that it ends.
fn take_cores(cores: &[usize]) {
    let take = |core: &usize| {
        let time = format!("{:.3}", STALL.as_secs_f64());
        let mut command = Command::new("chrt");
        command.args(["--fifo", "60", "timeout", "-s", "KILL", &time]);
        command.args(["chrt", "--fifo", "50", "taskset", "-c", &core.to_string(), "sh", "-c", SPIN]);
        command.stdin(Stdio::null()).spawn().expect("it could before")
    };
    let mut taken: Vec<Child> = cores.iter().map(take).collect();
    for child in &mut taken {
        let _ = child.wait();
    }
}

/// This process alone is not scheduled; others go on elsewhere.
fn stand_still(pid: u32, core: usize, cores: usize) {
    let pin = |cores: String| quietly("taskset", &["-a", "-p", "-c", &cores, &pid.to_string()]);
    pin(core.to_string());
    take_cores(&[core]);
    pin(format!("0-{}", cores - 1));
}

fn hold_stopped(pid: u32) {
    kill(pid, "STOP");
    hold_for(STALL);
    kill(pid, "CONT");
}

fn hold_for(time: Duration) {
    std::thread::sleep(time);
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }

    fn of(&mut self, all: &[u32]) -> u32 {
        all[self.below(all.len() as u64) as usize]
    }
}
