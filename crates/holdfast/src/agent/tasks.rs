//! The plane of tasks as the agent sees it: whether it runs here, its socket, what it is told.

mod fallbacks;
mod workflows;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_config::{Autoscale, Command, Concurrency, Config, Input, Permission, Probe, Service, Stop, Value, Work};
use holdfast_host::listen;
use holdfast_policy::backoff::Backoff;
use holdfast_policy::time::millis;
use holdfast_policy::{InstanceId, restart};
use holdfast_services::supervisor::EndpointState;
use holdfast_services::{Endpoints, Internal};
use holdfast_tasks::control;
use holdfast_tasks::definition::{Database, Declared, Definition, EnvValue, How, Key, Program, Secret, Worker};
use holdfast_tasks::plane::{Options, run};
use holdfast_tasks::queue::{DeadLetter, Retry, Spec};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::sockets::{self, Sockets};
use crate::failure::{Exit, Failure};
use crate::layout::{Layout, TASKS};

/// A thousand messages of 1 MiB would be too much; what people look at is smaller.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// A plane answers from its file.
const ANSWER_TIME: Duration = Duration::from_secs(8);
/// A plane is started anew in less.
const CONNECT_TIME: Duration = Duration::from_secs(2);
const CONNECT_AGAIN: Duration = Duration::from_millis(20);
/// Between two tries to tell a plane that is not there yet.
const TELL_AGAIN: Duration = Duration::from_millis(100);
const TELL_AGAIN_MAX: Duration = Duration::from_secs(2);

pub(crate) struct Tasks {
    layout: Layout,
    sockets: Mutex<Sockets>,
    wanted: watch::Sender<Option<Definition>>,
}

impl Tasks {
    pub(crate) fn open(layout: &Layout) -> Arc<Tasks> {
        let tasks =
            Arc::new(Tasks { layout: layout.clone(), sockets: Mutex::default(), wanted: watch::Sender::new(None) });
        tasks.clone().keep_told();
        tasks
    }

    fn dir(&self) -> std::path::PathBuf {
        self.layout.run_dir(&instance().to_string())
    }

    /// After an agent's death the socket lives on in the shim of the plane.
    pub(crate) async fn recover_sockets(&self) {
        let found = sockets::recover(&[self.dir()]).await;
        *self.sockets.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    /// The plane as an internal service of this machine, with its socket; opens what nobody here holds yet. Nothing changes
    /// when it cannot be opened.
    pub(crate) fn open_socket(&self, local: &Config) -> Result<Internal, Failure> {
        let exe =
            std::env::current_exe().map_err(|e| Failure::new("HF0311", "cannot find the running binary").because(e))?;
        let mut held = Sockets::new();
        if let Some(tasks) = &local.tasks {
            definition(local).check().map_err(|e| {
                Failure::new(e.code(), "the plane of tasks cannot do what the file says").because_of(&e)
            })?;
            let name = format!("listen:{}:0", tasks.listen);
            let known = self.sockets.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
            let socket = match known {
                Some(socket) => socket,
                None => {
                    let mut fresh = listen::bind(tasks.listen, 1).map_err(|e| sockets::refused(&e))?;
                    let only = fresh.pop().ok_or_else(|| Failure::new("HF0314", "no socket was opened"))?;
                    Arc::new(OwnedFd::from(only))
                }
            };
            held.insert(name, socket);
        }
        let part = Internal::new(service(&exe, &self.layout, local), held.into_iter().collect());
        // Programs of workers go on while the plane is started anew.
        Ok(Internal { starts_others: true, ..part })
    }

    /// From now on this is what the plane goes by: on the disk for its next start, and told to the one that runs.
    pub(crate) fn set_config(&self, local: &Config, part: &Internal) -> Result<(), Failure> {
        let definition = local.tasks.as_ref().map(|_| definition(local));
        if let Some(definition) = &definition {
            self.save(definition)?;
        }
        *self.sockets.lock().unwrap_or_else(PoisonError::into_inner) = part.listeners.iter().cloned().collect();
        self.wanted.send_modify(|wanted| {
            let targets = wanted.take().map(|before| before.targets).unwrap_or_default();
            *wanted = definition.map(|fresh| Definition { targets, ..fresh });
        });
        Ok(())
    }

    fn save(&self, definition: &Definition) -> Result<(), Failure> {
        let dir = self.dir();
        holdfast_host::files::create_dir(&dir)
            .map_err(|e| crate::layout::unusable(format!("cannot make {}", dir.display()), e))?;
        definition.save(&dir).map_err(|e| Failure::new(e.code(), "cannot tell the plane of tasks").because_of(&e))
    }

    /// Where the instances answer that workers call, as it changes.
    pub(crate) fn keep_targets(self: &Arc<Self>, mut endpoints: watch::Receiver<Endpoints>) {
        let tasks = self.clone();
        let mut wanted = self.wanted.subscribe();
        tokio::spawn(async move {
            loop {
                let services: Vec<String> = wanted.borrow_and_update().iter().flat_map(called).collect();
                let known = endpoints.borrow_and_update().clone();
                let targets = services.into_iter().map(|service| (service.clone(), ready(&known, &service))).collect();
                tasks.wanted.send_if_modified(|wanted| match wanted {
                    Some(definition) if definition.targets != targets => {
                        definition.targets = targets;
                        true
                    }
                    _ => false,
                });
                tokio::select! {
                    changed = endpoints.changed() => if changed.is_err() { return },
                    changed = wanted.changed() => if changed.is_err() { return },
                }
            }
        });
    }

    /// Programs of workers, when everything is stopped: nobody is left who would take their results.
    pub(crate) async fn end_work(&self) {
        let root = self.layout.work_dir();
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            let Ok(token) = entry.file_name().into_string() else { continue };
            if let Err(error) = holdfast_host::job::Job::cancel(&root, &token).await {
                tracing::warn!(token, %error, "a worker's program could not be ended");
            }
        }
    }

