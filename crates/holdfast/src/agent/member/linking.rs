//! Agents look at each other directly: the second source before anybody is called lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::Txn;
use holdfast_cluster::members::{LINKS, Links, put};
use holdfast_host::clock;
use holdfast_policy::Timestamp;
use holdfast_policy::vip::Answer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::{Member, carriers};
use crate::agent::core::Core;

/// Each machine looks at each other this often.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// An agent answers from memory; a starved machine may need this long.
const ANSWER: Duration = Duration::from_millis(450);
/// Others that may ask at the same time.
const ASKERS: usize = 256;
/// Longest question or answer.
const LINE_BYTES_MAX: usize = 128;
const HELLO: &str = "holdfast-link 1";
const BIND_AGAIN: Duration = Duration::from_secs(1);

/// How another machine answered at its last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) link: Link,
    pub(crate) at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Answers,
    Silent,
    Refused,
}

pub(super) fn start(member: &Arc<Member>, core: &Arc<Core>) {
    tokio::spawn(answer(member.clone(), core.clone()));
    tokio::spawn(ask(member.clone()));
    tokio::spawn(tell(member.clone()));
}

async fn answer(member: Arc<Member>, core: Arc<Core>) {
    let listener = loop {
        match TcpListener::bind(SocketAddr::new(member.address, 0)).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(address = %member.address, %error, "cannot listen for other agents yet");
                tokio::time::sleep(BIND_AGAIN).await;
            }
        }
    };
    *member.link.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = listener.local_addr().ok();
    let places = Arc::new(Semaphore::new(ASKERS));
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(BIND_AGAIN).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (name, core) = (member.name.to_string(), core.clone());
        tokio::spawn(async move {
            let _place = place;
            let greeted = tokio::time::timeout(ANSWER, async {
                let line = read_line(&mut stream).await?;
                let more = line.strip_prefix(HELLO)?;
                // About itself, or about a virtual address.
                let told = match more.strip_prefix(" vip ") {
                    Some(address) => format!(" {}", carriers::word(core.vips.asked(address.parse().ok()?))),
                    None if more.is_empty() => String::new(),
                    None => return None,
                };
                stream.write_all(format!("{HELLO} {name}{told}\n").as_bytes()).await.ok()
            });
            let _ = greeted.await;
        });
    }
}

async fn read_line(stream: &mut TcpStream) -> Option<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await.ok()? {
            b'\n' => return String::from_utf8(line).ok(),
            byte if line.len() < LINE_BYTES_MAX => line.push(byte),
            _ => return None,
        }
    }
}

async fn ask(member: Arc<Member>) {
    loop {
        let began = clock::now();
        let others: BTreeMap<String, SocketAddr> = {
            let seen = member.seen();
            let others = seen.view.nodes.values().filter(|n| n.name != *member.name.0);
            others.filter_map(|n| Some((n.name.clone(), n.link?))).collect()
        };
        let mut looks = tokio::task::JoinSet::new();
        for (name, addr) in others {
            looks.spawn(async move {
                let link = look(addr, &name).await;
                (name, Heard { link, at: clock::now() })
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

/// What the machine `name` says of a virtual address; `None` when it does not answer.
pub(super) async fn ask_about(addr: SocketAddr, name: &str, address: IpAddr) -> Option<Answer> {
    let asked = tokio::time::timeout(ANSWER, async {
        let mut stream = TcpStream::connect(addr).await.ok()?;
        stream.write_all(format!("{HELLO} vip {address}\n").as_bytes()).await.ok()?;
        read_line(&mut stream).await
    });
    let line = asked.await.ok()??;
    carriers::answer(line.strip_prefix(&format!("{HELLO} {name} "))?)
}

async fn look(addr: SocketAddr, name: &str) -> Link {
    let asked = tokio::time::timeout(ANSWER, async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(format!("{HELLO}\n").as_bytes()).await?;
        Ok::<_, std::io::Error>(read_line(&mut stream).await)
    });
    match asked.await {
        Ok(Ok(Some(line))) if line == format!("{HELLO} {name}") => Link::Answers,
        // Somebody else has its port.
        Ok(Ok(Some(_))) => Link::Refused,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Link::Refused,
        Ok(Ok(None) | Err(_)) | Err(_) => Link::Silent,
    }
}

/// What this machine hears is evidence for the leader; written when it changes.
async fn tell(member: Arc<Member>) {
    let mut heard = member.watch_heard();
    let mut told: Option<Links> = None;
    loop {
        let now = links(&heard.borrow_and_update());
        if told.as_ref() != Some(&now)
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
    Links { version: 1, silent: of(Link::Silent), refused: of(Link::Refused), answers: of(Link::Answers) }
}
