//! Clients of the service `web`, and one balancer process in front of it: the real choice, replay table, retry budget
//! and ejection, on endpoints as the Supervisor publishes them and on children as they are.
//!
//! It only looks at the simulated host and never acts on it, so it may lag behind it and is caught up before each
//! change. Its randomness is its own.

mod endpoint;
mod ledger;

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_policy::balance::budget::Budget;
use holdfast_policy::balance::{Algorithm, Choice, Failure, Next, Picker, Request, Signal, Tier, Why, eject, replay};
use holdfast_policy::rng::Rng;
use holdfast_policy::{Incarnation, InstanceId, Timestamp};
use holdfast_services::supervisor::EndpointState;

pub(crate) use crate::traffic::endpoint::Outside;
use crate::traffic::endpoint::{Lane, Mood, Outcome};
use crate::traffic::ledger::Ledger;

/// The service that the balancer is in front of.
pub(crate) const SERVICE: &str = "web";

/// From the agent's decision to its effect in the balancer.
const SNAPSHOT: Duration = Duration::from_millis(20);

/// One request in so many is no GET.
const POSTS: u64 = 5;

#[derive(Debug)]
enum Due {
    Arrive,
    /// A try of a request is over.
    End(u64, u32, Outcome),
    /// A request that found nobody has waited, and tries all once more.
    Rested(u64),
    Snapshot(InstanceId, Incarnation, EndpointState),
}

/// A request from its arrival to its answer.
#[derive(Debug, Default)]
struct Exchange {
    post: bool,
    tries: u32,
    rests: u32,
    /// Tries when it last rested.
    before_rest: u32,
    replays: u32,
    tried: Vec<usize>,
    fresh: bool,
    last: Option<Failure>,
    /// It holds a place in the budget.
    place: bool,
    lane: usize,
    /// What the lane stood for when the try was sent, and the child that got it.
    incarnation: Incarnation,
    child: Option<Incarnation>,
    sent: Timestamp,
    pooled: bool,
}

impl Exchange {
    fn known(&self, casualty: bool) -> Request {
        Request {
            idempotent: !self.post,
            replayable: true,
            tries: self.tries - self.before_rest,
            rests: self.rests,
            replays: self.replays,
            casualty,
        }
    }
}

pub(crate) struct Traffic {
    now: Timestamp,
    rng: Rng,
    due: BTreeMap<(Timestamp, u64), Due>,
    count: u64,
    lanes: Vec<Lane>,
    picker: Picker,
    budget: Budget,
    replay: replay::Rules,
    eject: eject::Rules,
    open: BTreeMap<u64, Exchange>,
    retrying: u32,
    /// Until when clients ask, and the time between two of them.
    burst: (Timestamp, Duration),
    pub(crate) ledger: Ledger,
}

impl Traffic {
    pub(crate) fn new(seed: u64, budget: bool) -> Traffic {
        let unlimited = Budget { ratio: 0.0, min: u32::MAX };
        Traffic {
            now: Timestamp::ZERO,
            rng: Rng::from_seed(seed ^ 0x7261_6666_6963),
            due: BTreeMap::new(),
            count: 0,
            lanes: Vec::new(),
            picker: Picker::default(),
            budget: if budget { Budget::default() } else { unlimited },
            replay: replay::Rules::default(),
            eject: eject::Rules::default(),
            open: BTreeMap::new(),
            retrying: 0,
            burst: (Timestamp::ZERO, Duration::ZERO),
            ledger: Ledger::default(),
        }
    }

    /// Clients begin to ask, and each endpoint gets a mood for that time. Gives the time until the fault may come.
    pub(crate) fn burst(&mut self, now: Timestamp) -> Duration {
        self.now = self.now.max(now);
        let length = Duration::from_millis(200 + self.rng.below(800));
        let gap = Duration::from_millis([2, 5, 20][self.rng.below(3) as usize]);
        self.burst = (self.now + length, gap);
        let all = (self.rng.below(3) == 0).then(|| Mood::any(&mut self.rng));
        for lane in &mut self.lanes {
            lane.mood = all.unwrap_or_else(|| Mood::any(&mut self.rng));
        }
        self.later(Duration::ZERO, Due::Arrive);
        Duration::from_millis(self.rng.below(100))
    }

