//! What is different when this machine is one of several.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use holdfast_cluster::records;
use holdfast_config::{Config, Environment, Service};
use holdfast_policy::NodeId;
use holdfast_services::Internal;
use holdfast_services::supervisor::Placement;
use tokio::sync::watch;

use super::{Core, InForce, member, parse};
use crate::agent::sockets::Sockets;
use crate::api::{
    Apply, CanLose, Desired, Done, KeyWish, NodeChange, NodeWish, RenewWish, Rolling, RollingNext, Token, TokenWish,
};
use crate::failure::{Exit, Failure};

/// The store of a cluster that is well answers within milliseconds; a new agent's first look may still be under way.
const STORE_TIME: Duration = Duration::from_secs(5);

/// An answer on the Unix socket is with its reader by then.
const ANSWER_FIRST: Duration = Duration::from_millis(200);

impl Core {
    pub(crate) fn environment(&self) -> Environment {
        self.member.as_ref().map_or_else(Environment::here, |member| member.environment())
    }

    /// The file without the balancers that listen on other machines.
    pub(super) fn local(&self, config: &Config) -> Config {
        let mut local = config.clone();
        if let Some(member) = &self.member {
            let labels = member.labels(config);
            local.balancers.retain(|_, balancer| member::fits(&labels, &balancer.on));
            local.tasks =
                local.tasks.filter(|tasks| tasks.postgres.is_some() || tasks.node.as_deref() == Some(&*self.node.0));
        }
        local
    }

    /// The file with the numbers of replicas that people have set since.
    pub(crate) fn scaled(&self, config: &Config) -> Config {
        let mut scaled = config.clone();
        if let Some(member) = &self.member {
            for (name, replicas) in &member.seen().view.scales {
                if let Some(service) = scaled.services.get_mut(name) {
                    service.replicas = *replicas;
                }
            }
        }
        scaled
    }

    pub(crate) fn watch_in_force(&self) -> watch::Receiver<Option<Arc<InForce>>> {
        self.in_force.subscribe()
    }

    pub(crate) fn remotes_changed(&self) {
        self.remotes.send_modify(|n| *n += 1);
    }

    pub(crate) fn watch_remotes(&self) -> watch::Receiver<u64> {
        self.remotes.subscribe()
    }

    pub(crate) fn set_held(&self, held: BTreeMap<String, String>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    pub(crate) fn held(&self) -> BTreeMap<String, String> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was applied last, on whichever machine.
    pub(super) fn stored(&self, in_force: Option<&InForce>) -> Option<Desired> {
        match &self.member {
            None => in_force.map(|f| f.desired.clone()),
            Some(member) => member.seen().view.desired.as_ref().map(|(desired, revision)| Desired {
                path: desired.source.clone(),
                text: desired.toml.clone(),
                revision: *revision,
            }),
        }
    }

    /// A file is applied for all machines or not at all.
    pub(super) async fn know_the_cluster(&self) -> Result<(), Failure> {
        let Some(member) = &self.member else { return Ok(()) };
        let mut seen = member.watch_seen();
        match tokio::time::timeout(STORE_TIME, seen.wait_for(|seen| seen.fresh)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::new("HF0410", "etcd does not answer, so nothing can be applied; what runs goes on")
                .because(member.trouble().unwrap_or_else(|| "no answer".into()))
                .hint("is it running, and does this machine reach it? holdfast doctor")
                .exit(Exit::Refused)),
        }
    }

    /// Puts a file in force that was stored already.
    pub(super) async fn take_up(self: &Arc<Self>, desired: Desired) -> Result<(), Failure> {
        let config = parse(&desired.text, &desired.path, &self.environment())?;
        let local = self.local(&config);
        let sockets = self.planes.open_sockets(&local)?;
        let tasks = self.tasks.open_socket(&local)?;
        self.place_first(&config).await?;
        self.put_in_force(config, desired, (sockets, tasks), None).await
    }

    /// Of a cluster's first file this machine runs what it was told to before, which may be nothing, and not all of it.
    pub(super) async fn place_first(&self, config: &Config) -> Result<(), Failure> {
        let Some(member) = self.member.as_ref().filter(|_| self.in_force().is_none()) else { return Ok(()) };
        let kept = member.kept_placement(config).await;
        self.services.place(Some(kept)).await.map_err(|e| super::services_failure(&e))
    }

    /// Goes by what was applied on any machine. False when it cannot, which `status` then says.
    pub(crate) async fn follow(self: &Arc<Self>, desired: &records::Desired, revision: u64) -> bool {
        let _one = self.changing.lock().await;
        if *self.ending.borrow() {
            return true;
        }
        let wanted = Desired { path: desired.source.clone(), text: desired.toml.clone(), revision };
        let followed = self.take_up(wanted).await;
        if followed.is_ok() {
            self.keep(desired).await;
        }
        if let Err(failure) = &followed {
            tracing::error!(code = failure.code, "cannot go by revision {revision}, and tries again: {failure}");
        }
        let good = followed.is_ok();
        *self.resume_trouble.lock().unwrap_or_else(PoisonError::into_inner) = followed.err();
        good
    }

    /// For a start while the shared store is away.
    pub(super) async fn keep(&self, desired: &records::Desired) {
        if let Err(error) = self.records.set_desired(desired, None).await {
            tracing::warn!(%error, "what was applied is not kept here: a restart needs the shared store");
        }
    }

