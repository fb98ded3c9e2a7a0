use super::*;

const RULES: Rules<'_> = Rules { header_bytes: 1024, headers: 20, client: "192.0.2.7", trusted: false };

fn read(text: &str) -> Result<Option<(Request, String)>, Refusal> {
    let (mut head, mut line) = (Vec::new(), Vec::new());
    Ok(read_request(text.as_bytes(), &RULES, &mut head, &mut line)?.map(|r| (r, String::from_utf8(head).unwrap())))
}

#[test]
fn the_head_is_written_anew_without_what_ends_here() {
    let (r, head) = read("GET /a?b HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nCookie: a\r\n\r\nrest").unwrap().unwrap();
    assert_eq!(
        head,
        "GET /a?b HTTP/1.1\r\nHost: shop\r\nCookie: a\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: shop\r\nVia: 1.1 holdfast\r\n\r\n"
    );
    assert!(r.keep_alive && r.idempotent && r.body == Body::Empty);
}

#[test]
fn a_trusted_proxy_is_believed() {
    let text = "GET / HTTP/1.1\r\nHost: in\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: out\r\n\r\n";
    let (mut head, mut line) = (Vec::new(), Vec::new());
    read_request(text.as_bytes(), &Rules { trusted: true, ..RULES }, &mut head, &mut line).unwrap().unwrap();
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("X-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.7\r\n"), "{head}");
    assert!(head.contains("X-Forwarded-Proto: https\r\nX-Forwarded-Host: out\r\n"), "{head}");
    assert_eq!(head.matches("X-Forwarded-Proto").count(), 1);
}

#[test]
fn absolute_form_gives_its_authority_to_host() {
    let (_, head) = read("GET http://shop:80?x HTTP/1.1\r\nHost: other\r\n\r\n").unwrap().unwrap();
    assert!(head.starts_with("GET /?x HTTP/1.1\r\nHost: shop:80\r\n"), "{head}");
}

#[test]
fn connection_cannot_name_away_framing_or_routing() {
    let (r, head) = read("POST / HTTP/1.1\r\nHost: h\r\nConnection: content-length, host, cookie\r\nCookie: c\r\nContent-Length: 3\r\n\r\n").unwrap().unwrap();
    assert!(
        head.contains("Content-Length: 3\r\n") && head.contains("Host: h\r\n") && head.contains("Cookie: c\r\n"),
        "{head}"
    );
    assert_eq!(r.body, Body::Length(3));
}

#[test]
fn versions_and_connection_decide_on_keep_alive() {
    let alive = |text: &str| read(text).unwrap().unwrap().0.keep_alive;
    assert!(alive("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    assert!(!alive("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
    assert!(!alive("GET / HTTP/1.0\r\n\r\n"));
    assert!(alive("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
}

#[test]
fn an_idempotency_key_makes_a_post_idempotent() {
    assert!(!read("POST / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().unwrap().0.idempotent);
    assert!(read("POST / HTTP/1.1\r\nHost: h\r\nIdempotency-Key: k\r\n\r\n").unwrap().unwrap().0.idempotent);
}

#[test]
fn an_incomplete_head_waits_and_a_large_one_is_refused() {
    assert!(read("GET / HTTP/1.1\r\nHost: h\r\n").unwrap().is_none());
    assert_eq!(read(&format!("GET /{} HTTP/1.1\r\n", "x".repeat(2000))).unwrap_err(), Refusal::HeadTooLarge);
    let many = "A: b\r\n".repeat(21);
    assert_eq!(read(&format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n")).unwrap_err(), Refusal::HeadTooLarge);
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let bad = [
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: \r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\n Transfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nX: a\n\r\n\r\n",
        "GET / HTTP/1.1\nHost: h\n\n",
        "GET / HTTP/1.1\r\nHost: h\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n: empty\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET http://a@b/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nExpect: magic\r\nContent-Length: 1\r\n\r\n",
    ];
    for text in bad {
        assert!(read(text).is_err(), "accepted {text:?}");
    }
}

proptest::proptest! {
    /// What is passed on says the same thing when it is read once more, and nothing makes the reader panic.
    #[test]
    fn a_rewritten_head_means_what_the_first_reader_understood(
        parts in proptest::collection::vec(0usize..PARTS.len(), 0..12), noise in proptest::collection::vec(proptest::num::u8::ANY, 0..20),
        at in 0usize..200,
    ) {
        let mut text: Vec<u8> = b"POST /a HTTP/1.1\r\nHost: h\r\n".to_vec();
        parts.iter().for_each(|p| text.extend(PARTS[*p].as_bytes()));
        text.extend(b"\r\n");
        if noise.len() < 4 {
            let at = at.min(text.len());
            text.splice(at..at, noise);
        }
        let (mut head, mut line) = (Vec::new(), Vec::new());
        if let Ok(Some(first)) = read_request(&text, &RULES, &mut head, &mut line) {
            let rules = Rules { header_bytes: 8192, headers: 100, ..RULES };
            let mut again = Vec::new();
            let second = read_request(&head, &rules, &mut again, &mut line).unwrap().unwrap();
            assert_eq!((second.body, second.len, second.idempotent), (first.body, head.len(), first.idempotent));
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let (mut head, mut line) = (Vec::new(), Vec::new());
        let _ = read_request(&bytes, &RULES, &mut head, &mut line);
        let asked = super::super::response::Asked { head_only: false, minor: 1, keep_alive: true, upgrade: true };
        let _ = super::super::response::read_response(&bytes, asked, &mut head);
        let _ = Body::chunked().take(&bytes, Some(&mut head));
    }
}

const PARTS: [&str; 16] = [
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "content-length: 03\r\n",
    "Connection: close, x-a\r\n",
    "X-A: 1\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: websocket\r\n",
    "Connection: upgrade\r\n",
    "Idempotency-Key: k\r\n",
    "X-Forwarded-For: 1\r\n",
    "Via: 1.1 a\r\n",
    " folded\r\n",
    "TE: trailers\r\n",
    "Cookie: a=b\r\n",
    "X: \u{e9}\r\n",
    "\n",
];
