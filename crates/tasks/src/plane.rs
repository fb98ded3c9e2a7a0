//! The process `holdfast tasks`: one store, one desk, the face of SQS on a socket that its shim keeps, and its own API.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_host::inherit;
use holdfast_sqs::Face;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::control;
use crate::definition::{Database, Definition, Secret};
use crate::desk::Desk;
use crate::drill::Drills;
use crate::error::{Error, Result};
use crate::flow::{self, Flows};
use crate::postgres::{self, Postgres};
use crate::queue::Spec;
use crate::server;
use crate::sqlite::Sqlite;
use crate::store::Store;
use crate::work::{Ground, Workers};

/// The agent restarts a plane that is silent for two of its seconds.
const WATCHDOG_EVERY: Duration = Duration::from_millis(250);
/// A store that failed is noticed within it; a new process opens the file anew.
const FAILURE_LOOK: Duration = Duration::from_millis(100);
/// Requests that go on when the plane is told to end.
const DRAIN_MAX: Duration = Duration::from_secs(20);

const MEMORY_BYTES: u64 = 256 << 20;

#[derive(Debug)]
pub struct Options {
    /// Of this instance: definition, control socket.
    pub dir: PathBuf,
    /// `tasks.db` in the data directory.
    pub file: PathBuf,
    /// Holdfast itself, which is the shim of programs that workers run.
    pub exe: PathBuf,
    /// Of those programs: `work` in the data directory.
    pub work: PathBuf,
    /// Of what steps give and print: `flow` in the data directory.
    pub flow: PathBuf,
    /// Besides those of LISTEN_FDS.
    pub listeners: Vec<TcpListener>,
}

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Plane {
    pub(crate) desk: Desk,
    dir: Arc<PathBuf>,
    in_force: watch::Sender<Arc<Definition>>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) flows: Flows,
    pub(crate) drills: Drills,
    /// Made anew when keys change.
    face: watch::Sender<Arc<Face<Desk>>>,
    /// One definition is taken up after the other.
    applying: Arc<tokio::sync::Mutex<()>>,
}

/// Runs until SIGTERM or SIGINT; an error when the store cannot be opened or fails.
pub fn run(options: Options) -> Result<()> {
    for dir in [&options.dir, &options.work, &options.flow] {
        holdfast_host::files::create_dir(dir)
            .map_err(|e| Error::System { what: format!("make {}", dir.display()), source: std::io::Error::other(e) })?;
    }
    let definition = Definition::load(&options.dir)?.unwrap_or_default();
    let memory = if definition.memory_bytes > 0 { definition.memory_bytes } else { MEMORY_BYTES };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("tasks")
        .build()
        .map_err(|source| Error::System { what: "start the runtime".into(), source })?;
    let store: Arc<dyn Store> = match &definition.database {
        None => Arc::new(Sqlite::open(&options.file, memory)?),
        Some(database) => Arc::new(runtime.block_on(open(database, &options.file))?),
    };
    let ended = runtime.block_on(serve(options, definition, store.clone()));
    runtime.shutdown_timeout(Duration::from_secs(1));
    store.close();
    ended
}

/// `file` is where the queues would be without a database; who this plane is stands beside it.
async fn open(database: &Database, file: &Path) -> Result<Postgres> {
    let password = database.password.as_ref().map(Secret::read).transpose()?;
    let plane = identity(&file.with_extension("plane"))?;
    let place = postgres::Place {
        url: &database.url,
        password: password.as_deref().map(str::as_bytes),
        ca: database.ca.as_deref(),
        schema: &database.schema,
        plane: &plane,
    };
    Postgres::open(place).await
}

/// Drawn once for each data directory: programs that this plane began are under it, whatever machine or name it has.
fn identity(path: &Path) -> Result<String> {
    let failed = |source| Error::System { what: format!("use {}", path.display()), source };
    match std::fs::read_to_string(path) {
        Ok(known) if !known.trim().is_empty() => return Ok(known.trim().to_owned()),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let fresh = crate::queue::entry::random()?.to_string();
    let write = holdfast_host::files::write_atomic(path, fresh.as_bytes());
    write.map_err(|e| failed(std::io::Error::other(e)))?;
    Ok(fresh)
}

async fn serve(options: Options, definition: Definition, store: Arc<dyn Store>) -> Result<()> {
    let listeners = listeners(options.listeners, &definition)?;
    let desk = Desk::open(store);
    let closing = watch::Sender::new(false);
    let in_force = watch::Sender::new(Arc::default());
    let (exe, work) = (Arc::new(options.exe), Arc::new(options.work));
    let workers = Workers::start(Ground {
        desk: desk.clone(),
        exe: exe.clone(),
        root: work.clone(),
        definition: in_force.subscribe(),
        closing: closing.subscribe(),
    });
    let ground = flow::Ground {
        desk: desk.clone(),
        exe,
        work,
        files: options.flow,
        definition: in_force.subscribe(),
        closing: closing.subscribe(),
    };
    let plane = Plane::start(desk, options.dir, in_force, workers, definition, ground).await?;
    let api = control::bind(&plane.dir)?;
    let servers: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(server::serve(listener, plane.face.subscribe(), closing.subscribe())))
        .collect();
    let routes = control::router(plane.clone());
    if plane.desk.store.is_shared() {
        tokio::spawn(control::flow::take_requests(plane.clone(), routes.clone(), closing.subscribe()));
    }
    tokio::spawn(async move {
        if let Err(error) = axum::serve(api, routes).await {
            tracing::error!(%error, "the plane's own API ended");
        }
    });
    notify("READY=1");
    let ended = plane.until_the_end().await;
    plane.flows.give_up_lead().await;
    plane.desk.close();
    closing.send_replace(true);
    let drained = tokio::time::timeout(DRAIN_MAX, async {
        for server in servers {
            drop(server.await);
        }
    });
    if ended.is_ok() && drained.await.is_err() {
        tracing::warn!("requests were still being answered after {} s", DRAIN_MAX.as_secs());
    }
    ended
}

