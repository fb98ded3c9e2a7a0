//! A load generator at a fixed rate: every request has its intended time, and its latency counts from
//! there, so that a stalled server cannot hide by slowing the sender down.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::histogram::Histogram;
use crate::steps;
use crate::wire::{HASH_HEADER, Message, hash};

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// http://HOST:PORT/PATH
    #[arg(long)]
    pub(crate) url: String,
    /// Requests a second
    #[arg(long, default_value_t = 100)]
    pub(crate) rate: u64,
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Connections; also the most requests in flight
    #[arg(long, default_value_t = 256)]
    pub(crate) connections: u64,
    #[arg(long, default_value = "GET")]
    pub(crate) method: String,
    /// Body of each request
    #[arg(long, default_value = "")]
    pub(crate) body: String,
    /// A header of each request, such as 'idempotency-key: run-{n}'; {n} is the number of the request, also in --body
    #[arg(long)]
    pub(crate) header: Vec<String>,
    /// Count an answer without `x-body-hash` as failed; one with a wrong hash always is
    #[arg(long)]
    pub(crate) hash: bool,
    /// A request that takes longer has failed
    #[arg(long, default_value = "30s", value_parser = crate::backend::duration)]
    pub(crate) timeout: Duration,
    /// Write the result there; it is always printed
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    /// GETs with the defaults of the command line.
    pub(crate) fn get(url: String) -> Options {
        Options {
            url,
            rate: 100,
            seconds: 10,
            connections: 256,
            method: "GET".into(),
            body: String::new(),
            header: Vec::new(),
            hash: false,
            timeout: Duration::from_secs(30),
            json: None,
        }
    }
}

/// Failures listed one by one in the result.
const FAILURES_LISTED_MAX: usize = 100;

/// A thread waits for its turn in naps no longer than this, so that Ctrl-C ends the run.
const NAP_MAX: Duration = Duration::from_millis(100);

pub(crate) struct Target {
    host: String,
    address: SocketAddr,
    path: String,
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Target> {
        let rest = url.strip_prefix("http://").with_context(|| format!("{url}: only http:// is spoken here"))?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let address = with_port.to_socket_addrs().with_context(|| format!("cannot resolve {host}"))?.next();
        let address = address.with_context(|| format!("{host} has no address"))?;
        Ok(Target { host: host.to_owned(), address, path: path.to_owned() })
    }
}

struct Failure {
    at: Duration,
    latency: Duration,
    kind: String,
}

#[derive(Default)]
struct Tally {
    latencies: Histogram,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    failures: Vec<Failure>,
    by_pid: BTreeMap<String, u64>,
    failed: u64,
}

pub(crate) struct Summary {
    tally: Tally,
    took: Duration,
    connects: u64,
}

pub(crate) fn run(options: Options) -> Result<()> {
    let file = options.json.clone();
    let stop = steps::on_interrupt()?;
    let summary = drive(options, &stop)?;
    let text = serde_json::to_string_pretty(&summary.json())?;
    println!("{text}");
    if let Some(file) = file {
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if summary.tally.failed > 0 {
        bail!("{} requests failed", summary.tally.failed);
    }
    Ok(())
}

/// Sends until the time is over or `stop` is raised.
pub(crate) fn drive(options: Options, stop: &Arc<AtomicBool>) -> Result<Summary> {
    let target = Target::parse(&options.url)?;
    if options.rate == 0 || options.connections == 0 {
        bail!("rate and connections must be at least 1");
    }
    let total = Mutex::new(Tally::default());
    let next = AtomicU64::new(0);
    let connects = AtomicU64::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..options.connections {
            scope.spawn(|| {
                let mut worker =
                    Worker { options: &options, target: &target, began, stream: None, connects: &connects };
                let mut tally = Tally::default();
                worker.send_all(&next, stop, &mut tally);
                total.lock().unwrap_or_else(PoisonError::into_inner).add(tally);
            });
        }
    });
    let mut tally = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.failures.sort_by_key(|f| f.at);
    Ok(Summary { tally, took: began.elapsed(), connects: connects.into_inner() })
}

