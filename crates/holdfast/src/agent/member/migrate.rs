//! `cluster migrate`: a machine that was alone becomes the first of a cluster, and what it runs goes on.

use std::sync::Arc;

use holdfast_cluster::etcd::Etcd;
use holdfast_cluster::members::{ASSIGNED, Assigned, Assignment, put};
use holdfast_cluster::records::{self, Records};
use holdfast_cluster::{Guard, Op, Store, Txn, epoch};
use holdfast_config::Config;
use holdfast_host::clock;
use holdfast_policy::NodeId;
use holdfast_policy::lease::FencingToken;

use super::{ASSIGNED as KEPT, NAME, options};
use crate::agent::core::{Core, store_failure};
use crate::api::{Apply, Done};
use crate::failure::{Exit, Failure};

/// Stores everything that the agent's next life finds as a member. Order: shared first, because only the local file
/// decides whether this machine is alone, and a death in between leaves it so.
pub(crate) async fn run(core: &Arc<Core>, config: &Config, request: &Apply, name: &NodeId) -> Result<Done, Failure> {
    let refused = |what: String, hint: &str| Failure::new("HF0338", what).hint(hint.to_owned()).exit(Exit::Refused);
    let cluster = match (&core.member, &config.cluster) {
        (Some(_), _) => return Err(refused("this agent is a member already".into(), "holdfast node list")),
        (None, None) => {
            return Err(refused("the file has no [cluster]".into(), "add [cluster] etcd = […] to it, then again"));
        }
        (None, Some(cluster)) => cluster,
    };
    let etcd = Etcd::open(options(cluster)?).await.map_err(|e| store_failure(&e))?;
    let shared = Records::new(Arc::new(etcd.clone()));
    if shared.desired().await.map_err(|e| store_failure(&e))?.is_some() {
        let what = format!("cluster `{}` has a file already", cluster.name);
        return Err(refused(what, "to join it as it is: holdfast down, then up with that file"));
    }
    // Above everything that this machine has handed out, so that no token ever goes back.
    let known = FencingToken { epoch: core.epoch, create_revision: u64::MAX };
    let of = etcd.cluster_id().await.map_err(|e| store_failure(&e))?;
    epoch::settle(&etcd, Some(&epoch::name_of(of)), [known]).await.map_err(|e| store_failure(&e))?;
    let since_wall_ms = clock::wall_ms();
    let status = core.services.status();
    let ours = status.services.values().filter(|s| !s.internal && !s.removed).flat_map(|s| &s.instances);
    let instances = ours.map(|i| (i.id.to_string(), Assigned { since_wall_ms })).collect();
    let assignment = Assignment { version: 1, instances, ..Assignment::default() };
    let desired = records::Desired {
        version: 1,
        toml: request.text.clone(),
        source: request.path.clone(),
        node: name.to_string(),
        applied_wall_ms: since_wall_ms,
    };
    write(core, &etcd, &shared, &assignment, &desired, name).await.map_err(|e| store_failure(&e))?;
    core.audit("migrate", &cluster.name);
    Ok(Done {
        message: format!(
            "{name} is the first machine of cluster `{}`; start the others with the same file",
            cluster.name
        ),
    })
}

async fn write(
    core: &Core,
    etcd: &Etcd,
    shared: &Records,
    assignment: &Assignment,
    desired: &records::Desired,
    name: &NodeId,
) -> holdfast_cluster::Result<()> {
    let assigned = put(ASSIGNED, &name.0, assignment)?;
    let key = format!("{ASSIGNED}{name}");
    etcd.txn(Txn::when([Guard::absent(key)]).then([assigned])).await?;
    for (service, replicas) in core.records.scales().await? {
        shared.set_scale(&service, Some(replicas)).await?;
    }
    for pause in core.records.pauses().await? {
        shared.pause(&pause).await?;
    }
    // The file last: with it the cluster exists.
    shared.set_desired(desired, Some(0)).await?;
    let kept = serde_json::to_vec(assignment).unwrap_or_default();
    core.store.txn(Txn::always([Op::put(KEPT, kept), Op::put(NAME, name.to_string())])).await?;
    core.records.set_desired(desired, None).await.map(drop)
}
