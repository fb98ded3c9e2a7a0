//! Who may carry a virtual address, and for how long its kernel may keep it without being told again.
//!
//! The right to an address is a lease, counted from the *sending* of its last acknowledged renewal. The kernel is given the
//! address with a lifetime that ends before that right does, so that it goes even when agent or node hang. When the store is
//! away, an owner asks all other nodes: each that answers *clear* promises not to claim for one time to live, so their
//! unanimous answer is worth as much as a renewal, and counts from the sending of the question. Nobody begins without the lease.
//! Carrying an address is never proof of being active: it only says where packets go.

mod announce;
mod machine;
#[cfg(test)]
mod model;
pub mod quick;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use machine::Machine;

use crate::Timestamp;

/// Linux looks at the ends of addresses at most once a second, and up to a quarter of a second late (`ADDRCONF_TIMER_FUZZ_MAX`,
/// `ADDRCONF_TIMER_FUZZ`): an address may outlive its lifetime by so much.
pub const KERNEL_LATE: Duration = Duration::from_millis(1250);

/// One fiftieth of a lease: clocks of two machines that run apart by more are broken.
const DRIFT_PARTS: u32 = 50;

/// What the kernel is told is rounded down to whole seconds; below this there is nothing to tell.
const LIFETIME_MIN: Duration = Duration::from_secs(1);

/// A balancer process that restarts is back in some 20 ms, an agent knows of all of them within a second.
pub const ILL_AFTER: Duration = Duration::from_secs(2);

/// First pause before an address that somebody else answers for is probed again; doubled up to the last.
const PROBE_AGAIN: Duration = Duration::from_secs(1);
const PROBE_AGAIN_MAX: Duration = Duration::from_secs(10);

/// Between two questions to the other nodes: an answer takes a round trip in one network.
pub const ASK_EVERY: Duration = Duration::from_millis(500);

/// A node that is less preferred lets so much time pass, for each better one, before it tries for a free lease.
const RANK_STEP: Duration = Duration::from_millis(200);
/// Beyond it waiting would cost more than the preference is worth.
const RANK_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a node waits before it tries for a lease that became free. There is no failback: a better node that returns
/// waits for the lease like all others.
pub fn campaign_delay(rank: usize) -> Duration {
    RANK_STEP.saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX)).min(RANK_WAIT_MAX)
}

/// Place in the order of preference; nodes that are not named come last.
pub fn rank(preferred: &[String], node: &str) -> usize {
    preferred.iter().position(|name| name == node).unwrap_or(preferred.len())
}

/// Whole seconds that the kernel may be told at `now`; `None` when there is less than one. [`Timestamp::NEVER`] is for ever.
pub fn lifetime(now: Timestamp, until: Timestamp) -> Option<Duration> {
    let left = now.until(until);
    (left >= LIFETIME_MIN).then(|| Duration::from_secs(left.as_secs()))
}

/// Each can be switched off to show that a test would notice.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub kernel_lifetime: bool,
    pub announce_after_split: bool,
    /// A node that said *clear* does not claim for one time to live.
    pub promise: bool,
    /// An owner that is quick and not answered asks the store before it goes by its lease again.
    pub mode: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { kernel_lifetime: true, announce_after_split: true, promise: true, mode: true }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of the lease: its time to live, its period, and when its holder gives up without an answer.
    pub ttl: Duration,
    pub renew: Duration,
    pub give_up: Duration,
    /// Other nodes may carry the address too.
    pub others: bool,
    /// Owners may be [`quick`].
    pub quick: bool,
    pub rules: Rules,
}

impl Settings {
    /// When a kernel must have let go, for a right that was confirmed by a request sent at `confirmed`.
    pub fn kernel_until(&self, confirmed: Timestamp) -> Timestamp {
        match self.rules.kernel_lifetime {
            true => confirmed + self.ttl.saturating_sub(KERNEL_LATE + self.ttl / DRIFT_PARTS),
            false => Timestamp::NEVER,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// No renewal was acknowledged in time: the store is away, or this node is.
    Unanswered,
    /// The store says that it is gone: another node may hold it.
    Revoked,
}

/// What the kernel of this node says of the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kernel {
    #[default]
    Absent,
    /// Added by this or an earlier life of the agent.
    Ours,
    /// Configured by somebody else.
    Foreign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Every other node answered that it neither has nor claims the address.
    AllClear,
    /// At least one did not answer, and none has or claims it.
    Silent,
    /// One has it, or the lease.
    Taken,
}

/// What a node answers to another one's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It neither has nor claims it, and will not for one time to live.
    Clear,
    Claims,
    Holds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The lease is ours. Told at each renewal, with the time when the one that was acknowledged had been sent.
    Held {
        confirmed: Timestamp,
    },
    Lost(Loss),
    Kernel(Kernel),
    /// The kernel took the address; its lifetime ends then, counted from the end of the call.
    Set {
        until: Timestamp,
    },
    Probed {
        answered: bool,
    },
    /// Another host speaks for the address.
    Conflict,
    /// Whether the balancers of this node answer.
    DataPlane {
        well: bool,
    },
    Peers {
        asked: Timestamp,
        found: Peers,
    },
    /// Answers to a [`quick`] question.
    QuickPeers {
        asked: Timestamp,
        found: Peers,
    },
    /// The store took what was written of this owner, or refused it: then another may have the lease.
    Written {
        quick: bool,
        taken: bool,
    },
    /// Another has the lease, under this token, and says that it is [`quick`]; `None` when it is not, or nobody has it.
    QuickOwner(Option<u64>),
    /// The address is not wanted here any more.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Try to get the lease until told otherwise.
    Campaign,
    Withdraw,
    /// Give the lease up at once.
    Resign,
    /// Ask the network whether somebody answers for the address.
    Probe,
    /// Give it to the kernel until then; see [`lifetime`].
    Add {
        until: Timestamp,
    },
    Refresh {
        until: Timestamp,
    },
    Announce,
    Remove,
    AskPeers,
    /// A [`quick`] question.
    AskQuickly,
    /// Say in the store whether this owner is [`quick`], if the lease is still its own.
    Write {
        quick: bool,
    },
    /// End the lease of an owner that is [`quick`] and silent, if it is so still.
    Depose {
        token: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not tried for: not wanted, or the balancers here do not answer, or another node was promised.
    Released,
    /// Waits for the lease.
    Standby,
    /// Has the lease and makes sure that nobody else has the address.
    Probing,
    Owned,
    /// Keeps it without a store, because all other nodes agree.
    SafeMode,
    /// Has the lease, but somebody else answers for the address.
    Conflict,
}

impl State {
    /// As in status and journal.
    pub fn name(self) -> &'static str {
        match self {
            State::Released => "released",
            State::Standby => "standby",
            State::Probing => "probing",
            State::Owned => "owned",
            State::SafeMode => "safe_mode",
            State::Conflict => "conflict",
        }
    }
}
