//! The service that tests and drills keep up: single-threaded, honest about when it is busy.
//!
//!     origin PORT [HOST]     `GET /` waits 2 ms and answers 1 KiB whose bytes follow from the path
//!       /work?ms=N           waits N ms without using the processor
//!       /busy?ms=N           burns the processor for N ms and answers nobody meanwhile
//!       /healthz             200, or 503 while the file named by ORIGIN_UNREADY exists
//!                            (with ORIGIN_NEEDS=ADDR only after ADDR has answered, however long that takes)
//!       /instance            the name that holdfast gave it
//!       /exit?code=N         ends the process with this code, in the middle of the request
//!       POST anything        echoes the body
//!       /who                 answers the name of the instance
//!
//! `ORIGIN_LEDGER=FILE` appends "INCARNATION PID BOOT_MS" every 10 ms, so that a checker outside holdfast sees each life.
//! `ORIGIN_REPORTS=FILE` appends a line for each `/busy` that is begun.
//! `ORIGIN_POSTS=FILE` appends "KEY REPLAYED CUSTOMER BODY" for each POST, and answers 409 when the body begins with `no`.
//! `ORIGIN_ROLES=FILE` appends "INSTANCE TOKEN PID BOOT_MS" every 5 ms while its token file says that it is active.
//! `ORIGIN_SLOW=MS` listens only after so many milliseconds.
//! On SIGTERM it finishes what is in flight and exits 0.

use std::convert::Infallible;
use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

const DEFAULT_WORK: Duration = Duration::from_millis(2);
const LEDGER_EVERY: Duration = Duration::from_millis(10);
const ROLES_EVERY: Duration = Duration::from_millis(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let port: u16 = std::env::args().nth(1).and_then(|p| p.parse().ok()).expect("usage: origin PORT [HOST]");
    let host = std::env::args().nth(2).unwrap_or_else(|| "127.0.0.1".into());
    if let Ok(path) = std::env::var("ORIGIN_ROLES") {
        std::thread::spawn(move || roles(&path));
    }
    if let Some(slow) = std::env::var("ORIGIN_SLOW").ok().and_then(|ms| ms.parse().ok()) {
        std::thread::sleep(Duration::from_millis(slow));
    }
    let listener = TcpListener::bind((host.as_str(), port)).await?;
    if let Ok(path) = std::env::var("ORIGIN_LEDGER") {
        std::thread::spawn(move || ledger(&path));
    }
    let (stop, stopped) = watch::channel(false);
    let mut term = signal(SignalKind::terminate())?;
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = term.recv() => break,
                };
                if let Ok((stream, _)) = stream {
                    tokio::task::spawn_local(serve(stream, stopped.clone()));
                }
            }
            drop(listener);
            drop(stopped);
            let _ = stop.send(true);
            // Every connection holds a receiver; when the last is gone, nothing is in flight.
            let _ = tokio::time::timeout(Duration::from_secs(30), stop.closed()).await;
        })
        .await;
    Ok(())
}

async fn serve(stream: tokio::net::TcpStream, mut stopped: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let wait = number(request.uri().query(), "ms").map_or(DEFAULT_WORK, Duration::from_millis);
    if request.method() == Method::POST {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let mut response = Response::new(Full::new(body.clone()));
        if let Ok(path) = std::env::var("ORIGIN_POSTS") {
            note_post(&path, &head.headers, &body);
            if body.starts_with(b"no") {
                *response.status_mut() = http::StatusCode::CONFLICT;
            }
        }
        return Ok(response);
    }
    match path.as_str() {
        "/who" => {
            let name = std::env::var("HOLDFAST_INSTANCE").unwrap_or_default();
            return Ok(Response::new(Full::new(name.into())));
        }
        "/healthz" => {
            needed().await;
            return Ok(health());
        }
        "/exit" => std::process::exit(i32::try_from(number(request.uri().query(), "code").unwrap_or(1)).unwrap_or(1)),
        "/instance" => {
            let name = std::env::var("HOLDFAST_INSTANCE").unwrap_or_default();
            return Ok(Response::new(Full::new(name.into())));
        }
        "/busy" => {
            note_report();
            burn(wait);
        }
        _ => tokio::time::sleep(wait).await,
    }
    Ok(Response::new(Full::new(body_of(&path))))
}

/// Patient as a careless program: without a time limit of its own.
async fn needed() {
    let Ok(addr) = std::env::var("ORIGIN_NEEDS") else { return };
    let Ok(mut stream) = tokio::net::TcpStream::connect(addr).await else { return };
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").await;
    let _ = stream.read(&mut [0; 64]).await;
}

fn note_report() {
    let Ok(path) = std::env::var("ORIGIN_REPORTS") else { return };
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
        let _ = writeln!(file, "{}", std::process::id());
    }
}

fn note_post(path: &str, headers: &http::HeaderMap, body: &[u8]) {
    let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) else { return };
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
    let (key, replayed, customer) = (header("idempotency-key"), header("holdfast-replayed"), header("x-customer"));
    // One write for a line: readers see whole ones.
    let _ = file.write_all(format!("{key} {replayed} {customer} {}\n", String::from_utf8_lossy(body)).as_bytes());
}

fn health() -> Response<Full<Bytes>> {
    let unready = std::env::var_os("ORIGIN_UNREADY").is_some_and(|path| std::path::Path::new(&path).exists());
    let mut response = Response::new(Full::new(Bytes::from_static(b"ok\n")));
    if unready {
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// 1 KiB that only this path gives: a mixed-up or cut answer cannot pass for it.
fn body_of(path: &str) -> Bytes {
    let mut state =
        path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut body = Vec::with_capacity(1024);
    while body.len() < 1024 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        body.extend_from_slice(format!("{:016x}", state).as_bytes());
    }
    body.truncate(1024);
    body.into()
}

fn burn(time: Duration) {
    let began = Instant::now();
    let mut x = 1u64;
    while began.elapsed() < time {
        for _ in 0..1000 {
            x = std::hint::black_box(x.wrapping_mul(31).wrapping_add(7));
        }
    }
}

fn number(query: Option<&str>, name: &str) -> Option<u64> {
    query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// What a careful program does before each side effect; here it is the side effect itself.
fn roles(path: &str) {
    let name = std::env::var("HOLDFAST_INSTANCE").unwrap_or_default();
    let token_file = std::env::var("HOLDFAST_TOKEN_FILE").unwrap_or_default();
    let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) else { return };
    loop {
        let text = std::fs::read_to_string(&token_file).unwrap_or_default();
        let mut words = text.split_whitespace();
        if let (Some(token), Some("active")) = (words.next(), words.next()) {
            let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            let boot_ms = boot.tv_sec * 1000 + boot.tv_nsec / 1_000_000;
            let _ = file.write_all(format!("{name} {token} {} {boot_ms}\n", std::process::id()).as_bytes());
        }
        std::thread::sleep(ROLES_EVERY);
    }
}

fn ledger(path: &str) {
    let life = std::env::var("HOLDFAST_INCARNATION").unwrap_or_default();
    let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) else { return };
    loop {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let boot_ms = boot.tv_sec * 1000 + boot.tv_nsec / 1_000_000;
        // One write for a line: readers see whole ones.
        let _ = file.write_all(format!("{life} {} {boot_ms}\n", std::process::id()).as_bytes());
        std::thread::sleep(LEDGER_EVERY);
    }
}
