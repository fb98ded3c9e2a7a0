//! Requests that no instance can answer, in front of a socket that answers as the plane of tasks does.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use holdfast_balancer::snapshot::{AccessLog, BalancerSnapshot, Fallback};
use serde_json::{Value, json};

use super::backend::{Backend, Seen, read_body, read_head, reply, wait_for};
use super::client::{Answer, Client, get};
use super::setup::Node;

const LARGEST: usize = 512 << 10;

/// The plane's socket; what it was asked comes out of the channel.
struct Queue {
    dir: tempfile::TempDir,
    asked: Receiver<Seen>,
}

impl Queue {
    /// `answer` writes what the plane says, or nothing.
    fn start(answer: impl Fn(&mut UnixStream) + Send + 'static) -> Queue {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket(dir.path())).unwrap();
        let (tell, asked) = channel();
        std::thread::spawn(move || {
            // Held open: a plane that says nothing does not close either.
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let Some(mut seen) = read_head(&mut reader) else { continue };
                read_body(&mut reader, &mut seen);
                if tell.send(seen).is_err() {
                    return;
                }
                answer(&mut stream);
                open.push(stream);
            }
        });
        Queue { dir, asked }
    }

    fn confirming() -> Queue {
        Queue::start(|stream| say(stream, 200, r#"{"id":"0a1b-2c","sequence":1,"duplicate":false}"#))
    }

    fn named(&self, name: &str, key: Option<&str>) -> Option<Fallback> {
        Some(Fallback { socket: socket(self.dir.path()), queue: name.into(), key: key.map(Into::into) })
    }

    /// What was asked, and the request in it.
    fn message(&self) -> (Seen, Value, Value) {
        let seen = self.asked.recv_timeout(Duration::from_secs(10)).unwrap();
        let send: Value = serde_json::from_slice(&seen.body).unwrap();
        let message = serde_json::from_str(send["body"].as_str().unwrap()).unwrap();
        (seen, send, message)
    }

    fn was_asked(&self) -> bool {
        self.asked.try_recv().is_ok()
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("plane.sock")
}

fn say(stream: &mut UnixStream, status: u16, body: &str) {
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all((head + body).as_bytes());
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn with(fallback: Option<Fallback>) -> impl FnOnce(&mut BalancerSnapshot) {
    move |b| b.fallback = fallback
}

fn post(addr: SocketAddr, extra: &str, body: &[u8]) -> Answer {
    let mut client = Client::connect(addr);
    client.send(format!("POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Length: {}\r\n{extra}\r\n", body.len()));
    client.send(body).answer().unwrap()
}

#[test]
fn a_request_without_an_instance_is_kept_and_its_client_told_so() {
    let queue = Queue::confirming();
    let node = Node::new(&[], with(queue.named("orders", None)));
    let plane = node.serve();
    let answer = post(node.addr, "Authorization: Bearer x\r\nConnection: X-Hop\r\nX-Hop: 1\r\n", b"hello");
    assert_eq!((answer.status, answer.header("Holdfast-Message-Id")), (202, Some("0a1b-2c")));
    assert_eq!(serde_json::from_slice::<Value>(&answer.seen.body).unwrap(), json!({ "queued": true, "id": "0a1b-2c" }));
    let (seen, send, message) = queue.message();
    assert_eq!(seen.line, "POST /v1/queues/orders/messages HTTP/1.1");
    assert_eq!((&send["idempotency"], &send["group"]), (&Value::Null, &Value::Null));
    assert_eq!((&message["v"], &message["method"], &message["path"]), (&json!(1), &json!("POST"), &json!("/orders")));
    assert_eq!(message["body_base64"], "aGVsbG8=");
    let headers = message["headers"].as_array().unwrap();
    for kept in [json!(["Host", "shop"]), json!(["Authorization", "Bearer x"])] {
        assert!(headers.contains(&kept), "{headers:?}");
    }
    for gone in ["X-Hop", "Connection", "Content-Length"] {
        assert!(headers.iter().all(|h| h[0] != gone), "{gone} in {headers:?}");
    }
    wait_for("it to be counted", || (node.table().counters(0).degraded == 1).then_some(()));
    let counters = node.table().counters(0);
    assert_eq!((counters.good, counters.failed), (0, 0));
    drop(plane);
}

#[test]
fn one_connection_goes_on_after_202() {
    let queue = Queue::confirming();
    let node = Node::new(&[nobody()], with(queue.named("orders", None)));
    let _plane = node.serve();
    let mut client = Client::connect(node.addr);
    for _ in 0..3 {
        let answer = client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi").answer().unwrap();
        assert_eq!(answer.status, 202, "an instance that cannot be reached did nothing");
    }
}

#[test]
fn keys_of_a_client_go_with_the_message() {
    let queue = Queue::confirming();
    let node = Node::new(&[], with(queue.named("orders.fifo", Some("X-Customer"))));
    let _plane = node.serve();
    assert_eq!(post(node.addr, "X-Customer: ann\r\nIdempotency-Key: k1\r\n", b"{}").status, 202);
    let (_, first, _) = queue.message();
    assert_eq!((&first["group"], &first["idempotency"]), (&json!("ann"), &json!("k1")));
    assert_eq!(post(node.addr, "X-Customer: ann\r\nIdempotency-Key: k1\r\nTraceparent: 7\r\n", b"{}").status, 202);
    let (_, again, _) = queue.message();
    assert_eq!(first["fingerprint"], again["fingerprint"], "it is the same request for the queue");
    assert_ne!(first["deduplication"], again["deduplication"], "only its key says so");
    assert_eq!(post(node.addr, "", b"{}").status, 202);
    assert_eq!(queue.message().1["group"], "/orders");
}

#[test]
fn a_body_is_kept_up_to_its_limit_and_not_beyond() {
    let queue = Queue::confirming();
    let node = Node::new(&[nobody()], with(queue.named("orders", None)));
    let _plane = node.serve();
    for (size, extra) in [(LARGEST, ""), (100_000, "Expect: 100-continue\r\n"), (0, "")] {
        let mut client = Client::connect(node.addr);
        client.send(format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n{extra}\r\n"));
        if !extra.is_empty() {
            assert_eq!(client.answer().unwrap().status, 100);
        }
        assert_eq!(client.send(vec![b'x'; size]).answer().unwrap().status, 202, "{size}");
        let (_, _, message) = queue.message();
        assert_eq!(message["body_base64"].as_str().unwrap().len(), size.div_ceil(3) * 4);
    }
    assert!(post(node.addr, "", &vec![b'x'; LARGEST + 1]).status >= 502);
    let mut chunked = Client::connect(node.addr);
    chunked.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(chunked.answer().unwrap().status, 502, "its length is not known");
    assert!(!queue.was_asked());
}

#[test]
fn a_read_is_answered_at_once() {
    let queue = Queue::confirming();
    let node = Node::new(&[], with(queue.named("orders", None)));
    let _plane = node.serve();
    assert_eq!(get(node.addr, "/").unwrap().status, 503);
    let mut client = Client::connect(node.addr);
    client.send("HEAD / HTTP/1.1\r\nHost: t\r\nIdempotency-Key: k\r\n\r\n");
    let head = read_head(client.reader()).unwrap();
    assert!(head.line.starts_with("HTTP/1.1 503 "), "{}", head.line);
    assert!(!queue.was_asked());
    assert_eq!(node.table().counters(0).degraded, 0);
}

#[test]
fn what_an_instance_may_have_done_is_kept_only_when_twice_does_no_harm() {
    let queue = Queue::confirming();
    let dies = Backend::start(|_, stream| {
        let _ = stream.shutdown(std::net::Shutdown::Both);
        false
    });
    let node = Node::new(&[dies.addr], with(queue.named("orders", None)));
    let _plane = node.serve();
    assert_eq!(post(node.addr, "", b"hi").status, 502);
    assert!(!queue.was_asked());
    assert_eq!(post(node.addr, "Idempotency-Key: k\r\n", b"hi").status, 202);
    queue.message();
}

#[test]
fn an_answer_of_the_service_is_passed_on_whatever_it_is() {
    let queue = Queue::confirming();
    let refuses = Backend::start(|_, stream| reply(stream, 503, b"later"));
    let node = Node::new(&[refuses.addr], with(queue.named("orders", None)));
    let _plane = node.serve();
    let answer = post(node.addr, "Idempotency-Key: k\r\n", b"hi");
    assert_eq!((answer.status, answer.text().as_str()), (503, "later"), "the service has answered");
    assert!(!queue.was_asked());
}

#[test]
fn a_queue_that_does_not_confirm_means_503() {
    let refusing = Queue::start(|stream| say(stream, 500, r#"{"code":"HF0801","what":"the disk is full"}"#));
    let strange = Queue::start(|stream| say(stream, 200, r#"{"id":"a\r\nb"}"#));
    let closing = Queue::start(|stream| stream.shutdown(std::net::Shutdown::Both).unwrap());
    let gone = Queue::confirming();
    let there_is_none = gone.named("orders", None);
    drop(gone);
    for fallback in
        [refusing.named("orders", None), strange.named("orders", None), closing.named("orders", None), there_is_none]
    {
        for backends in [&[][..], &[nobody()][..]] {
            let node = Node::new(backends, with(fallback.clone()));
            let _plane = node.serve();
            let answer = post(node.addr, "", b"hi");
            assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")), "{fallback:?}");
            assert!(answer.text().starts_with("HF0525"), "{}", answer.text());
            wait_for("it to be counted", || (node.table().counters(0).failed == 1).then_some(()));
            assert_eq!(node.table().counters(0).degraded, 0);
        }
    }
}

#[test]
fn a_silent_queue_means_503_within_the_limit() {
    let silent = Queue::start(|_| {});
    let node = Node::new(&[], with(silent.named("orders", None)));
    let _plane = node.serve();
    let began = Instant::now();
    // More than are stored at once: those who wait for their turn have the same limit.
    let clients: Vec<_> = (0..40)
        .map(|_| {
            std::thread::spawn({
                let addr = node.addr;
                move || post(addr, "", b"hi").status
            })
        })
        .collect();
    let statuses: Vec<u16> = clients.into_iter().map(|c| c.join().unwrap()).collect();
    let took = began.elapsed();
    assert_eq!(statuses, vec![503; 40]);
    assert!((Duration::from_secs(2)..Duration::from_secs(8)).contains(&took), "{took:?}");
}

#[test]
fn the_access_log_tells_what_was_kept_and_where() {
    let queue = Queue::confirming();
    let node = Node::new(&[], |_| {});
    let path = node.dir.path().join("public.log");
    let log = AccessLog { path: path.clone(), ..AccessLog::default() };
    let mut node = node;
    node.next(|b| (b.fallback, b.access_log) = (queue.named("orders", None), Some(log)));
    let plane = node.serve();
    assert_eq!(post(node.addr, "", b"hi").status, 202);
    plane.drain().unwrap();
    let text =
        wait_for("the line", || std::fs::read_to_string(path.with_extension("log.1")).ok().filter(|t| !t.is_empty()));
    let line: Vec<&str> = text.split_whitespace().collect();
    assert_eq!((line[2..5].join(" ").as_str(), line[7]), ("POST /orders 202", "queue:orders"), "{text}");
}
