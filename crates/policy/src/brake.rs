//! The liveness brake: whether an instance whose liveness failed may be restarted now.
//!
//! A restart is destructive and the evidence is hearsay. When all instances of a service fall silent together the
//! cause is most likely something they share (a dependency, the machine, the network), and restarting them all
//! turns a stall into an outage. So a restart needs a witness: another instance that passed *after* this one began
//! to miss, while this one went on missing ([`crate::health::LiveCounter::witnesses`]). A service of one instance has nobody to ask, and is restarted as configured.
//! Silence of all for longer than [`COMMON_CAUSE_PATIENCE`] is tried out on one instance at a time, so that a
//! deadlock shared by all heals without a person.

use std::time::Duration;

use crate::Timestamp;

/// All instances may fail together for this long before one of them is restarted as a trial.
pub const COMMON_CAUSE_PATIENCE: Duration = Duration::from_secs(300);

/// The instance whose liveness failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    pub first_miss: Timestamp,
    /// It is ready all the same, so that restarting it takes capacity away.
    pub usable: bool,
}

/// The other instances of the service, and its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Peers {
    /// Other instances that should be there. One that is down or starting cannot be asked, and is no proof either.
    pub others: u32,
    /// Of these, known to have been well while the failing one was silent.
    pub witnesses: u32,
    /// Ready ones.
    pub usable: u32,
    /// Taken down by holdfast and not back yet, for whatever reason.
    pub acting: u32,
    pub max_unavailable: u32,
    pub min_available: u32,
    /// When the last liveness restart of this service was ordered.
    pub last_restart: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Restart,
    /// Nobody else is known to be well: restart one when this time has come.
    CommonCause {
        trial_at: Timestamp,
    },
    TooManyAtOnce,
    MinAvailable,
}

pub fn decide(now: Timestamp, failing: Failing, peers: Peers) -> Verdict {
    if peers.acting >= peers.max_unavailable.max(1) {
        return Verdict::TooManyAtOnce;
    }
    if failing.usable && peers.usable < peers.min_available {
        return Verdict::MinAvailable;
    }
    if peers.others > 0 && peers.witnesses == 0 {
        let since = failing.first_miss.max(peers.last_restart.unwrap_or_default());
        let trial_at = since + COMMON_CAUSE_PATIENCE;
        if now < trial_at {
            return Verdict::CommonCause { trial_at };
        }
    }
    Verdict::Restart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brake_by_table() {
        let at = Timestamp::from_millis;
        let failing = Failing { first_miss: at(10_000), usable: false };
        let ready = Failing { usable: true, ..failing };
        let peers =
            Peers { others: 2, witnesses: 1, usable: 2, max_unavailable: 1, min_available: 1, ..Peers::default() };
        let held = Verdict::CommonCause { trial_at: at(310_000) };
        for (name, now, failing, peers, expected) in [
            ("one of three, others well", 15, failing, peers, Verdict::Restart),
            ("the only instance", 15, failing, Peers { others: 0, witnesses: 0, usable: 0, ..peers }, Verdict::Restart),
            ("another is away already", 15, failing, Peers { acting: 1, ..peers }, Verdict::TooManyAtOnce),
            ("two may be away", 15, failing, Peers { acting: 1, max_unavailable: 2, ..peers }, Verdict::Restart),
            ("nobody else heard since", 15, failing, Peers { witnesses: 0, ..peers }, held),
            ("all silent for long", 310, failing, Peers { witnesses: 0, ..peers }, Verdict::Restart),
            ("ready, others not enough", 15, ready, Peers { usable: 0, ..peers }, Verdict::MinAvailable),
            ("not ready itself, so nothing is lost", 15, failing, Peers { usable: 0, ..peers }, Verdict::Restart),
        ] {
            assert_eq!(decide(at(now * 1000), failing, peers), expected, "{name}");
        }
    }
}
