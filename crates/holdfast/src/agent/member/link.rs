//! The link between agents: HTTP/1.1 over mutual TLS where the cluster has an authority, a bare greeting where not.

mod credentials;
mod gate;
mod joining;
mod peers;
mod plain;
mod renewing;
mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_cluster::members::Registration;
use serde::{Deserialize, Serialize};

use super::Member;
use crate::agent::core::Core;

pub(crate) use credentials::{Credentials, Keeper};
pub(crate) use joining::{Join, Joined, authority_failure};
pub(super) use peers::Missed;
pub(crate) use peers::Peers;

/// An agent answers from memory; a starved machine may need this long.
pub(super) const ANSWER: Duration = Duration::from_millis(450);

/// `GET /v1/hello`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) name: String,
    pub(super) boot: String,
    pub(super) program: String,
    /// It can sign certificates.
    #[serde(default)]
    pub(super) authority: bool,
}

/// A read-only question of another part of holdfast: argument to answer, at once and without waiting. Both are single words.
pub(crate) type Answerer = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

#[derive(Default)]
pub(crate) struct Questions {
    all: Mutex<BTreeMap<&'static str, Answerer>>,
}

impl Questions {
    fn answer(&self, question: &str, argument: &str) -> Option<String> {
        let answerer = self.all.lock().unwrap_or_else(PoisonError::into_inner).get(question).cloned()?;
        answerer(argument)
    }
}

pub(super) fn start(member: &Arc<Member>, core: &Arc<Core>) {
    tokio::spawn(server::run(member.clone(), core.clone()));
    tokio::spawn(renewing::run(member.clone(), core.clone()));
}

impl Member {
    /// From now on other machines may ask this one `question`.
    pub(crate) fn answer_question(&self, question: &'static str, answerer: Answerer) {
        self.questions.all.lock().unwrap_or_else(PoisonError::into_inner).insert(question, answerer);
    }

    /// What the machine `name` says; `None` when it does not answer, or is not proved to be that machine.
    pub(crate) async fn ask(&self, name: &str, question: &str, argument: &str) -> Option<String> {
        let (link, secured) = {
            let seen = self.seen();
            let node = seen.view.nodes.get(name)?;
            (node.link?, node.secured)
        };
        let credentials = self.credentials();
        let asked = async {
            match (&credentials.shown, secured) {
                (None, false) => plain::ask(link, name, question, argument).await,
                (Some(_), true) => {
                    let path = format!("/v1/ask/{question}/{argument}");
                    let answer = self.peers.get(&credentials, &self.cluster.name, name, link, &path).await.ok()?;
                    let text = String::from_utf8(answer.body.to_vec()).ok();
                    text.filter(|_| answer.status.is_success() && answer.trusted)
                }
                _ => None,
            }
        };
        tokio::time::timeout(ANSWER, asked).await.ok().flatten()
    }

    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.keeper.now()
    }

    /// Machines that sign certificates, and where.
    fn authorities(&self) -> Vec<(String, SocketAddr)> {
        let seen = self.seen();
        let keeps = |n: &&Arc<Registration>| n.authority && n.name != *self.name.0;
        seen.view.nodes.values().filter(keeps).filter_map(|n| Some((n.name.clone(), n.link?))).collect()
    }
}

pub(super) use plain::look as look_plainly;
