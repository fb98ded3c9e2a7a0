//! A backend for tests and measurements: known bodies, work that takes a known time, probes that can
//! be told to fail, and an orderly end on SIGTERM.
//!
//! | path | answer |
//! |---|---|
//! | `/` and all others | after `--work`, a body whose hash stands in `x-body-hash` |
//! | `/healthz` | 200, or 503 before `--ready-after` or after `/unready` |
//! | `/ready`, `/unready` | turn `/healthz` on and off |
//! | `/slow?ms=N` | the body, after N ms without burning CPU |
//! | `/busy?ms=N` | the body, after N ms of burning CPU |
//! | `/body?bytes=N` | a body of N bytes |
//! | `/echo` | the request's own body |
//! | `/count` | how many requests were answered |

use std::fs::OpenOptions;
use std::io::{self, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::wire::{HASH_HEADER, Message, hash};

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long, env = "PORT")]
    port: u16,
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// How long each answer takes, without burning CPU, such as 2ms
    #[arg(long, default_value = "0ms", value_parser = duration)]
    work: Duration,
    /// Size of the usual body in bytes
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    /// `/healthz` answers 503 for this long after the start
    #[arg(long, default_value = "0ms", value_parser = duration)]
    ready_after: Duration,
    /// Answer one request at a time, probes included, as a single-threaded program does
    #[arg(long)]
    single: bool,
    /// Append `pid uptime-ms` to this file every 10 ms: an outside witness of when this process lived
    #[arg(long)]
    witness: Option<PathBuf>,
}

/// How long an idle connection is waited on before the stop flag is looked at.
const IDLE_LOOK: Duration = Duration::from_millis(100);

/// Requests in flight at SIGTERM get this long.
const STOP_WITHIN: Duration = Duration::from_secs(30);

const WITNESS_EVERY: Duration = Duration::from_millis(10);

struct Backend {
    options: Options,
    began: Instant,
    ready: AtomicBool,
    stopping: AtomicBool,
    answered: AtomicU64,
    open: AtomicU64,
    turn: Mutex<()>,
}

pub(crate) fn run(options: Options) -> Result<()> {
    let address = (options.host.as_str(), options.port);
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address:?}"))?;
    println!("listening on {}", listener.local_addr()?);
    if let Some(file) = options.witness.clone() {
        witness(&file)?;
    }
    let backend = Arc::new(Backend {
        options,
        began: Instant::now(),
        ready: AtomicBool::new(true),
        stopping: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        open: AtomicU64::new(0),
        turn: Mutex::new(()),
    });
    stop_on_signal(&backend, listener.local_addr()?)?;
    for stream in listener.incoming() {
        if backend.stopping.load(Ordering::SeqCst) {
            break;
        }
        // An accept that fails (peer gone, no descriptor) says nothing about the next one.
        if let Ok(stream) = stream {
            serve_aside(&backend, stream);
        }
    }
    // What waits in the accept queue would be reset when the listener closes: answer it first.
    listener.set_nonblocking(true)?;
    while let Ok((stream, _)) = listener.accept() {
        serve_aside(&backend, stream);
    }
    drop(listener);
    let deadline = Instant::now() + STOP_WITHIN;
    while backend.open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// On SIGTERM: raise the flag, and wake `accept` by a connection of our own.
fn stop_on_signal(backend: &Arc<Backend>, address: std::net::SocketAddr) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).context("cannot listen for signals")?;
    let backend = backend.clone();
    thread::spawn(move || {
        signals.forever().next();
        backend.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(address);
    });
    Ok(())
}

fn serve_aside(backend: &Arc<Backend>, stream: TcpStream) {
    backend.open.fetch_add(1, Ordering::SeqCst);
    let backend = backend.clone();
    thread::spawn(move || {
        // A client that goes away in the middle of an answer is no error of ours.
        let _ = serve(&backend, stream);
        backend.open.fetch_sub(1, Ordering::SeqCst);
    });
}

fn serve(backend: &Backend, mut stream: TcpStream) -> io::Result<()> {
    // A socket accepted from a listener set to non-blocking does not inherit that on Linux.
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_LOOK))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while arrives(backend, &stream, &reader)? {
        stream.set_read_timeout(Some(STOP_WITHIN))?;
        let Some(request) = Message::read(&mut reader, false)? else { return Ok(()) };
        let turn = backend.options.single.then(|| backend.turn.lock().unwrap_or_else(PoisonError::into_inner));
        let (status, body) = answer(backend, &request);
        drop(turn);
        let closes = request.closes() || backend.stopping.load(Ordering::SeqCst);
        stream.write_all(&response(status, &body, closes))?;
        backend.answered.fetch_add(1, Ordering::Relaxed);
        if closes {
            return Ok(());
        }
        stream.set_read_timeout(Some(IDLE_LOOK))?;
    }
    Ok(())
}

