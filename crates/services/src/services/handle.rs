//! What the rest of the agent does with services.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_cluster::Store;
use holdfast_cluster::records::{Pause, Records};
use holdfast_config::Config;
use holdfast_host::clock;
use holdfast_observe::Journal;
use holdfast_policy::time::millis;
use holdfast_policy::{Incarnation, InstanceId, Timestamp};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::engine::Ask;
use super::leases::want;
use super::shims::Listeners;
use super::{Endpoints, Error, Internal};
use crate::supervisor::{Definition, Entry, Event, InstanceStatus, Placement, Status, Takeover, Target};

/// The engine takes an event within milliseconds; a slower one is seen in the status a little later.
const APPLY_SEEN: Duration = Duration::from_secs(5);

/// Cheap to clone. The services are kept for as long as one handle lives; their shims go on without.
#[derive(Clone)]
pub struct Handle {
    store: Arc<dyn Store>,
    records: Records,
    journal: Option<Journal>,
    asks: mpsc::Sender<Ask>,
    status: watch::Receiver<Arc<Status>>,
    endpoints: watch::Receiver<Endpoints>,
    transitions: broadcast::Sender<Arc<Entry>>,
    listeners: Listeners,
    /// Replicas as last applied, and how often was applied.
    applied: Arc<Mutex<(BTreeMap<String, u32>, u64)>>,
}

impl Handle {
    #[expect(clippy::too_many_arguments, reason = "one constructor, called once")]
    pub(crate) fn new(
        store: Arc<dyn Store>,
        records: Records,
        journal: Option<Journal>,
        asks: mpsc::Sender<Ask>,
        status: watch::Receiver<Arc<Status>>,
        endpoints: watch::Receiver<Endpoints>,
        transitions: broadcast::Sender<Arc<Entry>>,
        listeners: Listeners,
    ) -> Handle {
        Handle { store, records, journal, asks, status, endpoints, transitions, listeners, applied: Arc::default() }
    }

    async fn tell(&self, event: Event) -> Result<(), Error> {
        self.asks.send(Ask::Event(Box::new(event))).await.map_err(|_| Error::Ended)
    }

