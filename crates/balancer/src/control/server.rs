//! The plane's side of the control socket, and the loop of its control thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use holdfast_host::seqpacket::{AsyncConnection, AsyncListener};
use holdfast_host::{listen, memfd};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::{Asked, Reply, Told, VERSION, What, socket_path};
use crate::error::Error;
use crate::plane::Plane;
use crate::snapshot::SIZE_BYTES_MAX;

/// Agent, drills, a status or two at the same time.
const CONNECTIONS_MAX: usize = 32;

/// Several of them within the second after which the agent becomes suspicious.
const WATCHDOG_EVERY: Duration = Duration::from_millis(250);

pub(crate) struct Server {
    listener: AsyncListener,
}

/// A request on its way to the control loop, which alone changes the plane.
struct Job {
    what: What,
    fds: Vec<OwnedFd>,
    done: oneshot::Sender<(Reply, Vec<OwnedFd>)>,
}

impl Server {
    pub(crate) fn bind(dir: &Path) -> Result<Server, Error> {
        let path = socket_path(dir);
        match AsyncListener::bind(&path) {
            Ok(listener) => Ok(Server { listener }),
            Err(source) => Err(Error::Control { operation: "listen on", path, source }),
        }
    }

    /// Until the plane has drained.
    pub(crate) async fn serve(self, plane: &mut Plane) -> Result<(), Error> {
        let wrap = |source| Error::Start { what: "the signal handlers", source };
        let mut terminate = signal(SignalKind::terminate()).map_err(wrap)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(wrap)?;
        let (jobs, mut todo) = mpsc::channel::<Job>(CONNECTIONS_MAX);
        let accepting = tokio::spawn(accept(self.listener, jobs));
        plane.resume().await;
        let mut watchdog = tokio::time::interval(WATCHDOG_EVERY);
        watchdog.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (process, deadline) = (plane.process(), plane.drain_until());
            let draining = plane.is_draining();
            tokio::select! {
                Some(job) = todo.recv() => answer(plane, job).await,
                _ = terminate.recv() => plane.begin_drain().await,
                _ = interrupt.recv() => plane.begin_drain().await,
                _ = watchdog.tick() => plane.say_alive().await,
                () = Plane::drained(process, deadline), if draining => break,
            }
        }
        accepting.abort();
        Ok(())
    }
}

async fn accept(listener: AsyncListener, jobs: mpsc::Sender<Job>) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok(connection) => {
                let jobs = jobs.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(&connection, &jobs).await {
                        tracing::debug!(%error, "control connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(connection: &AsyncConnection, jobs: &mpsc::Sender<Job>) -> io::Result<()> {
    while let Some((bytes, fds)) = connection.recv().await? {
        let asked: Asked = match serde_json::from_slice(&bytes) {
            Ok(asked) => asked,
            Err(error) => {
                // A request of a later release: say so under its id, so that the asker does not wait.
                let id = serde_json::from_slice::<serde_json::Value>(&bytes).ok().and_then(|v| v.get("id")?.as_u64());
                let reply = Reply::Refused { code: "HF0508".into(), because: format!("not understood: {error}") };
                connection.send_json(&Told { version: VERSION, id: id.unwrap_or(0), reply }, &[]).await?;
                continue;
            }
        };
        let (done, result) = oneshot::channel();
        let id = asked.id;
        if jobs.send(Job { what: asked.what, fds, done }).await.is_err() {
            return Ok(());
        }
        let Ok((reply, fds)) = result.await else { return Ok(()) };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        connection.send_json(&Told { version: VERSION, id, reply }, &fds).await?;
    }
    Ok(())
}

async fn answer(plane: &mut Plane, job: Job) {
    let result = perform(plane, job.what, job.fds).await;
    let reply = result.unwrap_or_else(|error| {
        tracing::warn!(%error, code = error.code(), "control request refused");
        (Reply::Refused { code: error.code().into(), because: error.to_string() }, Vec::new())
    });
    let _ = job.done.send(reply);
}

async fn perform(plane: &mut Plane, what: What, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>), Error> {
    let done = |()| (Reply::Done, Vec::new());
    match what {
        What::Snapshot => {
            let fd =
                fds.into_iter().next().ok_or(Error::SnapshotDamaged { because: "no memory came with it".into() })?;
            let bytes =
                memfd::read(fd, SIZE_BYTES_MAX).map_err(|e| Error::SnapshotDamaged { because: e.to_string() })?;
            plane.apply(&bytes).await.map(|applied| (Reply::Applied(applied), Vec::new()))
        }
        What::Listeners => {
            let wrap =
                |e: io::Error| Error::Listener { name: "from the control socket".into(), because: e.to_string() };
            let sockets = fds.into_iter().map(listen::from_fd).collect::<io::Result<Vec<_>>>().map_err(wrap)?;
            plane.add_listeners(sockets).await.map(done)
        }
        What::Fault(fault) => plane.set_fault(fault).await.map(done),
        What::ClearFault { id } => {
            plane.clear_fault(&id).await;
            Ok(done(()))
        }
        What::Stats => {
            let bytes = serde_json::to_vec(&plane.stats().await).expect("statistics have string keys only");
            let fd =
                memfd::create("holdfast-stats", &bytes).map_err(|source| Error::Start { what: "an answer", source })?;
            Ok((Reply::Done, vec![fd]))
        }
        What::Drain => {
            plane.begin_drain().await;
            Ok(done(()))
        }
        What::Ping => Ok(done(())),
    }
}
