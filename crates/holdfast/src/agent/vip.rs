//! Virtual addresses: one task for each, kept in step with the file. What they do is decided in `policy::vip`.

mod campaign;
mod peers;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_cluster::epoch::Current;
use holdfast_cluster::{Clock, Store};
use holdfast_config::Config;
use holdfast_host::address::{self, Netlink, Prefixed};
use holdfast_host::event::Event;
use holdfast_observe::status::VirtualIp;
use holdfast_policy::lease::Timings;
use holdfast_policy::vip::{Answer, Rules};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use self::peers::{Alone, Peers};
use self::task::Task;
use crate::failure::{Exit, Failure};

/// To take an address away and give its lease up takes some milliseconds, unless the store is away.
const STOP_TIME: Duration = Duration::from_secs(3);

/// One virtual address as the file wants it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Want {
    pub(crate) at: Prefixed,
    pub(crate) interface: Option<String>,
    pub(crate) timings: Timings,
    /// Its owner may be [`quick`](holdfast_policy::vip::quick).
    pub(crate) quick: bool,
    pub(crate) prefer: Vec<String>,
}

/// What a task needs of the agent around it.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) node: String,
    /// The same for one data directory only: names the holder of a lease.
    pub(crate) holder: String,
    pub(crate) epoch: u64,
    /// Whether a lease may be claimed, after the store was set back.
    pub(crate) claims: Arc<Current>,
    /// This life of the agent; tells its campaigns from those of others.
    pub(crate) life: String,
    pub(crate) peers: Arc<dyn Peers>,
    /// Whether the balancers of this node answer; `None` while that is not known.
    pub(crate) well: Arc<dyn Fn() -> Option<bool> + Send + Sync>,
    /// To the journal: `subject`, to be filled in.
    pub(crate) event: Arc<dyn Fn(&str) -> Event + Send + Sync>,
    pub(crate) journal: Arc<dyn Fn(Event) + Send + Sync>,
    pub(crate) rules: Rules,
}

struct Running {
    want: Want,
    stop: watch::Sender<bool>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What others may see of a task, and ask of it.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) seen: Mutex<VirtualIp>,
    machine: Mutex<Option<holdfast_policy::vip::Machine>>,
}

impl Shared {
    pub(crate) fn seen(&self) -> VirtualIp {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) struct Vips {
    context: Context,
    running: Mutex<BTreeMap<IpAddr, Running>>,
    /// It is known which addresses there are.
    applied: AtomicBool,
}

impl Vips {
    pub(crate) fn new(context: Context) -> Vips {
        Vips { context, running: Mutex::default(), applied: AtomicBool::new(false) }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what is new, and takes away what is not wanted any more before it returns.
    pub(crate) async fn apply(&self, config: &Config) {
        let wanted = wanted(config);
        let gone = {
            let mut running = self.running();
            let keep = |address: &IpAddr, r: &Running| wanted.get(address) == Some(&r.want);
            let leave: Vec<IpAddr> = running.iter().filter(|(a, r)| !keep(a, r)).map(|(a, _)| *a).collect();
            leave.into_iter().filter_map(|address| running.remove(&address)).collect::<Vec<_>>()
        };
        stop(gone).await;
        let mut running = self.running();
        for (address, want) in wanted {
            running.entry(address).or_insert_with(|| self.start(want));
        }
        self.applied.store(true, Ordering::SeqCst);
    }

    fn start(&self, want: Want) -> Running {
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared::default());
        let task = Task::new(want.clone(), self.context.clone(), shared.clone(), stopped);
        Running { want, stop, shared, task: tokio::spawn(task.run()) }
    }

    /// Another node takes over at once.
    pub(crate) async fn stop_all(&self) {
        let all = std::mem::take(&mut *self.running());
        stop(all.into_values().collect()).await;
    }

    pub(crate) fn seen(&self) -> BTreeMap<IpAddr, VirtualIp> {
        self.running().iter().map(|(address, r)| (*address, r.shared.seen())).collect()
    }

    /// Another node asks, because the store does not answer it, or because it is quick; *clear* binds this node.
    pub(crate) fn asked(&self, address: IpAddr, quick: bool) -> Answer {
        let running = self.running();
        let Some(one) = running.get(&address) else {
            // An agent that has just begun may find the address in its kernel.
            return if self.applied.load(Ordering::SeqCst) { Answer::Clear } else { Answer::Claims };
        };
        let mut machine = one.shared.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.context.clock)();
        machine.as_mut().map_or(Answer::Claims, |m| if quick { m.asked_quickly(now) } else { m.asked(now) })
    }
}

async fn stop(gone: Vec<Running>) {
    for one in &gone {
        one.stop.send_replace(true);
    }
    for one in gone {
        let abort = one.task.abort_handle();
        if tokio::time::timeout(STOP_TIME, one.task).await.is_err() {
            tracing::warn!(address = %one.want.at, "took too long to let go; the kernel lets go by itself");
            abort.abort();
        }
    }
}

fn wanted(config: &Config) -> BTreeMap<IpAddr, Want> {
    let mut wanted = BTreeMap::new();
    for balancer in config.balancers.values() {
        let profile = Timings::PROFILES.into_iter().find(|(name, _)| *name == balancer.virtual_ip_lease);
        for ip in &balancer.virtual_ips {
            let want = Want {
                at: Prefixed { address: ip.address, prefix: ip.prefix },
                interface: balancer.virtual_ip_interface.clone(),
                timings: profile.map_or(Timings::DEFAULT, |(_, timings)| timings),
                quick: profile.is_some_and(|(_, timings)| timings == Timings::FAST),
                prefer: balancer.virtual_ip_prefer.clone(),
            };
            wanted.insert(ip.address, want);
        }
    }
    wanted
}

/// Refuses a file whose addresses this process cannot keep.
pub(crate) fn check(config: &Config) -> Result<(), Failure> {
    let wanted = wanted(config);
    if wanted.is_empty() {
        return Ok(());
    }
    let possible = address::may_manage().and_then(|()| {
        let netlink = Netlink::open()?;
        wanted.values().try_for_each(|want| {
            address::find_interface(&netlink, want.at.address, want.interface.as_deref()).map(drop)
        })
    });
    possible.map_err(|error| {
        let failure = Failure::new(error.code(), "the virtual addresses cannot be kept; nothing was changed");
        let failure = failure.because_of(&error).exit(Exit::Refused);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
}
