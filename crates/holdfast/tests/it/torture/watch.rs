//! What goes on all the while: whether an agent answers, whether requests do, and how late this machine runs threads.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ledger::boot_ms;
use crate::site::{Site, get};

const PING_EVERY: Duration = Duration::from_millis(20);
const PING_TIME: Duration = Duration::from_secs(2);
const REQUEST_EVERY: Duration = Duration::from_millis(20);
const TICK: Duration = Duration::from_millis(5);
/// Later than this is a stall: everything else may have waited as long.
const STALL_MS: u64 = 10;

/// From and to, in milliseconds of boot time.
pub(super) type Span = (u64, u64);

#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// From the last answer of one agent to the first of the next.
    pub(super) away: Vec<Span>,
    pub(super) stalls: Vec<Span>,
    pub(super) requests: u64,
    pub(super) failed: u64,
}

type Work = Box<dyn FnOnce(&AtomicBool, &Mutex<Seen>) + Send>;

pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(site: &Site, port: u16) -> Watch {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let socket = site.data().join("agent.sock");
        let for_each = |work: Work| {
            let (stop, seen) = (stop.clone(), seen.clone());
            std::thread::spawn(move || work(&stop, &seen))
        };
        let threads = vec![
            for_each(Box::new(move |stop, seen| poll_agent(&socket, stop, seen))),
            for_each(Box::new(move |stop, seen| pace_requests(port, stop, seen))),
            for_each(Box::new(pace_ticks)),
        ];
        Watch { stop, seen, threads }
    }

    pub(super) fn end(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a watching thread");
        }
        lock(&self.seen).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn poll_agent(socket: &Path, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let mut last: Option<(u64, u64)> = None;
    while !stop.load(Ordering::Relaxed) {
        let asked = boot_ms();
        if let Some(pid) = ping(socket) {
            // Another process, even when no question met the gap.
            if let Some((at, before)) = last
                && before != pid
            {
                lock(seen).away.push((at, boot_ms()));
            }
            last = Some((asked, pid));
        }
        std::thread::sleep(PING_EVERY);
    }
}

fn ping(socket: &Path) -> Option<u64> {
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PING_TIME))?;
        write!(stream, "GET /v1/ping HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    serde_json::from_str::<serde_json::Value>(body).ok()?["pid"].as_u64()
}

fn pace_requests(port: u16, stop: &AtomicBool, seen: &Mutex<Seen>) {
    while !stop.load(Ordering::Relaxed) {
        let good = get(port, "/").is_ok_and(|(status, _)| status == 200);
        let mut seen = lock(seen);
        seen.requests += 1;
        seen.failed += u64::from(!good);
        drop(seen);
        std::thread::sleep(REQUEST_EVERY);
    }
}

fn pace_ticks(stop: &AtomicBool, seen: &Mutex<Seen>) {
    let mut before = boot_ms();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(TICK);
        let now = boot_ms();
        if now - before > TICK.as_millis() as u64 + STALL_MS {
            lock(seen).stalls.push((before, now));
        }
        before = now;
    }
}

/// How much of `spans` lies within `of`.
pub(super) fn overlap(of: Span, spans: &[Span]) -> u64 {
    spans.iter().map(|(from, to)| (*to).min(of.1).saturating_sub((*from).max(of.0))).sum()
}