/// From the shim, which keeps them for the next process; a plane started by hand binds its own.
fn listeners(mut all: Vec<TcpListener>, definition: &Definition) -> Result<Vec<TcpListener>> {
    all.extend(inherit::listeners().map_err(|source| Error::System { what: "take over LISTEN_FDS".into(), source })?);
    if let (true, Some(addr)) = (all.is_empty(), definition.listen) {
        let listener =
            TcpListener::bind(addr).map_err(|source| Error::System { what: format!("listen on {addr}"), source })?;
        listener.set_nonblocking(true).map_err(|source| Error::System { what: format!("listen on {addr}"), source })?;
        all.push(listener);
    }
    Ok(all)
}

fn notify(state: &str) {
    if let Err(error) = inherit::notify(state) {
        tracing::debug!(%error, state, "nobody was told");
    }
}

impl Plane {
    /// Goes on with what an earlier process of this directory was told.
    async fn start(
        desk: Desk,
        dir: PathBuf,
        in_force: watch::Sender<Arc<Definition>>,
        workers: Arc<Workers>,
        definition: Definition,
        ground: flow::Ground,
    ) -> Result<Plane> {
        let face = Arc::new(face(&desk, &definition)?);
        let dir = Arc::new(dir);
        let drills = Drills { desk: desk.clone(), workers: workers.clone(), exe: ground.exe.clone(), dir: dir.clone() };
        let plane = Plane {
            desk,
            dir,
            in_force,
            drills,
            workers,
            flows: Flows::new(ground),
            face: watch::Sender::new(face),
            applying: Arc::default(),
        };
        match plane.take_up(&definition).await {
            Err(Error::Store(error)) => return Err(Error::Store(error)),
            // One queue that cannot be as the file says must not take the others away.
            Err(error) => tracing::error!(code = error.code(), %error, "what was applied is not all in force"),
            Ok(()) => {}
        }
        if let Err(error) = plane.drills.take_over().await {
            tracing::warn!(%error, "what drills have left is not looked for");
        }
        // After the definition: its pools tell how many slots there are.
        plane.flows.begin();
        Ok(plane)
    }

    /// Makes everything as `definition` says; nothing of it is in force when it fails.
    pub(crate) async fn apply(&self, definition: Definition) -> Result<()> {
        let _one = self.applying.lock().await;
        if **self.in_force.borrow() == definition {
            return Ok(());
        }
        // Secrets that cannot be read refuse the definition before anything changed.
        face(&self.desk, &definition)?;
        flow::check(&definition)?;
        definition.save(&self.dir)?;
        self.take_up(&definition).await
    }

    pub(crate) fn definition(&self) -> Arc<Definition> {
        self.in_force.borrow().clone()
    }

    async fn take_up(&self, definition: &Definition) -> Result<()> {
        // First without their dead letters, so that no order of names matters.
        for with_dead_letters in [false, true] {
            for (name, declared) in &definition.queues {
                let mut spec = Spec { declared: true, ..declared.spec.clone() };
                let known = self.desk.store.get(name).await.ok().and_then(|queue| queue.spec.dead_letter);
                if !with_dead_letters {
                    spec.dead_letter = known;
                }
                self.desk.store.declare(name, spec, declared.tags.clone()).await?;
            }
        }
        for queue in self.desk.store.list("", None, crate::queue::QUEUES_MAX).await? {
            if queue.spec.declared && !definition.queues.contains_key(&queue.name) {
                let free = |spec: &mut Spec| {
                    spec.declared = false;
                    Ok(())
                };
                self.desk.store.change(&queue.name, Box::new(free)).await?;
            }
        }
        self.face.send_replace(Arc::new(face(&self.desk, definition)?));
        self.in_force.send_replace(Arc::new(definition.clone()));
        Ok(())
    }

    /// Until somebody asks it to end, or the store cannot go on.
    async fn until_the_end(&self) -> Result<()> {
        let failed = |source| Error::System { what: "wait for signals".into(), source };
        let mut term = signal(SignalKind::terminate()).map_err(failed)?;
        let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut watchdog = tokio::time::interval(WATCHDOG_EVERY);
        let mut look = tokio::time::interval(FAILURE_LOOK);
        loop {
            tokio::select! {
                _ = term.recv() => return Ok(()),
                _ = int.recv() => return Ok(()),
                () = self.flows.until_lost() => return Err(Error::Database {
                    what: "lead the runs".into(),
                    reason: "another plane leads them; this one begins anew".into(),
                }),
                _ = watchdog.tick() => notify("WATCHDOG=1"),
                _ = look.tick() => if let Some(reason) = self.desk.store.failure() {
                    return Err(Error::System { what: "write the store".into(), source: std::io::Error::other(reason) });
                },
            }
        }
    }
}

fn face(desk: &Desk, definition: &Definition) -> Result<Face<Desk>> {
    Ok(Face::new(Arc::new(desk.clone()), crate::face::options(definition)?))
}
