//! Response heads.

use super::fields::{self, Known};
use super::*;

/// A checked response head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Response {
    /// Bytes of the head as received.
    pub(crate) len: usize,
    pub(crate) status: u16,
    pub(crate) body: Body,
    /// The endpoint can take another request on this connection.
    pub(crate) reusable: bool,
    /// `Keep-Alive: timeout=N`.
    pub(crate) keep_alive_s: Option<u32>,
}

/// What the client can take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) head_only: bool,
    pub(crate) minor: u8,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
}

/// The answer is not HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotHttp;

/// Reads one head from the start of `bytes`, `None` when it is not complete. `head` gets the head for the client with
/// its framing, unless the status is informational. Whether the connection to the client survives is returned.
pub(crate) fn read_response(
    bytes: &[u8],
    asked: Asked,
    head: &mut Vec<u8>,
) -> Result<Option<(Response, bool)>, NotHttp> {
    let mut space: [MaybeUninit<Header<'_>>; HEADERS_MAX] = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let len = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut space) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => return Ok(None),
        Err(_) => return Err(NotHttp),
    };
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else { return Err(NotHttp) };
    let facts = gather(parsed.headers)?;
    if status < 100 || (status == 101 && !asked.upgrade) {
        return Err(NotHttp);
    }
    let body = match (facts.chunked, facts.length) {
        _ if asked.head_only || status < 200 || status == 204 || status == 304 => Body::Empty,
        (true, _) => Body::chunked(),
        (false, Some(length)) => Body::Length(length),
        (false, None) => Body::Close,
    };
    // Both framings in one answer: the connection is not trusted with a second one.
    let reusable = body != Body::Close
        && !facts.close
        && (minor == 1 || facts.keep_alive)
        && !(facts.chunked && facts.length.is_some())
        && status != 101;
    let keep = asked.keep_alive && client_can_tell_the_end(body, asked.minor) && status != 101;
    if status >= 200 || status == 101 {
        write_head(head, status, parsed.reason.unwrap_or(""), parsed.headers, &facts, asked, body, keep);
    }
    let response = Response { len, status, body, reusable, keep_alive_s: facts.timeout };
    Ok(Some((response, keep)))
}

/// An HTTP/1.0 client reads neither chunks nor an answer without length except up to the end of the connection.
fn client_can_tell_the_end(body: Body, minor: u8) -> bool {
    match body {
        Body::Close => false,
        Body::Chunked(_) => minor == 1,
        _ => true,
    }
}

#[derive(Default)]
struct Facts<'a> {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    named: bool,
    timeout: Option<u32>,
    upgrade: Option<&'a [u8]>,
}

fn gather<'a>(headers: &[Header<'a>]) -> Result<Facts<'a>, NotHttp> {
    let mut f = Facts::default();
    for h in headers {
        match Known::of(h.name) {
            Known::ContentLength => {
                let length = fields::length(h.value).ok_or(NotHttp)?;
                if f.length.is_some_and(|other| other != length) {
                    return Err(NotHttp);
                }
                f.length = Some(length);
            }
            Known::TransferEncoding if f.chunked || !h.value.eq_ignore_ascii_case(b"chunked") => return Err(NotHttp),
            Known::TransferEncoding => f.chunked = true,
            Known::Connection => {
                f.close |= fields::has_token(h.value, b"close");
                f.keep_alive |= fields::has_token(h.value, b"keep-alive");
                f.named |= fields::tokens(h.value).any(|t| {
                    ![&b"close"[..], b"keep-alive", b"upgrade"].iter().any(|usual| t.eq_ignore_ascii_case(usual))
                });
            }
            Known::KeepAlive => f.timeout = timeout(h.value),
            Known::Upgrade => f.upgrade = Some(h.value),
            _ => {}
        }
    }
    Ok(f)
}

