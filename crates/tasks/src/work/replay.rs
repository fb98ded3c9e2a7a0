//! A request that a balancer kept while its service was away, made again: the same method, path, headers and body.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_policy::queue::{Answered, Report, answered};
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::LOOK_AGAIN;
use super::attempt::{Ended, Result};
use super::call::{ANSWER_BYTES_MAX, words};
use crate::exchange::{Broken, Connection};
use crate::queue::Delivery;

/// The newest that is understood here.
const VERSION: u32 = 1;
/// An instance that is there accepts within it, over any network that a balancer is used on.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// As a balancer writes it.
#[derive(Debug, Deserialize)]
struct Message {
    v: u32,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body_base64: String,
}

/// Each answer of the service is one: what it refuses is not asked again. Without an instance that can be reached the
/// message goes back as if it had not been taken, a moment later, so that an instance that ends costs no message a try.
pub(super) async fn replay(targets: &[SocketAddr], delivery: &Delivery, limit: Duration) -> Result {
    let request = match request(delivery) {
        Ok(request) => request,
        Err(why) => return Result::failed(Report::Dead, format!("not a kept request: {why}")),
    };
    let Some(stream) = connect(targets).await else {
        tokio::time::sleep(LOOK_AGAIN).await;
        return Result { ended: Ended::Unasked, words: "no instance could be reached".into() };
    };
    match tokio::time::timeout(limit, ask(stream, request)).await {
        Ok(Ok((status, body))) => judged(status, &body),
        Ok(Err(error)) => Result::failed(Report::Retry, error.to_string()),
        Err(_) => Result::failed(Report::Retry, format!("no answer within {} ms", limit.as_millis())),
    }
}

/// To the first that accepts, beginning with another one each time.
async fn connect(targets: &[SocketAddr]) -> Option<TcpStream> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let first = NEXT.fetch_add(1, Ordering::Relaxed);
    for n in 0..targets.len() {
        let target = targets[first.wrapping_add(n) % targets.len()];
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(target)).await {
            return Some(stream);
        }
    }
    None
}

fn request(delivery: &Delivery) -> std::result::Result<Request<Full<Bytes>>, Broken> {
    let message: Message = serde_json::from_str(&delivery.body)?;
    if message.v > VERSION {
        return Err(format!("it has version {}, up to {VERSION} is known", message.v).into());
    }
    let body = STANDARD.decode(&message.body_base64)?;
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = Method::from_bytes(message.method.as_bytes())?;
    *request.uri_mut() = Uri::try_from(&message.path)?;
    let headers = request.headers_mut();
    for (name, value) in &message.headers {
        headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_bytes(value.as_bytes())?);
    }
    headers.insert("holdfast-replayed", HeaderValue::from_static("1"));
    // Tries of one message are one request.
    if headers.get("idempotency-key").is_none_or(HeaderValue::is_empty) {
        headers.insert("idempotency-key", HeaderValue::from_str(&delivery.message.to_string())?);
    }
    Ok(request)
}

async fn ask(stream: TcpStream, request: Request<Full<Bytes>>) -> std::result::Result<(StatusCode, Bytes), Broken> {
    // It is small and whole: nothing follows that could be sent with it.
    stream.set_nodelay(true)?;
    let (status, body) = Connection::open(stream).await?.ask(request, ANSWER_BYTES_MAX).await?;
    Ok((status, body.unwrap_or_default()))
}

fn judged(status: StatusCode, body: &[u8]) -> Result {
    let words = words(status, body);
    match answered(status.as_u16()) {
        Answered::Done => Result { ended: Ended::Done, words },
        Answered::Refused => Result::failed(Report::Dead, words),
        Answered::NotNow => Result::failed(Report::Retry, words),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::queue::MessageId;

    fn kept(body: &str) -> Delivery {
        Delivery {
            message: MessageId([7; 16]),
            receipt: String::new(),
            body: body.into(),
            attributes: Vec::new(),
            trace: None,
            sender: "holdfast".into(),
            sent: 0,
            first_received: 0,
            receives: 1,
            failures: 0,
            group: None,
            deduplication: None,
            sequence: 1,
            buried: None,
        }
    }

    /// The text is what a balancer writes; its own test has the same.
    #[tokio::test]
    async fn a_kept_request_is_made_again_as_it_was() {
        let text = r#"{"v":1,"method":"POST","path":"/orders?a=1","headers":[["Host","shop"],["Authorization","Bearer x"],
            ["Idempotency-Key","k1"],["X-Customer","ann"],["Via","1.1 holdfast"]],"body_base64":"aGVsbG8="}"#;
        let request = request(&kept(text)).unwrap();
        assert_eq!((request.method(), request.uri().to_string()), (&Method::POST, "/orders?a=1".to_owned()));
        let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
        assert_eq!(header("host"), Some("shop"));
        assert_eq!(header("authorization"), Some("Bearer x"));
        assert_eq!(header("idempotency-key"), Some("k1"), "the client's own");
        assert_eq!(header("holdfast-replayed"), Some("1"));
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "hello");
    }

    #[test]
    fn a_request_without_a_key_gets_the_id_of_its_message() {
        let text = r#"{"v":1,"method":"POST","path":"/","headers":[["Host","t"]],"body_base64":""}"#;
        let request = request(&kept(text)).unwrap();
        assert_eq!(request.headers()["idempotency-key"], "07070707-0707-0707-0707-070707070707");
    }

    #[tokio::test]
    async fn what_is_no_kept_request_is_never_sent() {
        for text in ["hello", r#"{"v":2,"method":"POST","path":"/","headers":[],"body_base64":""}"#, "{}"] {
            let result = replay(&[], &kept(text), CONNECT_MAX).await;
            assert!(matches!(result.ended, Ended::Failed(Report::Dead)), "{text}: {}", result.words);
        }
    }
}
