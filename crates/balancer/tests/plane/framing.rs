//! Bodies, interim answers, versions and upgrades.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use super::backend::{Backend, reply, wait_for};
use super::client::{Client, get};
use super::setup::Node;

fn echo() -> Backend {
    Backend::start(|seen, stream| reply(stream, 200, &seen.body))
}

#[test]
fn bodies_of_all_sizes_and_framings_arrive_whole() {
    let backend = echo();
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let mut client = Client::connect(node.addr);
    for size in [0, 1, 1000, 16_384, 65_536, 65_537, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
        let head = format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n\r\n");
        let mut stream = client.stream.try_clone().unwrap();
        let bytes = [head.as_bytes(), &body].concat();
        let writer = std::thread::spawn(move || stream.write_all(&bytes));
        let answer = client.answer().unwrap();
        writer.join().unwrap().unwrap();
        assert!(answer.seen.body == body, "{size} bytes");

        let mut stream = client.stream.try_clone().unwrap();
        let mut bytes = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in body.chunks(5000) {
            bytes.extend(format!("{:x}\r\n", part.len()).bytes());
            bytes.extend(part);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        let writer = std::thread::spawn(move || stream.write_all(&bytes));
        let answer = client.answer().unwrap();
        writer.join().unwrap().unwrap();
        assert!(answer.seen.body == body, "{size} bytes in chunks");
    }
}

#[test]
fn trailers_pass_in_both_directions() {
    let backend = Backend::start(|seen, stream| {
        let sum = seen.header("x-sum").unwrap_or("none").to_owned();
        let text = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Back\r\n\r\n3\r\nabc\r\n0\r\nX-Back: {sum}\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).is_ok()
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let mut client = Client::connect(node.addr);
    client.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 42\r\n\r\n");
    let answer = client.answer().unwrap();
    assert_eq!((answer.text().as_str(), answer.header("x-back")), ("abc", Some("42")));
    assert_eq!(client.get("/").unwrap().header("x-back"), Some("none"), "the connection goes on");
}

#[test]
fn head_has_a_length_and_no_body() {
    let backend = Backend::start(|seen, stream| {
        let body = if seen.line.starts_with("HEAD") { "" } else { "hello" };
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}").as_bytes()).is_ok()
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let mut client = Client::connect(node.addr);
    client.send("HEAD / HTTP/1.1\r\nHost: t\r\n\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n");
    let seen = super::backend::read_head(client.reader()).unwrap();
    assert_eq!(seen.header("content-length"), Some("5"));
    assert_eq!(client.answer().unwrap().text(), "hello", "the next answer follows at once");
}

#[test]
fn old_clients_and_old_servers_meet() {
    let backend = Backend::start(|seen, stream| match seen.line.split(' ').nth(1).unwrap() {
        "/chunked" => stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
            .is_ok(),
        "/close" => {
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nup to the end");
            let _ = stream.shutdown(std::net::Shutdown::Both);
            false
        }
        _ => reply(stream, 200, b"plain"),
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let old = |path: &str| {
        let mut client = Client::connect(node.addr);
        client.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
        let mut text = String::new();
        client.reader().read_to_string(&mut text).unwrap();
        text
    };
    assert!(old("/").ends_with("Connection: close\r\n\r\nplain"));
    let chunked = old("/chunked");
    assert!(chunked.ends_with("\r\n\r\nabc") && !chunked.contains("Transfer-Encoding"), "{chunked}");
    assert!(old("/close").ends_with("up to the end"));
    let mut client = Client::connect(node.addr);
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer().unwrap().header("connection"), Some("keep-alive"));
    assert_eq!(client.get("/").unwrap().text(), "plain");
}

#[test]
fn expect_is_answered_by_the_endpoint_for_large_bodies_and_here_for_small_ones() {
    let backend = Backend::start(|seen, stream| {
        if seen.line.contains("/refuse") {
            let _ = reply(stream, 413, b"too much");
            return false;
        }
        if seen.header("expect").is_some() {
            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
            let mut body = vec![0; seen.header("content-length").unwrap().parse().unwrap()];
            let _ = stream.read_exact(&mut body);
            return reply(stream, 200, &body[..3]);
        }
        reply(stream, 200, &seen.body)
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    for (size, wanted) in [(3usize, "aaa"), (100_000, "aaa")] {
        let mut client = Client::connect(node.addr);
        client.send(format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n\r\n"));
        assert_eq!(client.answer().unwrap().status, 100);
        client.send(vec![b'a'; size]);
        assert_eq!(client.answer().unwrap().text(), wanted);
    }
    let mut client = Client::connect(node.addr);
    client.send("POST /refuse HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 413, "refused before the body");
}

#[test]
fn early_hints_are_passed_on() {
    let backend = Backend::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
        reply(stream, 200, b"done")
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let mut client = Client::connect(node.addr);
    let hints = client.get("/").unwrap();
    assert_eq!((hints.status, hints.header("link")), (103, Some("</a.css>")));
    assert_eq!(client.answer().unwrap().text(), "done");
}

#[test]
fn an_upgraded_connection_is_a_tunnel_with_half_close() {
    let backend = Backend::start(|seen, stream| {
        assert_eq!((seen.header("upgrade"), seen.header("connection")), (Some("websocket"), Some("Upgrade")));
        let _ = stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst");
        let mut bytes = [0; 100];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            let _ = stream.write_all(&bytes[..count]);
        }
        let _ = stream.write_all(b"bye");
        let _ = stream.shutdown(std::net::Shutdown::Both);
        false
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let mut client = Client::connect(node.addr);
    client.send("GET /ws HTTP/1.1\r\nHost: t\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\nearly");
    let head = super::backend::read_head(client.reader()).unwrap();
    assert!(head.line.starts_with("HTTP/1.1 101"), "{head:?}");
    assert_eq!(head.header("upgrade"), Some("websocket"));
    client.send("late");
    let mut got = [0; 14];
    client.reader().read_exact(&mut got).unwrap();
    assert_eq!(&got, b"firstearlylate");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = String::new();
    client.reader().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "bye");
}

#[test]
fn a_slow_reader_slows_the_sender_and_not_the_memory() {
    const TOTAL: usize = 50 << 20;
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let backend = Backend::start(move |_, stream| {
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n").as_bytes());
        let block = vec![7u8; 1 << 16];
        for _ in 0..TOTAL / block.len() {
            if stream.write_all(&block).is_err() {
                return false;
            }
            counter.fetch_add(block.len() as u64, SeqCst);
        }
        true
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let mut client = Client::connect(node.addr);
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    // Stalled when two looks 50 ms apart see the same.
    let mut last = u64::MAX;
    let stalled = wait_for("stall", || {
        std::thread::sleep(Duration::from_millis(50));
        let now = sent.load(SeqCst);
        (std::mem::replace(&mut last, now) == now && now > 0).then_some(now)
    });
    assert!(stalled < 30 << 20, "{stalled} bytes taken from the sender without a reader");
    let answer = client.answer().unwrap();
    assert!(answer.seen.body.len() == TOTAL && answer.seen.body.iter().all(|b| *b == 7));
}

#[test]
fn an_answer_that_breaks_off_is_seen_as_broken() {
    let backend = Backend::start(|seen, stream| {
        let text: &[u8] = match seen.line.split(' ').nth(1).unwrap() {
            "/length" => b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf",
            _ => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        };
        let _ = stream.write_all(text);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        false
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    for path in ["/length", "/chunked"] {
        let mut client = Client::connect(node.addr);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n"));
        let mut bytes = Vec::new();
        let _ = client.reader().read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.trim_end().ends_with("half"), "{text}");
    }
    wait_for("both counted", || (node.table().counters(0).failed == 2).then_some(()));
    assert_eq!(backend.count(), 2, "never sent again after the first byte");
}

#[test]
fn an_answer_before_the_end_of_the_body_reaches_the_client() {
    let backend = Backend::start(|_, stream| {
        let _ = reply(stream, 403, b"no");
        false
    });
    let node = Node::new(&[backend.addr], |_| {});
    let _plane = node.serve();
    let mut client = Client::connect(node.addr);
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.header("connection")), (403, Some("close")));
    assert!(get(node.addr, "/").is_some());
}
