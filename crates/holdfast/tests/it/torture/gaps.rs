//! How long an instance may be away, from the policy in the file and from who was killed meanwhile.

use holdfast_policy::Incarnation;

use super::killer::{Kill, Role};
use super::ledger::Life;
use super::watch::{Seen, overlap};
use crate::proof;

/// Restart policy of a service as the test's file has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) delay_ms: u64,
    pub(super) max_ms: u64,
    pub(super) fenced: bool,
}

/// Of the agent, which is kept by its shim with a policy of its own.
const AGENT: Policy = Policy { delay_ms: 200, max_ms: 10_000, fenced: false };
/// Between shims that die together with what they kept: at once, then a second, doubling.
const LAUNCHES: Policy = Policy { delay_ms: 1000, max_ms: 60_000, fenced: false };
const JITTER: f64 = 1.2;

/// From the end of a process to the first line of the next beside the delay that policy asks for: the shim reaps it, keeps
/// its exit, starts the program, and that binds its port and writes (each 10 ms).
fn spawn_ms() -> u64 {
    proof::size(4000, 200)
}

/// Beside it when the shim was killed: proof of its absence, end of what it left, a durable record, a new shim. Each is
/// some milliseconds; one order of the agent that met a dying shim is repeated after a second.
fn replace_ms() -> u64 {
    proof::size(6000, 1500)
}

/// A fenced instance waits for its lease; one that was asked for too early is asked for again after this.
const LEASE_MS: u64 = 3000;

/// An agent that was killed answers again within its delay and this.
fn agent_start_ms() -> u64 {
    proof::size(8000, 1000)
}

impl Policy {
    /// Before the `n`th restart in a row, at most: forgotten failures only make it shorter.
    fn before_restart(self, n: u64) -> u64 {
        let steps = u32::try_from(n.saturating_sub(2)).unwrap_or(u32::MAX).min(30);
        let delay = if n < 2 { 0 } else { (self.delay_ms << steps).min(self.max_ms) };
        (delay as f64 * JITTER) as u64
    }

    fn restarts(self, numbers: impl Iterator<Item = u64>) -> u64 {
        numbers.map(|n| self.before_restart(n) + spawn_ms()).sum()
    }
}

/// A gap in a ledger, what explains it, and what is left.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    pub(super) id: String,
    pub(super) from: Incarnation,
    pub(super) to: Incarnation,
    pub(super) ms: u64,
    /// By back-off and by agents that were away.
    pub(super) explained_ms: u64,
    pub(super) allowed_ms: u64,
}

impl Gap {
    /// What policy does not explain.
    pub(super) fn own_ms(&self) -> u64 {
        self.ms.saturating_sub(self.explained_ms)
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.from.generation != self.to.generation
    }
}

pub(super) struct Explainer<'a> {
    pub(super) kills: &'a [Kill],
    pub(super) seen: &'a Seen,
    /// Highest run of each generation that was ever heard of, lives that never wrote included.
    pub(super) runs: &'a dyn Fn(&str, u64) -> u32,
}

impl Explainer<'_> {
    pub(super) fn gaps(&self, id: &str, policy: Policy, lives: &[Life]) -> Vec<Gap> {
        lives.windows(2).map(|pair| self.gap(id, policy, &pair[0], &pair[1])).collect()
    }

    fn gap(&self, id: &str, policy: Policy, before: &Life, after: &Life) -> Gap {
        let (from, to) = (before.incarnation, after.incarnation);
        let span = (before.last_ms, after.first_ms);
        let away = overlap(span, &self.seen.away);
        let stalls = overlap(span, &self.seen.stalls);
        let (mut delays, mut allowed) = (0, 0);
        if from.generation == to.generation {
            let restarts = || (from.run..to.run).map(u64::from);
            delays += restarts().map(|n| policy.before_restart(n)).sum::<u64>();
            allowed += policy.restarts(restarts());
        } else {
            let last = (self.runs)(id, from.generation).max(from.run);
            let restarts = || (from.run..last).chain(1..to.run).map(u64::from);
            delays += restarts().map(|n| policy.before_restart(n)).sum::<u64>();
            allowed += policy.restarts(restarts()) + spawn_ms();
            for generation in from.generation + 1..=to.generation {
                let delay = LAUNCHES.before_restart(self.launches_before(id, generation));
                delays += delay;
                allowed += delay + replace_ms();
            }
        }
        let agent = if from.generation != to.generation || policy.fenced { away } else { 0 };
        if policy.fenced {
            allowed += LEASE_MS;
        }
        Gap {
            id: id.into(),
            from,
            to,
            ms: span.1 - span.0,
            explained_ms: delays + agent,
            allowed_ms: allowed + agent + stalls,
        }
    }

    /// Which one in a row this generation's launch was for the agent that ordered it, at most.
    fn launches_before(&self, id: &str, generation: u64) -> u64 {
        let shims = |k: &&Kill| k.role == Role::Shim && k.id == id;
        let Some(killed) = self.kills.iter().filter(shims).find(|k| k.life == (generation - 1).to_string()) else {
            return 1;
        };
        let agent_since = self.seen.away.iter().map(|(from, _)| *from).filter(|at| *at <= killed.at_ms).max();
        let counted = |k: &&Kill| k.at_ms >= agent_since.unwrap_or(0) && k.at_ms <= killed.at_ms;
        self.kills.iter().filter(shims).filter(counted).count() as u64
    }

    /// Times without an answering agent that its own restart policy does not explain.
    pub(super) fn unexplained_absences(&self) -> Vec<String> {
        let ours: Vec<&Kill> = self.kills.iter().filter(|k| k.id == "_agent-1").collect();
        let mut before = 0;
        let mut found = Vec::new();
        for span in &self.seen.away {
            // One whose shim was killed answers until it hands over, and it may be killed before it has answered once.
            let causes: Vec<&&Kill> = ours.iter().filter(|k| k.at_ms > before && k.at_ms <= span.1).collect();
            before = span.0;
            let starts = agent_start_ms() * causes.len() as u64;
            let allowed =
                causes.iter().map(|k| delay_of_agent(k)).sum::<u64>() + starts + overlap(*span, &self.seen.stalls);
            let took = span.1 - span.0;
            if took > allowed {
                found.push(format!("no agent for {took} ms from {}, {allowed} ms allowed for {causes:?}", span.0));
            }
        }
        found
    }
}

/// A killed run `n` is followed by restart `n`; a new shim starts its first one at once.
fn delay_of_agent(kill: &Kill) -> u64 {
    match (kill.role, kill.life.parse::<Incarnation>()) {
        (Role::Agent, Ok(life)) => AGENT.before_restart(u64::from(life.run)),
        _ => 0,
    }
}

#[test]
fn delays_double_up_to_their_limit() {
    let policy = Policy { delay_ms: 100, max_ms: 500, fenced: false };
    let delays: Vec<u64> = (1..=6).map(|n| policy.before_restart(n)).collect();
    assert_eq!(delays, [0, 120, 240, 480, 600, 600]);
}
