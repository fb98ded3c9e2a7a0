//! Watches processes of all machines from outside, by what `/proc` shows: which of some kind lived when, and for how long
//! two of them ran at the same time. Nothing that is watched is asked.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::running::stat;
use crate::{Error, Result, cgroup};

/// A look costs some 0.7 ms of a core for a hundred processes: more of them would disturb what is watched.
pub const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A process may become another program by exec: it is looked at again and again while it is young, and then seldom.
const YOUNG: Duration = Duration::from_millis(200);
const AGAIN_EVERY: Duration = Duration::from_secs(1);

/// Which processes are watched. All that are set must be true.
#[derive(Clone, Debug, Default)]
pub struct Select {
    /// `NAME=VALUE` in its environment.
    pub env: Option<String>,
    /// Part of its command line, arguments separated by blanks.
    pub command: Option<String>,
    /// Part of the path of its cgroup, such as the name of one lab's folder.
    pub cgroup: Option<String>,
}

/// From the first look to the last look in which it ran: it was certainly running between these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub pid: u32,
    /// The machine, by the cgroup that it runs in; empty outside a lab.
    pub machine: String,
    /// Since the watch began.
    pub first: Duration,
    pub last: Duration,
    /// The looks before and after these: it may have run until there.
    pub first_possible: Duration,
    pub last_possible: Duration,
}

/// How long two or more ran at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Overlap {
    /// No less.
    pub certain: Duration,
    /// No more.
    pub possible: Duration,
}

pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Span>>>,
}

