//! Who may take over, in which order, and what follows the fault of an active member.

use std::time::Duration;

use super::Tier;
use crate::Timestamp;

/// Members that could claim at the same moment keep this distance, by rank: a claim of the embedded engine takes some
/// 5 ms, one of etcd 10 ms, so that the second sees the first.
pub const CLAIM_STEP: Duration = Duration::from_millis(25);
/// At the very first start the preferred member gets this much time for each rank: programs start unequally fast.
pub const FIRST_STEP: Duration = Duration::from_millis(500);
/// Who held the lease last lets the others go first: it has just failed, or was asked to go.
pub const LAST_WAIT: Duration = Duration::from_millis(500);
/// Half way to `max_staleness` costs as much rank as this: fresher data goes first.
pub const STALENESS_SHARE: Duration = Duration::from_millis(200);
/// A claim of which nothing was heard is made again after this time.
pub const CLAIM_AGAIN: Duration = Duration::from_secs(2);
/// For so long a shim waits after a fault of its active program for the word that another member takes over. Without
/// an agent it starts the program itself then.
pub const HOLD: Duration = Duration::from_secs(1);
/// Failures in a row after which a warm or cold service is handed over instead of being started here again.
pub const BACKOFF_FAILURES: u32 = 3;

/// Unplanned takeovers within [`HAND_OVER_WINDOW`] after which the active member is started where it is, with the back-off
/// of its shim: a version that crashes everywhere must not be passed round for ever.
pub const HAND_OVERS_MAX: u32 = 5;
pub const HAND_OVER_WINDOW: Duration = Duration::from_secs(60);

/// What is known of a member that might take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub tier: Tier,
    /// As its tier asks: ready (hot), ready and paused or staged (warm), staged (cold).
    pub prepared: bool,
    /// It is on its way out, paused by a person, or not wanted.
    pub leaving: bool,
    /// Age of its data where a `sync` keeps it; `None` when it never had any.
    pub age: Option<Duration>,
    /// Declared limit, when data has to be kept by `sync`.
    pub max_staleness: Option<Duration>,
    /// A person wants it whatever its data.
    pub forced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ineligible {
    Leaving,
    NotPrepared,
    NeverSynced,
    Stale,
}

impl Ineligible {
    pub fn reason(self) -> &'static str {
        match self {
            Ineligible::Leaving => "it is on its way out or paused",
            Ineligible::NotPrepared => "it is not ready to take over",
            Ineligible::NeverSynced => "its data was never synchronised",
            Ineligible::Stale => "its data is older than max_staleness",
        }
    }
}

pub fn eligible(facts: Facts) -> Result<(), Ineligible> {
    if facts.leaving {
        return Err(Ineligible::Leaving);
    }
    if !facts.prepared {
        return Err(Ineligible::NotPrepared);
    }
    match (facts.max_staleness, facts.age) {
        _ if facts.forced => Ok(()),
        (Some(_), None) => Err(Ineligible::NeverSynced),
        (Some(max), Some(age)) if age > max => Err(Ineligible::Stale),
        _ => Ok(()),
    }
}

/// How long an eligible member waits before it claims. From its own facts alone, so that members on different nodes need not ask
/// each other; bounded, so that the last in rank does not wait for ever for a first that is dead.
pub fn claim_delay(ordinal: u32, facts: Facts, first: bool, last: bool) -> Duration {
    let rank = ordinal.saturating_sub(1).min(16);
    let stale = match (facts.age, facts.max_staleness) {
        (Some(age), Some(max)) if !max.is_zero() => {
            STALENESS_SHARE.mul_f64((age.as_secs_f64() / max.as_secs_f64()).min(2.0))
        }
        _ => Duration::ZERO,
    };
    let last = if last { LAST_WAIT } else { Duration::ZERO };
    stale + last + rank * if first { FIRST_STEP } else { CLAIM_STEP }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFault {
    HandOver,
    RestartHere,
}

/// The program of the active member died on its own. `rival`: another member could take over now. `recent`: unplanned
/// takeovers within the window.
pub fn after_fault(tier: Tier, failures: u32, rival: bool, recent: u32) -> AfterFault {
    match (tier, rival) {
        (_, false) => AfterFault::RestartHere,
        _ if recent >= HAND_OVERS_MAX => AfterFault::RestartHere,
        (Tier::Hot, true) => AfterFault::HandOver,
        (_, true) if failures >= BACKOFF_FAILURES => AfterFault::HandOver,
        (_, true) => AfterFault::RestartHere,
    }
}

/// How long the shim of an active member leaves its program dead before it starts it again by itself.
pub fn hold(tier: Tier, rival: bool) -> Duration {
    if tier == Tier::Hot && rival { HOLD } else { Duration::ZERO }
}

/// Somebody wants another member to be active: holds until a lease newer than `over` exists, or `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish<M, T> {
    /// `None`: any other than the present one.
    pub to: Option<M>,
    /// The active member under this token should go.
    pub over: Option<T>,
    pub force: bool,
    pub until: Timestamp,
}

impl<M: PartialEq, T: Ord> Wish<M, T> {
    /// `newest` is the newest token that was ever seen of the service.
    pub fn holds(&self, now: Timestamp, newest: Option<&T>) -> bool {
        now < self.until && newest <= self.over.as_ref()
    }

    /// Whether `member` may claim the free lease; `last` held it before.
    pub fn lets_claim(&self, member: &M, last: Option<&M>) -> bool {
        match &self.to {
            Some(to) => to == member,
            None => last != Some(member),
        }
    }
}

/// `failback = "preferred"`: whether the preferred member takes the service back now.
pub fn failback_due(now: Timestamp, eligible_since: Option<Timestamp>, stable_for: Duration) -> bool {
    eligible_since.is_some_and(|at| now.since(at) >= stable_for)
}
