//! Looks at a site from outside for a while, and says everything that was done to it: processes that ended, endpoints
//! that got no requests, incidents, and every transition in the logs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_balancer::shared::Table;
use holdfast_host::clock;
use holdfast_policy::balance::{Algorithm, Verdict};
use serde_json::Value;

use crate::conditions::Victims;
use crate::site::{Site, alive, instances, kill};

/// A verdict lasts from one look of the agent to the next at least, which is 50 ms.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks between two at the status: ten a second would be load of its own on a starved machine.
const STATUS_EVERY: u32 = 10;

/// Endpoints of a site are few; slots are given from the first on.
const SLOTS: u16 = 32;

/// Every process that must go on running, by what it is: `web-1`, `shim of web-1`, `agent`, `balancer`.
pub(crate) type Cast = BTreeMap<u32, String>;

/// Who runs now, from `/proc`.
pub(crate) fn cast(site: &Site, ids: &[&str]) -> Cast {
    let mut cast = Cast::new();
    for id in ids {
        let pid = site.child_of(id).unwrap_or_else(|| panic!("{id} does not run"));
        cast.insert(pid, (*id).to_owned());
    }
    cast.insert(site.pid_of_agent(), "agent".into());
    for pid in site.planes() {
        cast.insert(pid, "balancer".into());
    }
    let children: Vec<(u32, String)> = cast.iter().map(|(pid, what)| (*pid, what.clone())).collect();
    for (pid, what) in children {
        cast.insert(parent(pid), format!("shim of {what}"));
    }
    cast
}

pub(crate) fn victims(cast: &Cast) -> Victims {
    let is_instance = |what: &str| what.rsplit('-').next().is_some_and(|n| n.parse::<u32>().is_ok());
    let (own, instances) =
        cast.iter().partition::<Vec<_>, _>(|(_, what)| what.starts_with("shim") || !is_instance(what));
    let pids = |some: Vec<(&u32, &String)>| some.into_iter().map(|(pid, _)| *pid).collect();
    Victims { instances: pids(instances), own: pids(own) }
}

fn parent(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let after = stat.rsplit(')').next().unwrap_or_default();
    after.split_whitespace().nth(1).and_then(|p| p.parse().ok()).expect("a parent")
}

/// What was done to the site while it was watched; all empty is a site left alone.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Processes of the cast that are gone.
    pub(crate) ended: Vec<String>,
    /// Restarts that the status counts.
    pub(crate) restarts: u64,
    /// `ejected` in the logs of the balancers.
    pub(crate) ejected: Vec<String>,
    /// Endpoints that the status shows as anything but ready, and verdicts that keep requests away.
    pub(crate) out: Vec<String>,
    pub(crate) incidents: Vec<String>,
    /// Transitions in the log of the agent, whatever they mean.
    pub(crate) said: Vec<String>,
    /// Looks at which an endpoint was seen without progress while requests waited: theirs may be repeated elsewhere.
    pub(crate) silent: u32,
    /// Looks at the status that were answered.
    pub(crate) looks: u32,
}

impl Findings {
    pub(crate) fn alarms(&self) -> usize {
        self.ended.len() + self.restarts as usize + self.ejected.len() + self.out.len() + self.incidents.len()
    }
}

/// Where the logs were when the watch began.
struct Marks {
    agent: usize,
    planes: usize,
}

pub(crate) struct Watcher {
    site: Arc<Site>,
    cast: Cast,
    marks: Marks,
    restarts: u64,
    incidents: usize,
    stop: Arc<AtomicBool>,
    /// What `poll_endpoints` noted so far.
    out: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<(u32, u32)>>,
}

impl Watcher {
    pub(crate) fn begin(site: &Arc<Site>, cast: Cast) -> Self {
        let marks = Marks { agent: site.agent_log().len(), planes: site.plane_log().len() };
        let stop = Arc::new(AtomicBool::new(false));
        let out = Arc::new(Mutex::default());
        let (stopped, own, noted) = (stop.clone(), site.clone(), out.clone());
        let status = site.api("/v1/status");
        let thread = Some(std::thread::spawn(move || poll_endpoints(&own, &stopped, &noted)));
        let incidents = incidents(site).len();
        Watcher { site: site.clone(), cast, marks, restarts: restarts(&status), incidents, stop, out, thread }
    }

