//! When a request may be sent again: the replay table.
//!
//! | what failed                                   | again when                                  | where               |
//! |-----------------------------------------------|---------------------------------------------|---------------------|
//! | not connected, or no byte was sent            | always                                      | another, at once    |
//! | pooled connection closed before any answer    | idempotent and the body is still held, once | fresh, another      |
//! | endpoint died before any answer               | idempotent and the body is still held, once | fresh, another      |
//! | listed gateway status                         | idempotent and the body is still held       | another             |
//! | no answer within the time limit               | never: the time is used up                  |                     |
//! | anything after the first byte of the answer   | never: close visibly                        |                     |
//!
//! The budget limits all rows but the first, and but *casualties*: requests sent before the first sign that the
//! endpoint fails. Their number is bounded by what was in flight there, and each moves only once.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Refused, unreachable or not connected within the limit.
    NotConnected,
    /// Connected, but provably no byte reached the socket.
    Unsent,
    /// Closed or reset before any byte of the answer.
    NoAnswer { pooled: bool },
    /// An answer with a status that the balancer retries.
    Status,
    /// The time limit to the first byte passed.
    TimedOut,
    /// The answer had begun.
    Started,
}

/// What is known of the request when a try failed.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// By its method, or because it carries an idempotency key.
    pub idempotent: bool,
    /// Nothing of the body is lost: there is none, or all that was read is held.
    pub replayable: bool,
    /// Tries so far, the failed one included.
    pub tries: u32,
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

/// RFC 9110 section 9.2.2.
pub fn idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"TRACE")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Request = Request { idempotent: true, replayable: true, tries: 1, replays: 0, casualty: false };
    const POST: Request = Request { idempotent: false, ..GET };
    const STREAMED: Request = Request { replayable: false, ..GET };
    const OTHER: Next = Next::Again { fresh: false, budgeted: false };
    const FRESH: Next = Next::Again { fresh: true, budgeted: true };

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
    fn switched_off_is_off_for_all_but_the_visible_close() {
        let off = Rules { enabled: false, tries_max: 3 };
        for failure in [Failure::NotConnected, Failure::Unsent, Failure::NoAnswer { pooled: true }, Failure::Status] {
            assert_eq!(decide(&off, failure, GET), Next::GiveUp);
        }
        assert_eq!(decide(&off, Failure::Started, GET), Next::CloseVisibly);
    }
}
