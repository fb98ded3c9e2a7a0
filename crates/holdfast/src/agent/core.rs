//! What the agent is made of, and what the API asks of it.

mod shared;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use holdfast_cluster::Store;
use holdfast_cluster::embedded::Embedded;
use holdfast_cluster::records::{self, Records};
use holdfast_config::{Config, Environment, Port, Service};
use holdfast_host::{clock, listen};
use holdfast_observe::journal::{self, Journal};
use holdfast_observe::metrics::Metrics;
use holdfast_policy::{NodeId, Timestamp};
use holdfast_services::{Handle, Internal};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};

use super::member::{self, Member};
use super::metrics_port::MetricsPort;
use super::planes::{Planes, Sockets};
use super::tasks::Tasks;
use super::vip::{self, Vips};
use crate::api::{Applied, Apply, Desired, Done, Pause, Resume, Switchover};
use crate::failure::{Exit, Failure};
use crate::layout::Layout;
use crate::terminal::human;

/// What was applied last, and the configuration it means.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) config: Arc<Config>,
    pub(crate) desired: Desired,
}

pub(crate) struct Core {
    pub(crate) layout: Layout,
    pub(crate) node: NodeId,
    pub(crate) records: Records,
    pub(crate) store: Embedded,
    pub(crate) journal: Journal,
    pub(crate) journal_trouble: Option<journal::Error>,
    pub(crate) services: Handle,
    pub(crate) planes: Arc<Planes>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) vips: Vips,
    pub(crate) metrics: Metrics,
    metrics_port: MetricsPort,
    pub(crate) epoch: u64,
    /// This life of the agent (`GENERATION.RUN`).
    pub(crate) life: String,
    pub(crate) started: Timestamp,
    in_force: watch::Sender<Option<Arc<InForce>>>,
    resume_trouble: std::sync::Mutex<Option<Failure>>,
    /// `None` keeps this machine alone.
    pub(crate) member: Option<Arc<Member>>,
    /// Endpoints on other machines may have changed.
    remotes: watch::Sender<u64>,
    /// The member of etcd that holdfast runs here.
    own_etcd: std::sync::Mutex<Option<Service>>,
    /// Why instances are not where they should be, as the leader (here) says.
    held: std::sync::Mutex<BTreeMap<String, String>>,
    /// One change of the wanted state at a time.
    changing: Mutex<()>,
    /// The next life of this agent is a member of a cluster.
    migrated: watch::Sender<bool>,
    /// `down` was asked for.
    ending: watch::Sender<bool>,
    seq: AtomicU64,
}

/// A second costs nothing, and services whose shims die meanwhile wait for it.
const RESUME_AGAIN: Duration = Duration::from_secs(1);

/// A new agent has found its balancer processes by then, or there are none.
const PLANES_KNOWN: Duration = Duration::from_secs(10);
/// A command waits this long for a switchover; a client gives up a little later.
pub(super) const SWITCHOVER_TIME: Duration = Duration::from_secs(9);

/// The shared table has a slot for so many endpoints.
const REPLICAS_MAX: u32 = 1000;

/// The configuration's own answer to where ports may lie, before there is one to read: its default.
const DEFAULT_PORTS: RangeInclusive<u16> = 20_000..=29_999;

/// Of the configuration that is in force, because ports must be known before it is applied again.
pub(super) async fn ports(records: &Records) -> RangeInclusive<u16> {
    let desired = records.desired().await.ok().flatten();
    let config = desired.and_then(|(d, _)| parse(&d.toml, &d.source, &Environment::here()).ok());
    config.map_or(DEFAULT_PORTS, |c| c.node.ports)
}

