//! The routes of the plane's own API.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;

use super::{AttemptInfo, MessageInfo, MoveInfo, PEEK_MAX, QueueInfo, Redrive, Refusal, Send, SendDone, WorkerInfo};
use crate::definition::Definition;
use crate::desk::{Bell, Desk};
use crate::drill::Order;
use crate::error::Error;
use crate::plane::Plane;
use crate::queue::{Move, New, Peeked, QUEUES_MAX, Queue};

/// A definition of some thousand queues; a message is at most 1 MiB, escapes may double it.
pub(super) const REQUEST_BYTES_MAX: usize = 16 << 20;

pub(super) type Answer<T> = std::result::Result<Json<T>, Refusal>;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.exit.as_str() {
            "usage" => StatusCode::BAD_REQUEST,
            "refused" => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self)).into_response()
    }
}

pub(crate) fn router(plane: Plane) -> Router {
    Router::new()
        .route("/v1/apply", post(apply))
        .route("/v1/queues", get(queues))
        .route("/v1/queues/{name}", get(queue))
        .route("/v1/queues/{name}/messages", get(peek).post(send))
        .route("/v1/queues/{name}/purge", post(purge))
        .route("/v1/queues/{name}/redrive", post(redrive))
        .route("/v1/queues/{name}/moves", get(moves))
        .route("/v1/workers", get(workers))
        .route("/v1/workers/{name}/attempts", get(attempts))
        .route("/v1/drills/{id}", put(open_drill).delete(close_drill))
        .route("/metrics", get(metrics))
        .merge(super::flow::router(&plane))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(plane)
}

async fn open_drill(State(plane): State<Plane>, Path(id): Path<String>, Json(order): Json<Order>) -> Answer<()> {
    let definition = plane.definition();
    let worker = match &order.worker {
        Some(name) => Some(definition.workers.get(name).ok_or_else(|| Error::Invalid {
            queue: crate::drill::queue(&id),
            reason: format!("there is no worker `{name}`"),
        })?),
        None => None,
    };
    Ok(Json(plane.drills.open(&id, &order, worker).await?))
}

async fn close_drill(State(plane): State<Plane>, Path(id): Path<String>) -> Answer<()> {
    Ok(Json(plane.drills.close(&id).await?))
}

async fn apply(State(plane): State<Plane>, Json(definition): Json<Definition>) -> Answer<()> {
    Ok(Json(plane.apply(definition).await?))
}

async fn queues(State(plane): State<Plane>) -> Answer<Vec<QueueInfo>> {
    let all = plane.desk.store.list("", None, QUEUES_MAX).await?;
    let counters = plane.desk.counters();
    let mut infos = Vec::with_capacity(all.len());
    for queue in &all {
        infos.push(info(&plane.desk, queue, &all, &counters).await?);
    }
    Ok(Json(infos))
}

async fn queue(State(plane): State<Plane>, Path(name): Path<String>) -> Answer<QueueInfo> {
    let all = plane.desk.store.list("", None, QUEUES_MAX).await?;
    let queue = all.iter().find(|q| q.name == name).ok_or(Error::NoQueue { queue: name })?;
    Ok(Json(info(&plane.desk, queue, &all, &plane.desk.counters()).await?))
}

async fn info(
    desk: &Desk,
    queue: &Queue,
    all: &[Queue],
    counters: &BTreeMap<String, std::sync::Arc<Bell>>,
) -> std::result::Result<QueueInfo, Error> {
    let counts = desk.store.counts(&queue.name).await?;
    let sources = all.iter().filter(|q| q.spec.dead_letter.as_ref().is_some_and(|d| d.queue == queue.name));
    Ok(QueueInfo {
        name: queue.name.clone(),
        fifo: queue.spec.fifo,
        declared: queue.spec.declared,
        visible: counts.visible,
        in_flight: counts.in_flight,
        delayed: counts.delayed,
        oldest_ms: counts.oldest_ms,
        dead_letter: queue.spec.dead_letter.as_ref().map(|d| d.queue.clone()),
        dead_letters_of: sources.map(|q| q.name.clone()).collect(),
        since_start: counters.get(&queue.name).map(|bell| counted(bell)).unwrap_or_default(),
    })
}

fn counted(bell: &Bell) -> BTreeMap<String, u64> {
    let c = &bell.counters;
    let all = [
        ("sent", &c.sent),
        ("received", &c.received),
        ("deleted", &c.deleted),
        ("stale", &c.stale),
        ("failed", &c.failed),
        ("buried", &c.buried),
    ];
    all.into_iter().map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed))).collect()
}

#[derive(Deserialize)]
struct Look {
    many: Option<u32>,
}

async fn peek(
    State(plane): State<Plane>,
    Path(name): Path<String>,
    Query(look): Query<Look>,
) -> Answer<Vec<MessageInfo>> {
    let peeked = plane.desk.store.peek(&name, look.many.unwrap_or(10).min(PEEK_MAX)).await?;
    Ok(Json(peeked.into_iter().map(|message| seen(&plane.desk, message)).collect()))
}