    pub(crate) fn published(&mut self, now: Timestamp, id: &InstanceId, life: Incarnation, state: EndpointState) {
        if &*id.service == SERVICE {
            self.count += 1;
            self.due.insert((now + SNAPSHOT, self.count), Due::Snapshot(id.clone(), life, state));
        }
    }

    fn later(&mut self, wait: Duration, what: Due) {
        self.count += 1;
        self.due.insert((self.now + wait, self.count), what);
    }

    /// Everything up to `end`, while the host is as it is now.
    pub(crate) fn catch_up(&mut self, end: Timestamp, outside: Outside<'_>) {
        self.lose_the_dead(outside);
        while let Some(((at, _), _)) = self.due.first_key_value() {
            if *at > end {
                break;
            }
            self.now = self.now.max(*at);
            match self.due.pop_first() {
                Some((_, Due::Arrive)) => self.arrive(outside),
                Some((_, Due::End(id, try_no, outcome))) => self.ended(id, try_no, outcome, outside),
                Some((_, Due::Rested(id))) => self.attempt(id, outside),
                Some((_, Due::Snapshot(id, life, state))) => self.snapshot(&id, life, state),
                None => {}
            }
        }
        self.now = self.now.max(end);
    }

    /// Connections end with the process that held them.
    fn lose_the_dead(&mut self, outside: Outside<'_>) {
        let lanes = &self.lanes;
        let dead = |(id, e): (&u64, &Exchange)| {
            let child = e.child?;
            let lives = outside.child(&lanes[e.lane].id).is_some_and(|c| c.incarnation == child);
            (!lives).then_some((*id, e.tries, Failure::NoAnswer { pooled: e.pooled }))
        };
        let dead: Vec<_> = self.open.iter().filter_map(dead).collect();
        for (id, try_no, failure) in dead {
            self.ended(id, try_no, Outcome::Failed { failure, refused: false }, outside);
        }
    }

    fn snapshot(&mut self, id: &InstanceId, life: Incarnation, state: EndpointState) {
        let index = self.lanes.iter().position(|l| l.id == *id).unwrap_or(self.lanes.len());
        if index == self.lanes.len() {
            self.lanes.push(Lane::new(id.clone(), self.now));
        }
        self.lanes[index].set(self.now, life, state);
        self.ledger.began((index, life));
    }

    fn arrive(&mut self, outside: Outside<'_>) {
        if self.now < self.burst.0 {
            let gap = self.rng.jitter(self.burst.1, 0.5);
            self.later(gap, Due::Arrive);
            let id = self.count;
            let post = self.rng.below(POSTS) == 0;
            self.open.insert(id, Exchange { post, ..Exchange::default() });
            self.ledger.asked(id, post);
            self.attempt(id, outside);
        }
    }

    /// Chooses an endpoint and sends, waits for one, or answers that there is none.
    fn attempt(&mut self, id: u64, outside: Outside<'_>) {
        let index = match self.choose(id) {
            Ok(index) => index,
            Err(Some(Why::Tried)) if self.rests(id) => return,
            Err(_) => return self.close(id),
        };
        let Some(e) = self.open.get_mut(&id) else { return };
        let lane = &mut self.lanes[index];
        e.tries += 1;
        (e.lane, e.incarnation, e.sent) = (index, lane.incarnation, self.now);
        e.pooled = !e.fresh && lane.answered && self.rng.below(4) > 0;
        lane.waiting.insert((self.now, id));
        let (took, child, outcome) = lane.fate(self.now, e.pooled, outside, &mut self.rng);
        e.child = child;
        let (try_no, place) = (e.tries, (index, e.incarnation));
        self.ledger.sent(self.now, id, place);
        self.later(took, Due::End(id, try_no, outcome));
    }

    fn choose(&mut self, id: u64) -> Result<usize, Option<Why>> {
        let now = self.now;
        let Some(e) = self.open.get(&id) else { return Err(None) };
        let (lanes, rng) = (&self.lanes, &mut self.rng);
        let look = |index: usize| lanes[index].candidate(now, e.tried.contains(&index));
        match self.picker.pick(Algorithm::P2c, lanes.len(), look, rng) {
            Choice::Use { index, tier: Tier::LastResort } => self.take_place(id).then_some(index).ok_or(None),
            Choice::Use { index, .. } => Ok(index),
            Choice::None(Why::Tried) if e.last == Some(Failure::NoAnswer { pooled: true }) && e.tries == 1 => {
                Ok(e.lane)
            }
            Choice::None(why) => Err(Some(why)),
        }
    }

