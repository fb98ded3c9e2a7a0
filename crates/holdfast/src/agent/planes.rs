//! The balancer processes as the agent sees them: their listening sockets, what they are told, what they count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_balancer::control::Client as PlaneClient;
use holdfast_balancer::shared::{BALANCERS_MAX, Counters, ENDPOINTS_MAX, Table};
use holdfast_balancer::snapshot::{EndpointSnapshot, Snapshot};
use holdfast_config::{Command, Config, Probe, Service, Stop};
use holdfast_host::{clock, listen, shim};
use holdfast_policy::backoff::Backoff;
use holdfast_policy::{Incarnation, InstanceId, NodeId, restart};
use holdfast_services::supervisor::Status;
use tokio::sync::watch;

use super::snapshot::{self, Place, Slots};
use super::sockets::SHIM_TIME;
pub(crate) use super::sockets::Sockets;
use crate::failure::Failure;
use crate::layout::{Layout, PLANES};

/// Between two tries to reach a plane that is not there: it is being started.
const RECONNECT: Duration = Duration::from_millis(20);
/// A plane that hangs between two snapshots is noticed by this; of its death its shim tells.
const PING_EVERY: Duration = Duration::from_secs(1);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Planes {
    layout: Layout,
    pub(crate) table: Table,
    state: Mutex<State>,
    latest: watch::Sender<Arc<Snapshot>>,
    sockets: watch::Sender<Sockets>,
}

#[derive(Default)]
struct State {
    config: Option<Arc<Config>>,
    places: Vec<Place>,
    /// Instances are known. Before that a snapshot would take all of them away from planes that serve.
    placed: bool,
    balancers: BTreeMap<Arc<str>, u16>,
    endpoint_slots: Slots,
    balancer_slots: Slots,
    epoch: u64,
    seq: u64,
    /// Highest seq that each connected plane has in force.
    acked: BTreeMap<u32, u64>,
    /// Since which snapshot each instance is as it is now.
    placed_at: BTreeMap<String, (EndpointSnapshot, u64)>,
    /// Balancer counters at the last look.
    counted: BTreeMap<Arc<str>, Counters>,
}

impl State {
    fn note_changes(&mut self) {
        let State { places, placed_at, seq, .. } = self;
        placed_at.retain(|name, _| places.iter().any(|p| p.name == *name));
        for place in places.iter() {
            match placed_at.get_mut(&place.name) {
                Some((known, _)) if *known == place.endpoint => {}
                _ => drop(placed_at.insert(place.name.clone(), (place.endpoint.clone(), *seq))),
            }
        }
    }
}

