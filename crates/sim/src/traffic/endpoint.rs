//! An endpoint as the balancer knows it, and what really becomes of a request that is sent there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::balance::{Candidate, Ejection, Failure, PeakEwma, Phase, Signal, State, Verdict};
use holdfast_policy::rng::Rng;
use holdfast_policy::{Incarnation, InstanceId, Timestamp};
use holdfast_services::supervisor::EndpointState;

use crate::host::{Child, Host};

/// Time limits of the balancer.
const CONNECT: Duration = Duration::from_millis(300);
const FIRST_BYTE: Duration = Duration::from_millis(1500);

/// A connection is refused at once.
const REFUSED: Duration = Duration::from_micros(200);

/// The host, to look at.
#[derive(Clone, Copy)]
pub(crate) struct Outside<'a> {
    pub(crate) host: &'a Host,
    pub(crate) stalls: &'a BTreeMap<Arc<str>, (Timestamp, Timestamp)>,
}

impl<'a> Outside<'a> {
    pub(super) fn child(self, id: &InstanceId) -> Option<&'a Child> {
        self.host.places.get(id)?.children.last()
    }

    fn stalls(self, id: &InstanceId, now: Timestamp) -> bool {
        self.stalls.get(&id.service).is_some_and(|(from, until)| now >= *from && now < *until)
    }
}

/// How an endpoint serves during a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mood {
    work: Duration,
    /// Of its answers, how many in a hundred are 503, and how many requests end without an answer.
    errors: u64,
    closes: u64,
    /// Nothing reaches it.
    deaf: bool,
}

impl Mood {
    pub(super) fn any(rng: &mut Rng) -> Mood {
        let ms = [1, 3, 10, 50, 150, 400][rng.below(6) as usize];
        let mut mood = Mood { work: Duration::from_millis(ms), errors: 0, closes: 0, deaf: false };
        let share = [10, 40, 100][rng.below(3) as usize];
        match rng.below(10) {
            0..=2 => mood.errors = share,
            3 | 4 => mood.closes = share,
            5 => (mood.errors, mood.closes) = (share / 2, share / 2),
            6 => mood.deaf = true,
            _ => {}
        }
        mood
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answer { gateway: bool },
    Failed { failure: Failure, refused: bool },
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: InstanceId,
    pub(super) incarnation: Incarnation,
    pub(super) ejection: Ejection,
    /// Requests that it owes an answer, the oldest first.
    pub(super) waiting: BTreeSet<(Timestamp, u64)>,
    last_answer: Timestamp,
    pub(super) mood: Mood,
    /// There may be connections in the pool.
    pub(super) answered: bool,
    state: State,
    ewma: PeakEwma,
}

impl Lane {
    pub(super) fn new(id: InstanceId, now: Timestamp) -> Lane {
        Lane {
            id,
            incarnation: Incarnation::default(),
            ejection: Ejection { returned: now, ..Ejection::default() },
            waiting: BTreeSet::new(),
            last_answer: Timestamp::ZERO,
            mood: Mood { work: Duration::from_millis(3), errors: 0, closes: 0, deaf: false },
            answered: false,
            state: State::Draining,
            ewma: PeakEwma::default(),
        }
    }

    /// Another life knows nothing of the one before. What is gone stays in its place, for nobody.
    pub(super) fn set(&mut self, now: Timestamp, life: Incarnation, state: EndpointState) {
        if self.incarnation != life {
            *self = Lane { mood: self.mood, incarnation: life, ..Lane::new(self.id.clone(), now) };
        }
        self.state = match state {
            EndpointState::Ready => State::Ready,
            EndpointState::Suspect => State::Suspect,
            EndpointState::Standby | EndpointState::NotReady => State::NotReady,
            EndpointState::Draining | EndpointState::Gone => State::Draining,
        };
    }

    pub(super) fn usable(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Ready | State::Suspect) && self.ejection.phase(now) != Phase::Out
    }

    pub(super) fn candidate(&self, now: Timestamp, tried: bool) -> Candidate {
        let in_flight = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let silent_since = self.waiting.first().map_or(now, |(sent, _)| *sent).max(self.last_answer);
        Candidate {
            state: self.state,
            verdict: Verdict::Ok,
            phase: self.ejection.phase(now),
            until: self.ejection.until,
            admits: self.ejection.admits(now, in_flight),
            in_flight,
            in_flight_max: u32::MAX,
            cost: self.ewma.cost(now, in_flight, now.since(silent_since)),
            share: 1.0,
            tried,
        }
    }

    pub(super) fn learn(&mut self, now: Timestamp, sent: Timestamp, signal: Option<Signal>) {
        if matches!(signal, Some(Signal::Success | Signal::Gateway)) {
            self.last_answer = now;
        }
        match signal {
            Some(Signal::Success) => {
                self.answered = true;
                self.ewma.observe(now, now.since(sent));
            }
            Some(_) => self.ewma.fail(now),
            None => {}
        }
    }

    /// How long a try sent now lasts, which child holds its connection meanwhile, and how it ends if that one lives.
    pub(super) fn fate(
        &self,
        now: Timestamp,
        pooled: bool,
        outside: Outside<'_>,
        rng: &mut Rng,
    ) -> (Duration, Option<Incarnation>, Outcome) {
        let failed = |failure, refused| Outcome::Failed { failure, refused };
        let Some(child) = outside.child(&self.id).filter(|c| c.ready_at <= now) else {
            return (REFUSED, None, failed(Failure::NotConnected, true));
        };
        let held = Some(child.incarnation);
        if self.mood.deaf && !pooled {
            return (CONNECT, None, failed(Failure::NotConnected, false));
        }
        if self.mood.deaf || now < child.hung_until || outside.stalls(&self.id, now) {
            return (FIRST_BYTE, held, failed(Failure::TimedOut, false));
        }
        let work = rng.jitter(self.mood.work, 0.2);
        let dice = rng.below(100);
        let outcome = match dice {
            _ if dice < self.mood.errors => Outcome::Answer { gateway: true },
            _ if dice < self.mood.errors + self.mood.closes => failed(Failure::NoAnswer { pooled }, false),
            _ => Outcome::Answer { gateway: false },
        };
        (work, held, outcome)
    }
}
