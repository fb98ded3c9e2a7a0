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
    #[arg(long)]
    follow: bool,
    /// Follow; or the configuration file, if FILE has a `.` or a `/` in it, as no name has
    // Never missing where a name follows: `-f web` gives this value `web`, and `settled` tells it from a file.
    #[arg(id = "f", short = 'f', value_name = "FILE", num_args = 0..=1, default_missing_value = "")]
    #[arg(action = clap::ArgAction::Append)]
    short: Vec<String>,
    /// The configuration file [default: holdfast.toml]
    // The same id as the global one, which therefore does not come down to this command with its short name.
    #[arg(id = "file", long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Lines of each instance to begin with
    #[arg(short = 'n', long, default_value_t = 50)]
    lines: usize,
}

impl Options {
    /// `-f` follows; a value it took is a file if it cannot be a name, and else the first of the names.
    fn settled(mut self) -> Options {
        for value in std::mem::take(&mut self.short) {
            if is_file(&value) {
                self.file = Some(value.into());
                continue;
            }
            self.follow = true;
            self.names.extend(Some(value).filter(|name| !name.is_empty()));
        }
        self
    }
}

/// Names of services and instances hold small letters, digits, `-` and, inside holdfast, `_`.
fn is_file(value: &str) -> bool {
    value.contains(['.', '/'])
}

pub(super) fn run(common: &Common, options: Options) -> Result<Exit, Failure> {
    let options = options.settled();
    let common = common.with_file(options.file.as_ref());
    if let Some(file) = options.names.iter().find(|name| is_file(name)) {
        return Err(no_name(file));
    }
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

fn no_name(file: &str) -> Failure {
    Failure::new("HF0704", format!("`{file}` is neither a service nor an instance"))
        .because("names hold small letters, digits and `-`; this looks like a file")
        .hint(format!("holdfast logs -f {file}; with --follow to go on printing what comes"))
        .exit(Exit::Usage)
}

fn nothing(run_dir: &Path, names: &[String]) -> Failure {
    let dir = run_dir.display();
    if names.is_empty() {
        return Failure::new("HF0704", format!("nothing has run from {dir}"))
            .hint("start it: holdfast up -d; or name its file or directory: -f FILE, --data-dir DIR");
    }
    Failure::new("HF0704", format!("no log of {} under {dir}", names.join(", ")))
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

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_value_of_f_is_a_file_if_it_cannot_be_a_name() {
        let read = |line: &str| {
            let parsed =
                <Line as clap::Parser>::try_parse_from(line.split(' ')).expect("a good line").options.settled();
            (parsed.follow, parsed.names.join("+"), parsed.file.map(|file| file.display().to_string()))
        };
        let file = |name: &str| Some(name.to_owned());
        assert_eq!(read("logs -f"), (true, String::new(), None));
        assert_eq!(read("logs -f web"), (true, "web".into(), None));
        assert_eq!(read("logs web -f"), (true, "web".into(), None));
        assert_eq!(read("logs api -f web-2"), (true, "api+web-2".into(), None));
        assert_eq!(read("logs -f shop.toml web"), (false, "web".into(), file("shop.toml")));
        assert_eq!(read("logs -f -f ./shop"), (true, String::new(), file("./shop")));
        assert_eq!(read("logs --file shop -f"), (true, String::new(), file("shop")));
        assert_eq!(read("logs -f _agent"), (true, "_agent".into(), None));
    }

    #[test]
    fn internal_instances_are_shown_only_by_name() {
        assert!(wanted("web-1", &[]));
        assert!(!wanted("_agent-1", &[]));
        assert!(wanted("_agent-1", &["_agent".into()]));
        assert!(wanted("web-2", &["web-2".into()]) && !wanted("web-1", &["web-2".into()]));
    }
}