impl Planes {
    /// `epoch` must be above that of every agent before this one, because `seq` begins anew: see [`highest_epoch`].
    pub(crate) fn open(layout: &Layout, epoch: u64) -> Result<Arc<Planes>, Failure> {
        let table = Table::open(&layout.shared_table())
            .map_err(|e| Failure::new("HF0315", "cannot use the balancers' shared table").because_of(&e))?;
        Ok(Arc::new(Planes {
            layout: layout.clone(),
            table,
            state: Mutex::new(State { epoch, ..State::default() }),
            latest: watch::Sender::new(Arc::new(Snapshot::default())),
            sockets: watch::Sender::new(Sockets::new()),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After an agent's death the sockets live on in the shims of the planes; any of them has all.
    pub(crate) async fn recover_sockets(&self) {
        let ordinals = 1..=holdfast_balancer::shared::PROCESSES_MAX as u32;
        let dirs: Vec<_> = ordinals.map(|n| self.layout.run_dir(&plane(n).to_string())).collect();
        self.sockets.send_replace(super::sockets::recover(&dirs).await);
    }

    /// Opens what `config` listens on and nobody here holds yet; nothing changes when one cannot be opened.
    pub(crate) fn open_sockets(&self, config: &Config) -> Result<Sockets, Failure> {
        let threads = threads(config);
        let mut sockets = self.sockets.borrow().clone();
        let mut wanted = BTreeSet::new();
        for addr in addresses(config) {
            let names: Vec<String> = (0..threads).map(|index| socket_name(addr, index)).collect();
            if !names.iter().all(|name| sockets.contains_key(name)) {
                // All at once: sockets of one address share it only with their own kind, and connections are spread over all of them.
                let virtual_ip = config.balancers.values().flat_map(|b| &b.virtual_ips).any(|v| v.address == addr.ip());
                let bind = if virtual_ip { listen::bind_early } else { listen::bind };
                let fresh = bind(addr, usize::from(threads)).map_err(|e| super::sockets::refused(&e))?;
                for (name, listener) in names.iter().zip(fresh) {
                    sockets.insert(name.clone(), Arc::new(OwnedFd::from(listener)));
                }
            }
            wanted.extend(names);
        }
        sockets.retain(|name, _| wanted.contains(name));
        Ok(sockets)
    }

    /// The internal service whose instances are the planes.
    pub(crate) fn service(&self, config: &Config) -> Result<Service, Failure> {
        let exe =
            std::env::current_exe().map_err(|e| Failure::new("HF0311", "cannot find the running binary").because(e))?;
        Ok(service(&exe, &self.layout, config))
    }

    pub(crate) fn sockets(&self) -> Sockets {
        self.sockets.borrow().clone()
    }

    /// From now on this is what is served, and these are the sockets.
    pub(crate) fn set_config(self: &Arc<Self>, config: &Arc<Config>, sockets: Sockets) {
        let before = self.sockets.send_replace(sockets);
        self.hand_over(&before, config.node.balancer_processes);
        {
            let mut state = self.state();
            let limit = u16::try_from(BALANCERS_MAX).unwrap_or(u16::MAX);
            let names = config.balancers.keys().map(|name| Arc::from(name.as_str()));
            state.balancers = state.balancer_slots.assign(names, limit);
            let assigned = state.balancers.clone();
            for (name, slot) in &assigned {
                self.table.claim_balancer(*slot, name);
            }
            state.config = Some(config.clone());
        }
        self.publish();
    }

    /// The shims of living planes keep the sockets for the next process; new ones launch with all of them.
    fn hand_over(self: &Arc<Self>, before: &Sockets, processes: u16) {
        let now = self.sockets();
        let added: Vec<(String, Arc<OwnedFd>)> =
            now.iter().filter(|(name, _)| !before.contains_key(*name)).map(|(n, fd)| (n.clone(), fd.clone())).collect();
        let removed: Vec<String> = before.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
        if added.is_empty() && removed.is_empty() {
            return;
        }
        for ordinal in 1..=u32::from(processes) {
            let (added, removed) = (added.clone(), removed.clone());
            let dir = self.layout.run_dir(&plane(ordinal).to_string());
            tokio::spawn(async move {
                let Ok(shim) = shim::Client::connect(&dir, SHIM_TIME).await else { return };
                let fds: Vec<_> = added.iter().map(|(name, fd)| (name.clone(), fd.as_fd())).collect();
                let held = shim.hold_fds(&fds, SHIM_TIME).await;
                let dropped = match removed.is_empty() {
                    true => Ok(()),
                    false => shim.request(shim::Body::DropFds { names: removed }, SHIM_TIME).await.map(drop),
                };
                if let Err(error) = held.and(dropped) {
                    tracing::warn!(plane = ordinal, code = error.code(), %error, "its shim keeps other sockets than it should");
                }
            });
        }
    }

    /// A slot of the shared table for each instance that balancers may see.
    pub(crate) fn slots_for(&self, instances: impl Iterator<Item = Arc<str>>) -> BTreeMap<Arc<str>, u16> {
        self.state().endpoint_slots.assign(instances, u16::try_from(ENDPOINTS_MAX).unwrap_or(u16::MAX))
    }

    pub(crate) fn set_places(&self, places: Vec<Place>) {
        {
            let mut state = self.state();
            state.places = places;
            state.placed = true;
        }
        self.publish();
    }

    fn publish(&self) {
        let mut state = self.state();
        let Some(config) = state.config.clone().filter(|_| state.placed) else { return };
        state.seq += 1;
        let order = (state.epoch, state.seq);
        state.note_changes();
        let snapshot = snapshot::build(&config, &self.layout, &state.places, &state.balancers, order);
        // Sent under the lock, so that a later one is never overtaken by an earlier one.
        self.latest.send_replace(Arc::new(snapshot));
    }

    /// Keeps one plane told, for as long as the agent lives.
    pub(crate) fn keep_told(self: &Arc<Self>, ordinal: u32, mut status: watch::Receiver<Arc<Status>>) {
        let planes = self.clone();
        tokio::spawn(async move {
            let dir = planes.layout.run_dir(&plane(ordinal).to_string());
            let mut pause = RECONNECT;
            loop {
                if !runs(&status.borrow(), ordinal) {
                    planes.state().acked.remove(&ordinal);
                    if status.wait_for(|s| runs(s, ordinal)).await.is_err() {
                        return;
                    }
                    pause = RECONNECT;
                }
                let mut served = false;
                let pid = pid_of(&status.borrow(), ordinal);
                if let Ok(mut client) = PlaneClient::connect(&dir).await {
                    tokio::select! {
                        told = planes.tell(ordinal, &mut client) => if let Err(error) = told {
                            tracing::debug!(plane = ordinal, %error, "lost a balancer process");
                        },
                        _ = status.wait_for(|s| pid_of(s, ordinal) != pid) => {}
                    }
                    served = planes.state().acked.remove(&ordinal).is_some();
                }
                tokio::time::sleep(pause).await;
                // One that takes nothing is not asked faster than one that is not there.
                pause = if served { RECONNECT } else { (pause * 2).min(RECONNECT_MAX) };
            }
        });
    }

    /// Every snapshot as it comes, sockets where they are missing; ends when the plane does not answer any more.
    async fn tell(&self, ordinal: u32, client: &mut PlaneClient) -> Result<(), holdfast_balancer::Error> {
        let mut latest = self.latest.subscribe();
        latest.mark_changed();
        loop {
            tokio::select! {
                changed = latest.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(PING_EVERY) => { client.ping().await?; continue }
            }
            let snapshot = latest.borrow_and_update().clone();
            if snapshot.seq == 0 {
                continue;
            }
            let applied = client.snapshot(&snapshot).await?;
            if !applied.missing.is_empty() {
                client.listeners(&self.listeners_for(&applied.missing)).await?;
            }
            if !applied.persisted {
                tracing::warn!(
                    plane = ordinal,
                    "a balancer process could not keep its snapshot; it serves from memory"
                );
            }
            self.state().acked.insert(ordinal, snapshot.seq);
        }
    }

    /// Duplicates, in the order of their index at each address.
    fn listeners_for(&self, addresses: &[SocketAddr]) -> Vec<TcpListener> {
        let sockets = self.sockets();
        let mut found = Vec::new();
        for addr in addresses {
            let named = (0..u16::MAX).map_while(|index| sockets.get(&socket_name(*addr, index)));
            found.extend(named.filter_map(|fd| listen::from_fd(fd.try_clone().ok()?).ok()));
        }
        found
    }

    /// Every connected plane serves by the newest snapshot; without any there is nobody to wait for.
    pub(crate) fn up_to_date(&self) -> bool {
        let state = self.state();
        state.acked.values().all(|seq| *seq >= state.seq)
    }

    pub(crate) fn is_acked(&self, ordinal: u32) -> bool {
        let state = self.state();
        state.acked.get(&ordinal).is_some_and(|seq| *seq >= state.seq)
    }

    /// Requests counted since the last call, by service.
    pub(crate) fn counted(&self) -> BTreeMap<String, Counters> {
        let mut state = self.state();
        let Some(config) = state.config.clone() else { return BTreeMap::new() };
        let mut sums: BTreeMap<String, Counters> = BTreeMap::new();
        let balancers = state.balancers.clone();
        for (name, slot) in balancers {
            let now = self.table.counters(slot);
            let before = state.counted.insert(name.clone(), now).unwrap_or_default();
            let Some(balancer) = config.balancers.get(&*name) else { continue };
            let sum = sums.entry(balancer.service.clone()).or_default();
            sum.good += now.good.saturating_sub(before.good);
            sum.failed += now.failed.saturating_sub(before.failed);
            sum.degraded += now.degraded.saturating_sub(before.degraded);
            sum.retried += now.retried.saturating_sub(before.retried);
        }
        sums
    }

    pub(crate) fn balancer_counters(&self) -> Vec<(Arc<str>, Counters)> {
        let balancers = self.state().balancers.clone();
        balancers.into_iter().map(|(name, slot)| (name, self.table.counters(slot))).collect()
    }

    /// Instances of this machine that balancers may see, with their slot.
    pub(crate) fn placed(&self) -> Vec<(InstanceId, u16)> {
        self.state().places.iter().filter(|p| p.node.is_none()).map(|p| (p.id.clone(), p.endpoint.slot)).collect()
    }

    pub(crate) fn slot_of(&self, id: &InstanceId) -> Option<u16> {
        self.state().places.iter().find(|p| p.id == *id && p.node.is_none()).map(|p| p.endpoint.slot)
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        self.state().places.clone()
    }

    /// Endpoints on other machines that are draining.
    pub(crate) fn leaving_elsewhere(&self) -> Vec<(NodeId, InstanceId, Incarnation, u16)> {
        let state = self.state();
        let leaving = state.places.iter().filter(|p| p.draining);
        leaving.filter_map(|p| Some((p.node.clone()?, p.id.clone(), p.incarnation, p.endpoint.slot))).collect()
    }

    /// Every connected plane has taken in how this instance is now. Without any plane there is nobody to wait for.
    pub(crate) fn is_known(&self, id: &InstanceId) -> bool {
        let state = self.state();
        let since = state.placed_at.get(&id.to_string()).map_or(0, |(_, seq)| *seq);
        state.acked.values().all(|acked| *acked >= since)
    }

    pub(crate) fn beat(&self) {
        self.table.beat(clock::now());
    }
}

/// Of the snapshots that planes keep: a state that was made anew must not begin below them.
pub(crate) fn highest_epoch(layout: &Layout) -> u64 {
    let kept = (1..=holdfast_balancer::shared::PROCESSES_MAX as u32)
        .filter_map(|ordinal| Snapshot::load(&layout.run_dir(&plane(ordinal).to_string())).ok().flatten());
    kept.map(|snapshot| snapshot.epoch).max().unwrap_or(0)
}

/// The process has been spawned; whether it answers is found out by asking.
fn runs(status: &Status, ordinal: u32) -> bool {
    pid_of(status, ordinal).is_some()
}

fn pid_of(status: &Status, ordinal: u32) -> Option<u32> {
    let planes = status.services.get(PLANES).map_or(&[][..], |s| s.instances.as_slice());
    planes.iter().find(|i| i.id.ordinal == ordinal).and_then(|i| i.pid)
}

pub(crate) fn plane(ordinal: u32) -> InstanceId {
    InstanceId::new(PLANES, ordinal)
}

fn addresses(config: &Config) -> BTreeSet<SocketAddr> {
    config.balancers.values().flat_map(|b| b.listen.iter().copied()).collect()
}

fn socket_name(addr: SocketAddr, index: u16) -> String {
    format!("listen:{addr}:{index}")
}

/// One accept queue per core, unless the file says otherwise.
fn threads(config: &Config) -> u16 {
    config.node.balancer_threads.unwrap_or_else(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        u16::try_from(cores).unwrap_or(u16::MAX)
    })
}

fn service(exe: &std::path::Path, layout: &Layout, config: &Config) -> Service {
    let argv = [exe.to_string_lossy(), "--data-dir".into(), layout.data_dir.to_string_lossy(), "balancer".into()];
    Service {
        replicas: if config.balancers.is_empty() { 0 } else { u32::from(config.node.balancer_processes) },
        workdir: layout.data_dir.clone(),
        umask: Some(0o077),
        restart: restart::Policy {
            backoff: Backoff {
                base: Duration::from_millis(100),
                factor: 2.0,
                max: Duration::from_secs(5),
                jitter: 0.2,
            },
            ..restart::Policy::default()
        },
        ready: Some(Probe {
            check: holdfast_config::Check::Notify,
            every: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            thresholds: holdfast_policy::health::Thresholds::default(),
            within: Duration::from_secs(30),
        }),
        // The process says WATCHDOG=1 while its control thread and each of its cores answer.
        live: Some(Probe {
            check: holdfast_config::Check::Notify,
            every: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            thresholds: holdfast_policy::health::Thresholds { rise: 1, fall: 2 },
            within: Duration::from_secs(30),
        }),
        stop: Stop { command: None, signal: 15, grace: Duration::from_secs(30), drain: Duration::ZERO },
        min_available: u32::from(config.node.balancer_processes > 1),
        ..Service::new(PLANES, Command::Argv(argv.iter().map(ToString::to_string).collect()))
    }
}
