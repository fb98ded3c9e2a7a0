//! One message given to the plane of tasks, over its Unix socket.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use holdfast_host::seqpacket;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use crate::snapshot::Fallback;
use crate::wire::head::HEADERS_MAX;

/// Bodies that are read for the queue at once: 32 MiB. More clients than that get 503, so that slow ones hold no memory.
const READING_MAX: usize = 64;

/// Messages on their way at once, the others wait: 40 MiB, and below the 128 that wait at a Unix socket.
const STORING_MAX: usize = 32;

/// The plane answers with an id or a few words.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What bounds the memory of a process for requests that become messages.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) reading: Semaphore,
    pub(crate) storing: Semaphore,
}

impl Default for Places {
    fn default() -> Self {
        Places { reading: Semaphore::new(READING_MAX), storing: Semaphore::new(STORING_MAX) }
    }
}

/// Why there is no confirmation. The message may be in the queue all the same, except when it was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unkept {
    #[error("cannot {operation} the plane of tasks at {}: {source}", socket.display())]
    Plane { operation: &'static str, socket: PathBuf, source: io::Error },
    #[error("queue `{queue}` refused a request with {status}: {text}")]
    Refused { queue: String, status: u16, text: String },
    #[error("the plane of tasks did not confirm in time")]
    Late,
    #[error("a header of the request is not text")]
    NotText,
}

impl Unkept {
    /// It says nothing about how others will fare.
    pub(crate) fn is_of_the_request(&self) -> bool {
        matches!(self, Unkept::NotText | Unkept::Refused { status: 409 | 413, .. })
    }
}

#[derive(Deserialize)]
struct Sent {
    id: String,
}

/// Gives `message` to the queue; the id is that of a message that is on the plane's disk.
pub(crate) async fn send(fallback: &Fallback, message: &[u8]) -> Result<String, Unkept> {
    let wrap = |operation| {
        let socket = fallback.socket.clone();
        move |source| Unkept::Plane { operation, socket, source }
    };
    let mut stream = connect(&fallback.socket).await.map_err(wrap("reach"))?;
    let head = format!(
        "POST /v1/queues/{}/messages HTTP/1.1\r\nHost: tasks\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        fallback.queue,
        message.len()
    );
    stream.write_all(head.as_bytes()).await.map_err(wrap("ask"))?;
    stream.write_all(message).await.map_err(wrap("ask"))?;
    let (status, body) = answer(&mut stream).await.map_err(wrap("understand"))?;
    if status != 200 {
        let text = String::from_utf8_lossy(&body).chars().take(500).collect();
        return Err(Unkept::Refused { queue: fallback.queue.clone(), status, text });
    }
    let sent: Sent = serde_json::from_slice(&body).map_err(|e| wrap("understand")(io::Error::other(e)))?;
    // It becomes a header.
    let plain = !sent.id.is_empty() && sent.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !plain {
        return Err(wrap("understand")(io::Error::other("its id is none")));
    }
    Ok(sent.id)
}

/// Through the directory's descriptor: a socket address holds 108 bytes, a data directory may be deeper.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let held = seqpacket::open_dir(dir)?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    UnixStream::connect(through.join(name)).await
}

/// Status and body: as long as it says, or up to the end of the connection.
async fn answer(stream: &mut UnixStream) -> io::Result<(u16, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let ended = stream.read_buf(&mut bytes).await? == 0;
        if let Some((status, at, length)) = head(&bytes)? {
            match length {
                Some(length) if bytes.len() >= at.saturating_add(length) => {
                    return Ok((status, bytes[at..at + length].to_vec()));
                }
                None if ended => return Ok((status, bytes.split_off(at))),
                _ => {}
            }
        }
        if ended {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other("its answer is too long"));
        }
    }
}

/// Status, where the body begins, and how long it is.
fn head(bytes: &[u8]) -> io::Result<Option<(u16, usize, Option<usize>)>> {
    let mut space = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut space);
    let at = match parsed.parse(bytes).map_err(io::Error::other)? {
        httparse::Status::Complete(at) => at,
        httparse::Status::Partial => return Ok(None),
    };
    let length = parsed.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|h| std::str::from_utf8(h.value).ok()).and_then(|text| text.trim().parse().ok());
    Ok(Some((parsed.code.unwrap_or(0), at, length)))
}