    /// An instance or service of any machine.
    pub(crate) fn known_anywhere(&self, name: &str) -> Result<(), Failure> {
        let in_force = self.in_force().ok_or_else(super::nothing_applied)?;
        let service = name.parse::<holdfast_policy::InstanceId>().map_or(name.to_owned(), |id| id.service.to_string());
        match in_force.config.services.contains_key(&service) {
            true => Ok(()),
            false => Err(super::no_such(name)),
        }
    }

    pub(crate) async fn change_node(&self, change: &NodeChange) -> Result<Done, Failure> {
        let done = self.member.as_ref().ok_or_else(member::alone)?.change_node(change).await?;
        let what = match change.wish {
            NodeWish::Cordon => "cordon",
            NodeWish::Uncordon => "uncordon",
            NodeWish::Drain => "drain",
            NodeWish::Remove => "remove",
        };
        self.audit(what, &change.name);
        Ok(done)
    }

    pub(crate) async fn join_token(&self, wish: &TokenWish) -> Result<Token, Failure> {
        let token = self.member.as_ref().ok_or_else(member::alone)?.join_token(wish).await?;
        self.audit("token", wish.node.as_deref().unwrap_or("any machine"));
        Ok(token)
    }

    pub(crate) async fn change_key(&self, wish: &KeyWish) -> Result<Done, Failure> {
        let done = self.member.as_ref().ok_or_else(member::alone)?.change_key(wish).await?;
        self.audit(if wish.role.is_some() { "add-key" } else { "remove-key" }, &wish.name);
        Ok(done)
    }

    pub(crate) async fn renew(&self, wish: &RenewWish) -> Result<Done, Failure> {
        let member = self.member.as_ref().ok_or_else(member::alone)?;
        let done = member.ask_renewal(wish).await?;
        self.audit("renew", wish.node.as_deref().unwrap_or(&member.name.0));
        Ok(done)
    }

    pub(crate) async fn can_lose(&self, what: &str) -> Result<CanLose, Failure> {
        self.member.as_ref().ok_or_else(member::alone)?.can_lose(what, self).await
    }

    pub(crate) async fn rolling(&self, asked: &Rolling) -> Result<RollingNext, Failure> {
        self.member.as_ref().ok_or_else(member::alone)?.rolling(asked, self).await
    }

    /// Answers, and then ends so that its shim starts it again as a member.
    pub(crate) async fn migrate(self: &Arc<Self>, request: &Apply, name: Option<&str>) -> Result<Done, Failure> {
        let _one = self.changing.lock().await;
        let config = parse(&request.text, &request.path, &self.environment())?;
        let name = name.map_or_else(|| self.node.clone(), NodeId::from);
        let done = member::migrate::run(self, &config, request, &name).await?;
        self.migrated.send_replace(true);
        Ok(done)
    }

    pub(crate) async fn migrated(&self) {
        let mut migrated = self.migrated.subscribe();
        if migrated.wait_for(|migrated| *migrated).await.is_err() {
            std::future::pending::<()>().await;
        }
        // The answer to whoever asked goes first.
        tokio::time::sleep(ANSWER_FIRST).await;
    }

    pub(super) fn own_etcd(&self) -> Option<Service> {
        self.own_etcd.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_own_etcd(&self, service: Service) {
        *self.own_etcd.lock().unwrap_or_else(PoisonError::into_inner) = Some(service);
    }

    /// What of holdfast itself runs on this machine.
    pub(super) fn parts(&self, local: &Config, sockets: &Sockets, tasks: Internal) -> Result<Vec<Internal>, Failure> {
        let listeners = sockets.iter().map(|(name, fd)| (name.clone(), fd.clone())).collect();
        let mut parts = vec![Internal::new(self.planes.service(local)?, listeners)];
        parts.extend(local.tasks.is_some().then_some(tasks));
        parts.extend(self.own_etcd().map(|service| Internal::new(service, Vec::new())));
        Ok(parts)
    }

    /// Starts it although nothing was applied yet, which needs it.
    pub(crate) async fn run_own_etcd(self: &Arc<Self>, config: &Config) -> Result<(), Failure> {
        let _one = self.changing.lock().await;
        let empty = Config { services: BTreeMap::new(), balancers: BTreeMap::new(), ..config.clone() };
        let (config, is_new) = match self.in_force() {
            Some(in_force) => (in_force.config.clone(), false),
            None => (Arc::new(empty), true),
        };
        if is_new {
            self.services.place(Some(Placement::new())).await.map_err(|e| super::services_failure(&e))?;
        }
        let local = self.local(&config);
        let parts = match is_new {
            true => self.own_etcd().map(|service| Internal::new(service, Vec::new())).into_iter().collect(),
            false => self.parts(&local, &self.planes.sockets(), self.tasks.open_socket(&local)?)?,
        };
        self.services.apply(&self.scaled(&config), parts).await.map_err(|e| super::services_failure(&e))
    }

    /// A file may not take a running agent into a cluster, out of it, or into another one.
    pub(super) fn refuse_other_cluster(&self, config: &Config) -> Result<(), Failure> {
        let refused = |what: &str, hint: &str| Err(Failure::new("HF0333", what).hint(hint).exit(Exit::Refused));
        match (&self.member, &config.cluster) {
            (None, Some(_)) => refused(
                "this agent keeps one machine, and the file has a [cluster]",
                "holdfast down, then up again: the agent joins when it starts",
            ),
            (Some(_), None) => refused(
                "this agent is a member of a cluster, and the file has no [cluster]",
                "holdfast node remove NAME takes a machine out; its own file then starts it alone",
            ),
            (Some(member), Some(cluster)) if member.cluster.name != cluster.name => refused(
                "the file names another cluster than the one that this agent is a member of",
                "holdfast down, then up again with that file",
            ),
            _ => Ok(()),
        }
    }
}
