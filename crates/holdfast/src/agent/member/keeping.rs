//! etcd as a service of holdfast: how a member starts, joins, and comes back after its disk was lost.
//!
//! A member whose data is there starts from it. Without data it asks the others first: only where nobody answers,
//! and it never ran here, does it begin a new cluster together with them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::etcd::{self, Etcd};
use holdfast_cluster::{Op, Txn};
use holdfast_config::{Check, Command, Config, ETCD_CLIENT_PORT, ETCD_PEER_PORT, Machine, Port, Probe, Service, Stop};
use holdfast_policy::backoff::Backoff;
use holdfast_policy::{health, restart};
use serde::{Deserialize, Serialize};

use super::{Member, options};
use crate::agent::core::Core;

/// Internal service of the member that runs here.
pub(crate) const ETCD: &str = "_etcd";
/// That a member has run here before, and in which cluster.
const RAN: &str = "/etcd-ran";
/// Between two questions to the other members.
const AGAIN: Duration = Duration::from_secs(1);
/// etcd ends well within it: it syncs on each write.
const GRACE: Duration = Duration::from_secs(10);
/// History that watches may fall behind.
const RETENTION: &str = "1h";
/// Above it etcd takes no writes: its own default, spelled out.
const QUOTA_BYTES: u64 = 2 << 30;

/// A member that ran before is wanted from the beginning, or the next agent would stop it as unwanted.
pub(crate) async fn prepare(member: &Member, core: &Core) {
    let Some(own) = own(member) else { return };
    if let Some(how) = kept(member).await.filter(|_| has_data(core)) {
        core.set_own_etcd(service(core, member, own, &how));
    }
}

/// Begins to keep the member of this machine, if the file gives it one.
pub(super) fn start(member: &Arc<Member>, core: &Arc<Core>) {
    let Some(own) = own(member).cloned() else { return };
    let (member, core) = (member.clone(), core.clone());
    tokio::spawn(async move {
        let how = match kept(&member).await.filter(|_| has_data(&core)) {
            Some(how) => how,
            None => how(&member, &core, &own).await,
        };
        core.set_own_etcd(service(&core, &member, &own, &how));
        keep(&member, &how).await;
        while let Err(failure) = core.run_own_etcd(&member.config).await {
            tracing::warn!("cannot start etcd yet: {failure}");
            tokio::time::sleep(AGAIN).await;
        }
    });
}

fn own(member: &Member) -> Option<&Machine> {
    member.config.nodes.get(&*member.name.0).filter(|own| own.etcd && member.cluster.managed)
}

fn has_data(core: &Core) -> bool {
    data_dir(core).join("member").exists()
}

/// Peers as etcd wants them, and whether they are a cluster already. Kept as it was at the first start: other arguments
/// would mean a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct How {
    initial: String,
    state: String,
}

async fn kept(member: &Member) -> Option<How> {
    serde_json::from_slice(&member.local.get(RAN.into()).await.ok().flatten()?.value).ok()
}

async fn keep(member: &Member, how: &How) {
    let Ok(value) = serde_json::to_vec(how) else { return };
    if let Err(error) = member.local.txn(Txn::always([Op::put(RAN, value)])).await {
        tracing::warn!(%error, "how etcd was started here is not kept");
    }
}

