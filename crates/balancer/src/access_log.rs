//! One line per request: `TIME CLIENT METHOD PATH STATUS BYTES MICROSECONDS INSTANCE TRIES`. A request that was kept for
//! later has `queue:NAME` in place of an instance.
//!
//! A core collects lines and hands them to one writing thread; when that cannot keep up or the disk is full, lines are
//! dropped and counted. No request ever waits for the disk.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_host::{clock, files};
use holdfast_policy::Timestamp;

use crate::snapshot::AccessLog;

/// Lines wait at most so long, or until there are so many bytes.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
const FLUSH_BYTES: usize = 64 << 10;

/// Batches waiting for the disk: 4 MiB.
const QUEUE: usize = 64;

/// Longest path that is written whole.
const LINE_BYTES_MAX: usize = 2048;

/// A file that failed is opened again this much later.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LogId(usize);

struct Batch {
    log: AccessLog,
    bytes: Vec<u8>,
    lines: u64,
}

/// Where the cores send their lines; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    queue: SyncSender<Batch>,
    logs: Arc<Mutex<Vec<AccessLog>>>,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    /// Starts the writing thread of process `number`; it ends when the last sink is dropped.
    pub(crate) fn start(number: usize) -> std::io::Result<Sink> {
        let (queue, batches) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&batches, number, &counter))?;
        Ok(Sink { queue, logs: Arc::default(), dropped })
    }

    pub(crate) fn id(&self, log: &AccessLog) -> LogId {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = logs.iter().position(|l| l == log);
        LogId(known.unwrap_or_else(|| {
            logs.push(log.clone());
            logs.len() - 1
        }))
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn send(&self, id: LogId, bytes: Vec<u8>, lines: u64) {
        let log = self.logs.lock().unwrap_or_else(PoisonError::into_inner).get(id.0).cloned();
        let Some(log) = log else { return };
        if self.queue.try_send(Batch { log, bytes, lines }).is_err() {
            self.dropped.fetch_add(lines, Relaxed);
        }
    }
}

/// One request as the log tells it.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) client: &'a str,
    /// `METHOD TARGET`.
    pub(crate) request: &'a [u8],
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
    pub(crate) instance: &'a str,
    pub(crate) tries: u32,
}

/// Lines of one core.
#[derive(Debug)]
pub(crate) struct Buffer {
    sink: Sink,
    open: Vec<(LogId, Vec<u8>, u64)>,
    oldest: Option<Timestamp>,
    /// Text of the present millisecond, and that millisecond as boot time.
    time: [u8; 24],
    time_ms: u64,
}

impl Buffer {
    pub(crate) fn new(sink: Sink) -> Buffer {
        Buffer { sink, open: Vec::new(), oldest: None, time: [b'-'; 24], time_ms: u64::MAX }
    }

    pub(crate) fn push(&mut self, id: LogId, now: Timestamp, line: &Line<'_>) {
        if self.time_ms != now.as_millis() {
            self.time_ms = now.as_millis();
            self.time = clock::utc_text(clock::wall_ms());
        }
        let at = match self.open.iter().position(|(i, ..)| *i == id) {
            Some(at) => at,
            None => {
                self.open.push((id, Vec::with_capacity(FLUSH_BYTES + LINE_BYTES_MAX), 0));
                self.open.len() - 1
            }
        };
        let (_, out, lines) = &mut self.open[at];
        out.extend_from_slice(&self.time);
        write_line(out, line);
        *lines += 1;
        self.oldest.get_or_insert(now);
        if out.len() >= FLUSH_BYTES {
            self.flush();
        }
    }

    pub(crate) fn flush_old(&mut self, now: Timestamp) {
        if self.oldest.is_some_and(|t| now.since(t) >= FLUSH_EVERY) {
            self.flush();
        }
    }

