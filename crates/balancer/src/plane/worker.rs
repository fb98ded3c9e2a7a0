//! One thread with one core, and how the control thread talks to it.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use holdfast_host::clock;
use holdfast_policy::Timestamp;
use holdfast_policy::balance::Verdict;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet};

use super::{COMMAND_WAIT, COMMANDS_MAX, Commands, accept};
use crate::core::stats::{Histogram, Totals};
use crate::core::{Common, Core, Process};
use crate::error::Error;
use crate::fault::Fault;
use crate::shared::Table;
use crate::snapshot::{BalancerSnapshot, Snapshot};
use crate::stats;
use crate::wire::session::DRAIN_IDLE;

#[derive(Debug)]
pub(super) enum Command {
    Apply(Arc<Snapshot>, Arc<HashMap<String, Arc<Common>>>),
    Listeners(Vec<(SocketAddr, TcpListener)>),
    Faults(Vec<Fault>),
    Stats(oneshot::Sender<Vec<Part>>),
    Drain,
    /// Answers when all before it is done.
    Settle(oneshot::Sender<()>),
    Stop,
}

/// What one core knows of one endpoint.
#[derive(Debug)]
pub(super) struct Part {
    balancer: String,
    instance: String,
    totals: Totals,
    histogram: Histogram,
    ewma_us: u64,
    idle: usize,
}

