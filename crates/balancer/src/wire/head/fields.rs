//! Header fields that end at this hop, and lists of tokens.

/// Tokens of a comma-separated field value.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|t| !t.is_empty())
}

pub(super) fn has_token(value: &[u8], token: &[u8]) -> bool {
    tokens(value).any(|t| t.eq_ignore_ascii_case(token))
}

/// Fields that `Connection` cannot take away: framing and routing are ours, credentials are the user's.
pub(super) fn is_kept_from_connection(name: &[u8]) -> bool {
    const KEPT: [&[u8]; 8] = [
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"authorization",
        b"cookie",
        b"content-type",
        b"content-encoding",
        b"via",
    ];
    KEPT.iter().any(|k| name.eq_ignore_ascii_case(k))
}

/// A field name as far as this hop cares; one comparison by length before any by content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    /// Keep-Alive.
    KeepAlive,
    Upgrade,
    Expect,
    IdempotencyKey,
    ForwardedFor,
    ForwardedProto,
    ForwardedHost,
    /// Other forwarding claims: `Forwarded`, `X-Forwarded-Port`, `X-Real-IP` …
    OtherForwarded,
    /// Ends here: Proxy-Connection, TE, HTTP2-Settings …
    HopByHop,
    EndToEnd,
}

impl Known {
    pub(super) fn of(name: &str) -> Known {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is("te") => Known::HopByHop,
            4 if is("host") => Known::Host,
            6 if is("expect") => Known::Expect,
            7 if is("upgrade") => Known::Upgrade,
            9 if is("forwarded") || is("x-real-ip") => Known::OtherForwarded,
            10 if is("connection") => Known::Connection,
            10 if is("keep-alive") => Known::KeepAlive,
            14 if is("content-length") => Known::ContentLength,
            14 if is("http2-settings") => Known::HopByHop,
            15 if is("x-forwarded-for") => Known::ForwardedFor,
            15 if is("idempotency-key") => Known::IdempotencyKey,
            16 if is("x-forwarded-host") => Known::ForwardedHost,
            16 if is("x-forwarded-port") => Known::OtherForwarded,
            16 if is("proxy-connection") => Known::HopByHop,
            17 if is("transfer-encoding") => Known::TransferEncoding,
            17 if is("x-forwarded-proto") => Known::ForwardedProto,
            18 if is("x-forwarded-server") || is("x-forwarded-prefix") => Known::OtherForwarded,
            19 if is("proxy-authorization") => Known::HopByHop,
            _ => Known::EndToEnd,
        }
    }
}

/// Digits only, so that no two readers see different numbers.
pub(super) fn length(value: &[u8]) -> Option<u64> {
    let plain = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    plain.then(|| value.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

pub(super) fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