    /// Makes the configuration the wanted state. A scale override ends when the file's own number changes.
    pub async fn apply(&self, config: &Config, internal: Vec<Internal>) -> Result<(), Error> {
        let mut services: BTreeMap<Arc<str>, Arc<Definition>> = BTreeMap::new();
        for service in config.services.values() {
            let mut definition = Definition::new(service.clone());
            definition.balanced = config.balancers.values().any(|b| b.service == service.name);
            services.insert(service.name.as_str().into(), Arc::new(definition));
        }
        let mut held = BTreeMap::new();
        for part in internal {
            let names = part.listeners.iter().map(|(name, _)| name.clone()).collect();
            let name: Arc<str> = part.service.name.as_str().into();
            held.extend(part.listeners);
            let definition = Definition::internal(part.service, names);
            let definition = Definition { starts_others: part.starts_others, ..definition };
            services.insert(name, Arc::new(definition));
        }
        // Exactly these: a socket kept for nobody would take connections that nobody answers.
        *self.listeners.lock().unwrap_or_else(PoisonError::into_inner) = held;
        let replicas: BTreeMap<String, u32> =
            services.iter().map(|(n, d)| (n.to_string(), d.service.replicas)).collect();
        let (revision, changed) = {
            let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
            let changed: Vec<String> = applied
                .0
                .iter()
                .filter(|(name, n)| replicas.get(*name) != Some(n))
                .map(|(name, _)| name.clone())
                .collect();
            *applied = (replicas.clone(), applied.1 + 1);
            (applied.1, changed)
        };
        for name in changed {
            self.records.set_scale(&name, None).await.map_err(Error::Records)?;
        }
        if let Some(journal) = &self.journal {
            journal.set_services(replicas);
        }
        let scales = self.records.scales().await.map_err(Error::Records)?;
        let scale = scales.into_iter().map(|(name, n)| (name.into(), n)).collect();
        self.tell(Event::Desired { services, scale, revision }).await?;
        // Whoever looks at the status next must find what it asked for.
        let mut status = self.status.clone();
        match tokio::time::timeout(APPLY_SEEN, status.wait_for(|s| s.revision >= revision)).await {
            Ok(Err(_)) => Err(Error::Ended),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// What of the services runs here; `None` is everything. In a cluster it is told before the first `apply`.
    pub async fn place(&self, placement: Option<Placement>) -> Result<(), Error> {
        self.tell(Event::Placement(placement)).await
    }

    /// A service's number of instances until the file says another; `None` goes back to the file's.
    pub async fn scale(&self, service: &str, replicas: Option<u32>) -> Result<(), Error> {
        match self.status().services.get(service) {
            None => return Err(Error::UnknownTarget(service.to_owned())),
            Some(known) if known.standby.is_some() => return Err(Error::NotScaled(service.to_owned())),
            Some(_) => {}
        }
        self.records.set_scale(service, replicas).await.map_err(Error::Records)?;
        self.tell(Event::Scale { service: service.into(), replicas }).await
    }

    /// Asks for another active member, wherever it is.
    pub async fn want_active(&self, service: &str, to: Option<&InstanceId>, force: bool) -> Result<(), Error> {
        let status = self.status();
        let newest = status.services.get(service).and_then(|s| s.standby.as_ref()).and_then(|s| s.newest);
        want(&*self.store, service, to, newest, force).await.map_err(Error::Records)
    }

    /// Makes another member active, and waits until it is. `to`: any other than the present one where nobody is named.
    pub async fn switch_over(
        &self,
        service: &str,
        to: Option<&str>,
        force: bool,
        limit: Duration,
    ) -> Result<Takeover, Error> {
        let unknown = |name: &str| Error::UnknownTarget(name.to_owned());
        let refused = |reason: String| Error::NoSwitchover { service: service.to_owned(), reason };
        let status = self.status();
        let known = status.services.get(service).ok_or_else(|| unknown(service))?;
        let standby = known.standby.as_ref().ok_or_else(|| refused("it has no standbys".into()))?;
        let member = match to {
            Some(name) => {
                let id: InstanceId = name.parse().map_err(|_| unknown(name))?;
                Some(known.instances.iter().find(|i| i.id == id).ok_or_else(|| unknown(name))?)
            }
            None => None,
        };
        let can = |i: &&InstanceStatus| i.able == Some(Ok(())) || force && i.able.is_some_and(|a| a.is_err());
        if member.is_some_and(|m| standby.active.as_ref() == Some(&m.id)) {
            return Err(refused(format!("{} is active already", to.unwrap_or_default())));
        }
        let ready = match member {
            Some(m) => can(&m),
            None => known.instances.iter().any(|i| standby.active.as_ref() != Some(&i.id) && can(&i)),
        };
        if !ready {
            let why =
                member.and_then(|m| m.able).and_then(Result::err).map_or("no member can take over now", |w| w.reason());
            return Err(refused(format!("{}: {why}", to.unwrap_or(service))));
        }
        let before = standby.takeover.clone();
        want(&*self.store, service, member.map(|m| &m.id), standby.newest, force).await.map_err(Error::Records)?;
        let mut status = self.status.clone();
        let over = status.wait_for(|s| {
            let now = s.services.get(service).and_then(|s| s.standby.as_ref());
            now.is_some_and(|n| {
                n.takeover.is_some() && n.takeover != before || n.active.is_some() && standby.active.is_none()
            })
        });
        match tokio::time::timeout(limit, over).await {
            Ok(Ok(status)) => {
                let found =
                    status.services.get(service).and_then(|s| s.standby.as_ref()).and_then(|s| s.takeover.clone());
                found.ok_or_else(|| refused("it is active; nothing was taken over".into()))
            }
            Ok(Err(_)) => Err(Error::Ended),
            Err(_) => Err(Error::SlowSwitchover { service: service.to_owned(), limit }),
        }
    }

    /// One after the other, as a changed definition would be.
    pub async fn restart(&self, name: &str) -> Result<(), Error> {
        let target = self.target(Some(name))?;
        self.tell(Event::Restart { target }).await
    }

    /// Survives a restart of the agent.
    pub async fn pause(&self, name: Option<&str>, for_: Option<Duration>, reason: &str, by: &str) -> Result<(), Error> {
        let target = self.target(name)?;
        let now = clock::wall_ms();
        let pause = Pause {
            version: 1,
            name: name.map(ToOwned::to_owned),
            since_wall_ms: now,
            until_wall_ms: for_.map(|d| now.saturating_add(millis(d))),
            reason: reason.to_owned(),
            by: by.to_owned(),
        };
        self.records.pause(&pause).await.map_err(Error::Records)?;
        let until = for_.map(|d| clock::now() + d);
        self.tell(Event::Pause { target, until, reason: reason.to_owned() }).await
    }

    pub async fn resume(&self, name: Option<&str>) -> Result<(), Error> {
        self.records.resume(name).await.map_err(Error::Records)?;
        let target = name.map_or(Target::All, target_of);
        self.tell(Event::Resume { target }).await
    }

    /// Begins to stop everything in the reverse order of its start.
    pub async fn stop_all(&self) -> Result<(), Error> {
        self.tell(Event::StopAll).await
    }

    /// As `stop_all`, and waits until nothing is left. False when `limit` passed before.
    pub async fn stop_all_and_wait(&self, limit: Duration) -> Result<bool, Error> {
        self.stop_all().await?;
        let mut status = self.status.clone();
        let stopped = tokio::time::timeout(limit, status.wait_for(|s| s.stopped)).await;
        Ok(matches!(stopped, Ok(Ok(_))))
    }

    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    pub fn watch_status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    pub fn endpoints(&self) -> watch::Receiver<Endpoints> {
        self.endpoints.clone()
    }

    /// Every transition from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Entry>> {
        self.transitions.subscribe()
    }

    /// The last decisions about an instance or a service with their inputs, oldest first.
    pub async fn explain(&self, subject: &str) -> Result<Vec<Entry>, Error> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Explain(subject.to_owned(), reply)).await.map_err(|_| Error::Ended)?;
        answer.await.map_err(|_| Error::Ended)
    }

    /// No balancer process has a request in flight on it any more.
    pub async fn drained(&self, instance: &InstanceId, incarnation: Incarnation) -> Result<(), Error> {
        self.tell(Event::Drained { instance: instance.clone(), incarnation }).await
    }

    fn target(&self, name: Option<&str>) -> Result<Target, Error> {
        let Some(name) = name else { return Ok(Target::All) };
        let target = target_of(name);
        let status = self.status();
        let known = match &target {
            Target::All => true,
            Target::Service(service) => status.services.contains_key(service),
            Target::Instance(id) => {
                status.services.get(&id.service).is_some_and(|s| s.instances.iter().any(|i| i.id == *id))
            }
        };
        if known { Ok(target) } else { Err(Error::UnknownTarget(name.to_owned())) }
    }

    /// Pauses of before this agent that have not run out.
    pub(crate) async fn restore_pauses(&self) -> Result<(), Error> {
        let (wall, now) = (clock::wall_ms(), clock::now());
        for pause in self.records.pauses().await.map_err(Error::Records)? {
            let left = pause.until_wall_ms.map(|until| until.saturating_sub(wall));
            if left == Some(0) {
                self.records.resume(pause.name.as_deref()).await.map_err(Error::Records)?;
                continue;
            }
            let until: Option<Timestamp> = left.map(|ms| now + Duration::from_millis(ms));
            let target = pause.name.as_deref().map_or(Target::All, target_of);
            self.tell(Event::Pause { target, until, reason: pause.reason }).await?;
        }
        Ok(())
    }
}

/// A service's name never ends in `-` and digits, so the two cannot be confused.
fn target_of(name: &str) -> Target {
    match name.parse::<InstanceId>() {
        Ok(id) => Target::Instance(id),
        Err(_) => Target::Service(name.into()),
    }
}
