//! Agents look at each other directly: the second source before anybody is called lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::Txn;
use holdfast_cluster::authority::Validity;
use holdfast_cluster::members::{LINKS, Links, put};
use holdfast_host::clock;
use holdfast_policy::Timestamp;
use tokio::net::TcpStream;

use super::link::{self, ANSWER, Credentials, Hello, Missed, look_plainly};
use super::{Member, carriers};
use crate::agent::core::Core;
use crate::failure::Failure;

/// Each machine looks at each other this often.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How another machine answered at its last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) link: Link,
    pub(crate) at: Timestamp,
    /// Why it is no answer.
    pub(crate) reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Answers,
    Silent,
    Refused,
    /// Somebody answers, and dates or missing certificates, its or ours, keep it from being proof. It speaks neither
    /// for the machine nor against it: certificates that run out must move nothing.
    Unproven,
}

type Look = (Link, Option<String>);

pub(super) fn start(member: &Arc<Member>, core: &Arc<Core>) {
    carriers::answer_others(member, core);
    link::start(member, core);
    tokio::spawn(ask(member.clone()));
    tokio::spawn(tell(member.clone()));
}

async fn ask(member: Arc<Member>) {
    loop {
        let began = clock::now();
        let others: BTreeMap<String, (SocketAddr, bool)> = {
            let seen = member.seen();
            let others = seen.view.nodes.values().filter(|n| n.name != *member.name.0);
            others.filter_map(|n| Some((n.name.clone(), (n.link?, n.secured)))).collect()
        };
        member.peers.forget_others(|name| others.contains_key(name));
        let mut looks = tokio::task::JoinSet::new();
        for (name, (addr, secured)) in others {
            let member = member.clone();
            looks.spawn(async move {
                let looked = tokio::time::timeout(ANSWER, look(&member, addr, &name, secured)).await;
                let (link, reason) = looked.unwrap_or((Link::Silent, None));
                (name, Heard { link, at: clock::now(), reason })
            });
        }
        let mut heard = BTreeMap::new();
        while let Some(look) = looks.join_next().await {
            heard.extend(look.ok());
        }
        member.heard.send_replace(Arc::new(heard));
        let spent = clock::now().since(began);
        tokio::time::sleep(LOOK_EVERY.saturating_sub(spent).max(Duration::from_millis(10))).await;
    }
}

async fn look(member: &Member, addr: SocketAddr, name: &str, secured: bool) -> Look {
    let credentials = member.credentials();
    match (credentials.validity(), secured) {
        (None, false) => match look_plainly(addr, name).await {
            Ok(Some(true)) => (Link::Answers, None),
            Ok(Some(false)) => (Link::Refused, Some("somebody else has its port".into())),
            Ok(None) => (Link::Silent, None),
            Err(error) => gone(&error),
        },
        (None, true) => is_there(addr, "this machine has no certificate: holdfast cluster join").await,
        (Some(_), false) => is_there(addr, "it has no certificate yet: holdfast cluster join").await,
        (Some(validity), true) => prove(member, &credentials, validity, addr, name).await,
    }
}

fn gone(error: &std::io::Error) -> Look {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => (Link::Refused, Some("no agent listens there".into())),
        _ => (Link::Silent, None),
    }
}

/// Nothing can be proved; that nobody is there can be seen all the same.
async fn is_there(addr: SocketAddr, reason: &str) -> Look {
    match TcpStream::connect(addr).await {
        Ok(_) => (Link::Unproven, Some(reason.to_owned())),
        Err(error) => gone(&error),
    }
}

async fn prove(member: &Member, credentials: &Credentials, validity: Validity, addr: SocketAddr, name: &str) -> Look {
    let answer = match member.peers.get(credentials, &member.cluster.name, name, addr, "/v1/hello").await {
        Ok(answer) => answer,
        Err(Missed::Silent) => return (Link::Silent, None),
        Err(Missed::Refused(why)) => return (Link::Refused, Some(why)),
    };
    if !answer.trusted {
        let reason = format!("its certificate has expired, or is not valid yet: holdfast cluster renew {name}");
        return (Link::Unproven, Some(reason));
    }
    if validity != Validity::Good {
        let reason = "this machine's own certificate has expired, or is not valid yet: holdfast cluster renew";
        return (Link::Unproven, Some(reason.into()));
    }
    match serde_json::from_slice::<Hello>(&answer.body) {
        Ok(hello) if answer.status.is_success() && hello.name == name => (Link::Answers, None),
        _ => match serde_json::from_slice::<Failure>(&answer.body) {
            // By its clock.
            Ok(failure) if failure.code == "HF0382" => (Link::Unproven, Some(failure.what)),
            _ => (Link::Refused, Some(format!("it answers {}", answer.status))),
        },
    }
}

/// What this machine hears is evidence for the leader; written when it changes.
async fn tell(member: Arc<Member>) {
    let mut heard = member.watch_heard();
    let mut told: Option<Links> = None;
    loop {
        let seen = member.seen();
        let now = Links { under: seen.view.under(&member.name.0), ..links(&heard.borrow_and_update()) };
        // A store that lost everything has lost this too.
        let stored = !seen.fresh || seen.view.links.contains_key(&*member.name.0);
        if (told.as_ref() != Some(&now) || !stored)
            && let Ok(op) = put(LINKS, &member.name.0, &now)
            && member.store.txn(Txn::always([op])).await.is_ok()
        {
            told = Some(now);
        }
        if heard.changed().await.is_err() {
            return;
        }
    }
}

fn links(heard: &BTreeMap<String, Heard>) -> Links {
    let of = |link: Link| -> BTreeSet<String> {
        heard.iter().filter(|(_, h)| h.link == link).map(|(name, _)| name.clone()).collect()
    };
    Links { version: 1, under: None, silent: of(Link::Silent), refused: of(Link::Refused), answers: of(Link::Answers) }
}
