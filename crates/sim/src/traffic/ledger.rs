//! The promises about retries, checked by what clients asked for and what reached the endpoints; the balancer's own
//! counters are not looked at.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_policy::balance::{Failure, Signal};
use holdfast_policy::{Incarnation, Timestamp};

/// As documented for `retry` in the file: a request is sent at most so often, and as often again after each wait, of which it
/// has at most so many.
const TRIES: u32 = 3;
const RESTS: u32 = 12;
/// Requests sent once more at the same time: so many in a hundred of those that clients wait for, or this many.
const SHARE: usize = 20;
const ALWAYS: usize = 3;

/// An endpoint in one of its lives.
type Place = (usize, Incarnation);

#[derive(Debug, Default)]
struct Asked {
    post: bool,
    sent: u32,
    rests: u32,
    /// Since it waited last.
    tries: u32,
    /// Tries whose bytes an endpoint may have got.
    reached: u32,
    /// Sent again after its bytes had been sent, outside the budget: once in a request's life.
    excused: bool,
    last: Option<(Place, Timestamp)>,
    /// Why it may be sent once more without a place in the budget.
    free: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    violation: Option<String>,
    open: BTreeMap<u64, Asked>,
    /// Sent once more, with nothing to excuse it, and not over; or waiting to be.
    retried: BTreeSet<u64>,
    /// First failure of each endpoint since its last success or ejection.
    failing: BTreeMap<Place, Timestamp>,
    /// Which life of each endpoint is the present one.
    lives: BTreeMap<usize, Incarnation>,
    /// Requests, and tries beyond the first of each.
    pub(crate) asked: u64,
    pub(crate) again: u64,
}

impl Ledger {
    pub(crate) fn take_violation(&mut self) -> Option<String> {
        self.violation.take()
    }

    pub(super) fn asked(&mut self, id: u64, post: bool) {
        self.asked += 1;
        self.open.insert(id, Asked { post, ..Asked::default() });
    }

    pub(super) fn answered(&mut self, id: u64) {
        self.retried.remove(&id);
        self.open.remove(&id);
    }

    pub(super) fn sent(&mut self, now: Timestamp, id: u64, place: Place) {
        let Some(asked) = self.open.get_mut(&id) else { return };
        asked.sent += 1;
        asked.tries += 1;
        asked.last = Some((place, now));
        if asked.sent == 1 {
            return;
        }
        self.again += 1;
        let mut wrong = None;
        if asked.tries > TRIES {
            wrong = Some(format!("request {id} was sent {} times without a wait", asked.tries));
        }
        if asked.post && asked.reached > 0 {
            wrong = Some(format!("request {id} is a POST and was sent once more after an endpoint had it"));
        }
        let free = asked.free;
        if let Some(what) = wrong {
            self.violation.get_or_insert(what);
        }
        if !free {
            self.retries(id);
        }
    }

    /// It waits, and will be sent once more.
    pub(super) fn rests(&mut self, id: u64) {
        let Some(asked) = self.open.get_mut(&id) else { return };
        (asked.free, asked.tries, asked.rests) = (false, 0, asked.rests + 1);
        if asked.rests > RESTS {
            self.violation.get_or_insert(format!("request {id} waited {} times", asked.rests));
        }
        self.retries(id);
    }

    fn retries(&mut self, id: u64) {
        // Who waited has its place already.
        if !self.retried.insert(id) {
            return;
        }
        let (now, open) = (self.retried.len(), self.open.len());
        let most = ALWAYS.max(open * SHARE / 100);
        if now > most {
            let what = format!("{now} requests were being retried at once, {open} were open: {most} may be");
            self.violation.get_or_insert(what);
        }
    }

    /// `signal`: what it says about the endpoint, if anything.
    pub(super) fn ended(&mut self, now: Timestamp, id: u64, failure: Option<Failure>, signal: Option<Signal>) {
        self.retried.remove(&id);
        let Some(asked) = self.open.get_mut(&id) else { return };
        let Some((place, sent)) = asked.last else { return };
        let began = self.failing.get(&place).copied();
        let outlived = self.lives.get(&place.0).is_some_and(|life| *life != place.1);
        match signal {
            Some(Signal::Success) => drop(self.failing.remove(&place)),
            Some(Signal::Transport | Signal::Refused) => drop(self.failing.entry(place).or_insert(now)),
            Some(Signal::Gateway) | None => {}
        }
        asked.reached += u32::from(failure != Some(Failure::NotConnected));
        asked.free = match failure {
            // Nobody got it.
            Some(Failure::NotConnected | Failure::Unsent) => true,
            // It was under way when the endpoint's failing or its next life began: nobody could know.
            Some(Failure::NoAnswer { .. }) if outlived || began.is_none_or(|at| sent <= at) => {
                !std::mem::replace(&mut asked.excused, true)
            }
            _ => false,
        };
    }

    pub(super) fn began(&mut self, place: Place) {
        self.lives.insert(place.0, place.1);
    }

    pub(super) fn ejected(&mut self, place: Place) {
        self.failing.remove(&place);
    }
}
