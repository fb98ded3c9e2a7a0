//! The agent's end of `ctl.sock`.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::dir::Dir;
use super::protocol::{Body, FDS_MAX, Request, Told, VERSION};
use super::state::State;
use crate::seqpacket::AsyncConnection;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach the shim in {}: {source}", dir.display())]
    Connect { dir: PathBuf, source: io::Error },
    #[error("the shim in {} closed the connection", dir.display())]
    Closed { dir: PathBuf },
    #[error("the shim in {} did not answer {what} within {} ms", dir.display(), limit.as_millis())]
    Slow { dir: PathBuf, what: &'static str, limit: Duration },
    #[error("the shim refused {what}: {reason}")]
    Refused { what: &'static str, code: String, reason: String, incarnation: Option<String> },
    #[error("cannot send {what} to the shim in {}: {source}", dir.display())]
    Send { dir: PathBuf, what: &'static str, source: io::Error },
}

impl Error {
    pub fn code(&self) -> &str {
        match self {
            Error::Refused { code, .. } => code,
            _ => "HF0208",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Refused { .. } => None,
            _ => Some("the agent looks whether the shim is alive and takes over from there".into()),
        }
    }

    /// Another incarnation was meant: the decision was taken on old knowledge.
    pub fn is_stale(&self) -> bool {
        matches!(self, Error::Refused { code, .. } if code == "HF0209")
    }
}

/// What an accepted request brought.
#[derive(Debug, Default)]
pub struct Answer {
    /// The deadline in force, for `Deadline`.
    pub deadline_boot_ns: Option<u64>,
    /// Held descriptors by name, for `GiveFds`.
    pub fds: Vec<(String, OwnedFd)>,
}

type Waiting = Mutex<HashMap<u64, oneshot::Sender<Result<Answer, (String, String, Option<String>)>>>>;

/// A connection to one shim; cheap to clone. Requests may overlap. Closing the last clone closes the connection.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    states: watch::Receiver<Option<State>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    connection: Arc<AsyncConnection>,
    waiting: Arc<Waiting>,
    next_id: AtomicU64,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Client {
    /// Returns after the shim sent its first state.
    pub async fn connect(dir: &Path, limit: Duration) -> Result<Client, Error> {
        let dir = dir.to_owned();
        let failed = |source| Error::Connect { dir: dir.clone(), source };
        let connection = Arc::new(AsyncConnection::connect(&Dir::new(&dir).socket()).await.map_err(failed)?);
        let waiting: Arc<Waiting> = Arc::default();
        let (tell, mut states) = watch::channel(None);
        let reader = tokio::spawn(read(connection.clone(), waiting.clone(), tell));
        let shared = Arc::new(Shared { dir: dir.clone(), connection, waiting, next_id: AtomicU64::new(1), reader });
        match tokio::time::timeout(limit, states.wait_for(Option::is_some)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(Error::Closed { dir }),
            Err(_) => return Err(Error::Slow { dir, what: "hello", limit }),
        }
        Ok(Client { shared, states })
    }

    /// The newest state received.
    pub fn state(&self) -> State {
        self.states.borrow().clone().unwrap_or_default()
    }

    /// The next state after the one this clone saw last; `None` when the connection is closed. States in between may be
    /// skipped: the newest counts.
    pub async fn next_state(&mut self) -> Option<State> {
        self.states.changed().await.ok()?;
        self.states.borrow_and_update().clone()
    }

    /// Resolves when the shim is gone or closed the connection.
    pub async fn closed(&self) {
        let mut states = self.states.clone();
        while states.changed().await.is_ok() {}
    }

    pub fn is_closed(&self) -> bool {
        self.states.has_changed().is_err()
    }

    pub async fn request(&self, body: Body, limit: Duration) -> Result<Answer, Error> {
        self.request_with(body, &[], limit).await
    }

    /// Hands over descriptors to be held under the given names; returns after the shim has them.
    pub async fn hold_fds(&self, fds: &[(String, BorrowedFd<'_>)], limit: Duration) -> Result<(), Error> {
        for part in fds.chunks(FDS_MAX) {
            let names = part.iter().map(|(name, _)| name.clone()).collect();
            let raw: Vec<BorrowedFd<'_>> = part.iter().map(|(_, fd)| fd.as_fd()).collect();
            self.request_with(Body::HoldFds { names }, &raw, limit).await?;
        }
        Ok(())
    }

    pub async fn give_fds(&self, limit: Duration) -> Result<Vec<(String, OwnedFd)>, Error> {
        self.request(Body::GiveFds {}, limit).await.map(|answer| answer.fds)
    }

    async fn request_with(&self, body: Body, fds: &[BorrowedFd<'_>], limit: Duration) -> Result<Answer, Error> {
        let shared = &self.shared;
        let (dir, what) = (|| shared.dir.clone(), body.name());
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        lock(&shared.waiting).insert(id, tell);
        let forget = Forget { waiting: &shared.waiting, id };
        let request = Request { version: VERSION, id, body };
        let exchange = async {
            shared.connection.send_json(&request, fds).await.map_err(|source| Error::Send {
                dir: dir(),
                what,
                source,
            })?;
            told.await.map_err(|_| Error::Closed { dir: dir() })
        };
        // The reader is gone: nobody would ever answer.
        if self.is_closed() {
            return Err(Error::Closed { dir: dir() });
        }
        let answer = match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer?,
            Err(_) => return Err(Error::Slow { dir: dir(), what, limit }),
        };
        drop(forget);
        answer.map_err(|(code, reason, incarnation)| Error::Refused { what, code, reason, incarnation })
    }
}

/// Removes a waiting entry when its request is given up.
struct Forget<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn read(connection: Arc<AsyncConnection>, waiting: Arc<Waiting>, states: watch::Sender<Option<State>>) {
    while let Ok(Some((bytes, fds))) = connection.recv().await {
        let Ok(told) = serde_json::from_slice::<Told>(&bytes) else { continue };
        let answer = |id: u64, result| {
            if let Some(tell) = lock(&waiting).remove(&id) {
                let _ = tell.send(result);
            }
        };
        match told {
            Told::State(state) => {
                states.send_replace(Some(*state));
            }
            Told::Ack { id, deadline_boot_ns, names } => {
                answer(id, Ok(Answer { deadline_boot_ns, fds: names.into_iter().zip(fds).collect() }));
            }
            Told::Refused { id, code, reason, incarnation } => answer(id, Err((code, reason, incarnation))),
            Told::Unknown => {}
        }
    }
    lock(&waiting).clear();
}
