//! Servers that are no etcd, or have gone mad: nothing panics, hangs, grows, or is claimed to have happened.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_cluster::etcd::{Etcd, Options};
use holdfast_cluster::{Event, LeaseId, Op, Store, Txn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::roles::soon;

/// What a server does with a request for the path.
#[derive(Clone)]
enum Does {
    /// Closes without a word.
    Hangs,
    /// Keeps the connection and says nothing.
    Nothing,
    /// Exactly these bytes, then closes.
    Says(Vec<u8>),
    /// These bytes, and the last ones again and again.
    Endlessly(Vec<u8>, Vec<u8>),
}

struct Mad {
    endpoint: String,
    written: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Mad {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mad {
    async fn start(does: impl Fn(&str) -> Does + Send + Sync + 'static) -> Mad {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (written, connections) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counts, opened) = (written.clone(), connections.clone());
        let does = Arc::new(does);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, does.clone(), counts.clone()));
            }
        });
        Mad { endpoint, written, connections, task }
    }

    fn etcd(&self) -> Etcd {
        let request_timeout = Duration::from_millis(400);
        let options = Options { request_timeout, ..Options::new([self.endpoint.clone()]) };
        Etcd::new(options).unwrap()
    }
}

async fn serve(mut stream: TcpStream, does: Arc<impl Fn(&str) -> Does>, written: Arc<AtomicU64>) {
    let mut request = Vec::new();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    match does(text.split(' ').nth(1).unwrap_or_default()) {
        Does::Hangs => {}
        Does::Nothing => drop(stream.read(&mut [0; 64 << 10]).await.map(|_| ())),
        Does::Says(bytes) => drop(stream.write_all(&bytes).await),
        Does::Endlessly(head, again) => {
            let mut sent = stream.write_all(&head).await;
            while sent.is_ok() {
                sent = stream.write_all(&again).await;
                written.fetch_add(again.len() as u64, Ordering::SeqCst);
            }
        }
    }
}

