//! Who reaches whom: cuts in either direction, loss, delay. The store is one more place.

use std::time::Duration;

use holdfast_policy::Timestamp;
use holdfast_policy::rng::Rng;

pub(super) struct Net {
    /// From, to: nothing passes until then.
    cut: Vec<Vec<Timestamp>>,
    pub(super) lossy_until: Timestamp,
    pub(super) slow_until: Timestamp,
}

/// Of a hundred packets in a bad network.
const LOSS: u64 = 5;

impl Net {
    /// The last place is the store's.
    pub(super) fn new(machines: usize) -> Net {
        let cut = vec![vec![Timestamp::ZERO; machines + 1]; machines + 1];
        Net { cut, lossy_until: Timestamp::ZERO, slow_until: Timestamp::ZERO }
    }

    pub(super) fn store(&self) -> usize {
        self.cut.len() - 1
    }

    pub(super) fn places(&self) -> usize {
        self.cut.len()
    }

    pub(super) fn cut(&mut self, from: usize, to: usize, until: Timestamp) {
        if from != to {
            self.cut[from][to] = self.cut[from][to].max(until);
        }
    }

    pub(super) fn heal(&mut self) {
        self.cut.iter_mut().flatten().for_each(|until| *until = Timestamp::ZERO);
        (self.lossy_until, self.slow_until) = (Timestamp::ZERO, Timestamp::ZERO);
    }

    pub(super) fn is_open(&self, now: Timestamp, from: usize, to: usize) -> bool {
        now >= self.cut[from][to]
    }

    /// Both ways.
    pub(super) fn is_linked(&self, now: Timestamp, one: usize, other: usize) -> bool {
        self.is_open(now, one, other) && self.is_open(now, other, one)
    }

    /// How long a message takes that goes now; `None` when it never arrives.
    pub(super) fn send(&self, now: Timestamp, rng: &mut Rng, from: usize, to: usize) -> Option<Duration> {
        let lost = now < self.lossy_until && rng.below(100) < LOSS;
        if lost || !self.is_open(now, from, to) {
            return None;
        }
        let slow = if now < self.slow_until { rng.below(300) } else { 0 };
        Some(Duration::from_micros(200 + rng.below(2_000)) + Duration::from_millis(slow))
    }
}
