//! Outside evidence of when the struck instance was down and when it was back, taken at its own endpoint on a
//! thread of its own, so that the times in holdfast's incidents can be compared with it.
//!
//! One attempt at a time: a new connection and, where the readiness probe is HTTP, the same request; every 5 ms
//! just after the injection and while it is down, seldom while it is well, so that a slow server is not kept busy
//! by being watched. An attempt that waits is not abandoned: a stopped process has room for few waiting connections, and filling
//! it would disturb what is measured.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::Timestamp;
use serde::Serialize;

use crate::system::ReadyBy;

const EVERY: Duration = Duration::from_millis(5);
const EVERY_WELL: Duration = Duration::from_millis(50);
/// From the start on, attempts are frequent for this long: a blow shows at once or, as a hang, lasts.
const CLOSE_LOOK: Duration = Duration::from_millis(500);
/// Without an answer for this long the instance counts as down since the attempt began.
const SLOW: Duration = Duration::from_millis(250);
const CONNECT_LIMIT: Duration = SLOW;
/// How often a waiting attempt looks whether it should end.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

/// In boot time: the first time down and the last time up again after being down.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) attempts: u64,
    pub(crate) is_down: bool,
    pub(crate) down: Option<Timestamp>,
    pub(crate) up: Option<Timestamp>,
}

/// What the outside saw, from the injection on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Outside {
    pub down_ms: Option<f64>,
    pub up_ms: Option<f64>,
}

impl Watcher {
    pub(crate) fn start(addr: SocketAddr, by: ReadyBy) -> std::io::Result<Watcher> {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("watcher".into()).spawn(move || {
            let close_look = clock::now() + CLOSE_LOOK;
            while !for_thread.stopped() {
                let begun = clock::now();
                let answered = attempt(addr, &by, begun, &for_thread);
                for_thread.note(|seen| {
                    seen.attempts += 1;
                    if answered { seen.good(clock::now()) } else { seen.bad(begun) }
                });
                let is_down = for_thread.seen().is_down;
                let every = if is_down || begun < close_look { EVERY } else { EVERY_WELL };
                std::thread::sleep(clock::now().until(begun + every));
            }
        })?;
        Ok(Watcher { shared, thread: Some(thread) })
    }

    pub(crate) fn seen(&self) -> Seen {
        self.shared.seen()
    }

    pub(crate) fn finish(mut self) -> Seen {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        self.seen()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Seen {
    fn good(&mut self, now: Timestamp) {
        if self.is_down {
            self.up = Some(now);
        }
        self.is_down = false;
    }

    fn bad(&mut self, begun: Timestamp) {
        self.is_down = true;
        self.down.get_or_insert(begun);
    }

    /// An attempt that was under way at the injection began before it; it is down from the injection on.
    pub(crate) fn since(&self, injected: Timestamp) -> Outside {
        let ms = |t: Timestamp| crate::prober::millis(t.since(injected));
        Outside { down_ms: self.down.map(ms), up_ms: self.up.filter(|_| !self.is_down).map(ms) }
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// True when it answered as a ready instance does.
fn attempt(addr: SocketAddr, by: &ReadyBy, begun: Timestamp, shared: &Shared) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&addr, CONNECT_LIMIT) else { return false };
    let ReadyBy::Http { path, status } = by else { return true };
    let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    if stream.set_read_timeout(Some(LOOK)).is_err() || stream.write_all(request.as_bytes()).is_err() {
        return false;
    }
    let mut head = Vec::new();
    let mut chunk = [0u8; 512];
    while !shared.stopped() {
        match stream.read(&mut chunk) {
            Ok(0) => return false,
            Ok(n) => head.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if clock::now().since(begun) >= SLOW {
                    shared.note(|seen| seen.bad(begun));
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
        if let Some(code) = status_of(&head) {
            return (status.0..=status.1).contains(&code);
        }
    }
    // Ended while waiting: neither good nor bad is known, so what was seen before stands.
    !shared.seen().is_down
}

/// The code in `HTTP/1.1 200 OK`, once it has arrived.
fn status_of(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.get(..12)?).ok()?;
    line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}
