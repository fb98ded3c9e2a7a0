//! The choice of an endpoint.
//!
//! Tiers, the first that is not empty: ready and neither ejected nor kept from new requests by a verdict; suspect, likewise; the least bad of what
//! is left. An explicit not-ready and a draining endpoint are in no tier, not even as the last one.

use crate::balance::eject::Phase;
use crate::balance::{Algorithm, State, Verdict};
use crate::rng::Rng;
use crate::time::Timestamp;

/// One endpoint as it looks at the moment of the choice.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub state: State,
    pub verdict: Verdict,
    pub phase: Phase,
    /// End of the ejection, to find the least bad.
    pub until: Timestamp,
    /// In `Phase::Probing`: whether one more probe may start.
    pub admits: bool,
    pub in_flight: u32,
    /// `u32::MAX` is without limit.
    pub in_flight_max: u32,
    /// Peak EWMA x (in flight + 1).
    pub cost: f64,
    /// Slow start: the share of requests it takes part in, 0..=1.
    pub share: f64,
    /// This request was there already.
    pub tried: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    Ready,
    Suspect,
    /// Ejected or hung, but there is nothing else: the caller's budget decides.
    LastResort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No endpoint at all, or all are draining.
    Empty,
    /// Those that remain said that they are not ready.
    NotReady,
    /// All usable ones are at their limit of requests in flight.
    Full,
    /// All usable ones were tried already.
    Tried,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Use { index: usize, tier: Tier },
    None(Why),
}

/// Draws before the full scan.
const DRAWS: usize = 2;

/// Share of requests that an endpoint on trial takes part in.
const TRIAL_SHARE: f64 = 0.1;

/// Memory of round robin; one per core and balancer.
#[derive(Clone, Debug, Default)]
pub struct Picker {
    cursor: usize,
}

impl Candidate {
    fn in_rotation(&self, algorithm: Algorithm) -> bool {
        let phase = match self.phase {
            Phase::In => true,
            Phase::Probing => self.admits,
            Phase::Out => false,
        };
        phase && self.verdict.takes_new(algorithm)
    }

    fn eligible(&self) -> bool {
        matches!(self.state, State::Ready | State::Suspect)
    }

    fn free(&self) -> bool {
        !self.tried && self.in_flight < self.in_flight_max
    }

    fn normal(&self, algorithm: Algorithm) -> bool {
        self.state == State::Ready && self.in_rotation(algorithm) && self.free()
    }

    /// Slow start and trial: whether it takes part this time.
    fn takes_part(&self, rng: &mut Rng) -> bool {
        let share = if self.phase == Phase::Probing { TRIAL_SHARE } else { self.share };
        share >= 1.0 || rng.unit() < share
    }

    fn load(&self, algorithm: Algorithm) -> f64 {
        match algorithm {
            Algorithm::P2c => self.cost,
            _ => f64::from(self.in_flight),
        }
    }
}

impl Picker {
    /// `look` is asked for an endpoint of `0..len`; most choices need two looks.
    pub fn pick(
        &mut self,
        algorithm: Algorithm,
        len: usize,
        look: impl Fn(usize) -> Candidate,
        rng: &mut Rng,
    ) -> Choice {
        match len {
            0 => return Choice::None(Why::Empty),
            1 => {}
            _ if algorithm == Algorithm::P2c => {
                if let Some(index) = two_choices(len, &look, rng) {
                    return Choice::Use { index, tier: Tier::Ready };
                }
            }
            _ => {}
        }
        self.cursor = (self.cursor + 1) % len;
        let start = if algorithm == Algorithm::RoundRobin { self.cursor } else { rng.below(len as u64) as usize };
        scan(algorithm, len, start, look, rng)
    }
}

fn two_choices(len: usize, look: &impl Fn(usize) -> Candidate, rng: &mut Rng) -> Option<usize> {
    let first = rng.below(len as u64) as usize;
    let second = (first + 1 + rng.below(len as u64 - 1) as usize) % len;
    let mut best: Option<(usize, f64)> = None;
    for index in [first, second].into_iter().take(DRAWS) {
        let c = look(index);
        if !c.normal(Algorithm::P2c) {
            return None;
        }
        let takes_part = c.takes_part(rng);
        if takes_part && c.phase == Phase::Probing {
            // A trial is not won on cost: the failures that led to it would keep it from ever being tried.
            return Some(index);
        }
        if takes_part && best.is_none_or(|(_, cost)| c.cost < cost) {
            best = Some((index, c.cost));
        }
    }
    best.map(|(index, _)| index)
}

/// Least load among those of `tier` that take part; round robin takes the first from `start`.
#[derive(Default)]
struct Best {
    index: Option<usize>,
    load: f64,
}

impl Best {
    fn offer(&mut self, index: usize, load: f64) {
        if self.index.is_none() || load < self.load {
            (self.index, self.load) = (Some(index), load);
        }
    }
}

fn scan(algorithm: Algorithm, len: usize, start: usize, look: impl Fn(usize) -> Candidate, rng: &mut Rng) -> Choice {
    // Evidence against everyone is void: then nobody is hung.
    let void = (0..len).map(&look).filter(Candidate::eligible).all(|c| !c.verdict.usable());
    let (mut ready, mut resting, mut suspect, mut last) = Default::default();
    let (mut full, mut tried, mut not_ready) = (false, false, false);
    for offset in 0..len {
        let index = (start + offset) % len;
        let mut c = look(index);
        if void {
            c.verdict = Verdict::Ok;
        }
        match c.state {
            State::Draining => continue,
            State::NotReady => {
                not_ready = true;
                continue;
            }
            State::Ready | State::Suspect => {}
        }
        if c.tried {
            tried = true;
            continue;
        }
        if !c.free() {
            full = true;
            continue;
        }
        let load = if algorithm == Algorithm::RoundRobin { offset as f64 } else { c.load(algorithm) };
        let tier: &mut Best = match (c.in_rotation(algorithm), c.state) {
            (true, State::Ready) if c.takes_part(rng) => &mut ready,
            (true, State::Ready) => &mut resting,
            (true, _) => &mut suspect,
            (false, _) => {
                last_resort(&mut last, index, &c);
                continue;
            }
        };
        tier.offer(index, load);
    }
    let found = |best: Best, tier| best.index.map(|index| Choice::Use { index, tier });
    found(ready, Tier::Ready)
        .or(found(resting, Tier::Ready))
        .or(found(suspect, Tier::Suspect))
        // A retry does not go to an ejected endpoint: it would only add to its trouble.
        .or_else(|| if tried { None } else { found(last, Tier::LastResort) })
        .unwrap_or(Choice::None(match () {
            () if tried => Why::Tried,
            () if full => Why::Full,
            () if not_ready => Why::NotReady,
            () => Why::Empty,
        }))
}

/// A hung one is worse than an ejected one; of the ejected, the first to return.
fn last_resort(best: &mut Best, index: usize, c: &Candidate) {
    let hung = if c.verdict.usable() { 0.0 } else { 1e30 };
    best.offer(index, hung + c.until.as_nanos() as f64);
}

#[cfg(test)]
mod tests;
