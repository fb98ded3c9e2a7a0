//! What a measurement costs: CPU time and memory of processes, as `/proc` counts them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::process;

/// `/proc` counts CPU time in hundredths of a second on every Linux that users see (USER_HZ).
const TICK_MS: u64 = 10;

/// Of `utime` behind the name, with `stime` next to it; the two after that are those of children that ended.
const UTIME: usize = 11;

/// Processes that work in `dir` or name it.
pub(super) fn processes(dir: &Path) -> Vec<u32> {
    let lines = process::left_behind(dir);
    lines.iter().filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
}

/// CPU time of everything that runs in `dir`, with what processes used that ended meanwhile: their parents count it.
pub(super) fn cpu_in(dir: &Path) -> Duration {
    processes(dir).into_iter().map(|pid| cpu(pid, 4)).sum()
}

/// CPU time of one process, without its children.
pub(super) fn cpu_of(pid: u32) -> Duration {
    cpu(pid, 2)
}

fn cpu(pid: u32, fields: usize) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    Duration::from_millis(ticks(&stat, fields) * TICK_MS)
}

/// The name may hold spaces and brackets.
fn ticks(stat: &str, fields: usize) -> u64 {
    let Some(name_end) = stat.rfind(')') else { return 0 };
    stat[name_end..].split(' ').skip(1 + UTIME).take(fields).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// Resident now, and at most since it began.
pub(super) fn resident_bytes(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    (kib(&status, "VmRSS:") << 10, kib(&status, "VmHWM:") << 10)
}

fn kib(status: &str, key: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(key));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_and_without_children() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 100";
        assert_eq!((ticks(stat, 2), ticks(stat, 4)), (200, 215));
        assert_eq!(ticks("gone", 2), 0);
    }

    #[test]
    fn memory_of_ourselves() {
        let (now, most) = resident_bytes(std::process::id());
        assert!(now > 1 << 20 && most >= now, "{now} {most}");
        assert_eq!(kib("VmPeak:\t  10 kB\nVmRSS:\t  836 kB\n", "VmRSS:"), 836);
    }
}