#[derive(Debug)]
pub(super) struct Worker {
    index: usize,
    commands: Commands,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(index: usize, process: Arc<Process>) -> Result<Worker, Error> {
        let wrap = |source| Error::Start { what: "a core", source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(wrap)?;
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let body = move || {
            let local = LocalSet::new();
            local.block_on(&runtime, serve(index, process, orders));
        };
        let thread = std::thread::Builder::new().name(format!("core-{index}")).spawn(body).map_err(wrap)?;
        Ok(Worker { index, commands, thread: Some(thread) })
    }

    pub(super) async fn tell(&self, command: Command) {
        if tokio::time::timeout(COMMAND_WAIT, self.commands.send(command)).await.is_err() {
            tracing::error!(core = self.index, "a core takes no commands");
        }
    }

    /// True when the core answered within [`COMMAND_WAIT`].
    pub(super) async fn settle(&self) -> bool {
        let (done, settled) = oneshot::channel();
        self.tell(Command::Settle(done)).await;
        matches!(tokio::time::timeout(COMMAND_WAIT, settled).await, Ok(Ok(())))
    }

    pub(super) async fn stats(&self) -> Vec<Part> {
        let (reply, parts) = oneshot::channel();
        self.tell(Command::Stats(reply)).await;
        tokio::time::timeout(COMMAND_WAIT, parts).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Ends the thread with whatever is still open on it.
    pub(super) fn stop(&mut self) {
        let _ = self.commands.try_send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Listening {
    addr: SocketAddr,
    socket: TcpListener,
    /// The balancer that it is accepted for.
    balancer: Option<(String, AbortHandle)>,
}

async fn serve(index: usize, process: Arc<Process>, mut orders: mpsc::Receiver<Command>) {
    let core = Core::new(index, process);
    tokio::task::spawn_local(core.clone().run_ticks());
    let mut listening: Vec<Listening> = Vec::new();
    let mut snapshot: Option<Arc<Snapshot>> = None;
    while let Some(command) = orders.recv().await {
        match command {
            Command::Apply(new, commons) => {
                core.apply(&new, &commons);
                snapshot = Some(new);
                listen(&core, &mut listening, snapshot.as_deref());
            }
            Command::Listeners(sockets) => {
                take_over(&mut listening, sockets);
                listen(&core, &mut listening, snapshot.as_deref());
            }
            Command::Faults(faults) => core.set_faults(faults),
            Command::Stats(reply) => {
                let _ = reply.send(parts(&core));
            }
            Command::Drain => {
                listening.drain(..).filter_map(|l| l.balancer).for_each(|(_, task)| task.abort());
                core.sweep.hurry_idle(clock::now() + DRAIN_IDLE);
            }
            Command::Settle(done) => {
                let _ = done.send(());
            }
            Command::Stop => break,
        }
    }
    core.log.borrow_mut().flush();
}

/// Sockets that are no longer given are closed here; others hold them still.
fn take_over(listening: &mut Vec<Listening>, sockets: Vec<(SocketAddr, TcpListener)>) {
    for old in listening.drain(..) {
        if let Some((_, task)) = old.balancer {
            task.abort();
        }
    }
    listening.extend(sockets.into_iter().map(|(addr, socket)| Listening { addr, socket, balancer: None }));
}

/// Accepts on exactly the addresses that the snapshot names.
fn listen(core: &Rc<Core>, listening: &mut [Listening], snapshot: Option<&Snapshot>) {
    if core.is_draining() {
        return;
    }
    for l in listening {
        let wanted = snapshot.and_then(|s| s.balancers.iter().find(|b| b.listen.contains(&l.addr)));
        match (&l.balancer, wanted) {
            (Some((name, _)), Some(b)) if *name == b.name => continue,
            (Some((_, task)), _) => task.abort(),
            (None, _) => {}
        }
        l.balancer = wanted.and_then(|b| start(core, l, b));
    }
}

fn start(core: &Rc<Core>, l: &Listening, b: &BalancerSnapshot) -> Option<(String, AbortHandle)> {
    let balancer = core.balancer(&b.name)?;
    match l.socket.try_clone().and_then(tokio::net::TcpListener::from_std) {
        Ok(socket) => {
            let task = tokio::task::spawn_local(accept::run(core.clone(), balancer, socket));
            Some((b.name.clone(), task.abort_handle()))
        }
        Err(error) => {
            tracing::error!(addr = %l.addr, %error, "cannot accept on a listening socket");
            None
        }
    }
}

fn parts(core: &Core) -> Vec<Part> {
    let now = clock::now();
    let of_lane = |(route, memory, index): (Rc<crate::core::route::Route>, Rc<crate::core::route::Memory>, usize)| {
        let mut histogram = Histogram::default();
        memory.stats.borrow_mut().add_to(now, &mut histogram);
        Part {
            balancer: route.name.clone(),
            instance: route.lanes[index].instance.clone(),
            totals: memory.stats.borrow().totals,
            histogram,
            ewma_us: (memory.ewma.get().value(now) / 1000.0) as u64,
            idle: memory.pool.borrow().len(),
        }
    };
    core.memories().into_iter().map(of_lane).collect()
}

/// One balancer over all cores.
pub(super) fn gather(
    b: &BalancerSnapshot,
    parts: &[Part],
    commons: &HashMap<String, Arc<Common>>,
    table: &Table,
    listening: &[SocketAddr],
    now: Timestamp,
) -> stats::Balancer {
    let common = commons.get(&b.name);
    let load = |of: fn(&Common) -> u32| common.map_or(0, |c| of(c));
    stats::Balancer {
        name: b.name.clone(),
        in_flight: load(|c| c.in_flight.load(Relaxed)),
        retrying: load(|c| c.retrying.load(Relaxed)),
        connections: load(|c| c.connections.load(Relaxed)),
        listening: b.listen.iter().filter(|a| listening.contains(a)).copied().collect(),
        endpoints: b
            .endpoints
            .iter()
            .map(|e| endpoint(e, parts.iter().filter(|p| p.balancer == b.name && p.instance == e.instance), table, now))
            .collect(),
    }
}

fn endpoint<'a>(
    e: &crate::snapshot::EndpointSnapshot,
    parts: impl Iterator<Item = &'a Part>,
    table: &Table,
    now: Timestamp,
) -> stats::Endpoint {
    let (mut totals, mut histogram) = (Totals::default(), Histogram::default());
    let (mut ewma_us, mut idle) = (0, 0);
    for part in parts {
        totals.add(&part.totals);
        histogram.merge(&part.histogram);
        ewma_us = part.ewma_us.max(ewma_us);
        idle += part.idle;
    }
    let ejection = table.ejection(e.slot);
    stats::Endpoint {
        instance: e.instance.clone(),
        requests: totals.requests,
        connect_failures: totals.connect_failures,
        transport_failures: totals.transport_failures,
        timeouts: totals.timeouts,
        gateway_errors: totals.gateway_errors,
        retries: totals.retries,
        hedges: totals.hedges,
        moves: totals.moves,
        in_flight: table.in_flight(e.slot),
        ejected_ms: now.until(ejection.until).as_millis() as u64,
        ejections: ejection.count,
        verdict: verdict(table.verdict(e.slot, now)).into(),
        ewma_us,
        p50_us: histogram.quantile_us(0.5),
        p99_us: histogram.quantile_us(0.99),
        idle_connections: idle,
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Stopped => "stopped",
        Verdict::NoProgress => "no_progress",
        Verdict::Busy => "busy",
    }
}