struct Worker<'a> {
    options: &'a Options,
    target: &'a Target,
    began: Instant,
    stream: Option<BufReader<TcpStream>>,
    connects: &'a AtomicU64,
}

impl Worker<'_> {
    fn send_all(&mut self, next: &AtomicU64, stop: &AtomicBool, tally: &mut Tally) {
        let total = self.options.rate * self.options.seconds;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= total {
                return;
            }
            let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.options.rate);
            let intended = self.began + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            let request = self.request(number);
            if !pace_until(intended, stop) {
                return;
            }
            let result = self.exchange(&request);
            let latency = intended.elapsed();
            tally.count(self.options, result, intended - self.began, latency);
        }
    }

    fn request(&self, number: u64) -> Vec<u8> {
        let Options { method, header, .. } = self.options;
        let Target { host, path, .. } = self.target;
        let body = self.options.body.replace("{n}", &number.to_string());
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: holdfast-load\r\n");
        if !body.is_empty() {
            head += &format!("content-length: {}\r\n", body.len());
        }
        for line in header {
            head += &format!("{}\r\n", line.replace("{n}", &number.to_string()));
        }
        format!("{head}\r\n{body}").into_bytes()
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<Message> {
        let mut reader = match self.stream.take().filter(usable) {
            Some(reader) => reader,
            None => self.connect()?,
        };
        reader.get_mut().write_all(request)?;
        let bodyless = self.options.method == "HEAD";
        let message = Message::read(&mut reader, bodyless)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionReset, "closed before the answer"))?;
        if !message.closes() {
            self.stream = Some(reader);
        }
        Ok(message)
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        self.connects.fetch_add(1, Ordering::Relaxed);
        let stream = TcpStream::connect_timeout(&self.target.address, self.options.timeout)
            .map_err(|e| io::Error::new(e.kind(), format!("connect: {e}")))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.options.timeout))?;
        stream.set_write_timeout(Some(self.options.timeout))?;
        Ok(BufReader::new(stream))
    }
}

/// As any careful client: a kept connection that the server has closed meanwhile is not written to.
fn usable(reader: &BufReader<TcpStream>) -> bool {
    let stream = reader.get_ref();
    let open = reader.buffer().is_empty()
        && stream.set_nonblocking(true).is_ok()
        && stream.peek(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
    open && stream.set_nonblocking(false).is_ok()
}

fn pace_until(intended: Instant, stop: &AtomicBool) -> bool {
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let left = intended.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(NAP_MAX));
    }
}

impl Tally {
    fn count(&mut self, options: &Options, result: io::Result<Message>, at: Duration, latency: Duration) {
        self.latencies.add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        let failed = match result {
            Ok(message) => self.judge(options, &message),
            Err(e) => Some(if e.kind() == io::ErrorKind::WouldBlock { "timeout".to_owned() } else { e.to_string() }),
        };
        let Some(kind) = failed else { return };
        self.failed += 1;
        *self.errors.entry(kind.clone()).or_default() += 1;
        if self.failures.len() < FAILURES_LISTED_MAX {
            self.failures.push(Failure { at, latency, kind });
        }
    }

    /// Why an answer counts as failed.
    fn judge(&mut self, options: &Options, message: &Message) -> Option<String> {
        let status: u16 = message.start.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        *self.statuses.entry(status).or_default() += 1;
        if let Some(pid) = message.header("x-pid") {
            *self.by_pid.entry(pid.to_owned()).or_default() += 1;
        }
        if !(200..400).contains(&status) {
            return Some(format!("status {status}"));
        }
        match message.header(HASH_HEADER) {
            Some(said) if said != format!("{:016x}", hash(&message.body)) => Some("wrong body".to_owned()),
            None if options.hash => Some("no body hash".to_owned()),
            _ => None,
        }
    }

