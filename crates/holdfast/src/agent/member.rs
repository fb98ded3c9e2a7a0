//! This machine as a member of a cluster: what it tells the others, what it hears, and, on one of them, the leader.
//!
//! The local store stays the truth about what runs here. The shared store says what should: its last word is kept
//! locally, so that an agent starts, and goes on, while the shared store is away.

mod asked;
mod carriers;
mod doubting;
mod following;
pub(crate) mod keeping;
mod leading;
mod link;
mod linking;
pub(crate) mod migrate;
mod presence;
mod remote;
mod reporting;
mod rolling;
mod secrets;
mod set_back;
mod switching;
mod watching;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_cluster::epoch::Current;
use holdfast_cluster::etcd::{Etcd, Login, Options, Secret, Tls};
use holdfast_cluster::members::{Assignment, RESTART, View};
use holdfast_cluster::records::{self, Records};
use holdfast_cluster::{Op, Store, Txn};
use holdfast_config::{Cluster, Config, Environment, Value};
use holdfast_host::clock;
use holdfast_observe::status::Leading;
use holdfast_policy::lease::FencingToken;
use holdfast_policy::{NodeId, Timestamp};
use holdfast_services::supervisor::{Placement, kept_share};
use tokio::sync::watch;

use super::core::Core;
use crate::failure::{Exit, Failure};
use link::{Keeper, Peers, Questions};

pub(crate) use asked::alone;
pub(crate) use carriers::CarriersOf;
pub(crate) use link::{Join, Joined, authority_failure};
pub(crate) use linking::Heard;
pub(crate) use remote::remotes;

/// Names this data directory, so that two agents with one node name are told apart.
const IDENTITY: &str = "/identity";
/// The last assignment, for a start while the shared store is away.
const ASSIGNED: &str = "/assigned";
/// What this machine is called, so that it is not called otherwise when its host name changes.
const NAME: &str = "/name";
/// Highest token that this machine has seen.
const TOKEN: &str = "/token";

/// When it was learnt that the shared store was set back, until that is a lease ago.
const SET_BACK: &str = "/set-back";

/// What the shared store said last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) view: View,
    /// The watch is open: this is how it is. Otherwise, how it was.
    pub(crate) fresh: bool,
}

pub(crate) struct Member {
    pub(crate) name: NodeId,
    pub(crate) cluster: Cluster,
    /// The file that it started with.
    config: Config,
    pub(crate) address: IpAddr,
    pub(crate) etcd: Etcd,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) records: Records,
    local: Arc<dyn Store>,
    identity: String,
    seen: watch::Sender<Arc<Seen>>,
    /// How the other machines answer this one.
    heard: watch::Sender<Arc<BTreeMap<String, Heard>>>,
    link: Mutex<Option<SocketAddr>>,
    keeper: Keeper,
    peers: Peers,
    questions: Questions,
    /// Why the others cannot reach this agent.
    deaf: Mutex<Option<String>>,
    /// The cluster has another authority than this machine.
    rival: Mutex<Option<String>>,
    /// Boot time of the last answer of the shared store.
    contact: AtomicU64,
    /// Why this machine is not a member at present.
    trouble: Mutex<Option<String>>,
    token: Mutex<FencingToken>,
    /// Of the shared store that is followed; 0 while it is not known, and then nothing is claimed.
    pub(crate) epoch: Arc<Current>,
    /// It was a member under its name at least once: nobody else is.
    admitted: AtomicBool,
    /// Names in the DNS that cannot be written, with why; only on the leader.
    unnamed: Mutex<Vec<String>>,
    /// `None` while another leads.
    leading: Mutex<Option<Leading>>,
}

impl Member {
    /// The name under which it became a member.
    pub(crate) async fn kept_name(local: &dyn Store) -> Option<String> {
        let kept = local.get(NAME.into()).await.ok().flatten()?;
        String::from_utf8(kept.value).ok()
    }