    /// Whether an endpoint was seen out of use since it began.
    pub(crate) fn has_seen_out(&self) -> bool {
        !self.out.lock().expect("no panic").is_empty()
    }

    pub(crate) fn finish(mut self) -> Findings {
        self.stop.store(true, Ordering::Relaxed);
        let (looks, silent) = self.thread.take().expect("one").join().expect("it does not panic");
        self.site.wait_for("the agent to answer", || self.site.api("/v1/status").is_object());
        let since = |log: &str, from: usize| log.get(from..).unwrap_or(log).to_owned();
        let lines = |log: String, mark: &str| -> Vec<String> {
            log.lines().filter(|l| l.contains(mark)).map(str::to_owned).collect()
        };
        let agent = since(&self.site.agent_log(), self.marks.agent);
        let planes = since(&self.site.plane_log(), self.marks.planes);
        let gone = self.cast.iter().filter(|(pid, _)| !alive(**pid));
        Findings {
            ended: gone.map(|(pid, what)| format!("{what}, process {pid}")).collect(),
            restarts: restarts(&self.site.api("/v1/status")).saturating_sub(self.restarts),
            ejected: lines(planes, "ejected"),
            out: std::mem::take(&mut *self.out.lock().expect("no panic")),
            incidents: incidents(&self.site).split_off(self.incidents),
            said: lines(agent, "transition"),
            looks,
            silent,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A process that a stall has stopped would keep the site from going down.
        self.cast.keys().for_each(|pid| kill(*pid, "CONT"));
    }
}

fn restarts(status: &Value) -> u64 {
    instances(status).iter().filter_map(|i| i["restarts"].as_u64()).sum()
}

/// Oldest first.
fn incidents(site: &Site) -> Vec<String> {
    let mut all: Vec<String> =
        site.api("/v1/incidents?limit=1000").as_array().into_iter().flatten().map(Value::to_string).collect();
    all.reverse();
    all
}

/// Every change of an endpoint's state away from ready, and of its verdict to one that keeps requests away.
fn poll_endpoints(site: &Site, stopped: &AtomicBool, out: &Mutex<Vec<String>>) -> (u32, u32) {
    let table = Table::open(&site.data().join("plane/shared")).expect("the balancers' table");
    let (mut shown, mut looks, mut silent, mut n) = (BTreeMap::new(), 0, 0, 0);
    let began = Instant::now();
    while !stopped.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_EVERY);
        let mut note = |who: String, state: String, well: bool| {
            let before = shown.insert(who.clone(), state.clone());
            if !well && before.as_ref() != Some(&state) {
                let line = format!("{who} {state} after {:.1} s", began.elapsed().as_secs_f64());
                out.lock().expect("no panic").push(line);
            }
        };
        let now = clock::now();
        for slot in 0..SLOTS {
            let verdict = table.verdict(slot, now);
            note(format!("slot {slot}"), format!("{verdict:?}"), verdict.takes_new(Algorithm::P2c));
            silent += u32::from(verdict == Verdict::NoProgress);
        }
        n += 1;
        if n % STATUS_EVERY != 0 {
            continue;
        }
        let status = site.api("/v1/status");
        looks += u32::from(status.is_object());
        for (name, balancer) in status["balancers"].as_object().into_iter().flatten() {
            for endpoint in balancer["endpoints"].as_array().into_iter().flatten() {
                let state = endpoint["state"].as_str().unwrap_or_default();
                let who = format!("{} behind {name}", endpoint["instance"].as_str().unwrap_or_default());
                note(who, state.to_owned(), state == "ready" || state == "slow_start");
            }
        }
    }
    (looks, silent)
}
