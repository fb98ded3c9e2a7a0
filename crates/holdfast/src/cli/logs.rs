//! `holdfast logs [-f] [NAME…]`: reads the files that the shims write, so it needs no agent and survives its restart.
//!
//! Lines of several instances are merged by the time each line begins with.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{Common, print_text};
use crate::failure::{Exit, Failure};
use crate::terminal::Style;

/// How often `-f` looks for new output; a person does not notice it.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
/// Read from one file at a time, so that one noisy instance cannot hold back the others.
const CHUNK_BYTES: u64 = 1 << 20;
/// Looked at from the end of a file for `-n` lines.
const TAIL_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Services or instances; all when left out
    names: Vec<String>,
    /// Go on printing what comes
    #[arg(short, long)]
    follow: bool,
    /// The configuration file (-f is --follow here)
    // The same id as the global one, which therefore does not come down to this command with its short name.
    #[arg(id = "file", long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Lines of each instance to begin with
    #[arg(short = 'n', long, default_value_t = 50)]
    lines: usize,
}

pub(super) fn run(common: &Common, options: &Options) -> Result<Exit, Failure> {
    let common = common.with_file(options.file.as_ref());
    let run_dir = common.layout()?.data_dir.join("run");
    let mut tails = BTreeMap::new();
    let found = adopt_new(&run_dir, &options.names, &mut tails, Some(options.lines))?;
    if !found && !options.follow {
        return Err(nothing(&run_dir, &options.names));
    }
    loop {
        print_merged(&mut tails);
        if !options.follow {
            return Ok(Exit::Ok);
        }
        std::thread::sleep(FOLLOW_EVERY);
        adopt_new(&run_dir, &options.names, &mut tails, None)?;
    }
}

fn nothing(run_dir: &Path, names: &[String]) -> Failure {
    let wanted = if names.is_empty() { "any instance".to_owned() } else { names.join(", ") };
    Failure::new("HF0704", format!("no log of {wanted} under {}", run_dir.display()))
        .hint("names are services (web) or instances (web-2): holdfast status")
}

/// Finds logs that are not followed yet. A new one is read from its start, unless `lines` says how much of its end.
fn adopt_new(
    run_dir: &Path,
    names: &[String],
    tails: &mut BTreeMap<String, Tail>,
    lines: Option<usize>,
) -> Result<bool, Failure> {
    let entries = match std::fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Failure::new("HF0704", format!("cannot read {}", run_dir.display())).because(error)),
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if tails.contains_key(&name) || !wanted(&name, names) {
            continue;
        }
        if let Some(tail) = Tail::open(entry.path().join("log/current"), lines) {
            tails.insert(name, tail);
        }
    }
    Ok(!tails.is_empty())
}

/// Internal instances (`_agent-1`) are shown only when they are asked for.
fn wanted(instance: &str, names: &[String]) -> bool {
    if names.is_empty() {
        return !instance.starts_with('_');
    }
    let service = instance.rsplit_once('-').map_or(instance, |(service, _)| service);
    names.iter().any(|name| name == instance || name == service)
}

fn print_merged(tails: &mut BTreeMap<String, Tail>) {
    let style = Style::stdout();
    let widest = tails.keys().map(String::len).max().unwrap_or(0);
    let mut lines: Vec<(String, String)> = Vec::new();
    for (name, tail) in tails.iter_mut() {
        lines.extend(tail.new_lines().into_iter().map(|line| (line, name.clone())));
    }
    // The time each line begins with is of fixed width, so its text sorts as time does; lines of one instance keep their order.
    lines.sort_by(|(a, _), (b, _)| stamp(a).cmp(stamp(b)));
    let mut text = String::new();
    for (line, name) in lines {
        text.push_str(&style.cyan(&format!("{name:widest$}")));
        text.push(' ');
        text.push_str(&line);
        text.push('\n');
    }
    if !text.is_empty() {
        print_text(&text);
    }
}

fn stamp(line: &str) -> &str {
    line.split(' ').next().unwrap_or("")
}

/// One growing file that may be rotated away under the reader.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    file: File,
    inode: u64,
    /// Bytes of a line that has no end yet.
    partial: Vec<u8>,
    /// Lines to keep of the first read; `None` once it was done.
    first: Option<usize>,
}

impl Tail {
    fn open(path: PathBuf, lines: Option<usize>) -> Option<Tail> {
        let mut file = File::open(&path).ok()?;
        let meta = file.metadata().ok()?;
        if lines.is_some() {
            file.seek(SeekFrom::Start(meta.len().saturating_sub(TAIL_BYTES_MAX))).ok()?;
        }
        Some(Tail { path, file, inode: meta.ino(), partial: Vec::new(), first: lines })
    }

    fn new_lines(&mut self) -> Vec<String> {
        let mut lines = self.read_lines();
        if self.rotated() {
            lines.extend(self.read_lines());
            if let Some(next) = Tail::open(self.path.clone(), None) {
                *self = next;
                lines.extend(self.read_lines());
            }
        }
        if let Some(keep) = self.first.take() {
            lines.drain(..lines.len().saturating_sub(keep));
        }
        lines
    }

    fn rotated(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|meta| meta.ino() != self.inode)
    }

    fn read_lines(&mut self) -> Vec<String> {
        let limit = if self.first.is_some() { TAIL_BYTES_MAX } else { CHUNK_BYTES };
        let mut bytes = std::mem::take(&mut self.partial);
        let _ = (&mut self.file).take(limit).read_to_end(&mut bytes);
        let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        self.partial = bytes.split_off(end);
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_tail_keeps_the_last_lines_and_follows_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("current");
        std::fs::write(&path, "1 a\n2 b\n3 c\n").unwrap();
        let mut tail = Tail::open(path.clone(), Some(2)).unwrap();
        assert_eq!(tail.new_lines(), ["2 b", "3 c"]);
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"4 half").unwrap();
        assert!(tail.new_lines().is_empty(), "a line without its end is not a line yet");
        file.write_all(b" done\n").unwrap();
        std::fs::rename(&path, dir.path().join("1")).unwrap();
        std::fs::write(&path, "5 new\n").unwrap();
        assert_eq!(tail.new_lines(), ["4 half done", "5 new"]);
    }

    #[test]
    fn internal_instances_are_shown_only_by_name() {
        assert!(wanted("web-1", &[]));
        assert!(!wanted("_agent-1", &[]));
        assert!(wanted("_agent-1", &["_agent".into()]));
        assert!(wanted("web-2", &["web-2".into()]) && !wanted("web-1", &["web-2".into()]));
    }
}