    /// Until the plane has taken up what is wanted; a plane that begins later reads it itself.
    fn keep_told(self: Arc<Self>) {
        let mut wanted = self.wanted.subscribe();
        tokio::spawn(async move {
            while wanted.changed().await.is_ok() {
                let mut pause = TELL_AGAIN;
                loop {
                    let definition = wanted.borrow_and_update().clone();
                    let Some(definition) = definition else { break };
                    let told = match self.save(&definition) {
                        Ok(()) => self.tell(&definition).await,
                        Err(failure) => Err(failure),
                    };
                    match told {
                        Ok(()) => break,
                        Err(failure) => tracing::debug!(%failure, "the plane of tasks is told again"),
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        changed = wanted.changed() => if changed.is_err() { return },
                    }
                    pause = (pause * 2).min(TELL_AGAIN_MAX);
                }
            }
        });
    }

    async fn tell(&self, definition: &Definition) -> Result<(), Failure> {
        let body = serde_json::to_vec(definition)
            .map_err(|e| Failure::new("HF0306", "cannot encode the definition").because(e))?;
        let answer = self.ask(Method::POST, "/v1/apply", body.into()).await?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            _ => {
                let text = String::from_utf8_lossy(answer.body()).into_owned();
                // It will say the same again: a person has to change the file.
                tracing::error!(answer = text, "the plane of tasks refuses what was applied");
                Ok(())
            }
        }
    }

    /// Passes a request on to the plane's own API.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Bytes>, Failure> {
        match tokio::time::timeout(ANSWER_TIME, self.try_ask(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(absent(format!("the plane of tasks did not answer within {} s", ANSWER_TIME.as_secs()))),
        }
    }

    /// A plane that was killed is back within a moment: whoever asks meanwhile waits for it.
    async fn connect(&self) -> Result<UnixStream, Failure> {
        let until = tokio::time::Instant::now() + CONNECT_TIME;
        loop {
            match control::connect(&self.dir()).await {
                Ok(stream) => return Ok(stream),
                Err(e) if tokio::time::Instant::now() >= until => {
                    return Err(absent("the plane of tasks does not answer".into()).because(e));
                }
                Err(_) => tokio::time::sleep(CONNECT_AGAIN).await,
            }
        }
    }

    async fn try_ask(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Bytes>, Failure> {
        let stream = self.connect().await?;
        let broken = |e: hyper::Error| absent("the connection to the plane of tasks broke".into()).because(e);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "tasks")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| Failure::new("HF0306", "cannot build the request").because(e))?;
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| absent("the answer of the plane of tasks broke off".into()).because(e))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

