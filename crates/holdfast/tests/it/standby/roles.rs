//! What the members wrote while they were active: `INSTANCE TOKEN PID BOOT_MS`, one line each 5 ms.

use std::collections::BTreeSet;
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
        self.overlaps_without(&BTreeSet::new())
    }

    /// Of those that had other tokens than these. Machines with process namespaces of their own may use a pid twice.
    pub(crate) fn overlaps_without(&self, frozen: &BTreeSet<FencingToken>) -> Vec<(u32, u32)> {
        let mut lives: Vec<(&Line, u64)> = Vec::new();
        for line in self.0.iter().filter(|line| !frozen.contains(&line.token)) {
            let same = |first: &Line| (first.pid, &first.member, first.token) == (line.pid, &line.member, line.token);
            match lives.iter_mut().find(|(first, _)| same(first)) {
                Some((_, last)) => *last = line.ms,
                None => lives.push((line, line.ms)),
            }
        }
        let mut found = Vec::new();
        for (n, (a, a_last)) in lives.iter().enumerate() {
            let both = lives[n + 1..].iter().filter(|(b, b_last)| *a_last > b.ms && *b_last > a.ms);
            found.extend(both.map(|(b, _)| (a.pid, b.pid)));
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
        self.stale().len()
    }

    pub(crate) fn refused_tokens(&self) -> BTreeSet<FencingToken> {
        self.stale().into_iter().collect()
    }

    fn stale(&self) -> Vec<FencingToken> {
        let mut highest = FencingToken::default();
        let mut stale = Vec::new();
        for line in &self.0 {
            stale.extend(Some(line.token).filter(|token| *token < highest));
            highest = highest.max(line.token);
        }
        stale
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
    let frozen = two.refused_tokens();
    assert_eq!((frozen.len(), two.overlaps_without(&frozen)), (1, vec![]));
}
