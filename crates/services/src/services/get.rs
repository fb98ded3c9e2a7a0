//! The smallest HTTP client that a probe needs: one GET on a connection of its own, and the status of its answer.
//!
//! A probe a second for each instance is most of what a quiet agent does, so this is one write and two reads.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Of an answer no more than this is read.
const BYTES_MAX: usize = 64 * 1024;
/// How long the rest of an answer is read: that keeps the server from seeing a reset; its end decides nothing.
const REST: Duration = Duration::from_millis(20);
const BLANK_LINE: &[u8] = b"\r\n\r\n";

/// Why there is no status does not matter: silence is silence.
pub(super) async fn status(addr: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nuser-agent: holdfast-probe\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::with_capacity(1024);
    let head = loop {
        if stream.read_buf(&mut answer).await.ok()? == 0 || answer.len() > BYTES_MAX {
            return None;
        }
        if let Some(head) = final_head(&mut answer) {
            break head;
        }
    };
    let code = code(&answer[..head])?;
    if !is_complete(&answer, head) {
        let _ = tokio::time::timeout(REST, drain(&mut stream, &mut answer, head)).await;
    }
    Some(code)
}

/// Length of the head that is the answer itself, once it is there; interim ones (`103 Early Hints`) are dropped.
fn final_head(answer: &mut Vec<u8>) -> Option<usize> {
    loop {
        let head = answer.windows(BLANK_LINE.len()).position(|w| w == BLANK_LINE)? + BLANK_LINE.len();
        let is_interim = code(&answer[..head]).is_some_and(|code| (100..200).contains(&code) && code != 101);
        if !is_interim {
            return Some(head);
        }
        answer.drain(..head);
    }
}

/// Of `HTTP/1.1 200 OK`.
fn code(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?.split(' ').skip(1);
    words.next().filter(|word| word.len() == 3)?.parse().ok()
}

/// As far as a length tells; without one the end of the connection is the end.
fn is_complete(answer: &[u8], head: usize) -> bool {
    let text = String::from_utf8_lossy(&answer[..head]);
    let mut fields = text.split("\r\n").filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|(_, value)| value.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() - head >= length)
}

async fn drain(stream: &mut TcpStream, answer: &mut Vec<u8>, head: usize) {
    while answer.len() < BYTES_MAX && !is_complete(answer, head) {
        if !stream.read_buf(answer).await.is_ok_and(|n| n > 0) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_own_head() {
        let mut early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 20".to_vec();
        assert_eq!(final_head(&mut early), None);
        early.extend_from_slice(b"4 No Content\r\n\r\n");
        let head = final_head(&mut early).unwrap();
        assert_eq!((head, code(&early[..head])), (early.len(), Some(204)));
        for (line, want) in [
            ("HTTP/1.0 200 OK", Some(200)),
            ("HTTP/1.1 503", Some(503)),
            ("HTTP/2 200", None),
            ("HTTP/1.1 2000 x", None),
            ("220 smtp ready", None),
            ("", None),
        ] {
            assert_eq!(code(format!("{line}\r\n\r\n").as_bytes()), want, "{line}");
        }
    }

    #[test]
    fn a_length_says_when_it_is_all_there() {
        let complete = |text: &str| is_complete(text.as_bytes(), text.find("\r\n\r\n").unwrap() + 4);
        assert!(complete("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        assert!(!complete("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok"));
        assert!(!complete("HTTP/1.1 200 OK\r\n\r\nok"));
    }
}
