//! What the instances wrote themselves: one line each 10 ms of each life.

use std::path::Path;
use std::str::FromStr;

use holdfast_policy::Incarnation;

pub(crate) fn boot_ms() -> u64 {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    boot.tv_sec as u64 * 1000 + boot.tv_nsec as u64 / 1_000_000
}

/// One process of an instance, from its first line to its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) incarnation: Incarnation,
    pub(crate) pid: u32,
    pub(crate) first_ms: u64,
    pub(crate) last_ms: u64,
    pub(crate) lines: usize,
}

/// The lives in the order in which they wrote; an error names what cannot be if no two ever ran at the same time.
pub(crate) fn lives(path: &Path) -> Result<Vec<Life>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    lives_of(&text)
}

fn lives_of(text: &str) -> Result<Vec<Life>, String> {
    let mut lives: Vec<Life> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = match parse(line) {
            None => Some("not a line of a ledger"),
            Some((incarnation, pid, ms)) => take(&mut lives, incarnation, pid, ms),
        };
        if let Some(what) = wrong {
            return Err(format!("line {}: {what}: `{line}` after {:?}", number + 1, lives.last()));
        }
    }
    Ok(lives)
}

/// What is wrong with this line, after those before it.
fn take(lives: &mut Vec<Life>, incarnation: Incarnation, pid: u32, ms: u64) -> Option<&'static str> {
    match lives.last_mut() {
        Some(life) if life.incarnation == incarnation && life.pid != pid => {
            return Some("two processes of one incarnation");
        }
        Some(life) if life.last_ms > ms => return Some("it began before the line before it was written"),
        Some(life) if life.incarnation > incarnation => return Some("an older incarnation wrote after a newer one"),
        Some(life) if life.incarnation == incarnation => {
            life.last_ms = ms;
            life.lines += 1;
        }
        _ => lives.push(Life { incarnation, pid, first_ms: ms, last_ms: ms, lines: 1 }),
    }
    None
}

fn parse(line: &str) -> Option<(Incarnation, u32, u64)> {
    let mut words = line.split(' ');
    let incarnation = Incarnation::from_str(words.next()?).ok()?;
    Some((incarnation, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// A checker that finds nothing has to show that it can.
#[test]
fn overlaps_are_found() {
    let cases = [
        ("1.1 10 100\n1.1 10 110\n1.2 11 115\n2.1 12 130\n", None),
        ("1.1 10 100\n1.2 11 110\n1.1 10 110\n", Some("older incarnation")),
        ("1.1 10 100\n1.1 11 110\n", Some("two processes")),
        ("1.1 10 100\n1.2 11 90\n", Some("it began before")),
        ("2.1 10 100\n1.9 11 110\n", Some("older incarnation")),
        ("1.1 10 100\n1.1 10", Some("not a line")),
    ];
    for (text, want) in cases {
        match (lives_of(text), want) {
            (Ok(_), None) => {}
            (Err(said), Some(want)) => assert!(said.contains(want), "{said}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }
}
