//! What is different when this machine is one of several.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use holdfast_cluster::records;
use holdfast_config::{Config, Environment};
use tokio::sync::watch;

use super::{Core, InForce, member, parse};
use crate::api::{CanLose, Desired, Done, KeyWish, NodeChange, NodeWish, RenewWish, Token, TokenWish};
use crate::failure::{Exit, Failure};

/// The store of a cluster that is well answers within milliseconds; a new agent's first look may still be under way.
const STORE_TIME: Duration = Duration::from_secs(5);

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
        let sockets = self.planes.open_sockets(&self.local(&config))?;
        if let Some(member) = self.member.as_ref().filter(|_| self.in_force().is_none()) {
            // Nothing is unwanted before it is known what is wanted here.
            let kept = member.kept_placement(&config).await;
            self.services.place(Some(kept)).await.map_err(|e| super::services_failure(&e))?;
        }
        self.put_in_force(config, desired, sockets, None).await
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
