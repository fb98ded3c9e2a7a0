//! Answers that come from the balancer itself: short, plain, each with the code of a page that explains it.

use std::io::Write;

/// Why a request was not passed on, or its answer not passed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Malformed(&'static str),
    Version,
    Method,
    Encoding,
    Expectation,
    HeadTooLarge,
    HeadTimeout,
    BodyTooLarge,
    /// The endpoint could not be reached or closed before it answered.
    BadGateway,
    GatewayTimeout,
    NotReady {
        retry_after_s: u32,
    },
    /// Connections or requests in flight are at their limit.
    Full,
    /// No instance is there, and the queue that keeps requests did not confirm that it has this one.
    NotKept,
    /// The balancer was removed from the configuration.
    Gone,
    /// A drill asked for it.
    Fault(u16),
}

impl Refusal {
    pub(crate) fn status(self) -> u16 {
        match self {
            Refusal::Malformed(_) => 400,
            Refusal::Version => 505,
            Refusal::Method => 405,
            Refusal::Encoding => 501,
            Refusal::Expectation => 417,
            Refusal::HeadTooLarge => 431,
            Refusal::HeadTimeout => 408,
            Refusal::BodyTooLarge => 413,
            Refusal::BadGateway => 502,
            Refusal::GatewayTimeout => 504,
            Refusal::NotReady { .. } | Refusal::Full | Refusal::NotKept | Refusal::Gone => 503,
            Refusal::Fault(status) => status,
        }
    }

    fn reason(self) -> &'static str {
        match self.status() {
            400 => "Bad Request",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            413 => "Content Too Large",
            417 => "Expectation Failed",
            431 => "Request Header Fields Too Large",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            505 => "HTTP Version Not Supported",
            _ => "Error",
        }
    }

    pub(crate) fn code(self) -> &'static str {
        match self {
            Refusal::Malformed(_) | Refusal::Version | Refusal::Method | Refusal::Encoding | Refusal::Expectation => {
                "HF0520"
            }
            Refusal::HeadTooLarge | Refusal::BodyTooLarge => "HF0521",
            Refusal::HeadTimeout => "HF0522",
            Refusal::BadGateway => "HF0523",
            Refusal::GatewayTimeout => "HF0524",
            Refusal::NotReady { .. } | Refusal::NotKept | Refusal::Gone => "HF0525",
            Refusal::Full => "HF0526",
            Refusal::Fault(_) => "HF0527",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Refusal::Malformed(why) => why,
            Refusal::Version => "only HTTP/1.0 and HTTP/1.1 are spoken here",
            Refusal::Method => "the method is not allowed here",
            Refusal::Encoding => "the only transfer coding is chunked",
            Refusal::Expectation => "the only expectation is 100-continue",
            Refusal::HeadTooLarge => "the request line and headers are larger than the limit",
            Refusal::HeadTimeout => "the request head did not arrive in time",
            Refusal::BodyTooLarge => "the request body is larger than the limit",
            Refusal::BadGateway => "the instance gave no answer",
            Refusal::GatewayTimeout => "the instance did not answer in time",
            Refusal::NotReady { .. } => "no instance is ready",
            Refusal::NotKept => "no instance is ready, and the queue did not confirm the request",
            Refusal::Gone => "there is no service behind this address any more",
            Refusal::Full => "the limit of connections or requests is reached",
            Refusal::Fault(_) => "a drill asked for this error",
        }
    }

    /// Appends the whole answer. A HEAD request gets no body.
    pub(crate) fn write(self, out: &mut Vec<u8>, keep_alive: bool, minor: u8, head_only: bool) {
        let (code, text) = (self.code(), self.text());
        let length = code.len() + text.len() + 3;
        let written = write!(
            out,
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n",
            self.status(),
            self.reason()
        );
        debug_assert!(written.is_ok());
        if let Some(seconds) = self.retry_after_s() {
            let _ = write!(out, "Retry-After: {seconds}\r\n");
        }
        write_connection(out, keep_alive, minor);
        out.extend_from_slice(b"\r\n");
        if !head_only {
            let _ = writeln!(out, "{code}: {text}");
        }
    }

    fn retry_after_s(self) -> Option<u32> {
        match self {
            Refusal::NotReady { retry_after_s } => Some(retry_after_s.max(1)),
            Refusal::Full | Refusal::NotKept | Refusal::Gone => Some(1),
            _ => None,
        }
    }
}

fn write_connection(out: &mut Vec<u8>, keep_alive: bool, minor: u8) {
    match (keep_alive, minor) {
        (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
        (true, 0) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (true, _) => {}
    }
}

/// The request is in a queue, as the message with this id, and will be delivered. `id` has letters, digits and hyphens only.
pub(crate) fn write_kept(out: &mut Vec<u8>, id: &str, keep_alive: bool, minor: u8) {
    let body = format!(r#"{{"queued":true,"id":"{id}"}}"#);
    let written = write!(
        out,
        "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: {}\r\nHoldfast-Message-Id: {id}\r\n",
        body.len()
    );
    debug_assert!(written.is_ok());
    write_connection(out, keep_alive, minor);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_that_of_the_body() {
        for refusal in [Refusal::BadGateway, Refusal::NotReady { retry_after_s: 3 }, Refusal::Malformed("no Host")] {
            let mut out = Vec::new();
            refusal.write(&mut out, true, 1, false);
            let text = String::from_utf8(out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{text}");
            assert!(body.starts_with(refusal.code()));
        }
    }
}
