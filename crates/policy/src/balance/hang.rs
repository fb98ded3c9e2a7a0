//! Hung or busy: what happens to requests that wait for an endpoint which misses its probes.
//!
//! A missed probe alone does not tell a stopped process from a single-threaded one that computes a report.
//! The agent looks at the process and publishes a verdict; this is what a waiting request does with it.

use crate::balance::Algorithm;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Verdict {
    #[default]
    Ok,
    /// The process is stopped (state T): it will not answer before someone continues it.
    Stopped,
    /// Runs no instruction although work waits.
    NoProgress,
    /// Burns CPU: it works, nothing moves until liveness fails.
    Busy,
}

impl Verdict {
    /// Whether it is worth to move or repeat a waiting request there.
    pub fn usable(self) -> bool {
        matches!(self, Verdict::Ok | Verdict::Busy)
    }

    /// Whether new requests still go there. Only a stopped process is proof; no progress is as well a lost packet that is sent
    /// again after 200 ms or more. A cost that counts silence sends the next requests elsewhere by itself and takes the endpoint
    /// back with its first answer; where nothing else would, the verdict has to.
    pub fn takes_new(self, algorithm: Algorithm) -> bool {
        self.usable() || self == Verdict::NoProgress && algorithm == Algorithm::P2c
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Stay,
    /// Give the first try up and send it to another endpoint.
    Move,
    /// Send it once more elsewhere, leave the first try open, take the answer that comes first.
    Hedge,
}

/// `replayable`: idempotent, without a body. `again`: already moved or hedged (never on to a third).
pub fn act(verdict: Verdict, replayable: bool, again: bool) -> Act {
    match verdict {
        _ if !replayable || again => Act::Stay,
        Verdict::Stopped => Act::Move,
        Verdict::NoProgress => Act::Hedge,
        Verdict::Ok | Verdict::Busy => Act::Stay,
    }
}

/// All instances missing at once points at a common cause (or at the observer): the evidence says nothing.
pub fn void(mut verdicts: impl Iterator<Item = Verdict>) -> bool {
    verdicts.all(|v| !v.usable())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_replayable_request_moves_and_only_once() {
        use Verdict::*;
        let table = [
            (Stopped, true, false, Act::Move),
            (NoProgress, true, false, Act::Hedge),
            (Busy, true, false, Act::Stay),
            (Ok, true, false, Act::Stay),
            (Stopped, false, false, Act::Stay),
            (NoProgress, true, true, Act::Stay),
            (Stopped, true, true, Act::Stay),
        ];
        for (verdict, replayable, again, want) in table {
            assert_eq!(act(verdict, replayable, again), want, "{verdict:?} {replayable} {again}");
        }
    }

    #[test]
    fn only_proof_keeps_new_requests_from_an_endpoint_whose_silence_costs() {
        use Verdict::*;
        for (verdict, by_cost, in_turn) in
            [(Ok, true, true), (Busy, true, true), (NoProgress, true, false), (Stopped, false, false)]
        {
            let takes = (verdict.takes_new(Algorithm::P2c), verdict.takes_new(Algorithm::RoundRobin));
            assert_eq!(takes, (by_cost, in_turn), "{verdict:?}");
        }
    }

    #[test]
    fn evidence_against_everyone_is_void() {
        assert!(void([Verdict::Stopped, Verdict::NoProgress].into_iter()));
        assert!(!void([Verdict::Stopped, Verdict::Busy].into_iter()));
    }
}
