//! What the members wrote while they were active: `INSTANCE TOKEN PID BOOT_MS`, one line each 5 ms.

use std::path::Path;

use holdfast_policy::lease::FencingToken;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    member: String,
    token: FencingToken,
    pid: u32,
    ms: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Roles(Vec<Line>);

impl Roles {
    pub(crate) fn read(path: &Path) -> Roles {
        Roles::parse(&std::fs::read_to_string(path).unwrap_or_default())
    }

    fn parse(text: &str) -> Roles {
        let line = |line: &str| -> Option<Line> {
            let mut words = line.split(' ');
            Some(Line {
                member: words.next()?.to_owned(),
                token: words.next()?.parse().ok()?,
                pid: words.next()?.parse().ok()?,
                ms: words.next()?.parse().ok()?,
            })
        };
        Roles(text.lines().map(|text| line(text).unwrap_or_else(|| panic!("not a line: {text}"))).collect())
    }

    /// In the order in which they were used first.
    pub(crate) fn tokens(&self) -> Vec<FencingToken> {
        let mut tokens = Vec::new();
        for line in &self.0 {
            if !tokens.contains(&line.token) {
                tokens.push(line.token);
            }
        }
        tokens
    }

    /// Pairs of processes of which each wrote before the other had written its last.
    pub(crate) fn overlaps(&self) -> Vec<(u32, u32)> {
        let mut lives: Vec<(u32, u64, u64)> = Vec::new();
        for line in &self.0 {
            match lives.iter_mut().find(|(pid, ..)| *pid == line.pid) {
                Some((_, _, last)) => *last = line.ms,
                None => lives.push((line.pid, line.ms, line.ms)),
            }
        }
        let mut found = Vec::new();
        for (n, a) in lives.iter().enumerate() {
            found.extend(lives[n + 1..].iter().filter(|b| a.2 > b.1 && b.2 > a.1).map(|b| (a.0, b.0)));
        }
        found
    }

    pub(crate) fn never_two(&self) {
        assert!(!self.0.is_empty(), "nobody was ever active");
        assert!(self.overlaps().is_empty(), "two were active at once: {:?}", self.overlaps());
        assert_eq!(self.refused(), 0, "a stale token was used");
    }

    /// What a receiver that keeps the highest token it has seen refuses.
    pub(crate) fn refused(&self) -> usize {
        let mut highest = FencingToken::default();
        let mut refused = 0;
        for line in &self.0 {
            refused += usize::from(line.token < highest);
            highest = highest.max(line.token);
        }
        refused
    }
}

pub(crate) fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let rest = stat.rsplit(')').next().expect("stat has a name");
    rest.split_whitespace().nth(1).and_then(|p| p.parse().ok()).expect("a parent")
}

/// A checker that finds nothing has to show that it can.
#[test]
fn two_actives_and_stale_tokens_are_found() {
    let quiet = Roles::parse("db-1 1.5 10 100\ndb-1 1.5 10 105\ndb-2 1.9 11 105\ndb-2 1.9 11 110");
    quiet.never_two();
    assert_eq!(quiet.tokens().len(), 2);
    let two = Roles::parse("db-1 1.5 10 100\ndb-2 1.9 11 105\ndb-1 1.5 10 110\ndb-2 1.9 11 115");
    assert_eq!((two.overlaps(), two.refused()), (vec![(10, 11)], 1));
}