fn seen(desk: &Desk, m: Peeked) -> MessageInfo {
    let clock = desk.store.clock();
    let left = m.due.map(|due| (due - clock.now()).max(0).unsigned_abs());
    let state = match (left, m.receives) {
        (None, _) => "set aside",
        (Some(0), _) => "visible",
        (Some(_), 0) => "delayed",
        // Held by somebody, or waiting for its next try: the queue does not tell them apart, nor do its clients.
        (Some(_), _) => "in flight",
    };
    MessageInfo {
        id: m.message.to_string(),
        body: m.body,
        sent_wall_ms: clock.wall(m.sent),
        receives: m.receives,
        failures: m.failures,
        crashes: m.crashes,
        state: state.to_owned(),
        due_in_ms: left,
        group: m.group,
        error: m.error,
        dead: m.buried,
    }
}

async fn send(State(plane): State<Plane>, Path(name): Path<String>, Json(send): Json<Send>) -> Answer<SendDone> {
    let new = New {
        body: send.body,
        sender: "holdfast".into(),
        delay_ms: send.delay_ms,
        group: send.group,
        deduplication: send.deduplication,
        idempotency: send.idempotency,
        fingerprint: send.fingerprint,
        ..New::default()
    };
    let sent = plane.desk.send(&name, vec![new]).await?.pop();
    let sent = sent.ok_or_else(|| Error::Throttled { reason: "nothing was sent".into() })??;
    Ok(Json(SendDone { id: sent.message.to_string(), sequence: sent.sequence, duplicate: sent.duplicate }))
}

async fn purge(State(plane): State<Plane>, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(plane.desk.store.purge(&name).await?))
}

async fn redrive(State(plane): State<Plane>, Path(name): Path<String>, Json(wish): Json<Redrive>) -> Answer<MoveInfo> {
    Ok(Json(told(plane.desk.start_move(&name, wish.to.as_deref(), wish.rate).await?)))
}

async fn moves(State(plane): State<Plane>, Path(name): Path<String>) -> Answer<Vec<MoveInfo>> {
    plane.desk.store.spec(&name).await?;
    Ok(Json(plane.desk.store.moves(&name, 10).await?.into_iter().map(told).collect()))
}

async fn workers(State(plane): State<Plane>) -> Answer<Vec<WorkerInfo>> {
    let definition = plane.definition();
    let at_work = plane.workers.at_work();
    let mut infos = Vec::with_capacity(definition.workers.len());
    for (name, worker) in &definition.workers {
        infos.push(WorkerInfo {
            name: name.clone(),
            queue: worker.queue.clone(),
            at_work: at_work.get(name).copied().unwrap_or(0),
            max: worker.max,
            visible: plane.desk.store.counts(&worker.queue).await?.visible,
        });
    }
    Ok(Json(infos))
}

async fn attempts(
    State(plane): State<Plane>,
    Path(name): Path<String>,
    Query(look): Query<Look>,
) -> Answer<Vec<AttemptInfo>> {
    let many = look.many.unwrap_or(20).min(PEEK_MAX);
    let clock = plane.desk.store.clock();
    let attempts = plane.desk.store.attempts(&name, many).await?.into_iter().map(|attempt| AttemptInfo {
        message: attempt.message,
        receive: attempt.receive,
        ended_wall_ms: clock.wall(attempt.ended),
        took_ms: (attempt.ended - attempt.began).max(0).unsigned_abs(),
        outcome: attempt.outcome,
        output: attempt.output,
    });
    Ok(Json(attempts.collect()))
}

fn told(task: Move) -> MoveInfo {
    MoveInfo {
        handle: task.handle,
        state: task.state.word().to_lowercase(),
        source: task.source,
        destination: task.destination,
        moved: task.moved,
        to_move: task.to_move,
        failure: task.failure,
    }
}

/// In the text format of Prometheus.
async fn metrics(State(plane): State<Plane>) -> std::result::Result<String, Refusal> {
    let Json(all) = queues(State(plane.clone())).await?;
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&QueueInfo) -> f64| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for queue in &all {
            let _ = writeln!(text, "{name}{{queue=\"{}\"}} {}", queue.name, value(queue));
        }
    };
    gauge("holdfast_queue_visible", "Messages that can be received.", &|q| q.visible as f64);
    gauge("holdfast_queue_in_flight", "Messages that are held.", &|q| q.in_flight as f64);
    gauge("holdfast_queue_delayed", "Messages that wait for their time.", &|q| q.delayed as f64);
    gauge("holdfast_queue_oldest_seconds", "Age of the oldest message.", &|q| q.oldest_ms as f64 / 1000.0);
    for which in ["sent", "received", "deleted", "stale", "failed", "buried"] {
        let name = format!("holdfast_queue_{which}_total");
        let _ = writeln!(text, "# HELP {name} Messages {which} since the plane began.\n# TYPE {name} counter");
        for queue in &all {
            let value = queue.since_start.get(which).copied().unwrap_or(0);
            let _ = writeln!(text, "{name}{{queue=\"{}\"}} {value}", queue.name);
        }
    }
    let _ = writeln!(text, "# HELP holdfast_runs Runs that are not over.\n# TYPE holdfast_runs gauge");
    for (workflow, status, count) in plane.desk.store.count_open_runs().await? {
        let _ = writeln!(text, "holdfast_runs{{workflow=\"{workflow}\",status=\"{status}\"}} {count}");
    }
    Ok(text)
}
