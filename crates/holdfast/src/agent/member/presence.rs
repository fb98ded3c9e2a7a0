//! This machine's own lease: as long as it is renewed, the others know that its agent lives and reaches the store.

use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::election::{Campaign, Holder, Leadership};
use holdfast_cluster::members::{ALIVE, NODE, Registration, put};
use holdfast_cluster::{Error, Txn, boot_clock};
use holdfast_host::clock;

use super::{Member, nonce};
use crate::agent::core::Core;

/// Between two looks at the lease, and tries to take it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn run(member: Arc<Member>, core: Arc<Core>) {
    loop {
        let campaign = campaign(&member);
        match tokio::time::timeout(member.cluster.lease.ttl, campaign.win()).await {
            Ok(Ok(held)) => hold(&member, &core, held).await,
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot become a member");
                member.set_trouble(Some(format!("not a member of the cluster: {error}")));
            }
            Err(_) => notice_namesake(&member).await,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn campaign(member: &Member) -> Campaign {
    Campaign {
        store: member.store.clone(),
        key: format!("{ALIVE}{}", member.name),
        // The data directory's own name: only its own predecessor may be proclaimed dead.
        node: format!("{}/{}", member.name, member.identity),
        nonce: nonce(),
        timings: member.cluster.lease,
        epoch: member.highest_token().epoch,
        clock: boot_clock(),
        own_node_is_dead: true,
    }
}

async fn hold(member: &Member, core: &Core, held: Leadership) {
    member.touch();
    member.admitted.store(true, std::sync::atomic::Ordering::Release);
    member.set_trouble(None);
    let mut registered = None;
    loop {
        let wanted = registration(member, core);
        if wanted != registered
            && let Some(record) = &wanted
        {
            match register(member, record, &held).await {
                Ok(()) => registered = wanted,
                Err(error) => tracing::debug!(%error, "cannot register yet"),
            }
        }
        tokio::select! {
            lost = held.lost() => {
                tracing::warn!(reason = lost.reason(), "this machine's own lease is lost; it tries to be a member again");
                return;
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = core.leaving() => break,
        }
        if held.holds()
            && held.deadline() > clock::now() + member.cluster.lease.give_up - member.cluster.lease.renew * 2
        {
            member.touch();
        }
    }
    // The others need not wait for it to run out.
    let _ = held.resign().await;
    std::future::pending::<()>().await;
}

/// `None` before anything is in force, because labels are in the file.
fn registration(member: &Member, core: &Core) -> Option<Registration> {
    let in_force = core.in_force();
    let machine = in_force.as_ref().and_then(|f| f.config.nodes.get(&*member.name.0).cloned());
    let labels = match &in_force {
        Some(f) => member.labels(&f.config),
        None => [("node".to_owned(), member.name.to_string()), ("host".to_owned(), member.name.to_string())].into(),
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let credentials = member.credentials();
    Some(Registration {
        version: 1,
        name: member.name.to_string(),
        address: member.address,
        link: *member.link.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        secured: credentials.shown.is_some(),
        authority: credentials.authority.is_some(),
        labels,
        cpu_millis: Some(machine.as_ref().and_then(|m| m.cpus).map_or(cores, u64::from) * 1000),
        memory_bytes: machine.and_then(|m| m.memory_bytes).or_else(memory_total),
        program: env!("CARGO_PKG_VERSION").into(),
        boot: clock::boot_id().to_owned(),
    })
}

async fn register(member: &Member, record: &Registration, held: &Leadership) -> Result<(), Error> {
    let txn = Txn::when([held.guard()]).then([put(NODE, &member.name.0, record)?]);
    match member.store.txn(txn).await?.succeeded {
        true => Ok(()),
        false => Err(Error::Unavailable { reason: "this machine's lease is gone".into() }),
    }
}

fn memory_total() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse::<u64>();
    kib.ok().map(|kib| kib * 1024)
}

/// Somebody else is alive under this name.
async fn notice_namesake(member: &Member) {
    let Ok(Some(kv)) = member.store.get(format!("{ALIVE}{}", member.name)).await else { return };
    let holder = serde_json::from_slice::<Holder>(&kv.value).map(|h| h.node).unwrap_or_default();
    if holder != format!("{}/{}", member.name, member.identity) {
        let trouble = format!("another agent is a member as `{}`: start one of them with another --node", member.name);
        tracing::error!(code = "HF0332", "{trouble}");
        member.set_trouble(Some(trouble));
    }
}