#[expect(clippy::too_many_arguments, reason = "one constructor, called once, for a value whose parts come one by one")]
impl Core {
    pub(super) fn new(
        layout: Layout,
        node: NodeId,
        records: Records,
        store: Embedded,
        journal: Journal,
        journal_trouble: Option<journal::Error>,
        services: Handle,
        (planes, tasks): (Arc<Planes>, Arc<Tasks>),
        epoch: u64,
        life: String,
        member: Option<Arc<Member>>,
    ) -> Arc<Core> {
        Arc::new_cyclic(|core| Core {
            vips: Vips::new(vip_context(core, &store, member.as_ref(), &node, &life, epoch)),
            layout,
            node,
            records,
            store,
            journal,
            journal_trouble,
            services,
            planes,
            tasks,
            metrics: Metrics::new(env!("CARGO_PKG_VERSION")),
            metrics_port: MetricsPort::default(),
            epoch,
            life,
            started: clock::now(),
            in_force: watch::Sender::new(None),
            resume_trouble: std::sync::Mutex::default(),
            member,
            remotes: watch::Sender::new(0),
            own_etcd: std::sync::Mutex::default(),
            held: std::sync::Mutex::default(),
            changing: Mutex::new(()),
            migrated: watch::Sender::new(false),
            ending: watch::Sender::new(false),
            seq: AtomicU64::new(0),
        })
    }
}

impl Core {
    pub(crate) fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn tell_start(&self) {
        let event =
            super::agent_event(self, "agent").change("", "running", "agent started").with("pid", std::process::id());
        self.journal.append(event.with("version", env!("CARGO_PKG_VERSION")));
        tracing::info!(epoch = self.epoch, life = self.life, "agent started");
    }

    pub(crate) fn in_force(&self) -> Option<Arc<InForce>> {
        self.in_force.borrow().clone()
    }

