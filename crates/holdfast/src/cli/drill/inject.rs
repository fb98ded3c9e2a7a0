//! Faults that a data plane makes itself, and the queues of drills, over the planes' control sockets.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use holdfast_balancer::control::Client;
use holdfast_balancer::fault::{Fault, Kind};
use holdfast_drill::system::{Answer, Inject, PlaneFault, PlaneFaultKind, TasksOrder, Unanswered};
use holdfast_tasks::drill::Order;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;

const CONNECT_AGAIN: Duration = Duration::from_millis(20);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

pub(crate) struct PlaneControl;

impl Inject for PlaneControl {
    fn inject<'a>(&'a self, control: &'a Path, fault: &'a PlaneFault) -> Answer<'a, ()> {
        Box::pin(async move {
            let unanswered = |e: holdfast_balancer::Error| Unanswered::new("set a fault in a balancer process", e);
            let mut client = Client::connect(control).await.map_err(unanswered)?;
            client.fault(translate(fault)).await.map_err(unanswered)
        })
    }

    fn clear<'a>(&'a self, control: &'a Path, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            // A process that is gone has taken its faults with it.
            let Ok(mut client) = Client::connect(control).await else { return Ok(()) };
            client.clear_fault(id).await.map_err(|e| Unanswered::new("clear a fault in a balancer process", e))
        })
    }

    fn open<'a>(&'a self, control: &'a Path, id: &'a str, order: &'a TasksOrder) -> Answer<'a, ()> {
        Box::pin(async move {
            let TasksOrder { worker, full, until_boot_ns } = order.clone();
            let order = Order { worker, full, until_boot_ns };
            let body = serde_json::to_vec(&order).map_err(|e| Unanswered::new("encode a drill", e))?;
            ask(control, Method::PUT, id, body.into()).await
        })
    }

    fn close<'a>(&'a self, control: &'a Path, id: &'a str) -> Answer<'a, ()> {
        Box::pin(ask(control, Method::DELETE, id, Bytes::new()))
    }
}

/// A plane that was killed is back within a moment: whoever asks waits for it, and limits how long.
async fn ask(control: &Path, method: Method, id: &str, body: Bytes) -> Result<(), Unanswered> {
    let broken = |e: hyper::Error| Unanswered::new("ask the plane of tasks", e);
    let stream = loop {
        match holdfast_tasks::control::connect(control).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(CONNECT_AGAIN).await,
        }
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(format!("/v1/drills/{id}"))
        .header("host", "tasks")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|e| Unanswered::new("build a request", e))?;
    let answer = sender.send_request(request).await.map_err(broken)?;
    if answer.status().is_success() {
        return Ok(());
    }
    let text = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let text = text.map(|t| String::from_utf8_lossy(&t.to_bytes()).into_owned()).unwrap_or_default();
    Err(Unanswered::new("have a drill in the plane of tasks", text))
}

fn translate(fault: &PlaneFault) -> Fault {
    Fault {
        id: fault.id.clone(),
        balancer: fault.balancer.clone(),
        instance: fault.instance.clone(),
        kind: match fault.kind {
            PlaneFaultKind::Latency(by) => Kind::LatencyMs(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
            PlaneFaultKind::Errors(status) => Kind::Error(status),
            PlaneFaultKind::Reset => Kind::Reset,
            PlaneFaultKind::NoAnswer => Kind::NoAnswer,
        },
        share: fault.share,
        until_boot_ns: fault.until_boot_ns,
    }
}