/// Services that its workers ask.
fn called(definition: &Definition) -> Vec<String> {
    let services = definition.workers.values().filter_map(|worker| match &worker.how {
        How::Http { service, .. } | How::Replay { service, .. } => Some(service.clone()),
        How::Command(_) => None,
    });
    services.collect()
}

fn ready(endpoints: &Endpoints, service: &str) -> Vec<std::net::SocketAddr> {
    let of = endpoints.iter().filter(|(id, entry)| *id.service == *service && entry.state == EndpointState::Ready);
    of.map(|(_, entry)| entry.endpoint.addr).collect()
}

fn absent(what: String) -> Failure {
    Failure::new("HF0810", what).hint("holdfast why _tasks-1; holdfast logs _tasks").exit(Exit::Unhealthy)
}

pub(crate) fn instance() -> InstanceId {
    InstanceId::new(TASKS, 1)
}

/// `holdfast tasks`: where the process finds what it needs.
pub(crate) fn main(layout: &Layout) -> Result<Exit, Failure> {
    holdfast_observe::logging::start("info");
    let instance = std::env::var("HOLDFAST_INSTANCE").map_err(|_| {
        Failure::new("HF0316", "a data plane is started by the agent, not by hand")
            .hint("holdfast up -d")
            .exit(Exit::Usage)
    })?;
    let exe =
        std::env::current_exe().map_err(|e| Failure::new("HF0311", "cannot find the running binary").because(e))?;
    let options = Options {
        dir: layout.run_dir(&instance),
        file: layout.tasks_file(),
        exe,
        work: layout.work_dir(),
        flow: layout.flow_dir(),
        listeners: Vec::new(),
    };
    run(options).map_err(|e| {
        let failure = Failure::new(e.code(), "the plane of tasks ended").because_of(&e);
        tracing::error!(code = failure.code, "{failure}");
        match e.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    Ok(Exit::Ok)
}

fn service(exe: &std::path::Path, layout: &Layout, local: &Config) -> Service {
    let argv = [exe.to_string_lossy(), "--data-dir".into(), layout.data_dir.to_string_lossy(), "tasks".into()];
    let notify = |rise, fall| Probe {
        check: holdfast_config::Check::Notify,
        every: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        thresholds: holdfast_policy::health::Thresholds { rise, fall },
        within: Duration::from_secs(60),
    };
    let tasks = local.tasks.clone();
    // The address is part of what it is: a process has the socket that it was started with.
    let listen = tasks.iter().map(|t| ("HOLDFAST_TASKS_LISTEN".to_owned(), Value::Plain(t.listen.to_string())));
    // So is where its queues are.
    let database = tasks.iter().filter_map(|t| Some(("HOLDFAST_TASKS_DATABASE".to_owned(), t.postgres.as_ref()?)));
    let database = database.map(|(name, p)| (name, Value::Plain(format!("{} {}", p.url, p.schema))));
    Service {
        replicas: u32::from(tasks.is_some()),
        env: listen.chain(database).collect::<BTreeMap<_, _>>(),
        workdir: layout.data_dir.clone(),
        umask: Some(0o077),
        restart: restart::Policy {
            backoff: Backoff {
                base: Duration::from_millis(100),
                factor: 2.0,
                // Clients wait at the socket, which the shim keeps.
                max: Duration::from_secs(1),
                jitter: 0.2,
            },
            ..restart::Policy::default()
        },
        ready: Some(notify(1, 3)),
        live: Some(notify(1, 5)),
        stop: Stop { command: None, signal: 15, grace: Duration::from_secs(30), drain: Duration::ZERO },
        min_available: 0,
        ..Service::new(TASKS, Command::Argv(argv.iter().map(ToString::to_string).collect()))
    }
}

/// What the file says, in the words of the plane.
fn definition(config: &Config) -> Definition {
    let tasks = config.tasks.clone().unwrap_or_default();
    Definition {
        listen: Some(tasks.listen),
        region: tasks.region,
        account: tasks.account,
        memory_bytes: tasks.memory_bytes,
        database: tasks.postgres.as_ref().map(database),
        keys: config.keys.values().filter_map(key).collect(),
        queues: config.queues.values().map(|queue| (queue.sqs_name(), declared(config, queue))).collect(),
        workers: config
            .workers
            .values()
            .filter_map(|w| Some((w.name.clone(), worker(config, w)?)))
            .chain(fallbacks::workers(config))
            .collect(),
        workflows: config.workflows.values().map(|w| (w.name.clone(), workflows::workflow(config, w))).collect(),
        pools: config.pools.values().map(|pool| (pool.name.clone(), pool.slots)).collect(),
        targets: BTreeMap::new(),
    }
}

fn database(postgres: &holdfast_config::Postgres) -> Database {
    Database {
        url: postgres.url.clone(),
        password: postgres.password.as_ref().and_then(secret),
        ca: postgres.ca.clone(),
        schema: postgres.schema.clone(),
    }
}

/// The file refuses one in plain text.
fn secret(value: &Value) -> Option<Secret> {
    match value {
        Value::File(path) => Some(Secret::File(path.clone())),
        Value::Env(name) => Some(Secret::Env(name.clone())),
        Value::Plain(_) => None,
    }
}

fn worker(config: &Config, worker: &holdfast_config::Worker) -> Option<Worker> {
    let fixed = |n| Autoscale { min: n, max: n, backlog: 1, age: Duration::from_secs(1) };
    let crew = match worker.concurrency {
        Concurrency::Fixed(n) => fixed(n),
        Concurrency::Scaled(crew) => crew,
    };
    Some(Worker {
        queue: config.queues.get(&worker.queue)?.sqs_name(),
        how: match &worker.work {
            Work::Program(program) => How::Command(self::program(program)),
            Work::Http(http) => {
                How::Http { service: http.service.clone(), path: http.path.clone(), timeout_ms: millis(http.timeout) }
            }
        },
        min: crew.min,
        max: crew.max,
        backlog: crew.backlog,
        age_ms: millis(crew.age),
        lease_ms: millis(worker.lease),
        timeout_ms: millis(worker.timeout),
    })
}

fn value(value: &Value) -> EnvValue {
    match value {
        Value::Plain(text) => EnvValue::Plain(text.clone()),
        Value::File(path) => EnvValue::File(path.clone()),
        Value::Env(name) => EnvValue::Env(name.clone()),
    }
}

fn program(program: &holdfast_config::Program) -> Program {
    Program {
        argv: match &program.command {
            Command::Argv(argv) => argv.clone(),
            Command::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
        },
        env: program.env.iter().map(|(name, v)| (name.clone(), value(v))).collect(),
        workdir: Some(program.workdir.clone()),
        user: program.user.clone(),
        body_in_env: program.input == Input::Env,
        done: program.done.clone(),
        dead: program.dead.clone(),
    }
}

fn key(key: &holdfast_config::AccessKey) -> Option<Key> {
    let secret = secret(&key.secret)?;
    let may = |permission| key.allow.contains(&permission);
    Some(Key {
        name: key.name.clone(),
        id: key.id.clone(),
        secret,
        queues: key.queues.iter().flat_map(|q| [q.clone(), format!("{q}.fifo")]).collect(),
        send: may(Permission::Send),
        receive: may(Permission::Receive),
        manage: may(Permission::Manage),
    })
}

fn declared(config: &Config, queue: &holdfast_config::Queue) -> Declared {
    let dead_letter = queue.dead_letter.as_ref().and_then(|dead| {
        let name = config.queues.get(&dead.queue)?.sqs_name();
        Some(DeadLetter { queue: name, receives_max: dead.receives })
    });
    let retry =
        |b: Backoff| Retry { base_ms: millis(b.base), factor: b.factor, max_ms: millis(b.max), jitter: b.jitter };
    let spec = Spec {
        fifo: queue.fifo,
        visibility_ms: millis(queue.visibility_timeout),
        delay_ms: millis(queue.delay),
        retention_ms: millis(queue.retention),
        size_max: queue.message_bytes_max,
        wait_ms: millis(queue.wait),
        dead_letter,
        content_based_deduplication: queue.deduplicate_by_content,
        retry: queue.retry.map(retry),
        crashes_max: queue.crashes,
        rate_max: queue.rate,
        idempotency_ms: millis(queue.idempotency),
        declared: true,
        ..Spec::default()
    };
    Declared { spec, tags: queue.tags.clone() }
}