    /// Nobody is left to try: whether to wait and then try all once more.
    fn rests(&mut self, id: u64) -> bool {
        let Some(e) = self.open.get(&id) else { return false };
        let Some(failure) = e.last else { return false };
        let failing_for = self.now.since(self.lanes[e.lane].ejection.failing_since);
        let rest = replay::rest(&self.replay, failure, e.known(false), failing_for, &mut self.rng);
        let Some(rest) = rest.filter(|_| self.take_place(id)) else { return false };
        self.open.entry(id).and_modify(|e| {
            e.tried.clear();
            (e.rests, e.before_rest) = (e.rests + 1, e.tries);
        });
        self.ledger.rests(id);
        self.later(rest, Due::Rested(id));
        true
    }

    fn take_place(&mut self, id: u64) -> bool {
        self.leave_place(id);
        let open = u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        let allowed = self.budget.allows(open, self.retrying);
        if let Some(e) = self.open.get_mut(&id).filter(|_| allowed) {
            e.place = true;
            self.retrying += 1;
        }
        allowed
    }

    fn leave_place(&mut self, id: u64) {
        if let Some(e) = self.open.get_mut(&id).filter(|e| e.place) {
            e.place = false;
            self.retrying -= 1;
        }
    }

    fn close(&mut self, id: u64) {
        self.leave_place(id);
        self.open.remove(&id);
        self.ledger.answered(id);
    }

    fn ended(&mut self, id: u64, try_no: u32, outcome: Outcome, outside: Outside<'_>) {
        let now = self.now;
        let Some(e) = self.open.get_mut(&id).filter(|e| e.tries == try_no) else { return };
        e.child = None;
        let (index, incarnation, sent) = (e.lane, e.incarnation, e.sent);
        let lane = &mut self.lanes[index];
        lane.waiting.remove(&(sent, id));
        let before = lane.ejection;
        let (failure, signal) = match outcome {
            Outcome::Answer { gateway: false } => (None, Some(Signal::Success)),
            Outcome::Answer { gateway: true } => (Some(Failure::Status), Some(Signal::Gateway)),
            // A server may close a kept-alive connection whenever it likes.
            Outcome::Failed { failure: failure @ Failure::NoAnswer { pooled: true }, .. } => (Some(failure), None),
            Outcome::Failed { failure, refused } => {
                (Some(failure), Some(if refused { Signal::Refused } else { Signal::Transport }))
            }
        };
        lane.learn(now, sent, signal);
        self.ledger.ended(now, id, failure, signal);
        if let Some(signal) = signal.filter(|_| lane.incarnation == incarnation) {
            self.report(index, signal);
        }
        match failure {
            None => self.close(id),
            Some(failure) => {
                let casualty = failure != Failure::Status && (before.failures == 0 || sent <= before.failing_since);
                match self.again(id, index, failure, casualty) {
                    true => self.attempt(id, outside),
                    false => self.close(id),
                }
            }
        }
    }

    fn report(&mut self, index: usize, signal: Signal) {
        let now = self.now;
        let usable = |(n, lane): &(usize, &Lane)| *n != index && lane.usable(now);
        let others = u32::try_from(self.lanes.iter().enumerate().filter(usable).count()).unwrap_or(u32::MAX);
        let lane = &mut self.lanes[index];
        if lane.ejection.observe(now, signal, &self.eject, others, &mut self.rng) {
            self.ledger.ejected((index, lane.incarnation));
        }
    }

    /// Whether the request is sent once more, and its place in the budget if it needs one.
    fn again(&mut self, id: u64, index: usize, failure: Failure, casualty: bool) -> bool {
        self.leave_place(id);
        let Some(e) = self.open.get_mut(&id) else { return false };
        let next = replay::decide(&self.replay, failure, e.known(casualty));
        let Next::Again { fresh, budgeted } = next else { return false };
        e.fresh |= fresh;
        e.replays += u32::from(fresh);
        e.tried.push(index);
        e.last = Some(failure);
        !budgeted || self.take_place(id)
    }
}
