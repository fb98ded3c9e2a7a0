//! Just enough HTTP/1.1 for a test backend and a load generator: heads, bodies by length or in chunks.

use std::io::{self, BufRead, Read};

/// Heads larger than this are not ours.
const HEAD_BYTES_MAX: u64 = 64 * 1024;

/// Bodies are read whole; larger ones are a mistake in a test.
const BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;

pub(crate) struct Message {
    /// `GET /path HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub(crate) start: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Reads one message. `Ok(None)`: the peer closed before its first byte.
    pub(crate) fn read(from: &mut impl BufRead, bodyless: bool) -> io::Result<Option<Message>> {
        let mut head = from.take(HEAD_BYTES_MAX);
        let Some(start) = line(&mut head)? else { return Ok(None) };
        let mut headers = Vec::new();
        loop {
            let Some(text) = line(&mut head)? else { return Err(cut("in the head")) };
            if text.is_empty() {
                break;
            }
            if let Some((name, value)) = text.split_once(':') {
                headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let mut message = Message { start, headers, body: Vec::new() };
        if !bodyless {
            message.read_body(from)?;
        }
        Ok(Some(message))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether the peer means to close after this message.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
            || (self.start.contains("HTTP/1.0") && self.header("connection").is_none())
    }

    fn read_body(&mut self, from: &mut impl BufRead) -> io::Result<()> {
        if self.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return self.read_chunks(from);
        }
        let length = self.header("content-length").map(str::parse::<u64>);
        match length {
            Some(Ok(n)) if n <= BODY_BYTES_MAX => self.read_exactly(from, n),
            Some(_) => Err(bad("content-length")),
            None if self.start.starts_with("HTTP/") => {
                from.take(BODY_BYTES_MAX).read_to_end(&mut self.body)?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn read_exactly(&mut self, from: &mut impl BufRead, bytes: u64) -> io::Result<()> {
        let got = from.take(bytes).read_to_end(&mut self.body)?;
        if got as u64 == bytes { Ok(()) } else { Err(cut("in the body")) }
    }

    fn read_chunks(&mut self, from: &mut impl BufRead) -> io::Result<()> {
        loop {
            let size = line(&mut from.take(HEAD_BYTES_MAX))?.ok_or_else(|| cut("between chunks"))?;
            let digits = size.split(';').next().unwrap_or_default().trim();
            let bytes = u64::from_str_radix(digits, 16).map_err(|_| bad("chunk size"))?;
            if bytes + self.body.len() as u64 > BODY_BYTES_MAX {
                return Err(bad("chunk size"));
            }
            self.read_exactly(from, bytes)?;
            let end = line(&mut from.take(HEAD_BYTES_MAX))?.ok_or_else(|| cut("after a chunk"))?;
            if !end.is_empty() {
                return Err(bad("end of chunk"));
            }
            if bytes == 0 {
                return Ok(());
            }
        }
    }
}

/// One line without its end; `None` at the end of the stream.
fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    from.read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(cut("in a line"));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn cut(place: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("cut {place}"))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("bad {what}"))
}

/// FNV-1a, 64 bits: finds a wrong or cut body; no protection against malice is needed here.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The header in which a backend says what its body hashes to.
pub(crate) const HASH_HEADER: &str = "x-body-hash";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Option<Message>> {
        Message::read(&mut text.as_bytes(), false)
    }

    #[test]
    fn bodies_by_length_chunks_and_close() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloEXTRA", "hello"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "hello"),
            ("HTTP/1.0 200 OK\r\n\r\nhello", "hello"),
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""),
        ];
        for (text, body) in cases {
            let message = read(text).expect(text).expect(text);
            assert_eq!(message.body, body.as_bytes(), "{text}");
        }
    }

    #[test]
    fn a_cut_message_is_an_error_and_a_closed_peer_is_none() {
        assert!(read("").expect("closed").is_none());
        for text in [
            "HTTP/1.1 2",
            "HTTP/1.1 200 OK\r\nA: b\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_hash_is_fnv1a() {
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
