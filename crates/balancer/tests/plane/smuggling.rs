//! Requests that two readers could understand differently: none reaches a server, and nothing after one is read.

use std::io::Read;

use super::backend::Backend;
use super::client::Client;
use super::setup::Node;

/// What follows each bad message; a server must never see it as a request.
const NEXT: &str = "GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n";

const CORPUS: &[&str] = &[
    "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nContent-Length: 35\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0, 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nContent-Length : 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nContent-Length:\x0b0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nX: y\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: t\n\r\n",
    "GET / HTTP/1.1\nHost: t\n\n",
    "GET / HTTP/1.1\r\nHost: t\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: t\r\nHost: u\r\n\r\n",
    "GET http://t/ HTTP/1.1 HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET /\x00 HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: t\r\nX: \x00\r\n\r\n",
    "\nGET / HTTP/1.1\r\nHost: t\r\n\r\n",
    " GET / HTTP/1.1\r\nHost: t\r\n\r\n",
    "CONNECT t:80 HTTP/1.1\r\nHost: t\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

/// Bad only once the body is read: the server may have seen the head, but never what follows.
const BODIES: &[&str] = &[
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabX0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2;x\ny\r\nab\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nab\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n",
    "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n",
];

fn all_that_comes_back(node: &Node, text: &str) -> String {
    let mut client = Client::connect(node.addr);
    client.send(text).send(NEXT);
    let mut bytes = Vec::new();
    let _ = client.reader().read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn no_ambiguous_head_reaches_a_server() {
    let backend = Backend::named("ok");
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    for text in CORPUS {
        let back = all_that_comes_back(&node, text);
        let status: u16 = back.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
        assert!((400..=505).contains(&status), "{text:?} gave {back:?}");
        assert_eq!(back.matches("Connection: close").count(), 1, "{text:?} gave {back:?}");
        assert!(back.contains("Connection: close"), "{back}");
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn nothing_after_an_ambiguous_body_is_read() {
    let smuggled = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = smuggled.clone();
    let backend = Backend::start(move |seen, stream| {
        counter.fetch_add(u64::from(seen.line.contains("smuggled")), std::sync::atomic::Ordering::SeqCst);
        super::backend::reply(stream, 200, b"ok")
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    for text in BODIES {
        let back = all_that_comes_back(&node, text);
        assert!(back.starts_with("HTTP/1.1 400"), "{text:?} gave {back:?}");
        assert_eq!(back.matches("Connection: close").count(), 1, "{text:?} gave {back:?}");
    }
    assert_eq!(smuggled.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::start(|seen, stream| super::backend::reply(stream, 200, seen.line.as_bytes()));
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let mut client = Client::connect(node.addr);
    let text: String =
        (0..20).map(|i| format!("POST /{i} HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi")).collect();
    client.send(text);
    for i in 0..20 {
        assert_eq!(client.answer().unwrap().text(), format!("POST /{i} HTTP/1.1"));
    }
}
