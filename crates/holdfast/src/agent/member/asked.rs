//! What people ask of the cluster through any machine.

use holdfast_cluster::members::{ADMIN, Admin, put};
use holdfast_cluster::records::Desired;
use holdfast_cluster::{Error, Guard, Op, Txn};
use holdfast_host::clock;
use holdfast_policy::membership::Hold;
use holdfast_policy::placement::{Cluster, Loss, StoreMember, can_lose};

use super::Member;
use super::leading::town;
use crate::agent::core::{Core, store_failure};
use crate::api::{CanLose, Done, NodeChange, NodeWish};
use crate::failure::{Exit, Failure};

impl Member {
    pub(crate) async fn change_node(&self, change: &NodeChange) -> Result<Done, Failure> {
        let name = &change.name;
        self.known(name)?;
        let admin = Admin {
            version: 1,
            cordoned: change.wish == NodeWish::Cordon,
            draining: change.wish == NodeWish::Drain,
            removing: change.wish == NodeWish::Remove,
            reason: change.reason.clone(),
            by: change.who.clone(),
            since_wall_ms: clock::wall_ms(),
        };
        let op = match change.wish {
            NodeWish::Uncordon => Op::delete(format!("{ADMIN}{name}")),
            _ => put(ADMIN, name, &admin).map_err(|e| store_failure(&e))?,
        };
        let txn = Txn::when([Guard::present(format!("{}{name}", holdfast_cluster::members::NODE))]).then([op]);
        let outcome = self.store.txn(txn).await.map_err(|e| store_failure(&e))?;
        if !outcome.succeeded {
            return Err(unknown(name));
        }
        let message = match change.wish {
            NodeWish::Cordon => format!("{name} gets nothing new"),
            NodeWish::Uncordon => format!("{name} takes part again"),
            NodeWish::Drain => format!("{name} is being emptied; see holdfast node list"),
            NodeWish::Remove => format!("{name} is being emptied, and then forgotten; see holdfast node list"),
        };
        Ok(Done { message })
    }

    /// The same file, applied on another machine at the same time, is no conflict.
    pub(crate) async fn applied_by_another(&self, desired: &Desired, error: Error) -> Result<u64, Failure> {
        let stored = match error {
            Error::Changed { .. } => self.records.desired().await.map_err(|e| store_failure(&e))?,
            _ => None,
        };
        match stored {
            Some((stored, revision)) if (&stored.toml, &stored.source) == (&desired.toml, &desired.source) => {
                Ok(revision)
            }
            _ => Err(store_failure(&error)),
        }
    }

    pub(super) fn known(&self, name: &str) -> Result<(), Failure> {
        match self.seen().view.nodes.contains_key(name) {
            true => Ok(()),
            false => Err(unknown(name)),
        }
    }

    /// `what` is a machine, or `LABEL=VALUE` for all that share it.
    pub(crate) async fn can_lose(&self, what: &str, core: &Core) -> Result<CanLose, Failure> {
        let loss = match what.split_once('=') {
            Some((label, value)) => Loss::Domain(label.into(), value.into()),
            None => {
                self.known(what)?;
                Loss::Node(what.into())
            }
        };
        let seen = self.seen();
        let in_force = core.in_force().ok_or_else(crate::agent::core::nothing_applied)?;
        let config = core.scaled(&in_force.config);
        let nodes = town::nodes_as_seen(self, &seen);
        let services: Vec<_> = config.services.values().map(town::service).collect();
        let assigned = town::assigned(clock::now(), &seen.view);
        let cluster = Cluster { nodes: &nodes, services: &services, assigned: &assigned, hold: Hold::No };
        let mut blockers: Vec<String> = match can_lose(&cluster, &self.store_members().await, &loss) {
            Ok(()) => Vec::new(),
            Err(blockers) => blockers.iter().map(ToString::to_string).collect(),
        };
        if !seen.fresh {
            blockers.push("etcd does not answer this machine, so nobody knows how things are".into());
        }
        Ok(CanLose { blockers })
    }

    /// etcd's members as far as they run on machines of this cluster: told apart by address.
    pub(super) async fn store_members(&self) -> Vec<StoreMember> {
        let seen = self.seen();
        let statuses = self.etcd.status().await;
        let node_of = |endpoint: &str| {
            let host = endpoint.split_once("://")?.1.rsplit_once(':')?.0.trim_matches(['[', ']']);
            seen.view.nodes.values().find(|n| n.address.to_string() == host).map(|n| n.name.clone())
        };
        let one = |status: holdfast_cluster::etcd::EndpointStatus| StoreMember {
            // Elsewhere counts as a machine that cannot be lost with any of these.
            node: node_of(&status.endpoint).unwrap_or(status.endpoint.clone()).as_str().into(),
            healthy: status.status.is_ok(),
        };
        statuses.into_iter().map(one).collect()
    }
}

fn unknown(name: &str) -> Failure {
    Failure::new("HF0334", format!("no machine `{name}` is or was a member"))
        .hint("holdfast node list")
        .exit(Exit::Usage)
}

/// Of commands that only make sense with several machines.
pub(crate) fn alone() -> Failure {
    Failure::new("HF0335", "this machine is alone: the file has no [cluster]")
        .hint("docs/cluster.md shows how several machines become one system")
        .exit(Exit::Usage)
}