    fn add(&mut self, other: Tally) {
        self.latencies.merge(other.latencies);
        self.failed += other.failed;
        for (status, n) in other.statuses {
            *self.statuses.entry(status).or_default() += n;
        }
        for (kind, n) in other.errors {
            *self.errors.entry(kind).or_default() += n;
        }
        for (pid, n) in other.by_pid {
            *self.by_pid.entry(pid).or_default() += n;
        }
        let room = FAILURES_LISTED_MAX.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.into_iter().take(room));
    }
}

impl Summary {
    pub(crate) fn requests(&self) -> u64 {
        self.tally.latencies.count
    }

    pub(crate) fn failed(&self) -> u64 {
        self.tally.failed
    }

    /// `503 x 96, timeout x 2`, most first.
    pub(crate) fn failed_as(&self) -> String {
        let statuses =
            self.tally.statuses.iter().filter(|(status, _)| **status >= 400).map(|(s, n)| (s.to_string(), *n));
        let errors = self.tally.errors.iter().filter(|(kind, _)| !kind.starts_with("status "));
        let errors = errors.map(|(kind, n)| (kind.to_string(), *n));
        let mut kinds: Vec<(String, u64)> = statuses.chain(errors).collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        kinds.iter().map(|(kind, count)| format!("{kind} x {count}")).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn quantile(&self, q: f64) -> Duration {
        Duration::from_micros(self.tally.latencies.quantile(q))
    }

    pub(crate) fn json(&self) -> Value {
        let tally = &self.tally;
        let failures: Vec<Value> = tally
            .failures
            .iter()
            .map(|f| json!({"at_ms": f.at.as_millis() as u64, "latency_ms": f.latency.as_millis() as u64, "kind": f.kind}))
            .collect();
        let statuses: BTreeMap<String, u64> = tally.statuses.iter().map(|(s, n)| (s.to_string(), *n)).collect();
        json!({
            "schema_version": 1,
            "requests": self.requests(),
            "failed": tally.failed,
            "seconds": self.took.as_secs_f64(),
            "rate": self.requests() as f64 / self.took.as_secs_f64(),
            "connects": self.connects,
            "statuses": statuses,
            "errors": tally.errors,
            "by_pid": tally.by_pid,
            "latency_us": {
                "p50": tally.latencies.quantile(0.5), "p90": tally.latencies.quantile(0.9), "p99": tally.latencies.quantile(0.99),
                "p999": tally.latencies.quantile(0.999), "max": tally.latencies.quantile(1.0),
            },
            "failures": failures,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn options(url: String) -> Options {
        Options { rate: 200, seconds: 1, connections: 8, hash: true, ..Options::get(url) }
    }

    /// A server that gives a wrong hash to every fourth request and closes after each.
    fn faulty_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port 0");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            for (n, stream) in listener.incoming().enumerate() {
                let mut stream = stream.expect("accept");
                let mut reader = BufReader::new(stream.try_clone().expect("clone"));
                let _ = Message::read(&mut reader, false);
                let said = if n % 4 == 3 { 1 } else { hash(b"hi") };
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{HASH_HEADER}: {said:016x}\r\nconnection: close\r\n\r\nhi"
                );
            }
        });
        address
    }

    #[test]
    fn every_intended_request_is_sent_and_wrong_bodies_are_counted() {
        let address = faulty_server();
        let stop = Arc::new(AtomicBool::new(false));
        let summary = drive(options(format!("http://{address}/")), &stop).expect("drive");
        assert_eq!(summary.requests(), 200);
        assert_eq!(summary.failed(), 50);
        assert_eq!(summary.tally.errors.get("wrong body"), Some(&50));
        assert!(summary.took >= Duration::from_millis(990), "{:?}", summary.took);
    }

    #[test]
    fn a_refused_connection_is_a_failure_with_its_reason() {
        let free = TcpListener::bind("127.0.0.1:0").expect("port 0").local_addr().expect("bound");
        let stop = Arc::new(AtomicBool::new(false));
        let summary = drive(Options { rate: 10, ..options(format!("http://{free}/")) }, &stop).expect("drive");
        assert_eq!(summary.failed(), 10);
        assert!(summary.tally.errors.keys().all(|k| k.starts_with("connect:")), "{:?}", summary.tally.errors);
    }
}