    pub(crate) fn flush(&mut self) {
        self.oldest = None;
        for (id, bytes, lines) in self.open.drain(..) {
            self.sink.send(id, bytes, lines);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.flush();
    }
}

fn write_line(out: &mut Vec<u8>, line: &Line<'_>) {
    out.push(b' ');
    out.extend_from_slice(line.client.as_bytes());
    out.push(b' ');
    let request = if line.request.is_empty() { b"- -" } else { line.request };
    out.extend_from_slice(&request[..request.len().min(LINE_BYTES_MAX)]);
    for number in [u64::from(line.status), line.bytes, line.took.as_micros() as u64] {
        out.push(b' ');
        decimal(out, number);
    }
    out.push(b' ');
    out.extend_from_slice(if line.instance.is_empty() { b"-" } else { line.instance.as_bytes() });
    out.push(b' ');
    decimal(out, u64::from(line.tries));
    out.push(b'\n');
}

/// Without the formatting machinery: this runs for every request.
fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_all(batches: &Receiver<Batch>, number: usize, dropped: &AtomicU64) {
    let mut open: HashMap<PathBuf, Output> = HashMap::new();
    for batch in batches {
        let path = numbered(&batch.log.path, number);
        let output = open.entry(path.clone()).or_insert_with(|| Output { path, file: None, size: 0, failed_at: None });
        if !output.write(&batch.log, &batch.bytes) {
            dropped.fetch_add(batch.lines, Relaxed);
        }
    }
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

struct Output {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    failed_at: Option<Timestamp>,
}

impl Output {
    fn write(&mut self, log: &AccessLog, bytes: &[u8]) -> bool {
        if self.size >= log.size_bytes_max {
            self.rotate(log.keep);
        }
        let Some(file) = self.file() else { return false };
        match file.write_all(bytes) {
            Ok(()) => {
                self.size += bytes.len() as u64;
                true
            }
            Err(error) => {
                if self.failed_at.replace(clock::now()).is_none() {
                    tracing::warn!(path = %self.path.display(), %error, "access log lines are dropped");
                }
                self.file = None;
                false
            }
        }
    }

    fn file(&mut self) -> Option<&mut File> {
        if self.file.is_none() {
            if self.failed_at.is_some_and(|t| clock::now().since(t) < REOPEN_AFTER) {
                return None;
            }
            if let Some(dir) = self.path.parent() {
                let _ = fs::create_dir_all(dir);
            }
            match OpenOptions::new().append(true).create(true).mode(files::FILE_MODE).open(&self.path) {
                Ok(file) => {
                    self.size = file.metadata().map_or(0, |m| m.len());
                    self.file = Some(file);
                    self.failed_at = None;
                }
                Err(error) => {
                    if self.failed_at.replace(clock::now()).is_none() {
                        tracing::warn!(path = %self.path.display(), %error, "access log lines are dropped");
                    }
                }
            }
        }
        self.file.as_mut()
    }

    fn rotate(&mut self, keep: u32) {
        self.file = None;
        self.size = 0;
        for n in (1..keep.max(1)).rev() {
            let _ = fs::rename(numbered(&self.path, n as usize), numbered(&self.path, n as usize + 1));
        }
        let moved =
            if keep == 0 { fs::remove_file(&self.path) } else { fs::rename(&self.path, numbered(&self.path, 1)) };
        if let Err(error) = moved {
            tracing::warn!(path = %self.path.display(), %error, "access log not rotated");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Line<'_> = Line {
        client: "127.0.0.1",
        request: b"GET /a",
        status: 200,
        bytes: 120,
        took: Duration::from_micros(532),
        instance: "web-2",
        tries: 1,
    };

    fn wait_for<T>(what: impl Fn() -> Option<T>) -> T {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(found) = what() {
                return found;
            }
            assert!(std::time::Instant::now() < deadline, "deadline");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn lines_are_written_and_the_file_rotates() {
        let dir = tempfile::tempdir().unwrap();
        let log = AccessLog { path: dir.path().join("public.log"), size_bytes_max: 200, keep: 2 };
        let sink = Sink::start(1).unwrap();
        let id = sink.id(&log);
        let mut buffer = Buffer::new(sink.clone());
        for _ in 0..5 {
            for _ in 0..4 {
                buffer.push(id, clock::now(), &LINE);
            }
            buffer.flush();
        }
        let first = dir.path().join("public.log.1");
        let text = wait_for(|| {
            let done = dir.path().join("public.log.1.2").exists() && dir.path().join("public.log.1.1").exists();
            fs::read_to_string(&first).ok().filter(|t| done && t.lines().count() == 4)
        });
        assert!(text.lines().all(|l| l.ends_with("Z 127.0.0.1 GET /a 200 120 532 web-2 1")), "{text}");
        assert!(!dir.path().join("public.log.1.3").exists());
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn a_full_disk_drops_lines_and_says_how_many() {
        let log = AccessLog { path: PathBuf::from("/dev/full"), size_bytes_max: 1 << 20, keep: 1 };
        let mut output = Output { path: log.path.clone(), file: None, size: 0, failed_at: None };
        assert!(!output.write(&log, b"line\n"));
        assert!(!output.write(&log, b"line\n"), "not opened again at once");
    }
}
