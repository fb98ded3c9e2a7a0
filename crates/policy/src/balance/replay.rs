//! When a request may be sent again: the replay table.
//!
//! | what failed                                   | again when                                  | where               |
//! |-----------------------------------------------|---------------------------------------------|---------------------|
//! | not connected, or no byte was sent            | always                                      | another, at once    |
//! | pooled connection closed before any answer    | idempotent and the body is still held, once | fresh, another      |
//! | endpoint died before any answer               | idempotent and the body is still held, once | fresh, another      |
//! | listed gateway status                         | idempotent and the body is still held       | another             |
//! | no answer within the time limit               | never: the time is used up                  |                     |
//! | anything after the client has a first byte    | never: close visibly                        |                     |
//!
//! The budget limits all rows but the first, and but *casualties*: requests sent before the first sign that the
//! endpoint fails. Their number is bounded by what was in flight there, and each moves only once.
//!
//! When none is left to try and the last could not be reached, [`rest`] says how long to wait before all may be tried once
//! more, up to `tries_max` times again: an instance that is being started again answers a moment later. The budget counts
//! who rests.

use std::time::Duration;

use crate::rng::Rng;

/// Mean of the shortest wait before all endpoints may be tried once more: about what a small program takes to start again.
pub const REST_MIN: Duration = Duration::from_millis(15);

/// Mean of the longest wait: what a person notices.
pub const REST_MAX: Duration = Duration::from_millis(100);

/// A rest is this share of how long the endpoint has failed, so that waiting adds at most about as much to an outage.
const REST_SHARE: f64 = 0.25;

/// Share by which a rest may be longer or shorter, so that those who wait do not come back in step.
const REST_JITTER: f64 = 0.25;

/// Rests of one request: with the waits above about a third of a second in all.
pub const RESTS_MAX: u32 = 12;

/// Who could not be reached for longer is not about to answer: resting would only make each refusal slower and multiply the
/// tries at what is down.
pub const REST_WHILE: Duration = Duration::from_secs(1);

/// A request to a redundant service of which nobody is active waits this long for a member that takes over, counted
/// from its arrival and from the moment since which nobody is active. Longer than a hot takeover takes.
pub const AWAIT_ACTIVE: Duration = Duration::from_secs(3);

/// Looks for the new active member are this far apart. Nothing is sent anywhere, so they cost nobody anything.
pub const AWAIT_EVERY: Duration = Duration::from_millis(10);

/// How long to wait before looking again whether a member is active; `None` when the time is over. `waited` is since the
/// request came, `idle_for` how long nobody has been active.
pub fn await_active(rules: &Rules, waited: Duration, idle_for: Duration, rng: &mut Rng) -> Option<Duration> {
    let again = rules.enabled && waited < AWAIT_ACTIVE && idle_for < AWAIT_ACTIVE;
    again.then(|| rng.jitter(AWAIT_EVERY, REST_JITTER))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Refused, unreachable or not connected within the limit.
    NotConnected,
    /// Connected, but provably no byte reached the socket.
    Unsent,
    /// Closed or reset before the client had any byte of an answer.
    NoAnswer { pooled: bool },
    /// An answer with a status that the balancer retries.
    Status,
    /// The time limit to the first byte passed.
    TimedOut,
    /// The client has the beginning of the answer.
    Started,
}

/// What is known of the request when a try failed.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// By its method, or because it carries an idempotency key.
    pub idempotent: bool,
    /// Nothing of the body is lost: there is none, or all that was read is held.
    pub replayable: bool,
    /// Tries since it began or last rested, the failed one included.
    pub tries: u32,
    pub rests: u32,
    /// Sent again after bytes had been sent.
    pub replays: u32,
    /// Sent before the endpoint's first failure in this row.
    pub casualty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Again { fresh: bool, budgeted: bool },
    GiveUp,
    CloseVisibly,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub enabled: bool,
    pub tries_max: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { enabled: true, tries_max: 3 }
    }
}

pub fn decide(rules: &Rules, failure: Failure, request: Request) -> Next {
    if failure == Failure::Started {
        return Next::CloseVisibly;
    }
    if !rules.enabled || request.tries >= rules.tries_max {
        return Next::GiveUp;
    }
    let safe = request.idempotent && request.replayable;
    match failure {
        Failure::NotConnected | Failure::Unsent if request.replayable => Next::Again { fresh: false, budgeted: false },
        Failure::NoAnswer { .. } if safe && request.replays == 0 => {
            Next::Again { fresh: true, budgeted: !request.casualty }
        }
        Failure::Status if safe => Next::Again { fresh: false, budgeted: true },
        _ => Next::GiveUp,
    }
}

/// How long to wait when all endpoints were tried and the last, failing for `failing_for`, failed like this; `None` gives up.
/// The wait is a retry that needs a place in the budget.
pub fn rest(
    rules: &Rules,
    failure: Failure,
    request: Request,
    failing_for: Duration,
    rng: &mut Rng,
) -> Option<Duration> {
    let unsent = matches!(failure, Failure::NotConnected | Failure::Unsent) && request.replayable;
    let left = request.tries < rules.tries_max && request.rests < RESTS_MAX;
    let again = rules.enabled && unsent && left && failing_for < REST_WHILE;
    again.then(|| rng.jitter(failing_for.mul_f64(REST_SHARE).clamp(REST_MIN, REST_MAX), REST_JITTER))
}

