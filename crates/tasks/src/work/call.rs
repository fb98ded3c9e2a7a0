//! A message given to a service by HTTP: one request, and what its answer means.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_policy::queue::Report;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::net::TcpStream;

use super::attempt::{Ended, Result};
use crate::exchange::{Broken, Connection};
use crate::queue::Delivery;

/// Of an answer; only its beginning is kept, as words.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;
const WORDS_MAX: usize = 500;

/// One instance after the other.
pub(super) fn choose(targets: Option<&Vec<SocketAddr>>) -> Option<SocketAddr> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let targets = targets.filter(|targets| !targets.is_empty())?;
    targets.get(NEXT.fetch_add(1, Ordering::Relaxed) % targets.len()).copied()
}

/// 2xx is done; 409 will never be done: the service has understood and refuses. Everything else is tried again, because
/// nobody knows.
pub(super) async fn call(target: Option<SocketAddr>, path: &str, delivery: &Delivery, limit: Duration) -> Result {
    let Some(target) = target else { return Result::failed(Report::Retry, "no instance is ready") };
    match tokio::time::timeout(limit, ask(target, path, delivery)).await {
        Ok(Ok((status, body))) => judged(status, &body),
        Ok(Err(error)) => Result::failed(Report::Retry, format!("{target}: {error}")),
        Err(_) => Result::failed(Report::Retry, format!("{target} did not answer within {} ms", limit.as_millis())),
    }
}

async fn ask(target: SocketAddr, path: &str, delivery: &Delivery) -> std::result::Result<(StatusCode, Bytes), Broken> {
    let connection = Connection::open(TcpStream::connect(target).await?).await?;
    let mut request = Request::post(path)
        .header("host", target.to_string())
        .header("content-type", "application/octet-stream")
        .header("idempotency-key", delivery.message.to_string())
        .header("x-holdfast-message-id", delivery.message.to_string())
        .header("x-holdfast-receives", delivery.receives.to_string());
    if let Some(group) = delivery.group.as_ref().and_then(|group| http::HeaderValue::from_str(group).ok()) {
        request = request.header("x-holdfast-group", group);
    }
    let request = request.body(Full::new(Bytes::from(delivery.body.clone())))?;
    let (status, body) = connection.ask(request, ANSWER_BYTES_MAX).await?;
    Ok((status, body.unwrap_or_default()))
}

/// What the attempt's history tells of an answer.
pub(super) fn words(status: StatusCode, body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().take(WORDS_MAX).collect();
    format!("{status}: {text}")
}

fn judged(status: StatusCode, body: &[u8]) -> Result {
    let words = words(status, body);
    let refused = status == StatusCode::CONFLICT;
    match status.is_success() {
        true => Result { ended: Ended::Done, words },
        false if refused => Result::failed(Report::Dead, words),
        false => Result::failed(Report::Retry, words),
    }
}
