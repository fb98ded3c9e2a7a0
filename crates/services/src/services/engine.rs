//! The loop around the Supervisor: wait for something to happen, apply it, perform what follows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_observe::Journal;
use holdfast_policy::availability::Tally;
use holdfast_policy::{Endpoint, InstanceId, NodeId, Role, Timestamp};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::jobs::Jobs;
use super::leases::{self, Leases};
use super::ledger::{Entry as LedgerEntry, Ledger};
use super::prober::Prober;
use super::shims::{Order, Shims};
use super::{EndpointEntry, Endpoints, tell};
use crate::supervisor::{Action, EndpointState, Entry, Event, Status, Supervisor};

/// Events applied before the actions are performed and the watches updated.
const BATCH: usize = 256;
/// The loop looks at the clock at least this often, so that suspended time is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often ready seconds are counted for the journal's minute rows.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Asked of the loop by a [`super::Handle`].
pub(crate) enum Ask {
    Event(Box<Event>),
    Explain(String, oneshot::Sender<Vec<Entry>>),
}

pub(crate) struct Engine {
    pub(crate) supervisor: Supervisor,
    pub(crate) node: NodeId,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) ports: std::ops::RangeInclusive<u16>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) shims: Shims,
    pub(crate) ledger: Ledger,
    pub(crate) leases: Leases,
    pub(crate) jobs: Jobs,
    pub(crate) prober: Prober,
    pub(crate) journal: Option<Journal>,
    pub(crate) life: String,
    pub(crate) status: watch::Sender<Arc<Status>>,
    pub(crate) endpoints: watch::Sender<Endpoints>,
    pub(crate) transitions: broadcast::Sender<Arc<Entry>>,
    pub(crate) counted: Timestamp,
}

