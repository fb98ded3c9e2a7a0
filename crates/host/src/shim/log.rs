//! The child's output: from its pipe into `log/current`, a time before each line, rotated by size.
//!
//! Never blocks the child: what the disk does not take is dropped, counted, and told in one line later.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::spec;
use crate::clock;
use crate::files::{self, FILE_MODE};

/// Read at once, and the size asked of the pipe: a burst of this size does not make the child wait.
const CHUNK_BYTES: usize = 64 * 1024;
const PIPE_BYTES: usize = 256 * 1024;
/// Chunks handled in one wakeup, so that a chatty child does not delay its keeper.
const CHUNKS_AT_ONCE: usize = 4;
/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 32 * 1024;
/// A rotated name beyond this is a mistake in the configuration.
const KEEP_MAX: u32 = 1000;

#[derive(Debug)]
pub(crate) struct Log {
    pipe: File,
    sink: Sink,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    raw: bool,
}

/// The files.
#[derive(Debug)]
struct Sink {
    dir: PathBuf,
    file: Option<File>,
    size: u64,
    limits: spec::Log,
    dropped_lines: u64,
    /// Dropped since the last line that said so.
    untold: u64,
}

impl Log {
    /// `fifo` exists. The pipe is opened for writing too, so that it never reports its end between two children.
    pub(crate) fn open(fifo: &Path, dir: &Path, limits: spec::Log) -> io::Result<Log> {
        let pipe = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(fifo)?;
        // Best effort: unprivileged users have a common limit on pipe memory.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES);
        let raw = limits.raw;
        let sink = Sink { dir: dir.to_owned(), file: None, size: 0, limits, dropped_lines: 0, untold: 0 };
        Ok(Log { pipe, sink, partial: Vec::new(), raw })
    }

    pub(crate) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    pub(crate) fn dropped_lines(&self) -> u64 {
        self.sink.dropped_lines
    }

    /// Moves what waits in the pipe, within bounds; `true` when there may be more.
    pub(crate) fn drain(&mut self) -> bool {
        let mut chunk = vec![0u8; CHUNK_BYTES];
        for _ in 0..CHUNKS_AT_ONCE {
            match rustix::io::read(&self.pipe, &mut chunk) {
                Ok(0) | Err(_) => return false,
                Ok(n) => self.take(&chunk[..n]),
            }
        }
        true
    }

    /// Writes a line that has no end yet: its writer is gone.
    pub(crate) fn finish(&mut self) {
        // Once: as much as the pipe holds. Somebody may go on writing for ever.
        self.drain();
        if !self.partial.is_empty() {
            self.take(b"\n");
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.raw {
            self.sink.write_within_limit(bytes);
            return;
        }
        let stamp = clock::utc_text(clock::wall_ms());
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 2 + 64);
        let mut lines = 0;
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let ended = piece.last() == Some(&b'\n');
            if !ended && self.partial.len() + piece.len() < LINE_BYTES_MAX {
                self.partial.extend_from_slice(piece);
                continue;
            }
            out.extend_from_slice(&stamp);
            out.push(b' ');
            out.append(&mut self.partial);
            out.extend_from_slice(piece);
            if !ended {
                out.push(b'\n');
            }
            lines += 1;
        }
        self.partial.shrink_to(LINE_BYTES_MAX);
        if lines > 0 {
            self.sink.write(&out, lines);
        }
    }
}

impl Sink {
    fn current(&self) -> PathBuf {
        self.dir.join("current")
    }

    fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            crate::files::create_dir(&self.dir).map_err(|e| io::Error::other(e.to_string()))?;
            let file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(self.current())?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], lines: u64) {
        if self.size > 0 && self.size + bytes.len() as u64 > self.limits.size_bytes_max {
            self.rotate();
        }
        let told = self.untold;
        let result = if told > 0 {
            let stamp = clock::utc_text(clock::wall_ms());
            let stamp = String::from_utf8_lossy(&stamp);
            let mut all =
                format!("{stamp} holdfast: {told} log lines were dropped, the disk took no more\n").into_bytes();
            all.extend_from_slice(bytes);
            self.put(&all)
        } else {
            self.put(bytes)
        };
        match result {
            Ok(()) => self.untold -= told,
            Err(_) => self.drop_lines(lines),
        }
    }

    fn drop_lines(&mut self, lines: u64) {
        self.dropped_lines += lines;
        self.untold += lines;
    }

    /// All or nothing: a half-written block is cut off again.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.open()?;
        if files::is_scarce(&self.dir) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let result = file.write_all(bytes);
        match result {
            Ok(()) => self.size += bytes.len() as u64,
            Err(_) => {
                let _ = file.set_len(self.size);
            }
        }
        result
    }

    fn write_within_limit(&mut self, bytes: &[u8]) {
        let _ = self.open();
        let room = usize::try_from(self.limits.size_bytes_max.saturating_sub(self.size)).unwrap_or(usize::MAX);
        let fits = bytes.len().min(room);
        if fits == 0 || self.put(&bytes[..fits]).is_err() || fits < bytes.len() {
            self.dropped_lines += 1;
        }
    }

    /// `current` becomes `1`, `1` becomes `2`, and so on; the oldest goes. Names only, so it works on a full disk.
    fn rotate(&mut self) {
        self.file = None;
        let keep = self.limits.keep.min(KEEP_MAX);
        let numbered = |n: u32| self.dir.join(n.to_string());
        if keep == 0 {
            let _ = fs::remove_file(self.current());
            return;
        }
        let _ = fs::remove_file(numbered(keep));
        for n in (1..keep).rev() {
            let _ = fs::rename(numbered(n), numbered(n + 1));
        }
        let _ = fs::rename(self.current(), numbered(1));
    }
}