/// Waits for the next request; false when the peer closed or we are stopping.
fn arrives(backend: &Backend, stream: &TcpStream, reader: &BufReader<TcpStream>) -> io::Result<bool> {
    if !reader.buffer().is_empty() {
        return Ok(true);
    }
    loop {
        match stream.peek(&mut [0]) {
            Ok(n) => return Ok(n > 0),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if backend.stopping.load(Ordering::SeqCst) {
                    return Ok(false);
                }
            }
            Err(e) => return Err(e),
        }
    }
}

fn answer(backend: &Backend, request: &Message) -> (u16, Vec<u8>) {
    let target = request.start.split(' ').nth(1).unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let number =
        |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok());
    match path {
        "/healthz" => {
            let ready = backend.ready.load(Ordering::SeqCst) && backend.began.elapsed() >= backend.options.ready_after;
            if ready { (200, b"ready\n".to_vec()) } else { (503, b"not ready\n".to_vec()) }
        }
        "/ready" | "/unready" => {
            backend.ready.store(path == "/ready", Ordering::SeqCst);
            (200, b"ok\n".to_vec())
        }
        "/count" => (200, format!("{}\n", backend.answered.load(Ordering::Relaxed)).into_bytes()),
        "/echo" => (200, request.body.clone()),
        "/body" => (200, body(usize::try_from(number("bytes").unwrap_or(0)).unwrap_or(0))),
        "/slow" => {
            thread::sleep(Duration::from_millis(number("ms").unwrap_or(1000)));
            (200, body(backend.options.bytes))
        }
        "/busy" => {
            burn(Duration::from_millis(number("ms").unwrap_or(1000)));
            (200, body(backend.options.bytes))
        }
        _ => {
            thread::sleep(backend.options.work);
            (200, body(backend.options.bytes))
        }
    }
}

fn burn(time: Duration) {
    let until = Instant::now() + time;
    let mut x = 1_u64;
    while Instant::now() < until {
        for _ in 0..1000 {
            x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

/// Letters that differ from place to place, so that a shifted or doubled part is noticed.
fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| b'a' + ((n * 7 + n / 251) % 26) as u8).collect()
}

fn response(status: u16, body: &[u8], closes: bool) -> Vec<u8> {
    let reason = if status == 200 { "OK" } else { "Service Unavailable" };
    let connection = if closes { "connection: close\r\n" } else { "" };
    let mut out = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n{HASH_HEADER}: {:016x}\r\nx-pid: {}\r\n{connection}\r\n",
        body.len(),
        hash(body),
        std::process::id(),
    )
    .into_bytes();
    out.extend_from_slice(body);
    out
}

fn witness(file: &Path) -> Result<()> {
    let mut out = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .with_context(|| format!("cannot open {}", file.display()))?;
    let pid = std::process::id();
    thread::spawn(move || {
        loop {
            // The witness writes what it can: on a full disk a gap is what the test wants to see.
            if let Ok(text) = std::fs::read_to_string("/proc/uptime") {
                let uptime = text.split(' ').next().unwrap_or("0").replace('.', "");
                let _ = out.write_all(format!("{pid} {uptime}0\n").as_bytes());
            }
            thread::sleep(WITNESS_EVERY);
        }
    });
    Ok(())
}

/// `2ms`, `10s`, `1m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is no duration such as 2ms, 10s or 1m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => Err(format!("`{text}` has no unit: ms, s or m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("2ms"), Ok(Duration::from_millis(2)));
        assert_eq!(duration("3m"), Ok(Duration::from_secs(180)));
        assert!(duration("2").is_err() && duration("ms").is_err());
    }

    #[test]
    fn a_response_says_what_its_body_hashes_to() {
        let bytes = response(200, &body(300), false);
        let message = Message::read(&mut bytes.as_slice(), false).expect("well formed").expect("present");
        assert_eq!(message.header(HASH_HEADER), Some(format!("{:016x}", hash(&message.body)).as_str()));
        assert_eq!(message.body.len(), 300);
    }
}
