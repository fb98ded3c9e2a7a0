//! Request heads.

use super::fields::{self, Known};
use super::*;
use crate::wire::pump::HOLD_BYTES_MAX;

/// A checked request head; its rewritten form was appended to the caller's buffer.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Bytes of the head as received.
    pub(crate) len: usize,
    pub(crate) method: Method,
    pub(crate) minor: u8,
    pub(crate) body: Body,
    /// The client can take another answer on this connection.
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
    pub(crate) expects_continue: bool,
    pub(crate) idempotent: bool,
    /// Asks for an answer and for nothing else.
    pub(crate) safe: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Head,
    Other,
}

/// What the first pass over the fields found.
#[derive(Default)]
struct Facts<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    upgrade: Option<&'a [u8]>,
    expects_continue: bool,
    idempotency_key: bool,
    forwarded_for: Option<&'a [u8]>,
    forwarded_proto: bool,
    forwarded_host: bool,
    /// `Connection` names fields other than the usual ones.
    named: bool,
}

/// Reads one head from the start of `bytes`, `None` when it is not complete. `head` gets the head for the endpoint,
/// `line` gets `METHOD TARGET` for the log.
pub(crate) fn read_request(
    bytes: &[u8],
    rules: &Rules<'_>,
    head: &mut Vec<u8>,
    line: &mut Vec<u8>,
) -> Result<Option<Request>, Refusal> {
    // RFC 9112 section 2.2: an empty line before the request is ignored.
    let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let bytes = &bytes[skipped..];
    let Some(len) = end_of_head(bytes)? else {
        return if bytes.len() >= rules.header_bytes { Err(Refusal::HeadTooLarge) } else { Ok(None) };
    };
    if len > rules.header_bytes {
        return Err(Refusal::HeadTooLarge);
    }
    let mut space: [MaybeUninit<Header<'_>>; HEADERS_MAX] = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let limit = rules.headers.min(HEADERS_MAX);
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(&bytes[..len], &mut space[..limit]) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(Refusal::Malformed("the head is cut")),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(Refusal::Version),
        Err(_) => return Err(Refusal::Malformed("the head does not follow HTTP/1.1")),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::Malformed("the request line is incomplete"));
    };
    line.extend_from_slice(method.as_bytes());
    line.push(b' ');
    line.extend_from_slice(target.as_bytes());
    let facts = gather(parsed.headers, minor)?;
    let (authority, path) = split_target(method, target)?;
    check_host(facts.host, minor)?;
    write_head(head, method, path, authority, parsed.headers, &facts, rules);
    let body = match (facts.chunked, facts.length) {
        (true, _) => Body::chunked(),
        (false, Some(n)) => Body::Length(n),
        (false, None) => Body::Empty,
    };
    Ok(Some(Request {
        len: len + skipped,
        method: if method == "HEAD" { Method::Head } else { Method::Other },
        minor,
        body,
        keep_alive: if minor == 1 { !facts.close } else { facts.keep_alive && !facts.close },
        upgrade: upgrades(&facts, minor, &body),
        expects_continue: facts.expects_continue && minor == 1 && !body.is_done(),
        safe: holdfast_policy::balance::fallback::is_safe(method.as_bytes()),
        idempotent: facts.idempotency_key || holdfast_policy::balance::replay::idempotent(method.as_bytes()),
    }))
}

fn upgrades(facts: &Facts<'_>, minor: u8, body: &Body) -> bool {
    let offered = facts.upgrade.is_some_and(|u| !fields::has_token(u, b"h2c"));
    offered && facts.connection_upgrade && minor == 1 && body.is_done()
}

fn gather<'a>(headers: &[Header<'a>], minor: u8) -> Result<Facts<'a>, Refusal> {
    let mut f = Facts::default();
    let mut encodings = 0;
    for h in headers {
        match Known::of(h.name) {
            Known::Host if f.host.is_some() => return Err(Refusal::Malformed("more than one Host")),
            Known::Host => f.host = Some(h.value),
            Known::ContentLength if f.length.is_some() => {
                return Err(Refusal::Malformed("more than one Content-Length"));
            }
            Known::ContentLength => {
                f.length = Some(fields::length(h.value).ok_or(Refusal::Malformed("Content-Length is not a number"))?);
            }
            Known::TransferEncoding => {
                encodings += 1;
                f.chunked = true;
                if !h.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::Encoding);
                }
            }
            Known::Connection => connection(&mut f, h.value),
            Known::Upgrade => f.upgrade = Some(h.value),
            Known::Expect if h.value.eq_ignore_ascii_case(b"100-continue") => f.expects_continue = true,
            Known::Expect => return Err(Refusal::Expectation),
            Known::IdempotencyKey => f.idempotency_key = !h.value.is_empty(),
            Known::ForwardedFor => f.forwarded_for = Some(h.value),
            Known::ForwardedProto => f.forwarded_proto = true,
            Known::ForwardedHost => f.forwarded_host = true,
            Known::KeepAlive | Known::OtherForwarded | Known::HopByHop | Known::EndToEnd => {}
        }
    }
    match encodings {
        0 => {}
        _ if minor == 0 => return Err(Refusal::Malformed("Transfer-Encoding in HTTP/1.0")),
        _ if f.length.is_some() => return Err(Refusal::Malformed("both Content-Length and Transfer-Encoding")),
        1 => {}
        _ => return Err(Refusal::Malformed("more than one Transfer-Encoding")),
    }
    Ok(f)
}