/// The last `lines` lines of an instance's log, over its rotated files, oldest first.
pub fn tail(dir: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut kept: VecDeque<String> = VecDeque::new();
    let names = std::iter::once("current".to_owned()).chain((1..=KEEP_MAX).map(|n| n.to_string()));
    for name in names {
        if kept.len() >= lines {
            break;
        }
        let bytes = match fs::read(dir.join(&name)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound && name == "current" => continue,
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(e),
        };
        let text = String::from_utf8_lossy(&bytes);
        for line in text.lines().rev() {
            if kept.len() >= lines {
                break;
            }
            kept.push_front(line.to_owned());
        }
    }
    Ok(kept.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::child::make_output;

    struct Bed {
        root: tempfile::TempDir,
        log: Log,
        writer: File,
    }

    fn bed(limits: spec::Log) -> Bed {
        let root = tempfile::tempdir().unwrap();
        let fifo = root.path().join("output");
        make_output(&fifo, None).unwrap();
        let log = Log::open(&fifo, &root.path().join("log"), limits).unwrap();
        let writer = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        Bed { root, log, writer }
    }

    fn text(bed: &Bed, name: &str) -> String {
        fs::read_to_string(bed.root.path().join("log").join(name)).unwrap_or_default()
    }

    #[test]
    fn each_line_gets_its_time_and_no_line_is_split_between_reads() {
        let mut bed = bed(spec::Log::default());
        bed.writer.write_all(b"one\ntw").unwrap();
        bed.log.drain();
        bed.writer.write_all(b"o\nunfinished").unwrap();
        bed.log.finish();
        let got: Vec<String> = text(&bed, "current").lines().map(|l| l[25..].to_owned()).collect();
        assert_eq!(got, ["one", "two", "unfinished"]);
        let stamp = &text(&bed, "current")[..24];
        assert!(stamp.starts_with("20") && stamp.ends_with('Z'), "{stamp}");
    }

    #[test]
    fn rotation_keeps_as_many_files_as_told() {
        let mut bed = bed(spec::Log { size_bytes_max: 100, keep: 2, raw: false });
        for i in 0..10 {
            writeln!(bed.writer, "{i} {}", "x".repeat(40)).unwrap();
            bed.log.drain();
        }
        let mut names: Vec<String> = fs::read_dir(bed.root.path().join("log"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["1", "2", "current"]);
        assert!(text(&bed, "current").contains(" 9 ") && text(&bed, "2").contains(" 7 "));
        let lines = tail(&bed.root.path().join("log"), 2).unwrap();
        assert!(lines[0].contains(" 8 ") && lines[1].contains(" 9 "), "{lines:?}");
    }

    #[test]
    fn raw_output_is_cut_at_its_limit() {
        let mut bed = bed(spec::Log { size_bytes_max: 10, keep: 0, raw: true });
        bed.writer.write_all(b"12345").unwrap();
        bed.log.drain();
        bed.writer.write_all(b"6789012345").unwrap();
        bed.log.drain();
        assert_eq!(text(&bed, "current"), "1234567890");
        assert_eq!(bed.log.dropped_lines(), 1);
    }

    #[test]
    fn an_endless_line_is_cut_not_kept_in_memory() {
        let mut bed = bed(spec::Log::default());
        for _ in 0..10 {
            bed.writer.write_all(&[b'x'; 10_000]).unwrap();
            bed.log.drain();
        }
        bed.log.finish();
        let text = text(&bed, "current");
        assert!(text.lines().count() >= 3 && text.lines().all(|l| l.len() <= LINE_BYTES_MAX + 25 + CHUNK_BYTES));
        assert_eq!(text.matches('x').count(), 100_000);
    }
}