fn answer(status: &str, body: &str) -> Does {
    Does::Says(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

fn ok(body: &str) -> Does {
    answer("200 OK", body)
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn madness() -> Vec<(&'static str, Does)> {
    let deep = "[".repeat(100_000);
    let chunk = format!("10000\r\n{}\r\n", "a".repeat(0x10000)).into_bytes();
    vec![
        ("hangs up", Does::Hangs),
        ("says nothing", Does::Nothing),
        ("is no HTTP", Does::Says(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())),
        ("is binary", Does::Says((0..=255).cycle().take(9000).collect())),
        ("cuts the head", Does::Says(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec())),
        ("cuts the body", Does::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"header\":".to_vec())),
        ("is empty", ok("")),
        ("is no JSON", ok("<html>hello</html>")),
        ("is nothing", ok("null")),
        ("has no header", ok("{}")),
        ("is a list", ok("[]")),
        ("is deep", ok(&deep)),
        ("goes back", ok(r#"{"header":{"revision":"-5"},"ID":"-1","TTL":"-9","succeeded":true}"#)),
        ("is of other types", ok(r#"{"header":7,"kvs":{"a":1},"responses":"x","ID":[],"TTL":{}}"#)),
        (
            "answers another question",
            ok(r#"{"header":{"revision":"5"},"succeeded":true,"responses":[{}],"kvs":[{},{}]}"#),
        ),
        ("errs without words", answer("500 Internal Server Error", "{}")),
        ("errs in no language", answer("503 Service Unavailable", "\u{1b}[31mbusy")),
        ("moves", answer("302 Found", "elsewhere")),
        ("never ends", Does::Endlessly(CHUNKED.into(), chunk)),
        (
            "has endless headers",
            Does::Endlessly(b"HTTP/1.1 200 OK\r\n".to_vec(), b"X-A: aaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(100)),
        ),
        ("has endless interim answers", Does::Endlessly(Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_of_a_mad_server_is_taken_for_success() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = JoinSet::new();
    for (what, does) in madness() {
        all.spawn(claims_nothing(what, does, dir.path().join(what)));
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no part of a copy stays");
}

async fn claims_nothing(what: &'static str, does: Does, copy: PathBuf) {
    let mad = Mad::start(move |_| does.clone()).await;
    let etcd = mad.etcd();
    let write = soon(etcd.txn(Txn::always([Op::put("/a", "1")]))).await;
    assert_eq!(write.as_ref().err().map(|e| e.code()), Some("HF0410"), "{what}: {write:?}");
    assert!(write.unwrap_err().to_string().len() < 600, "{what}: an error is a line");
    let read = soon(etcd.txn(Txn::always([Op::get("/a")]))).await;
    assert!(read.is_err(), "{what}: {read:?}");
    assert!(soon(etcd.grant(Duration::from_secs(5))).await.is_err(), "{what}");
    assert!(soon(etcd.keep_alive(LeaseId(7))).await.is_err(), "{what}");
    assert!(soon(etcd.revoke(LeaseId(7))).await.is_err() || what == "answers another question", "{what}");
    assert!(soon(etcd.members()).await.map_or(true, |members| members.is_empty()), "{what}");
    assert!(soon(etcd.snapshot(&mad.endpoint, &copy)).await.is_err(), "{what}");
}

#[tokio::test]
async fn something_that_is_no_gateway_is_named() {
    let mad = Mad::start(|_| answer("404 Not Found", "404 page not found")).await;
    let error = soon(mad.etcd().txn(Txn::always([Op::put("/a", "1")]))).await.unwrap_err();
    assert_eq!(error.code(), "HF0424", "{error}");
    assert!(error.to_string().contains("gateway"), "{error}");
}

/// Answers as etcd would, but for watches.
async fn mad_watches(does: Does) -> Mad {
    Mad::start(move |path| match path {
        "/v3/watch" => does.clone(),
        _ => ok(r#"{"header":{"cluster_id":"1","member_id":"1","revision":"5"}}"#),
    })
    .await
}

fn chunked(lines: &[&str]) -> Vec<u8> {
    let mut all = CHUNKED.as_bytes().to_vec();
    for line in lines {
        all.extend_from_slice(format!("{:x}\r\n{line}\n\r\n", line.len() + 1).as_bytes());
    }
    all
}

const CREATED: &str = r#"{"result":{"header":{"cluster_id":"1","revision":"5"},"created":true}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_nonsense_is_lost_after_some_tries() {
    let event = r#"{"result":{"header":{"cluster_id":"1","revision":"9"},"events":[{"kv":{"key":"L2s=","mod_revision":"9"}},{"kv":{"key":"L2s=","mod_revision":"8"}}]}}"#;
    let nonsense = [
        Does::Says(chunked(&[CREATED, "garbage"])),
        Does::Says(chunked(&[CREATED, "{}"])),
        Does::Says(chunked(&[CREATED, r#"{"result":{"events":[{"kv":{"key":"%%%"}}]}}"#])),
        Does::Says(chunked(&[CREATED, event])),
        Does::Says(chunked(&[
            r#"{"result":{"header":{"cluster_id":"1"},"created":true,"canceled":true,"cancel_reason":"permission denied"}}"#,
        ])),
        ok("<html>\n"),
    ];
    let mut all = JoinSet::new();
    for (n, does) in nonsense.into_iter().enumerate() {
        all.spawn(async move {
            let mad = mad_watches(does).await;
            let mut watch = mad.etcd().watch("/k".into(), 8).await.unwrap();
            assert_eq!(soon(watch.next()).await, Event::Lost, "case {n}");
            assert!(mad.connections.load(Ordering::SeqCst) > 3, "it was tried again");
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn another_cluster_behind_the_same_address_ends_a_watch() {
    let mad = mad_watches(Does::Says(chunked(&[r#"{"result":{"header":{"cluster_id":"2"},"created":true}}"#]))).await;
    let mut watch = mad.etcd().watch("/k".into(), 0).await.unwrap();
    assert_eq!(soon(watch.next()).await, Event::Lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_without_end_is_cut_off() {
    let again = format!("10000\r\n{}\r\n", "a".repeat(0x10000)).into_bytes();
    let mad = mad_watches(Does::Endlessly(chunked(&[CREATED]), again)).await;
    let mut watch = mad.etcd().watch("/k".into(), 0).await.unwrap();
    assert_eq!(soon(watch.next()).await, Event::Lost);
    let (written, connections) = (mad.written.load(Ordering::SeqCst), mad.connections.load(Ordering::SeqCst));
    assert!(written < connections * (40 << 20), "{written} bytes over {connections} connections");
}

#[tokio::test]
async fn a_silent_watch_is_tried_again_and_ends_with_its_consumer() {
    let mad = mad_watches(Does::Nothing).await;
    let etcd = mad.etcd();
    let watch = etcd.watch("/k".into(), 0).await.unwrap();
    let tried = async {
        while mad.connections.load(Ordering::SeqCst) < 4 {
            tokio::task::yield_now().await;
        }
    };
    soon(tried).await;
    drop(watch);
    drop(etcd);
}
