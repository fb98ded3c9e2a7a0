//! `reboot --rolling`: which machine next, asked step by step by the command that reboots them.

use holdfast_host::clock;
use holdfast_policy::membership::Hold;
use holdfast_policy::placement::{Cluster, Planner};
use holdfast_policy::rolling::{self, Current, Next, Progress};

use super::Member;
use super::leading::town;
use crate::agent::core::{Core, nothing_applied};
use crate::api::{Rolling, RollingNext};
use crate::failure::Failure;

impl Member {
    pub(crate) async fn rolling(&self, asked: &Rolling, core: &Core) -> Result<RollingNext, Failure> {
        let seen = self.seen();
        let in_force = core.in_force().ok_or_else(nothing_applied)?;
        let config = core.scaled(&in_force.config);
        let now = clock::now();
        let nodes = town::nodes_as_seen(self, &seen);
        let services: Vec<_> = config.services.values().map(town::service).collect();
        let assigned = town::assigned(now, &seen.view);
        let hold = match seen.fresh {
            true => Hold::No,
            false => Hold::Brake { why: "etcd does not answer this machine, so nobody knows how things are".into() },
        };
        let cluster = Cluster { nodes: &nodes, services: &services, assigned: &assigned, hold };
        let plan = Planner::default().plan(now, &cluster);
        let boot = |node: &str| seen.view.nodes.get(node).map(|n| n.boot.clone()).unwrap_or_default();
        let progress = Progress {
            nodes: asked.nodes.iter().map(|n| n.as_str().into()).collect(),
            done: asked.done.iter().map(|n| n.as_str().into()).collect(),
            current: asked.current.as_ref().map(|current| Current {
                node: current.node.as_str().into(),
                since: now - std::time::Duration::from_millis(current.since_ms),
                rebooted: self.standing(&current.node) == "ready" && boot(&current.node) != current.boot,
            }),
            leader: seen.view.leader.as_ref().map(|leader| leader.node.as_str().into()),
        };
        Ok(match rolling::next(now, &cluster, &plan, &self.store_members().await, &progress) {
            Next::Reboot(node) => {
                let address = seen.view.nodes.get(&*node.0).map(|n| n.address.to_string()).unwrap_or_default();
                RollingNext::Reboot { boot: boot(&node.0), node: node.to_string(), address }
            }
            Next::Wait { why, .. } => RollingNext::Wait { why },
            Next::Completed(node) => RollingNext::Completed { node: node.to_string() },
            Next::Stop { why } => RollingNext::Stop { why },
            Next::Done => RollingNext::Done,
        })
    }
}
