//! What about etcd will hurt: asked of every member, without an agent.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use holdfast_cluster::etcd::{EndpointStatus, Etcd, MemberStatus, version_warnings};
use holdfast_config::Config;

use super::Finding;
use crate::agent::member;

const ID: &str = "etcd";
/// A read through the quorum of a cluster that is well takes a few milliseconds. etcd's own rule for its disk is 10 ms.
const READ_SLOW: Duration = Duration::from_millis(100);
const READS: u32 = 5;
/// etcd refuses writes above its quota (2 GiB unless set), and a person must compact it then.
const DATABASE_LARGE: u64 = 1536 << 20;

pub(super) async fn findings(config: &Config) -> Vec<Finding> {
    let Some(cluster) = &config.cluster else { return Vec::new() };
    let etcd = match member::options(cluster).map(Etcd::new) {
        Ok(Ok(etcd)) => etcd,
        Ok(Err(error)) => return vec![Finding::bad(ID, error.to_string(), error.hint().unwrap_or_default())],
        Err(failure) => return vec![Finding::bad(ID, failure.to_string(), failure.hint.unwrap_or_default())],
    };
    let statuses = etcd.status().await;
    let mut found: Vec<Finding> = statuses.iter().flat_map(of_member).collect();
    found.extend(of_all(&statuses));
    found.extend(speed(&etcd).await);
    if found.is_empty() {
        found.push(Finding::good(ID, format!("{} members are well", statuses.len())));
    }
    found
}

fn of_member(one: &EndpointStatus) -> Vec<Finding> {
    let member = match &one.status {
        Ok(member) => member,
        Err(reason) => {
            let fix = "start it, or take it out of [cluster] etcd when it is gone for good";
            return vec![Finding::bad(ID, format!("{} does not answer: {reason}", one.endpoint), fix)];
        }
    };
    let at = &one.endpoint;
    let mut found: Vec<Finding> = version_warnings(&member.version)
        .iter()
        .map(|w| Finding::warning(ID, format!("{at}: {w}"), "run a later version: 3.5.13 or 3.6 at least"))
        .collect();
    for alarm in &member.alarms {
        let fix = "compact and defragment it, then etcdctl alarm disarm";
        found.push(Finding::bad(ID, format!("{at} has the alarm {}", alarm.kind), fix));
    }
    found.extend(member.errors.iter().map(|error| Finding::bad(ID, format!("{at}: {error}"), "look at its log")));
    if member.db_bytes > DATABASE_LARGE {
        let mib = member.db_bytes >> 20;
        let fix = "etcdctl compact and defrag; set --auto-compaction-retention, which is off by default";
        found.push(Finding::warning(ID, format!("{at}: its database has {mib} MiB"), fix));
    }
    found
}

fn of_all(statuses: &[EndpointStatus]) -> Vec<Finding> {
    let answered: Vec<&MemberStatus> = statuses.iter().filter_map(|s| s.status.as_ref().ok()).collect();
    let mut found = Vec::new();
    let clusters: BTreeSet<u64> = answered.iter().map(|m| m.cluster_id).collect();
    if clusters.len() > 1 {
        found.push(Finding::bad(
            ID,
            "the endpoints are members of different etcd clusters",
            "name those of one cluster",
        ));
    }
    if !answered.is_empty() && answered.iter().all(|m| m.leader_id == 0) {
        found.push(Finding::bad(ID, "it has no leader: too few members reach each other", "start the others"));
    }
    match statuses.len() {
        1 => found.push(Finding::warning(
            ID,
            "one member: while it is away nothing is placed anew, and with its disk all of the cluster's state is lost",
            "three members on three machines",
        )),
        n if n.is_multiple_of(2) => found.push(Finding::warning(
            ID,
            format!("{n} members stand no more losses than {}, and more can be lost", n - 1),
            "an odd number of members",
        )),
        _ => {}
    }
    found
}

async fn speed(etcd: &Etcd) -> Option<Finding> {
    let mut worst = Duration::ZERO;
    for _ in 0..READS {
        let began = Instant::now();
        etcd.revision().await.ok()?;
        worst = worst.max(began.elapsed());
    }
    let fix = "a disk of its own (fsync under 10 ms), and no busy neighbours; see [cluster] lease";
    (worst > READ_SLOW).then(|| Finding::warning(ID, format!("a read took {} ms", worst.as_millis()), fix))
}