    /// What was applied before this agent: the same file means the same again, so nothing is restarted. What stands in the way
    /// may pass (a full disk, a port that an orphan holds), so it is tried until it succeeds or another file is applied.
    pub(super) async fn resume_desired(self: &Arc<Self>) {
        if self.try_resume().await {
            return;
        }
        let core = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RESUME_AGAIN).await;
                if core.planes.sockets().is_empty() {
                    core.planes.recover_sockets().await;
                    core.tasks.recover_sockets().await;
                }
                if core.try_resume().await {
                    return;
                }
            }
        });
    }

    async fn try_resume(self: &Arc<Self>) -> bool {
        let _one = self.changing.lock().await;
        if self.in_force().is_some() || *self.ending.borrow() {
            return true;
        }
        let resumed = self.go_on().await;
        if let Err(failure) = &resumed
            && self.trouble().as_ref().map(ToString::to_string) != Some(failure.to_string())
        {
            tracing::error!(code = failure.code, "cannot go on with what was applied, and tries again: {failure}");
        }
        let done = resumed.is_ok();
        *self.resume_trouble.lock().unwrap_or_else(PoisonError::into_inner) = resumed.err();
        done
    }

    async fn go_on(self: &Arc<Self>) -> Result<(), Failure> {
        let found = self.records.desired().await.map_err(|e| {
            Failure::new(e.code(), "cannot read what was applied").because_of(&e).hint("holdfast doctor")
        })?;
        let Some((desired, revision)) = found else { return Ok(()) };
        let desired = Desired { path: desired.source, text: desired.toml, revision };
        self.take_up(desired).await
    }

    /// Why what was applied is not in force yet.
    pub(super) fn trouble(&self) -> Option<Failure> {
        self.resume_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) async fn apply(self: &Arc<Self>, request: Apply) -> Result<Applied, Failure> {
        let _one = self.changing.lock().await;
        if *self.ending.borrow() {
            return Err(Failure::new("HF0317", "everything is being stopped")
                .hint("wait for `holdfast down` to end, then up again")
                .exit(Exit::Refused));
        }
        let config = parse(&request.text, &request.path, &self.environment())?;
        self.refuse_other_cluster(&config)?;
        self.know_the_cluster().await?;
        let before = self.in_force();
        self.refuse_busy_ports(&config, before.as_deref())?;
        vip::check(&config)?;
        // Opened before anything is stored or changed, so that a busy port refuses the file as a whole.
        let local = self.local(&config);
        let sockets = self.planes.open_sockets(&local)?;
        let tasks = self.tasks.open_socket(&local)?;
        let metrics = self.metrics_port.open(config.node.metrics).await?;
        let stored = self.stored(before.as_deref());
        let same = stored.as_ref().is_some_and(|d| d.text == request.text && d.path == request.path);
        let revision = match (&stored, same) {
            (Some(stored), true) => stored.revision,
            _ => self.store_desired(&request, stored.map_or(0, |d| d.revision)).await?,
        };
        let desired = Desired { path: request.path, text: request.text, revision };
        self.place_first(&config).await?;
        self.put_in_force(config, desired, (sockets, tasks), metrics).await?;
        if !same {
            self.journal.append(super::agent_event(self, "agent").change(
                "",
                "applied",
                format!("revision {revision} applied"),
            ));
        }
        Ok(Applied { revision, changed: !same })
    }

    async fn store_desired(&self, request: &Apply, expected: u64) -> Result<u64, Failure> {
        let desired = records::Desired {
            version: 1,
            toml: request.text.clone(),
            source: request.path.clone(),
            node: self.node.to_string(),
            applied_wall_ms: clock::wall_ms(),
        };
        let Some(member) = &self.member else {
            return self.records.set_desired(&desired, None).await.map_err(|e| store_failure(&e));
        };
        // Somebody may have applied another file on another machine since this agent looked.
        let revision = match member.records.set_desired(&desired, Some(expected)).await {
            Ok(revision) => revision,
            Err(error) => member.applied_by_another(&desired, error).await?,
        };
        self.keep(&desired).await;
        Ok(revision)
    }

    async fn put_in_force(
        self: &Arc<Self>,
        config: Config,
        desired: Desired,
        (sockets, tasks): (Sockets, Internal),
        metrics: Option<TcpListener>,
    ) -> Result<(), Failure> {
        let config = Arc::new(config);
        let local = Arc::new(self.local(&config));
        let parts = self.parts(&local, &sockets, tasks.clone())?;
        self.metrics_port.serve(config.node.metrics, metrics, self);
        self.planes.set_config(&local, sockets);
        self.tasks.set_config(&local, &tasks)?;
        self.services.apply(&self.scaled(&config), parts).await.map_err(|e| services_failure(&e))?;
        self.vips.apply(&local).await;
        self.in_force.send_replace(Some(Arc::new(InForce { config, desired })));
        Ok(())
    }

    /// Fixed ports that are new with this file must be free; those of before are held by our own instances.
    fn refuse_busy_ports(&self, config: &Config, before: Option<&InForce>) -> Result<(), Failure> {
        // In a cluster it is not known yet which instances come here; those that do say so when they cannot start.
        for service in config.services.values().filter(|_| self.member.is_none()) {
            let Port::Fixed(base) = service.port else { continue };
            let known = before.and_then(|b| b.config.services.get(&service.name));
            let held = known.filter(|k| k.port == service.port).map_or(0, |k| k.replicas);
            let ours = self.services.status().services.get(service.name.as_str()).map_or(0, |s| s.instances.len());
            for n in (u64::from(held).max(ours as u64))..u64::from(service.replicas) {
                let Ok(port) = u16::try_from(u64::from(base) + n) else { continue };
                let addr = std::net::SocketAddr::new(service.host, port);
                if !listen::port_is_free(addr) {
                    return Err(busy(&service.name, addr));
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn desired(&self) -> Option<Desired> {
        self.in_force().map(|f| f.desired.clone())
    }

    pub(crate) async fn restart(&self, target: &str) -> Result<Done, Failure> {
        match &self.member {
            Some(member) => member.ask_restart(target, self).await?,
            None => self.services.restart(target).await.map_err(|e| services_failure(&e))?,
        }
        self.audit("restart", target);
        Ok(Done { message: format!("restarting {target}, one instance at a time; see holdfast status") })
    }

    pub(crate) async fn scale(&self, service: &str, replicas: u32) -> Result<Done, Failure> {
        let in_force = self.in_force().ok_or_else(nothing_applied)?;
        let known = in_force.config.services.get(service).ok_or_else(|| no_such(service))?;
        if replicas > REPLICAS_MAX {
            return Err(Failure::new("HF0318", format!("{replicas} replicas are more than {REPLICAS_MAX}"))
                .hint("choose a smaller number")
                .exit(Exit::Usage));
        }
        match &self.member {
            Some(member) => {
                member.records.set_scale(service, Some(replicas)).await.map_err(|e| store_failure(&e))?;
            }
            None => self.services.scale(service, Some(replicas)).await.map_err(|e| services_failure(&e))?,
        }
        self.audit("scale", &format!("{service}={replicas}"));
        Ok(Done {
            message: format!(
                "{service}: {} -> {replicas} replicas, until a file with another number is applied",
                known.replicas
            ),
        })
    }

    pub(crate) async fn switch_over(&self, request: Switchover) -> Result<Done, Failure> {
        let Switchover { service, to, force } = request;
        let to_whom = to.as_deref().unwrap_or("another member");
        self.audit("switchover", &format!("{service} to {to_whom}"));
        if let Some(member) = &self.member {
            return member.switch_over(&service, to.as_deref(), force, self).await;
        }
        let done = self.services.switch_over(&service, to.as_deref(), force, SWITCHOVER_TIME).await;
        let t = done.map_err(|e| services_failure(&e).exit(Exit::Refused))?;
        Ok(Done { message: format!("{service}: {} is active, {} after {} began to leave", t.to, human(t.rto), t.from) })
    }

    pub(crate) async fn pause(&self, request: Pause) -> Result<Done, Failure> {
        let time = Duration::from_millis(request.for_ms);
        let name = request.name.as_deref();
        match &self.member {
            Some(member) => member.pause(name, time, &request, self).await?,
            None => {
                let paused = self.services.pause(name, Some(time), &request.reason, &request.who).await;
                paused.map_err(|e| services_failure(&e))?;
            }
        }
        let what = name.unwrap_or("everything");
        self.audit("pause", what);
        Ok(Done {
            message: format!("paused {what} for {}: holdfast detects and journals, and does nothing", human(time)),
        })
    }

    pub(crate) async fn resume(&self, request: Resume) -> Result<Done, Failure> {
        match &self.member {
            Some(member) => {
                member.records.resume(request.name.as_deref()).await.map_err(|e| store_failure(&e))?;
            }
            None => self.services.resume(request.name.as_deref()).await.map_err(|e| services_failure(&e))?,
        }
        let what = request.name.as_deref().unwrap_or("everything");
        self.audit("resume", what);
        Ok(Done { message: format!("resumed {what}") })
    }

    /// Begins to stop everything; the agent ends when nothing is left.
    pub(crate) async fn down(self: &Arc<Self>) -> Result<Done, Failure> {
        let _one = self.changing.lock().await;
        // First: another node takes over while the balancers here finish what they have.
        self.vips.stop_all().await;
        self.services.stop_all().await.map_err(|e| services_failure(&e))?;
        self.audit("down", "everything");
        self.ending.send_replace(true);
        Ok(Done { message: "stopping everything in order".into() })
    }

    /// Resolves when `down` was asked for: this machine is no member any more.
    pub(crate) async fn leaving(&self) {
        let mut ending = self.ending.subscribe();
        if ending.wait_for(|ending| *ending).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when `down` was asked for and nothing is left.
    pub(super) async fn stopped(&self) {
        let mut ending = self.ending.subscribe();
        let mut status = self.services.watch_status();
        let _ = ending.wait_for(|ending| *ending).await;
        let _ = status.wait_for(|s| s.stopped).await;
        // After the plane, which would start others.
        self.tasks.end_work().await;
    }

    /// Who asked is the owner of the socket: mode 0600 lets nobody else in.
    pub(crate) fn audit(&self, what: &'static str, target: &str) {
        tracing::info!(action = what, target, "asked by a client");
        let event = super::agent_event(self, "agent").change("", what, format!("asked to {what} {target}"));
        self.journal.append(event.with(holdfast_observe::incident::STAGE, "neutral"));
    }
}

/// Through a weak reference, because the tasks are part of what they look at.
fn vip_context(
    core: &Weak<Core>,
    store: &Embedded,
    member: Option<&Arc<Member>>,
    node: &NodeId,
    life: &str,
    epoch: u64,
) -> vip::Context {
    let (seen, told, kept) = (core.clone(), core.clone(), core.clone());
    let (node, life, started) = (node.to_string(), life.to_owned(), clock::now());
    let name = node.clone();
    let well = move || {
        let well = seen.upgrade().is_some_and(|core| super::view::planes_in_force(&core) > 0);
        (well || clock::now() >= started + PLANES_KNOWN).then_some(well)
    };
    let event = move |subject: &str| match told.upgrade() {
        Some(core) => super::agent_event(&core, subject),
        None => holdfast_host::event::Event::now(&name, "agent", "", subject),
    };
    let journal = move |event| {
        if let Some(core) = kept.upgrade() {
            core.journal.append(event);
        }
    };
    vip::Context {
        store: member.map_or_else(|| Arc::new(store.clone()) as Arc<dyn Store>, |m| m.store.clone()),
        clock: holdfast_cluster::boot_clock(),
        holder: member.map_or_else(|| node.clone(), |m| m.holder()),
        node,
        epoch,
        claims: member.map_or_else(|| Arc::new(holdfast_cluster::epoch::Current::of(epoch)), |m| m.epoch.clone()),
        life,
        peers: match member {
            Some(member) => Arc::new(member::CarriersOf { member: member.clone(), core: core.clone() }),
            None => Arc::new(vip::Alone),
        },
        well: Arc::new(well),
        event: Arc::new(event),
        journal: Arc::new(journal),
        rules: holdfast_policy::vip::Rules::default(),
    }
}

/// As the file would be read from its own place; errors become one failure that names them all.
pub(super) fn parse(text: &str, path: &str, environment: &Environment) -> Result<Config, Failure> {
    match holdfast_config::parse(text, Path::new(path), environment) {
        Ok(loaded) => Ok(loaded.config),
        Err(failed) => {
            let errors: Vec<_> = failed.diagnostics.iter().filter(|d| d.is_error()).collect();
            let code = errors.first().map_or("HF0101", |e| e.code);
            let mut failure = Failure::new(code, format!("{path} is refused; nothing was changed"))
                .hint("holdfast check")
                .exit(Exit::Usage);
            for error in errors {
                failure = failure.because(format!("{}: {}", error.code, error.message));
            }
            Err(failure)
        }
    }
}

fn busy(service: &str, addr: std::net::SocketAddr) -> Failure {
    let holder =
        listen::holder(addr.port()).map_or_else(String::new, |h| format!(" (held by {}, pid {})", h.name, h.pid));
    Failure::new("HF0319", format!("service {service} needs {addr}, which is in use{holder}; nothing was changed"))
        .hint("stop what holds it, or choose another port")
        .exit(Exit::Refused)
}

pub(super) fn nothing_applied() -> Failure {
    Failure::new("HF0313", "nothing was applied yet").hint("holdfast up -d").exit(Exit::Usage)
}

pub(super) fn no_such(name: &str) -> Failure {
    Failure::new("HF0312", format!("there is no `{name}` in what was applied"))
        .hint("holdfast status lists the names")
        .exit(Exit::Usage)
}

pub(super) fn store_failure(error: &holdfast_cluster::Error) -> Failure {
    let failure = Failure::new(error.code(), "cannot store the wanted state; nothing was changed").because_of(error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

pub(super) fn services_failure(error: &holdfast_services::Error) -> Failure {
    use holdfast_services::Error;
    let failure = match error {
        Error::UnknownTarget(name) => return no_such(name),
        other => Failure::new(other.code(), other.to_string()),
    };
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
