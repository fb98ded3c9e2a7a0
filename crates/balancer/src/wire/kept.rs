//! A request as a message, and as what the queue is asked to keep.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_host::clock;
use holdfast_policy::balance::fallback::{fingerprint, group};
use serde::Serialize;

use super::head::HEADERS_MAX;
use crate::snapshot::Fallback;

/// Of [`Message`]; who replays refuses a newer one.
const VERSION: u32 = 1;

/// Fields that a head gets on its way through this program.
const HEADERS_ADDED: usize = 8;

/// What whoever replays a request needs. Stored: a field is added, never changed.
#[derive(Serialize)]
struct Message<'a> {
    v: u32,
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body_base64: String,
}

/// What the plane of tasks reads.
#[derive(Serialize)]
struct Send<'a> {
    body: String,
    group: Option<String>,
    deduplication: Option<String>,
    idempotency: Option<&'a str>,
    fingerprint: Option<String>,
}

/// `head` is the head for the endpoint with what was read of the body behind it, `rest` the rest. `None` when a header is
/// not text: what cannot be kept as it is is not kept.
pub(crate) fn message(head: &[u8], rest: &[u8], fallback: &Fallback, unique: u64) -> Option<Vec<u8>> {
    let mut space = [httparse::EMPTY_HEADER; HEADERS_MAX + HEADERS_ADDED];
    let mut parsed = httparse::Request::new(&mut space);
    let Ok(httparse::Status::Complete(length)) = parsed.parse(head) else { return None };
    let (method, path) = (parsed.method?, parsed.path?);
    let mut headers = Vec::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter().filter(|h| !is_framing(h.name)) {
        headers.push((header.name, std::str::from_utf8(header.value).ok()?));
    }
    let body = [&head[length..], rest].concat();
    let valued = |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
    let idempotency = valued("idempotency-key").filter(|key| !key.is_empty());
    let fifo = fallback.queue.ends_with(".fifo");
    let send = Send {
        group: fifo.then(|| group(fallback.key.as_deref().map(valued), path)),
        // Of its own: two equal orders are two orders. Who means one says so with an idempotency key.
        deduplication: fifo.then(|| format!("{:x}-{unique:016x}", clock::wall_ms())),
        fingerprint: idempotency.map(|_| fingerprint(method, path, &body)),
        idempotency,
        body: text(&Message { v: VERSION, method, path, body_base64: STANDARD.encode(&body), headers }),
    };
    Some(text(&send).into_bytes())
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("it has string keys only")
}

/// The replay has a length of its own, and nobody to ask for a body.
fn is_framing(name: &str) -> bool {
    ["content-length", "transfer-encoding", "expect", "connection"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const HEAD: &[u8] = b"POST /orders?a=1 HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer x\r\nContent-Length: 5\r\n\
        Idempotency-Key: k1\r\nX-Customer: ann\r\nExpect: 100-continue\r\nVia: 1.1 holdfast\r\n\r\nhel";

    fn kept(queue: &str, key: Option<&str>) -> (Value, Value) {
        let fallback = Fallback { queue: queue.into(), key: key.map(Into::into), ..Fallback::default() };
        let send: Value = serde_json::from_slice(&message(HEAD, b"lo", &fallback, 7).unwrap()).unwrap();
        let message = serde_json::from_str(send["body"].as_str().unwrap()).unwrap();
        (send, message)
    }

    #[test]
    fn all_of_a_request_but_its_framing_is_kept() {
        let (send, message) = kept("orders.fifo", Some("X-Customer"));
        let want = json!({
            "v": 1,
            "method": "POST",
            "path": "/orders?a=1",
            "headers": [
                ["Host", "shop"], ["Authorization", "Bearer x"], ["Idempotency-Key", "k1"], ["X-Customer", "ann"],
                ["Via", "1.1 holdfast"]
            ],
            "body_base64": "aGVsbG8=",
        });
        assert_eq!(message, want);
        assert_eq!((&send["group"], &send["idempotency"]), (&json!("ann"), &json!("k1")));
        assert!(send["fingerprint"].as_str().unwrap().starts_with("POST /orders?a=1 5 "), "{send}");
        assert!(send["deduplication"].as_str().unwrap().ends_with("-0000000000000007"), "{send}");
    }

    #[test]
    fn only_a_fifo_queue_has_groups() {
        let (send, _) = kept("orders", None);
        assert_eq!((&send["group"], &send["deduplication"]), (&Value::Null, &Value::Null));
        assert_eq!(kept("orders.fifo", Some("X-Other")).0["group"], "/orders");
        assert_eq!(kept("orders.fifo", None).0["group"], "all");
    }

    #[test]
    fn a_header_that_is_not_text_is_not_kept_as_something_else() {
        let head = b"POST / HTTP/1.1\r\nHost: t\r\nX-Name: Jos\xe9\r\n\r\n";
        assert_eq!(message(head, b"", &Fallback::default(), 7), None);
    }
}