impl Watch {
    pub fn start(select: Select) -> Result<Watch> {
        if select.env.is_none() && select.command.is_none() {
            return Err(Error::failed("watch processes", "neither an environment nor a command is named"));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = Some(thread::spawn(move || watch(&select, &flag)));
        Ok(Watch { stop, thread })
    }

    /// What was seen, by the time it began.
    pub fn finish(mut self) -> Vec<Span> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What is known of a pid.
struct Known {
    since: Instant,
    looked: Instant,
    selected: bool,
    open: Option<Span>,
}

fn watch(select: &Select, stop: &AtomicBool) -> Vec<Span> {
    let began = Instant::now();
    let unified = cgroup::mount();
    let mut known: BTreeMap<u32, Known> = BTreeMap::new();
    let (mut done, mut before) = (Vec::new(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let at = now - began;
        let pids = pids();
        known.retain(|pid, one| {
            let alive = pids.binary_search(pid).is_ok();
            if !alive {
                done.extend(one.close(began.elapsed()));
            }
            alive
        });
        for pid in pids {
            let one =
                known.entry(pid).or_insert(Known { since: now, looked: now, selected: select.takes(pid), open: None });
            let again = if now - one.since < YOUNG { LOOK_EVERY } else { AGAIN_EVERY };
            if now - one.looked >= again {
                (one.looked, one.selected) = (now, select.takes(pid));
            }
            match (one.selected && runs(pid, unified.as_ref()), &mut one.open) {
                (true, Some(span)) => span.last = at,
                (true, open) => {
                    let machine = machine(pid);
                    let (first, last) = (began.elapsed(), began.elapsed());
                    *open = Some(Span { pid, machine, first, last, first_possible: before, last_possible: last });
                }
                (false, _) => done.extend(one.close(began.elapsed())),
            }
        }
        before = at;
        thread::sleep(LOOK_EVERY);
    }
    let end = began.elapsed();
    done.extend(known.values_mut().filter_map(|one| one.close(end)));
    done.sort_by_key(|span| (span.first, span.pid));
    done
}

impl Known {
    fn close(&mut self, at: Duration) -> Option<Span> {
        self.open.take().map(|span| Span { last_possible: at, last: span.last.max(span.first), ..span })
    }
}

impl Select {
    fn takes(&self, pid: u32) -> bool {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        // It only waits for the one that is meant.
        if matches!(read("comm").as_slice(), b"nsenter\n" | b"unshare\n") {
            return false;
        }
        if let Some(wanted) = &self.env
            && !read("environ").split(|byte| *byte == 0).any(|pair| pair == wanted.as_bytes())
        {
            return false;
        }
        let contains = |text: Vec<u8>, part: &str| String::from_utf8_lossy(&text).replace('\0', " ").contains(part);
        self.command.as_ref().is_none_or(|part| contains(read("cmdline"), part))
            && self.cgroup.as_ref().is_none_or(|part| contains(read("cgroup"), part))
    }
}

/// Alive, not a zombie, not stopped, not frozen: it could do something at this moment.
fn runs(pid: u32, unified: Option<&PathBuf>) -> bool {
    let acts = stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X' | 'T' | 't'));
    let frozen = || {
        let events = fs::read_to_string(unified?.join(place(pid)?).join("cgroup.events")).ok()?;
        Some(events.lines().any(|line| line == "frozen 1"))
    };
    acts && !frozen().unwrap_or(false)
}

/// Its cgroup, relative to the root of the unified tree.
fn place(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::/").map(str::to_owned))
}

/// `…/holdfast-lab-1-0/node-2.5/…` is `node-2` in its fifth boot.
fn machine(pid: u32) -> String {
    let place = place(pid).unwrap_or_default();
    let mut parts = place.split('/').skip_while(|part| !part.starts_with("holdfast-lab-"));
    let boot = parts.nth(1).unwrap_or_default();
    boot.split('.').next().unwrap_or_default().to_owned()
}

/// Sorted.
fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// How long at least two spans of different groups lasted at once. `group` says what belongs together: processes of one
/// active are no overlap.
pub fn overlap(spans: &[Span], group: impl Fn(&Span) -> String) -> Overlap {
    let certain = spans.iter().map(|s| (group(s), s.first, s.last));
    let possible = spans.iter().map(|s| (group(s), s.first_possible, s.last_possible));
    Overlap { certain: shared(certain.collect()), possible: shared(possible.collect()) }
}

fn shared(spans: Vec<(String, Duration, Duration)>) -> Duration {
    let mut edges: Vec<(Duration, i32, &str)> = Vec::new();
    for (group, from, to) in &spans {
        edges.extend([(*from, 1, group.as_str()), (*to, -1, group.as_str())]);
    }
    edges.sort();
    let mut running: BTreeMap<&str, i32> = BTreeMap::new();
    let (mut total, mut since) = (Duration::ZERO, Duration::ZERO);
    for (at, change, group) in edges {
        if running.values().filter(|count| **count > 0).count() > 1 {
            total += at - since;
        }
        since = at;
        *running.entry(group).or_default() += change;
    }
    total
}

impl Span {
    pub fn json(&self) -> Value {
        let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
        json!({
            "pid": self.pid,
            "machine": self.machine,
            "first_ms": ms(self.first),
            "last_ms": ms(self.last),
            "first_possible_ms": ms(self.first_possible),
            "last_possible_ms": ms(self.last_possible),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(machine: &str, first: u64, last: u64) -> Span {
        let ms = Duration::from_millis;
        let machine = machine.to_owned();
        let (first_possible, last_possible) = (ms(first - 1), ms(last + 1));
        Span { pid: 1, machine, first: ms(first), last: ms(last), first_possible, last_possible }
    }

    #[test]
    fn overlap_is_between_groups_and_counted_once() {
        let of = |spans: &[Span]| {
            let found = overlap(spans, |s| s.machine.clone());
            (found.certain.as_millis(), found.possible.as_millis())
        };
        assert_eq!(of(&[]), (0, 0));
        assert_eq!(of(&[span("a", 10, 20), span("b", 30, 40)]), (0, 0));
        assert_eq!(of(&[span("a", 10, 20), span("b", 21, 40)]), (0, 1), "one look could not tell");
        assert_eq!(of(&[span("a", 10, 20), span("b", 15, 40)]), (5, 7));
        assert_eq!(of(&[span("a", 10, 20), span("a", 12, 18)]), (0, 0), "of one machine");
        assert_eq!(
            of(&[span("a", 10, 30), span("b", 15, 25), span("c", 20, 28)]),
            (13, 15),
            "three at once count once"
        );
        assert_eq!(of(&[span("a", 10, 30), span("a", 12, 15), span("b", 20, 40)]), (10, 12));
    }
}