    /// `None` where the file keeps one machine alone. Nothing is sent: the shared store may be away.
    pub(crate) async fn prepare(
        config: &Config,
        name: &NodeId,
        local: Arc<dyn Store>,
        data_dir: &Path,
    ) -> Result<Option<Arc<Member>>, Failure> {
        let Some(cluster) = config.cluster.clone() else { return Ok(None) };
        let address = match config.nodes.get(&*name.0).and_then(|machine| machine.address) {
            Some(address) => address,
            None => own_address(&cluster)?,
        };
        let mut options = options(&cluster)?;
        // A member on this machine dies with it: nobody here waits for one that is gone.
        options.endpoints.sort_by_key(|url| !url.contains(&format!("//{address}:")));
        let etcd = Etcd::new(options).map_err(|e| {
            let failure = Failure::new(e.code(), "cannot use etcd as [cluster] says").because_of(&e).exit(Exit::Usage);
            match e.hint() {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;
        let store: Arc<dyn Store> = Arc::new(etcd.clone());
        let identity = identity(&*local).await?;
        let keep = Txn::always([Op::put(NAME, name.to_string())]);
        local.txn(keep).await.map_err(|e| super::core::store_failure(&e))?;
        let token = local.get(TOKEN.into()).await.ok().flatten().and_then(|kv| String::from_utf8(kv.value).ok());
        let token: FencingToken = token.and_then(|t| t.parse().ok()).unwrap_or_default();
        let set_back = set_back::kept(&*local, cluster.lease.ttl).await;
        Ok(Some(Arc::new(Member {
            name: name.clone(),
            config: config.clone(),
            cluster,
            address,
            etcd,
            records: Records::new(store.clone()),
            store,
            local,
            identity,
            seen: watch::Sender::new(Arc::default()),
            heard: watch::Sender::new(Arc::default()),
            link: Mutex::new(None),
            keeper: Keeper::new(data_dir),
            peers: Peers::default(),
            questions: Questions::default(),
            deaf: Mutex::default(),
            rival: Mutex::default(),
            contact: AtomicU64::new(0),
            trouble: Mutex::new(None),
            unnamed: Mutex::default(),
            leading: Mutex::new(None),
            epoch: Arc::new(Current::resumed(set_back)),
            admitted: AtomicBool::new(false),
            token: Mutex::new(token),
        })))
    }

    /// Begins to take part, for as long as the agent lives.
    pub(crate) fn start(self: &Arc<Self>, core: &Arc<Core>) {
        keeping::start(self, core);
        linking::start(self, core);
        tokio::spawn(watching::run(self.clone(), core.clone()));
        tokio::spawn(presence::run(self.clone(), core.clone()));
        tokio::spawn(doubting::run(self.clone(), core.clone()));
        tokio::spawn(following::run(self.clone(), core.clone()));
        tokio::spawn(reporting::run(self.clone(), core.clone()));
        tokio::spawn(leading::run(self.clone(), core.clone()));
    }

    pub(crate) fn seen(&self) -> Arc<Seen> {
        self.seen.borrow().clone()
    }

    pub(crate) fn watch_seen(&self) -> watch::Receiver<Arc<Seen>> {
        self.seen.subscribe()
    }

    pub(crate) fn heard(&self) -> Arc<BTreeMap<String, Heard>> {
        self.heard.borrow().clone()
    }

    pub(crate) fn watch_heard(&self) -> watch::Receiver<Arc<BTreeMap<String, Heard>>> {
        self.heard.subscribe()
    }

    /// What it was told to run last, whether or not the shared store is there now.
    pub(crate) async fn kept_assignment(&self) -> Assignment {
        let kept = self.local.get(ASSIGNED.into()).await.ok().flatten();
        kept.and_then(|kv| serde_json::from_slice(&kv.value).ok()).unwrap_or_default()
    }

    async fn keep_assignment(&self, assignment: &Assignment) {
        let Ok(value) = serde_json::to_vec(assignment) else { return };
        if let Err(error) = self.local.txn(Txn::always([Op::put(ASSIGNED, value)])).await {
            tracing::warn!(%error, "what this machine should run is not kept: a restart needs the shared store");
        }
    }

    /// Kept before it is used anywhere, so that a store that is set back to an older copy is noticed.
    async fn keep_token(&self, token: FencingToken, set_back: Option<Timestamp>) {
        {
            let mut known = self.token.lock().unwrap_or_else(PoisonError::into_inner);
            if token <= *known {
                return;
            }
            *known = token;
        }
        let ops = [Op::put(TOKEN, token.to_string())].into_iter().chain(set_back.and_then(set_back::put));
        if let Err(error) = self.local.txn(Txn::always(ops)).await {
            tracing::warn!(%error, "the highest token is not kept");
        }
    }

    fn highest_token(&self) -> FencingToken {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        self.contact.store(clock::now().as_nanos(), Ordering::Relaxed);
    }

    /// The shared store has answered within a third of a lease.
    pub(crate) fn in_touch(&self, now: Timestamp) -> bool {
        let last = Timestamp::from_nanos(self.contact.load(Ordering::Relaxed));
        now.since(last) < self.cluster.lease.renew + self.cluster.lease.ttl / 5
    }

    pub(crate) fn leading(&self) -> Option<Leading> {
        *self.leading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, count: impl FnOnce(&mut Option<Leading>)) {
        count(&mut self.leading.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Of leases: an agent under the same name with another data directory is somebody else.
    pub(crate) fn holder(&self) -> String {
        format!("{}#{}", self.name, self.identity)
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_unnamed(&self, unnamed: Vec<String>) {
        *self.unnamed.lock().unwrap_or_else(PoisonError::into_inner) = unnamed;
    }

    /// Names in the DNS that this leader cannot write, with why.
    pub(crate) fn unnamed(&self) -> Vec<String> {
        self.unnamed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What services and balancers may ask for with `on`.
    pub(crate) fn labels(&self, config: &Config) -> BTreeMap<String, String> {
        labels(config, &self.name)
    }

    pub(crate) fn environment(&self) -> Environment {
        Environment { address: Some(self.address), ..Environment::here() }
    }
}

/// A machine's labels as the file has them, with those that every machine has.
pub(crate) fn labels(config: &Config, name: &NodeId) -> BTreeMap<String, String> {
    let machine = config.nodes.get(&*name.0);
    let mut labels = machine.map(|m| m.labels.clone()).unwrap_or_default();
    let host = machine.and_then(|m| m.host.clone()).unwrap_or_else(|| name.to_string());
    labels.insert("host".into(), host);
    labels.insert("node".into(), name.to_string());
    if let Some(rack) = machine.and_then(|m| m.rack.clone()) {
        labels.insert("rack".into(), rack);
    }
    if let Some(zone) = machine.and_then(|m| m.zone.clone()).or_else(|| config.node.zone.clone()) {
        labels.insert("zone".into(), zone);
    }
    labels
}

/// Whether labels fit what `on` asks for.
pub(crate) fn fits(labels: &BTreeMap<String, String>, on: &BTreeMap<String, Vec<String>>) -> bool {
    on.iter().all(|(label, values)| labels.get(label).is_some_and(|value| values.contains(value)))
}

pub(crate) fn options(cluster: &Cluster) -> Result<Options, Failure> {
    let mut options = Options::new(cluster.etcd.clone());
    options.key_prefix = format!("/holdfast/{}/", cluster.name);
    options.tls = Tls { ca: cluster.ca.clone(), client: cluster.cert.clone().zip(cluster.key.clone()) };
    if let (Some(user), Some(password)) = (&cluster.user, &cluster.password) {
        options.login = Some(Login { user: user.clone(), password: secret(password)? });
    }
    options.seed = clock::now().as_nanos() ^ u64::from(std::process::id());
    Ok(options)
}

fn secret(value: &Value) -> Result<Secret, Failure> {
    reference(value).map_err(|what| {
        Failure::new("HF0330", format!("the password of etcd cannot be read: {what}"))
            .hint("[cluster] password names a file or a variable of the agent's environment")
            .exit(Exit::Usage)
    })
}

/// What a reference of the file stands for, or why it cannot be read.
pub(crate) fn reference(value: &Value) -> Result<Secret, String> {
    match value {
        Value::File(path) => match std::fs::read_to_string(path) {
            Ok(text) => Ok(Secret::new(text.trim_end_matches('\n'))),
            Err(e) => Err(format!("{}: {e}", path.display())),
        },
        Value::Env(name) => std::env::var(name).map(Secret::new).map_err(|_| format!("${name} is not set")),
        Value::Plain(_) => Err("it stands in the file".into()),
    }
}

/// The address from which etcd is reached. Nothing is sent: the kernel only looks up its routes.
pub(crate) fn own_address(cluster: &Cluster) -> Result<IpAddr, Failure> {
    let hosts = cluster.etcd.iter().filter_map(|url| {
        let authority = url.split_once("://")?.1;
        let (host, port) = authority.rsplit_once(':')?;
        Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.parse::<u16>().ok()?))
    });
    for (host, port) in hosts {
        let any = if host.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let Ok(socket) = UdpSocket::bind(any) else { continue };
        if socket.connect((host.as_str(), port)).is_ok()
            && let Ok(addr) = socket.local_addr()
        {
            return Ok(addr.ip());
        }
    }
    Err(Failure::new("HF0331", "no route leads to any etcd member, so this machine's own address is unknown")
        .hint("name it in the file: [node.NAME] address = \"…\"")
        .exit(Exit::Refused))
}

async fn identity(local: &dyn Store) -> Result<String, Failure> {
    let failed = |e: holdfast_cluster::Error| {
        Failure::new(e.code(), "cannot read which machine this is").because_of(&e).hint("holdfast doctor")
    };
    if let Some(kv) = local.get(IDENTITY.into()).await.map_err(failed)? {
        return Ok(String::from_utf8_lossy(&kv.value).into_owned());
    }
    let fresh = nonce();
    local.txn(Txn::always([Op::put(IDENTITY, fresh.clone())])).await.map_err(failed)?;
    Ok(fresh)
}

/// 16 random hexadecimal digits.
pub(super) fn nonce() -> String {
    let mut bytes = [0u8; 8];
    // Blocks only before the kernel has any entropy at all, early at boot.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        bytes = clock::now().as_nanos().to_le_bytes();
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The `[cluster]` of a file that an agent is started with before anything was applied.
pub(crate) fn bootstrap(file: &Path) -> Option<Config> {
    let loaded = Config::load(file).ok()?;
    loaded.config.cluster.is_some().then_some(loaded.config)
}

impl Member {
    /// The share that was kept, for a start before the shared store was asked.
    pub(crate) async fn kept_placement(self: &Arc<Self>, config: &Config) -> Placement {
        let kept = self.kept_assignment().await;
        kept_share(config.services.keys().map(String::as_str), &kept)
    }

    /// Every machine restarts its own instances, each in its turn.
    pub(crate) async fn ask_restart(&self, target: &str, core: &Core) -> Result<(), Failure> {
        core.known_anywhere(target)?;
        let op = Op::put(format!("{RESTART}{target}"), nonce());
        self.store.txn(Txn::always([op])).await.map(drop).map_err(|e| super::core::store_failure(&e))
    }

    pub(crate) async fn pause(
        &self,
        name: Option<&str>,
        time: Duration,
        request: &crate::api::Pause,
        core: &Core,
    ) -> Result<(), Failure> {
        name.map_or(Ok(()), |name| core.known_anywhere(name))?;
        let now = clock::wall_ms();
        let pause = records::Pause {
            version: 1,
            name: name.map(ToOwned::to_owned),
            since_wall_ms: now,
            until_wall_ms: Some(now.saturating_add(holdfast_policy::time::millis(time))),
            reason: request.reason.clone(),
            by: request.who.clone(),
        };
        self.records.pause(&pause).await.map_err(|e| super::core::store_failure(&e))
    }
}
