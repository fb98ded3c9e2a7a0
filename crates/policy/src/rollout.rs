//! Which instance is replaced next: one at a time by default, the broken ones first, never below `min_available`.
//!
//! Used for everything that holdfast does of its own accord to an instance that runs: a changed definition, a
//! restart asked for, a shim lost. The next one waits until the last is ready again, so that a bad change stops
//! at `max_unavailable` instances.

/// One wanted instance of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// It should be replaced.
    pub due: bool,
    /// It is ready.
    pub usable: bool,
    /// Taken down by holdfast and not back yet.
    pub acting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Index into the candidates.
    Replace(usize),
    /// Nothing is due.
    Done,
    /// As many as allowed are away already.
    WaitForActing,
    /// Taking one more ready instance away would break `min_available`, or others are not ready.
    WaitForAvailable,
}

pub fn next(candidates: &[Candidate], max_unavailable: u32, min_available: u32) -> Next {
    let count = |f: fn(&Candidate) -> bool| candidates.iter().filter(|c| f(c)).count();
    let limit = max_unavailable.max(1) as usize;
    if count(|c| c.due) == 0 {
        return Next::Done;
    }
    // An instance that is away already and due again (a second change came) costs nothing more.
    if let Some(again) = candidates.iter().position(|c| c.due && c.acting && !c.usable) {
        return Next::Replace(again);
    }
    if count(|c| c.acting) >= limit {
        return Next::WaitForActing;
    }
    if let Some(broken) = candidates.iter().position(|c| c.due && !c.usable) {
        return Next::Replace(broken);
    }
    let usable = count(|c| c.usable);
    if candidates.len() - usable >= limit || usable <= min_available as usize {
        return Next::WaitForAvailable;
    }
    candidates.iter().position(|c| c.due).map_or(Next::Done, Next::Replace)
}

/// How many of `surplus_usable` ready instances may leave when `staying_usable` ready ones stay.
pub fn may_leave(surplus_usable: usize, staying_usable: usize, min_available: u32) -> usize {
    (surplus_usable + staying_usable).saturating_sub(min_available as usize).min(surplus_usable)
}

/// One machine's instances of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub ready: u32,
    /// Should be replaced, and are still there.
    pub due: u32,
    /// Of these, ready ones.
    pub due_ready: u32,
    /// Taken down by holdfast and not back yet.
    pub acting: u32,
    /// Not ready for another reason.
    pub away: u32,
    /// Turns that it was given already: it may act on them before anybody hears of it.
    pub held: u32,
}

/// How many instances each machine may have down by plan at the same time, so that all together stay within
/// `max_unavailable` and `min_available`. Who has begun goes on; then in the order given, those with broken instances first.
pub fn turns(shares: &[Share], max_unavailable: u32, min_available: u32) -> Vec<u32> {
    let sum = |of: fn(&Share) -> u32| shares.iter().map(of).sum::<u32>();
    let mut granted: Vec<u32> = shares.iter().map(begun).collect();
    let about_to = sum(|s| begun(s) - s.acting);
    let mut left = max_unavailable.max(1).saturating_sub(sum(begun) + sum(|s| s.away));
    let mut spare = sum(|s| s.ready).saturating_sub(min_available + about_to);
    for (share, turns) in shares.iter().zip(&mut granted) {
        let open = share.acting + share.due - *turns;
        let broken = (share.due - share.due_ready.min(share.due)).min(left).min(open);
        *turns += broken;
        left -= broken;
    }
    for (share, turns) in shares.iter().zip(&mut granted) {
        let open = share.acting + share.due - *turns;
        let more = share.due_ready.min(left).min(spare).min(open);
        *turns += more;
        left -= more;
        spare -= more;
    }
    granted
}

/// Instances that are away, or may be at any moment by a turn that was given.
fn begun(share: &Share) -> u32 {
    share.acting.max(share.held.min(share.acting + share.due))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `R` ready, `b` broken, upper row; `d` due and `a` acting below.
    fn row(states: &str, marks: [&str; 4]) -> Vec<Candidate> {
        let has = |i: usize, c| marks[i].contains(c);
        states
            .chars()
            .enumerate()
            .map(|(i, c)| Candidate { due: has(i, 'd'), usable: c == 'R', acting: has(i, 'a') })
            .collect()
    }

    #[test]
    fn the_next_one_by_table() {
        for (states, marks, max, min, expected) in [
            ("RRR", ["", "", "", ""], 1, 1, Next::Done),
            ("RRR", ["d", "d", "d", ""], 1, 1, Next::Replace(0)),
            ("bRR", ["a", "d", "d", ""], 1, 1, Next::WaitForActing),
            ("RRR", ["", "d", "d", ""], 1, 1, Next::Replace(1)),
            ("RbR", ["d", "d", "d", ""], 1, 1, Next::Replace(1)),
            ("RbR", ["d", "", "d", ""], 1, 1, Next::WaitForAvailable),
            ("RbR", ["d", "", "d", ""], 2, 1, Next::Replace(0)),
            ("RbR", ["d", "", "d", ""], 2, 2, Next::WaitForAvailable),
            ("bRR", ["da", "d", "d", ""], 1, 1, Next::Replace(0)),
            ("R", ["d", "", "", ""], 1, 0, Next::Replace(0)),
            ("R", ["d", "", "", ""], 1, 1, Next::WaitForAvailable),
        ] {
            assert_eq!(next(&row(states, marks), max, min), expected, "{states} {marks:?}");
        }
    }

    #[test]
    fn surplus_instances_leave_only_while_enough_stay() {
        assert_eq!(may_leave(2, 1, 1), 2);
        assert_eq!(may_leave(2, 0, 1), 1);
        assert_eq!(may_leave(0, 0, 1), 0);
    }

    fn share(ready: u32, due: u32, acting: u32) -> Share {
        Share { ready, due, due_ready: due.min(ready), acting, ..Share::default() }
    }

    #[test]
    fn machines_take_turns() {
        let all = [share(1, 1, 0), share(1, 1, 0), share(1, 1, 0)];
        assert_eq!(turns(&all, 1, 2), [1, 0, 0]);
        assert_eq!(turns(&[share(0, 0, 1), share(1, 1, 0), share(1, 1, 0)], 1, 2), [1, 0, 0], "the first is not back");
        assert_eq!(turns(&[share(1, 0, 0), share(1, 1, 0), share(1, 1, 0)], 1, 2), [0, 1, 0]);
        assert_eq!(turns(&all, 2, 0), [1, 1, 0]);
        assert_eq!(turns(&all, 3, 2), [1, 0, 0], "min_available binds first");
        let second = Share { held: 1, ..share(1, 1, 0) };
        assert_eq!(turns(&[share(1, 1, 0), second, share(1, 1, 0)], 1, 2), [0, 1, 0], "a turn that was given stays");
        let broken = Share { due: 1, ..Share::default() };
        assert_eq!(turns(&[share(1, 1, 0), broken], 1, 1), [0, 1], "what serves nobody goes first");
        let away = Share { away: 1, ..Share::default() };
        assert_eq!(turns(&[share(1, 1, 0), away], 1, 0), [0, 0], "one is away already");
    }
}