fn connection(f: &mut Facts<'_>, value: &[u8]) {
    for token in fields::tokens(value) {
        if token.eq_ignore_ascii_case(b"keep-alive") {
            f.keep_alive = true;
        } else if token.eq_ignore_ascii_case(b"close") {
            f.close = true;
        } else if token.eq_ignore_ascii_case(b"upgrade") {
            f.connection_upgrade = true;
        } else {
            f.named = true;
        }
    }
}

/// Origin form as it is; absolute form gives its authority to `Host` (RFC 9112 section 3.2.2).
fn split_target<'a>(method: &str, target: &'a str) -> Result<(Option<&'a str>, &'a str), Refusal> {
    if method == "CONNECT" {
        return Err(Refusal::Method);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((None, target));
    }
    let rest = match target.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => &target[7..],
        _ => return Err(Refusal::Malformed("the request target is neither a path nor an http URL")),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || !authority.bytes().all(is_host_byte) {
        return Err(Refusal::Malformed("the authority of the request target is not a host"));
    }
    Ok((Some(authority), path))
}

fn check_host(host: Option<&[u8]>, minor: u8) -> Result<(), Refusal> {
    match host {
        None if minor == 1 => Err(Refusal::Malformed("no Host")),
        Some(value) if !value.iter().all(|b| is_host_byte(*b)) => Err(Refusal::Malformed("Host is not a host")),
        _ => Ok(()),
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]!$&'()*+;=%".contains(&byte)
}

fn write_head(
    out: &mut Vec<u8>,
    method: &str,
    path: &str,
    authority: Option<&str>,
    headers: &[Header<'_>],
    f: &Facts<'_>,
    rules: &Rules<'_>,
) {
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    if !path.starts_with(['/', '*']) {
        out.push(b'/');
    }
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let host = authority.map(str::as_bytes).or(f.host);
    fields::put(out, b"Host", host.unwrap_or_default());
    for h in headers {
        let forward = match Known::of(h.name) {
            Known::EndToEnd => !(f.named && is_named(headers, h.name)),
            Known::IdempotencyKey | Known::ContentLength | Known::TransferEncoding => true,
            Known::Expect => !is_held(f),
            Known::ForwardedProto | Known::ForwardedHost | Known::OtherForwarded => rules.trusted,
            Known::Host
            | Known::Connection
            | Known::KeepAlive
            | Known::Upgrade
            | Known::HopByHop
            | Known::ForwardedFor => false,
        };
        if forward {
            fields::put(out, h.name.as_bytes(), h.value);
        }
    }
    forwarding(out, headers, f, host, rules);
    match f.upgrade {
        Some(protocol) if f.connection_upgrade && !fields::has_token(protocol, b"h2c") => {
            out.extend_from_slice(b"Connection: Upgrade\r\n");
            fields::put(out, b"Upgrade", protocol);
        }
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn forwarding(out: &mut Vec<u8>, headers: &[Header<'_>], f: &Facts<'_>, host: Option<&[u8]>, rules: &Rules<'_>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    if rules.trusted && f.forwarded_for.is_some() {
        for h in headers.iter().filter(|h| Known::of(h.name) == Known::ForwardedFor) {
            out.extend_from_slice(h.value);
            out.extend_from_slice(b", ");
        }
    }
    out.extend_from_slice(rules.client.as_bytes());
    out.extend_from_slice(b"\r\n");
    if !(rules.trusted && f.forwarded_proto) {
        out.extend_from_slice(b"X-Forwarded-Proto: http\r\n");
    }
    if let (Some(host), false) = (host, rules.trusted && f.forwarded_host) {
        fields::put(out, b"X-Forwarded-Host", host);
    }
    out.extend_from_slice(b"Via: 1.1 holdfast\r\n");
}

/// Small bodies are read whole before an endpoint is asked; then the balancer itself has answered `Expect`.
fn is_held(f: &Facts<'_>) -> bool {
    !f.chunked && f.length.is_none_or(|n| n <= HOLD_BYTES_MAX as u64)
}

fn is_named(headers: &[Header<'_>], name: &str) -> bool {
    let name = name.as_bytes();
    !fields::is_kept_from_connection(name)
        && headers.iter().filter(|h| Known::of(h.name) == Known::Connection).any(|h| fields::has_token(h.value, name))
}

#[cfg(test)]
mod tests;
