//! A client that sends at a fixed rate whatever comes back, and counts each answer from when it should have been sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Error, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::site::{PATIENCE, get};

/// Different paths have different bodies, so that a mixed-up answer shows.
const PATHS: usize = 8;
/// Connections that are open from the beginning, so that each process of a balancer has some.
const WARM: usize = 32;
/// Longer than any answer may take; a request without one by then has failed.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(30);
/// More than this at once means that nothing answers; the client must not fall over with it.
const IN_FLIGHT_MAX: u64 = 8192;

pub(crate) struct Rate {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    port: u16,
    bodies: Vec<String>,
    stop: AtomicBool,
    in_flight: AtomicU64,
    answered: AtomicU64,
    idle: Mutex<VecDeque<TcpStream>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    failures: Vec<Failure>,
    /// Requests without an answer so far: by the port of their connection, when they were handed to it.
    open: BTreeMap<u16, Instant>,
}

/// A request that got no right answer.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) text: String,
    /// Port of the client's end of its connection, and when the request was handed to it; `None` when it got none.
    pub(crate) sent: Option<(u16, Instant)>,
}

/// What came of all requests.
pub(crate) struct Summary {
    pub(crate) sent: usize,
    pub(crate) failures: Vec<Failure>,
    /// Of the answered ones, shortest first.
    latencies: Vec<Duration>,
}

impl Summary {
    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * q).ceil() as usize).copied().unwrap_or_default()
    }

    pub(crate) fn max(&self) -> Duration {
        self.quantile(1.0)
    }

    pub(crate) fn none_failed(&self) {
        assert!(
            self.sent > 100 && self.failures.is_empty(),
            "{} of {} failed: {:#?}",
            self.failures.len(),
            self.sent,
            self.failures.iter().take(20).collect::<Vec<_>>()
        );
    }
}

impl Rate {
    /// GETs through `port`; what they must bring is asked of an instance itself, at `origin`.
    pub(crate) fn start(port: u16, origin: u16, per_second: u32) -> Self {
        let bodies = (0..PATHS).map(|n| get(origin, &path(n)).expect("the instance answers").1).collect();
        let shared = Arc::new(Shared {
            port,
            bodies,
            stop: AtomicBool::new(false),
            in_flight: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            idle: Mutex::default(),
            seen: Mutex::default(),
        });
        let own = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(send(own, per_second));
        });
        Rate { shared, thread: Some(thread) }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Requests that have no answer yet: by the port of their connection, when they were handed to it.
    pub(crate) fn open(&self) -> BTreeMap<u16, Instant> {
        self.shared.seen.lock().expect("no panic").open.clone()
    }

    /// Traffic between two faults.
    pub(crate) fn let_pass(&self, answers: u64) {
        let (goal, deadline) = (self.answered() + answers, Instant::now() + PATIENCE);
        while self.answered() < goal {
            assert!(Instant::now() < deadline, "no {answers} answers within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn finish(mut self) -> Summary {
        self.stop();
        let mut seen = std::mem::take(&mut *self.shared.seen.lock().expect("no panic"));
        seen.latencies.sort_unstable();
        Summary { sent: seen.latencies.len() + seen.failures.len(), failures: seen.failures, latencies: seen.latencies }
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Rate {
    fn drop(&mut self) {
        self.stop();
    }
}

fn path(n: usize) -> String {
    format!("/{n}?ms=2")
}

async fn send(shared: Arc<Shared>, per_second: u32) {
    for _ in 0..WARM {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", shared.port)).await {
            shared.idle.lock().expect("no panic").push_back(stream);
        }
    }
    let every = Duration::from_secs(1) / per_second;
    let mut next = Instant::now();
    let mut n = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        while next <= Instant::now() {
            tokio::spawn(one(shared.clone(), n % PATHS, next));
            next += every;
            n += 1;
        }
        tokio::time::sleep_until(next.into()).await;
    }
    let deadline = Instant::now() + ANSWER_MAX;
    while shared.in_flight.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn one(shared: Arc<Shared>, n: usize, intended: Instant) {
    if shared.in_flight.fetch_add(1, Ordering::Relaxed) > IN_FLIGHT_MAX {
        shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        let failure = Failure { text: "too many wait".into(), sent: None };
        shared.seen.lock().expect("no panic").failures.push(failure);
        return;
    }
    let mut own_port = None;
    let outcome = match tokio::time::timeout(ANSWER_MAX, ask(&shared, n, &mut own_port)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(ErrorKind::TimedOut, "no answer")),
    };
    let took = intended.elapsed();
    shared.in_flight.fetch_sub(1, Ordering::Relaxed);
    shared.answered.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
    let mut seen = shared.seen.lock().expect("no panic");
    let sent = own_port.and_then(|port| Some((port, seen.open.remove(&port)?)));
    match outcome {
        Ok(()) => seen.latencies.push(took),
        Err(error) => seen.failures.push(Failure { text: format!("{error} after {took:?}"), sent }),
    }
}

async fn ask(shared: &Shared, n: usize, own_port: &mut Option<u16>) -> Result<(), Error> {
    let mut stream = match idle(shared) {
        Some(stream) => stream,
        None => TcpStream::connect(("127.0.0.1", shared.port)).await?,
    };
    stream.set_nodelay(true)?;
    let port = stream.local_addr()?.port();
    *own_port = Some(port);
    shared.seen.lock().expect("no panic").open.insert(port, Instant::now());
    stream.write_all(format!("GET {} HTTP/1.1\r\nHost: test\r\n\r\n", path(n)).as_bytes()).await?;
    let (status, body, keeps) = answer(&mut stream).await?;
    if status != 200 || body != shared.bodies[n].as_bytes() {
        return Err(Error::other(format!("status {status} with {} bytes", body.len())));
    }
    if keeps {
        shared.idle.lock().expect("no panic").push_back(stream);
    }
    Ok(())
}

/// The one that was used longest ago and is still open.
fn idle(shared: &Shared) -> Option<TcpStream> {
    let mut idle = shared.idle.lock().expect("no panic");
    while let Some(stream) = idle.pop_front() {
        if stream.try_read(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock) {
            return Some(stream);
        }
    }
    None
}

/// Ports of the clients whose connections to `port` this process holds.
pub(crate) fn clients_of(pid: u32, port: u16) -> BTreeSet<u16> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = fds.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned()));
    let inodes: BTreeSet<String> =
        links.filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let of_line = |line: &str| -> Option<u16> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
        let theirs = inodes.contains(*fields.get(9)?) && number(fields[1])? == port;
        if theirs { number(fields[2]).filter(|peer| *peer != 0) } else { None }
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

async fn answer(stream: &mut TcpStream) -> Result<(u16, Vec<u8>, bool), Error> {
    let mut bytes = Vec::with_capacity(2048);
    let head = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, format!("closed after {} bytes", bytes.len())));
        }
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned);
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let length: usize = field("content-length").and_then(|l| l.trim().parse().ok()).unwrap_or(0);
    let keeps = field("connection").is_none_or(|c| c.trim() != "close");
    let mut body = bytes.split_off(head + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, format!("cut after {} of {length} bytes", body.len())));
        }
    }
    Ok((status, body, keeps))
}