async fn how(member: &Member, core: &Core, own: &Machine) -> How {
    let begin = How { initial: declared(&member.config), state: "new".into() };
    if has_data(core) {
        return begin;
    }
    let others = member.cluster.etcd.iter().filter(|url| **url != client_url(own)).cloned().collect::<Vec<_>>();
    let ran = kept(member).await.is_some();
    if others.is_empty() {
        return begin;
    }
    loop {
        match join(member, &others, own).await {
            Ok(Some(how)) => return how,
            Ok(None) => return begin,
            // Nobody has a quorum: so it is at the very first start of all.
            Err(error) if !ran => {
                tracing::info!(%error, "no other member of etcd answers: a new cluster begins");
                return begin;
            }
            Err(error) => {
                let trouble = format!("etcd's data of this machine is gone, and no other member answers: {error}");
                tracing::error!(code = "HF0339", "{trouble}");
                member.set_trouble(Some(trouble));
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// `None` when the others wait for this one as for a member that never ran.
async fn join(member: &Member, others: &[String], own: &Machine) -> Result<Option<How>, String> {
    let mut options = options(&member.cluster).map_err(|failure| failure.to_string())?;
    options.endpoints = others.to_vec();
    let etcd = Etcd::new(options).map_err(|e| e.to_string())?;
    let members = etcd.members().await.map_err(|e| e.to_string())?;
    let peer = peer_url(own);
    let ours = members.iter().find(|m| m.peer_urls.contains(&peer));
    match ours {
        Some(known) if known.name.is_empty() => {}
        Some(known) if known.client_urls.is_empty() => return Ok(None),
        Some(known) => {
            tracing::warn!(id = known.id, "this machine's member of etcd has lost its data: it is replaced");
            etcd.remove_member(known.id).await.map_err(|e| e.to_string())?;
            etcd.add_member(std::slice::from_ref(&peer)).await.map_err(|e| e.to_string())?;
        }
        None => drop(etcd.add_member(std::slice::from_ref(&peer)).await.map_err(|e| e.to_string())?),
    }
    let rest = members.iter().filter(|m| !m.peer_urls.contains(&peer));
    Ok(Some(How { initial: peers(rest, own), state: "existing".into() }))
}

fn peers<'a>(others: impl Iterator<Item = &'a etcd::Member>, own: &Machine) -> String {
    let mut all: Vec<String> = others.flat_map(|m| m.peer_urls.iter().map(|url| format!("{}={url}", m.name))).collect();
    all.push(format!("{}={}", own.name, peer_url(own)));
    all.join(",")
}

fn declared(config: &Config) -> String {
    let members = config.nodes.values().filter(|node| node.etcd);
    members.map(|node| format!("{}={}", node.name, peer_url(node))).collect::<Vec<_>>().join(",")
}

fn url(machine: &Machine, port: u16) -> String {
    let address = machine.address.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    format!("http://{}", std::net::SocketAddr::new(address, port))
}

fn client_url(machine: &Machine) -> String {
    url(machine, ETCD_CLIENT_PORT)
}

fn peer_url(machine: &Machine) -> String {
    url(machine, ETCD_PEER_PORT)
}

fn data_dir(core: &Core) -> std::path::PathBuf {
    core.layout.data_dir.join("etcd")
}

fn service(core: &Core, member: &Member, own: &Machine, how: &How) -> Service {
    let dir = data_dir(core);
    let option = |name: &str, value: &str| [format!("--{name}"), value.to_owned()];
    let mut argv = vec![member.cluster.etcd_program.clone()];
    argv.extend(option("name", &own.name));
    argv.extend(option("data-dir", &text(&dir)));
    argv.extend(option("listen-client-urls", &client_url(own)));
    argv.extend(option("advertise-client-urls", &client_url(own)));
    argv.extend(option("listen-peer-urls", &peer_url(own)));
    argv.extend(option("initial-advertise-peer-urls", &peer_url(own)));
    argv.extend(option("initial-cluster", &how.initial));
    argv.extend(option("initial-cluster-state", &how.state));
    argv.extend(option("initial-cluster-token", &member.cluster.name));
    argv.extend(option("auto-compaction-mode", "periodic"));
    argv.extend(option("auto-compaction-retention", RETENTION));
    argv.extend(option("quota-backend-bytes", &QUOTA_BYTES.to_string()));
    let backoff = Backoff { base: Duration::from_millis(200), factor: 2.0, max: Duration::from_secs(10), jitter: 0.2 };
    Service {
        workdir: core.layout.data_dir.clone(),
        umask: Some(0o077),
        host: own.address.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
        port: Port::Fixed(ETCD_CLIENT_PORT),
        restart: restart::Policy { backoff, ..restart::Policy::default() },
        // Alone it cannot be healthy, and restarting it would not help.
        ready: Some(Probe {
            check: Check::Tcp,
            every: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            thresholds: health::Thresholds::default(),
            within: Duration::from_secs(60),
        }),
        stop: Stop { command: None, signal: 15, grace: GRACE, drain: Duration::ZERO },
        ..Service::new(ETCD, Command::Argv(argv))
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