impl Engine {
    pub(crate) async fn run(mut self) {
        loop {
            let wait = self.supervisor.next_deadline().map_or(LOOK_EVERY, |at| clock::now().until(at)).min(LOOK_EVERY);
            let mut changed = true;
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => {
                        changed = !matches!(event, Event::Probe { .. } | Event::Watchdog { .. });
                        self.supervisor.handle(clock::now(), event);
                    }
                    None => return,
                },
                ask = self.asks.recv() => match ask {
                    Some(Ask::Event(event)) => self.supervisor.handle(clock::now(), *event),
                    Some(Ask::Explain(subject, reply)) => drop(reply.send(self.supervisor.explain(&subject))),
                    // The last handle is gone.
                    None => return,
                },
                () = tokio::time::sleep(wait) => {
                    changed = false;
                    self.supervisor.handle(clock::now(), Event::Tick);
                }
            }
            for _ in 0..BATCH {
                let Ok(event) = self.events.try_recv() else { break };
                changed |= !matches!(event, Event::Probe { .. } | Event::Watchdog { .. });
                self.supervisor.handle(clock::now(), event);
            }
            changed |= self.perform();
            if changed {
                self.show();
            }
            self.count();
        }
    }

    /// True when something was done that shows.
    fn perform(&mut self) -> bool {
        let mut shows = false;
        let mut table: Option<BTreeMap<InstanceId, EndpointEntry>> = None;
        while let Some(action) = self.supervisor.poll_action() {
            shows |= !matches!(action, Action::Probe(_) | Action::Command { .. });
            match action {
                Action::Persist(record) => self.ledger.enter(LedgerEntry::Record(record)),
                Action::AssignPort { instance } => self.assign_port(instance),
                Action::Lease { instance, shared, timings, asked } => {
                    self.leases.ask(leases::Ask::Hold { instance, shared, timings, asked })
                }
                Action::ReleaseLease { instance, shared } => self.leases.ask(leases::Ask::Release { instance, shared }),
                Action::Fenced { instance } => self.leases.ask(leases::Ask::Fenced(instance)),
                Action::Want { service, to, over } => self.leases.ask(leases::Ask::Want { service, to, over }),
                Action::Job(job) => self.jobs.start(job),
                Action::Launch(launch) => {
                    let instance = launch.instance.clone();
                    self.shims.order(&instance, Order::Launch(launch));
                }
                Action::Command { instance, incarnation, request } => {
                    self.shims.order(&instance, Order::Command { incarnation, request });
                }
                Action::ProveAbsence { instance, generation } => {
                    self.shims.order(&instance, Order::Prove { generation })
                }
                Action::KillOrphans { instance, generation } => {
                    self.shims.order(&instance, Order::KillOrphans { generation })
                }
                Action::Probe(probe) => self.prober.probe(probe),
                // Results of a life that is over are dropped by the Supervisor.
                Action::StopProbes { .. } => {}
                Action::Forget { instance } => self.shims.forget(&instance),
                Action::Publish { instance, incarnation, addr, state } => {
                    let table = table.get_or_insert_with(|| (**self.endpoints.borrow()).clone());
                    publish(table, &self.node, self.zone.as_ref(), instance, incarnation, addr, state);
                }
                Action::Journal(entry) => self.tell(entry),
            }
        }
        if let Some(table) = table {
            self.endpoints.send_replace(Arc::new(table));
        }
        shows
    }

    fn assign_port(&mut self, instance: InstanceId) {
        let host = self.supervisor.host_of(&instance);
        self.ledger.enter(LedgerEntry::Port { instance, host, range: self.ports.clone() });
    }

    fn tell(&self, entry: Entry) {
        tell::log(&entry);
        if let Some(journal) = &self.journal {
            journal.append(tell::event(&entry, &self.node, &self.life));
        }
        // Nobody may be listening.
        let _ = self.transitions.send(Arc::new(entry));
    }

    fn show(&mut self) {
        let status = self.supervisor.status(clock::now());
        let processes: BTreeMap<&InstanceId, (Option<u32>, bool)> =
            status.services.values().flat_map(|s| &s.instances).map(|i| (&i.id, (i.pid, i.stopped))).collect();
        self.endpoints.send_if_modified(|table| {
            let stale = |(id, entry): (&InstanceId, &EndpointEntry)| {
                processes.get(id).is_some_and(|now| *now != (entry.pid, entry.stopped))
            };
            if !table.iter().any(stale) {
                return false;
            }
            let mut fresh = (**table).clone();
            for (id, entry) in &mut fresh {
                (entry.pid, entry.stopped) = processes.get(id).copied().unwrap_or_default();
            }
            *table = Arc::new(fresh);
            true
        });
        // Watchdogs and the like change nothing that anybody waits for.
        self.status.send_if_modified(|shown| {
            let changed = **shown != status;
            if changed {
                *shown = Arc::new(status);
            }
            changed
        });
    }

    /// Ready and down seconds of each service, for availability without a balancer.
    fn count(&mut self) {
        let now = clock::now();
        let elapsed = now.since(self.counted);
        let Some(journal) = self.journal.as_ref().filter(|_| elapsed >= COUNT_EVERY) else { return };
        // Time for which this loop did not run was observed by nobody.
        let seconds = elapsed.as_secs();
        self.counted = self.counted + Duration::from_secs(seconds);
        let unknown = seconds.saturating_sub(2 * COUNT_EVERY.as_secs());
        let status = self.status.borrow().clone();
        for (name, service) in status.services.iter().filter(|(_, s)| !s.job && !s.removed && s.desired > 0) {
            let up = service.ready >= service.min_available.clamp(1, service.desired);
            let observed = seconds - unknown;
            let tally = Tally {
                ready_seconds: if up { observed } else { 0 },
                down_seconds: if up { 0 } else { observed },
                unknown_seconds: unknown,
                ..Tally::default()
            };
            journal.add_minute(name, clock::wall_ms(), tally);
        }
    }
}

fn publish(
    table: &mut BTreeMap<InstanceId, EndpointEntry>,
    node: &NodeId,
    zone: Option<&Arc<str>>,
    instance: InstanceId,
    incarnation: holdfast_policy::Incarnation,
    addr: Option<std::net::SocketAddr>,
    state: EndpointState,
) {
    if state == EndpointState::Gone {
        // A later life may have been published already.
        if table.get(&instance).is_some_and(|e| e.incarnation <= incarnation) {
            table.remove(&instance);
        }
        return;
    }
    let Some(addr) = addr else { return };
    let endpoint = Endpoint { addr, node: node.clone(), zone: zone.cloned(), role: Role::Active, epoch: 0 };
    let known = table.get(&instance).filter(|e| e.incarnation == incarnation);
    let (pid, stopped) = known.map_or((None, false), |e| (e.pid, e.stopped));
    table.insert(instance, EndpointEntry { endpoint, incarnation, state, pid, stopped });
}
