//! SQS over HTTP/1.1: connections with limits, each request handed to the face.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_sqs::{BODY_BYTES_MAX, Face};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use crate::desk::Desk;

/// Clients hold connections open for long polls: some thousand workers.
const CONNECTIONS_MAX: usize = 4_096;
/// Also how long a connection may be idle; SDKs open a new one then.
const HEADER_TIME: Duration = Duration::from_secs(75);
/// 1 MiB over a slow line.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Out of descriptors: they become free when connections end.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

type Faces = watch::Receiver<Arc<Face<Desk>>>;

/// Until `closing`; then waits for the requests that go on.
pub(crate) async fn serve(listener: TcpListener, faces: Faces, mut closing: watch::Receiver<bool>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listening socket cannot be used"),
    };
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        let Ok(slot) = slot else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, faces.clone(), closing.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(slots.acquire_many(CONNECTIONS_MAX as u32).await);
}

async fn connection(stream: TcpStream, faces: Faces, mut closing: watch::Receiver<bool>) {
    // Answers are small: none waits for the acknowledgement of the one before.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let face = faces.borrow().clone();
        async move { Ok::<_, Infallible>(answer(&face, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = closing.wait_for(|closing| *closing) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

async fn answer(face: &Face<Desk>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    match body {
        Ok(Ok(body)) => face.handle(head, body.to_bytes()).await.map(Full::new),
        Ok(Err(_)) => closing(face.too_large(&head).map(Full::new)),
        Err(_) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
            closing(response)
        }
    }
}

/// What is left of the body is not read.
fn closing(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    response
}