/// RFC 9110 section 9.2.2.
pub fn idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"TRACE")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Request =
        Request { idempotent: true, replayable: true, tries: 1, rests: 0, replays: 0, casualty: false };
    const POST: Request = Request { idempotent: false, ..GET };
    const STREAMED: Request = Request { replayable: false, ..GET };
    const OTHER: Next = Next::Again { fresh: false, budgeted: false };
    const FRESH: Next = Next::Again { fresh: true, budgeted: true };

    #[test]
    fn a_takeover_is_waited_for_and_a_long_outage_is_not() {
        let (on, off) = (Rules { enabled: true, tries_max: 3 }, Rules { enabled: false, tries_max: 3 });
        let (s, mut rng) = (Duration::from_secs, Rng::from_seed(1));
        assert!(await_active(&on, s(1), s(2), &mut rng).is_some_and(|wait| wait < AWAIT_EVERY * 2));
        for (rules, waited, idle) in [(&off, 0, 0), (&on, 3, 0), (&on, 0, 3)] {
            assert_eq!(await_active(rules, s(waited), s(idle), &mut rng), None);
        }
    }

    #[test]
    fn every_row_of_the_table() {
        use Failure::*;
        let table = [
            (NotConnected, GET, OTHER),
            (NotConnected, POST, OTHER),
            (Unsent, POST, OTHER),
            (NoAnswer { pooled: true }, GET, FRESH),
            (NoAnswer { pooled: false }, GET, FRESH),
            (
                NoAnswer { pooled: true },
                Request { casualty: true, ..GET },
                Next::Again { fresh: true, budgeted: false },
            ),
            (NoAnswer { pooled: true }, POST, Next::GiveUp),
            (NoAnswer { pooled: false }, POST, Next::GiveUp),
            (NoAnswer { pooled: true }, STREAMED, Next::GiveUp),
            (NoAnswer { pooled: false }, Request { replays: 1, tries: 2, ..GET }, Next::GiveUp),
            (Status, GET, Next::Again { fresh: false, budgeted: true }),
            (Status, POST, Next::GiveUp),
            (TimedOut, GET, Next::GiveUp),
            (Started, GET, Next::CloseVisibly),
            (NotConnected, Request { tries: 3, ..GET }, Next::GiveUp),
        ];
        for (failure, request, want) in table {
            assert_eq!(decide(&Rules::default(), failure, request), want, "{failure:?} {request:?}");
        }
    }

    #[test]
    fn only_what_was_never_sent_and_fails_since_a_moment_rests_while_tries_are_left() {
        let mut rng = Rng::from_seed(7);
        let on = Rules::default();
        let mut wait =
            |rules: &Rules, failure, request, ms| rest(rules, failure, request, Duration::from_millis(ms), &mut rng);
        for (failing_ms, mean_ms) in [(0, 15.0), (60, 15.0), (200, 50.0), (999, 100.0)] {
            for _ in 0..100 {
                let rest = wait(&on, Failure::NotConnected, GET, failing_ms).expect("nothing was sent");
                let ms = rest.as_secs_f64() * 1e3;
                assert!((mean_ms * 0.75..=mean_ms * 1.25).contains(&ms), "{rest:?} after {failing_ms} ms");
            }
        }
        assert!(wait(&on, Failure::Unsent, POST, 999).is_some(), "nothing was sent, whatever the method");
        assert_eq!(wait(&on, Failure::NotConnected, GET, 1000), None);
        assert_eq!(wait(&on, Failure::NotConnected, STREAMED, 0), None);
        assert_eq!(wait(&on, Failure::NotConnected, Request { tries: 3, ..GET }, 0), None);
        assert_eq!(wait(&on, Failure::NotConnected, Request { rests: RESTS_MAX, ..GET }, 0), None);
        for failure in [Failure::NoAnswer { pooled: false }, Failure::TimedOut, Failure::Status, Failure::Started] {
            assert_eq!(wait(&on, failure, GET, 0), None, "{failure:?}");
        }
        assert_eq!(wait(&Rules { enabled: false, tries_max: 3 }, Failure::NotConnected, GET, 0), None);
    }

    /// The only endpoint is away for a while: whoever finds it so waits little longer than it is away, and gives up in time.
    #[test]
    fn a_rest_ends_soon_after_the_endpoint_is_back() {
        let mut rng = Rng::from_seed(7);
        let rules = Rules { enabled: true, tries_max: 2 };
        for away_ms in 0..1000_u64 {
            let away = Duration::from_millis(away_ms);
            let (mut waited, mut request) = (Duration::ZERO, GET);
            while waited < away {
                match rest(&rules, Failure::NotConnected, request, waited, &mut rng) {
                    Some(more) => waited += more,
                    None => break,
                }
                request.rests += 1;
            }
            let late = waited.saturating_sub(away);
            assert!(late <= REST_MIN.mul_f64(1.25).max(away.mul_f64(REST_SHARE * 1.25)), "{late:?} after {away:?}");
            assert!(waited >= away.min(Duration::from_millis(150)), "gave up after {waited:?} of {away:?}");
            assert!(waited <= Duration::from_millis(500), "{waited:?}");
        }
    }

    #[test]
    fn switched_off_is_off_for_all_but_the_visible_close() {
        let off = Rules { enabled: false, tries_max: 3 };
        for failure in [Failure::NotConnected, Failure::Unsent, Failure::NoAnswer { pooled: true }, Failure::Status] {
            assert_eq!(decide(&off, failure, GET), Next::GiveUp);
        }
        assert_eq!(decide(&off, Failure::Started, GET), Next::CloseVisibly);
    }
}
