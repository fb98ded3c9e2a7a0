//! Small servers that behave as told, each on a thread of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// A request as the backend saw it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
    /// Requests on this connection before this one.
    pub(crate) nth: u64,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = |h: &&String| h.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.headers.iter().find(found).and_then(|h| h.split_once(": ")).map(|(_, v)| v)
    }
}

/// What to do with a request: write to the stream, and say whether the connection goes on.
type Handler = dyn Fn(&Seen, &mut TcpStream) -> bool + Send + Sync;

pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    pub(crate) requests: Arc<AtomicU64>,
    pub(crate) connections: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    live: Arc<std::sync::Mutex<Vec<TcpStream>>>,
}

impl Backend {
    pub(crate) fn start(handler: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static) -> Backend {
        Backend::at("127.0.0.1:0".parse().unwrap(), handler)
    }

    pub(crate) fn at(
        addr: SocketAddr,
        handler: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Backend {
        let listener = TcpListener::bind(addr).unwrap();
        let backend = Backend {
            addr: listener.local_addr().unwrap(),
            requests: Arc::default(),
            connections: Arc::default(),
            stop: Arc::default(),
            live: Arc::default(),
        };
        let (requests, connections, stop, live) =
            (backend.requests.clone(), backend.connections.clone(), backend.stop.clone(), backend.live.clone());
        let handler: Arc<Handler> = Arc::new(handler);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let _ = stream.set_nodelay(true);
                connections.fetch_add(1, SeqCst);
                live.lock().unwrap().push(stream.try_clone().unwrap());
                let (handler, requests) = (handler.clone(), requests.clone());
                thread::spawn(move || serve(stream, &handler, &requests));
            }
        });
        backend
    }

    /// Answers every request with 200 and its own `name`.
    pub(crate) fn named(name: &'static str) -> Backend {
        Backend::start(move |_, stream| reply(stream, 200, name.as_bytes()))
    }

    /// Like kill -9: every connection is reset or closed at once, the port refuses.
    pub(crate) fn kill(&self) {
        if self.stop.swap(true, SeqCst) {
            return;
        }
        let _ = TcpStream::connect(self.addr);
        for stream in self.live.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.requests.load(SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn reply(stream: &mut TcpStream, status: u16, body: &[u8]) -> bool {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).is_ok()
}

fn serve(stream: TcpStream, handler: &Arc<Handler>, requests: &AtomicU64) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let mut nth = 0;
    while let Some(mut seen) = read_head(&mut reader) {
        seen.nth = nth;
        nth += 1;
        if seen.header("expect").is_none() {
            read_body(&mut reader, &mut seen);
        }
        requests.fetch_add(1, SeqCst);
        if !handler(&seen, &mut stream) {
            return;
        }
    }
}

pub(crate) fn read_head(reader: &mut impl BufRead) -> Option<Seen> {
    let mut seen = Seen::default();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        match line.as_str() {
            "" if seen.line.is_empty() => return None,
            "" => return Some(seen),
            _ if seen.line.is_empty() => seen.line = line,
            _ => seen.headers.push(line),
        }
    }
}

/// The body, de-chunked; trailers become headers.
pub(crate) fn read_body(reader: &mut impl BufRead, seen: &mut Seen) {
    if let Some(length) = seen.header("content-length").and_then(|l| l.parse::<usize>().ok()) {
        seen.body = vec![0; length];
        if reader.read_exact(&mut seen.body).is_err() {
            seen.body.clear();
        }
        return;
    }
    if seen.header("transfer-encoding").is_none() {
        return;
    }
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let size = usize::from_str_radix(line.trim_end().split(';').next().unwrap(), 16).unwrap();
        let mut data = vec![0; size];
        if reader.read_exact(&mut data).is_err() {
            return;
        }
        seen.body.extend(data);
        let mut end = String::new();
        if size > 0 {
            let _ = reader.read_line(&mut end);
            continue;
        }
        while reader.read_line(&mut end).unwrap_or(0) > 2 {
            seen.headers.push(end.trim_end().to_owned());
            end.clear();
        }
        return;
    }
}

/// Waits for `what` at most a minute: a loaded machine is slow, not wrong.
pub(crate) fn wait_for<T>(name: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "no {name} within a minute");
        thread::sleep(Duration::from_millis(2));
    }
}