fn timeout(value: &[u8]) -> Option<u32> {
    fields::tokens(value).find_map(|t| std::str::from_utf8(t.strip_prefix(b"timeout=")?).ok()?.parse().ok())
}

#[allow(clippy::too_many_arguments)]
fn write_head(
    out: &mut Vec<u8>,
    status: u16,
    reason: &str,
    headers: &[Header<'_>],
    f: &Facts<'_>,
    asked: Asked,
    body: Body,
    keep: bool,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&[
        b'0' + (status / 100) as u8,
        b'0' + (status / 10 % 10) as u8,
        b'0' + (status % 10) as u8,
        b' ',
    ]);
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    let dechunk = matches!(body, Body::Chunked(_)) && asked.minor == 0;
    let mut length_written = false;
    for h in headers {
        let forward = match Known::of(h.name) {
            Known::Connection | Known::KeepAlive | Known::HopByHop | Known::Upgrade => false,
            Known::TransferEncoding => !dechunk && body != Body::Empty,
            Known::ContentLength => {
                let first = !length_written;
                length_written = true;
                first && !f.chunked && status >= 200 && status != 204
            }
            _ => !(f.named && is_named(headers, h.name)),
        };
        if forward {
            fields::put(out, h.name.as_bytes(), h.value);
        }
    }
    match (status, f.upgrade) {
        (101, protocol) => {
            out.extend_from_slice(b"Connection: Upgrade\r\n");
            fields::put(out, b"Upgrade", protocol.unwrap_or_default());
        }
        (426, Some(protocol)) => fields::put(out, b"Upgrade", protocol),
        _ => {}
    }
    if status != 101 {
        match (keep, asked.minor) {
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, 0) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, _) => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn is_named(headers: &[Header<'_>], name: &str) -> bool {
    let name = name.as_bytes();
    !fields::is_kept_from_connection(name)
        && headers.iter().filter(|h| Known::of(h.name) == Known::Connection).any(|h| fields::has_token(h.value, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked = Asked { head_only: false, minor: 1, keep_alive: true, upgrade: false };

    fn read(text: &str, asked: Asked) -> (Response, bool, String) {
        let mut head = Vec::new();
        let (response, keep) = read_response(text.as_bytes(), asked, &mut head).unwrap().unwrap();
        (response, keep, String::from_utf8(head).unwrap())
    }

    #[test]
    fn framing_follows_method_status_and_fields() {
        let table = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", GET, Body::Length(5), true, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Asked { head_only: true, ..GET }, Body::Empty, true, true),
            ("HTTP/1.1 204 No\r\n\r\n", GET, Body::Empty, true, true),
            ("HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", GET, Body::Empty, true, true),
            ("HTTP/1.1 200 OK\r\n\r\n", GET, Body::Close, false, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", GET, Body::Length(5), false, true),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", GET, Body::Length(5), false, true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
                GET,
                Body::chunked(),
                false,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                Asked { minor: 0, ..GET },
                Body::chunked(),
                true,
                false,
            ),
        ];
        for (text, asked, body, reusable, keep) in table {
            let (r, k, head) = read(text, asked);
            assert_eq!((r.body, r.reusable, k), (body, reusable, keep), "{text:?}");
            assert_eq!(head.contains("Connection: close\r\n"), !keep, "{head}");
            assert!(!(head.contains("Content-Length") && head.contains("Transfer-Encoding")), "{head}");
        }
    }

    #[test]
    fn the_servers_keep_alive_time_is_read() {
        let (r, _, head) = read("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=100\r\nContent-Length: 0\r\n\r\n", GET);
        assert_eq!(r.keep_alive_s, Some(5));
        assert!(!head.contains("Keep-Alive"));
    }

    #[test]
    fn ambiguous_answers_are_not_passed_on() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
        ] {
            assert_eq!(read_response(text.as_bytes(), GET, &mut Vec::new()).unwrap_err(), NotHttp, "{text:?}");
        }
    }
}
