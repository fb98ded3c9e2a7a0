//! Who may act: the token that a holder carries, the one table of timings, and when a holder stops believing itself.
//!
//! A renewal counts from the moment it was *sent*: the engine may have started its own count any time after that,
//! so nothing later is safe. Losing is a state of its own and is never retried through.

use std::time::Duration;

use crate::time::Timestamp;

/// Carried by every side effect of a holder; a receiver refuses one lower than the highest it has seen.
/// `epoch` rises when the coordination store is recreated, restored or migrated; `create_revision` with each holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FencingToken {
    pub epoch: u64,
    pub create_revision: u64,
}

impl std::fmt::Display for FencingToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.create_revision)
    }
}

impl std::str::FromStr for FencingToken {
    type Err = NotAToken;
    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let parse = || {
            let (epoch, revision) = text.split_once('.')?;
            Some(FencingToken { epoch: epoch.parse().ok()?, create_revision: revision.parse().ok()? })
        };
        parse().ok_or_else(|| NotAToken(text.into()))
    }
}

/// `text` is not `EPOCH.REVISION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAToken(pub String);

impl std::fmt::Display for NotAToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is not a fencing token such as 3.17", self.0)
    }
}

impl std::error::Error for NotAToken {}

/// How long a lease lives, how often it is renewed, and when its holder stops acting without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    pub ttl: Duration,
    pub renew: Duration,
    /// Counted from the sending of the last acknowledged renewal. About 2/3 of `ttl`: the rest is
    /// what a paused host and a slow kill may take before another holder can exist.
    pub give_up: Duration,
}

impl Timings {
    pub const DEFAULT: Timings = Timings::seconds(10, 3, 7);
    pub const FAST: Timings = Timings::seconds(6, 2, 4);
    pub const WAN: Timings = Timings::seconds(30, 10, 20);

    /// As the file spells them.
    pub const PROFILES: [(&'static str, Timings); 3] =
        [("default", Timings::DEFAULT), ("fast", Timings::FAST), ("wan", Timings::WAN)];

    const fn seconds(ttl: u64, renew: u64, give_up: u64) -> Timings {
        Timings {
            ttl: Duration::from_secs(ttl),
            renew: Duration::from_secs(renew),
            give_up: Duration::from_secs(give_up),
        }
    }

    /// The same shape for another time to live: 30 % and 70 % of it.
    pub fn for_ttl(ttl: Duration) -> Timings {
        Timings { ttl, renew: ttl * 3 / 10, give_up: ttl * 7 / 10 }
    }
}

impl Default for Timings {
    fn default() -> Self {
        Timings::DEFAULT
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No renewal was acknowledged in time.
    Unanswered,
    /// The engine says that the lease or the key is gone.
    Revoked,
}

impl Lost {
    pub fn reason(self) -> &'static str {
        match self {
            Lost::Unanswered => "no renewal acknowledged in time",
            Lost::Revoked => "lease or key gone",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a renewal now, and tell [`Keeper::sent`].
    Renew,
    /// Stop acting. Told once; the keeper stays lost.
    Stop(Lost),
}

/// One holder's view of its own lease.
#[derive(Clone, Debug)]
pub struct Keeper {
    timings: Timings,
    /// Sending time of the last renewal (or grant) that was acknowledged.
    confirmed: Timestamp,
    next: Timestamp,
    /// Sending time of the renewal under way.
    in_flight: Option<Timestamp>,
    lost: Option<Lost>,
    told: bool,
}

impl Keeper {
    /// `granted` is when the request that created the lease was sent.
    pub fn new(timings: Timings, granted: Timestamp) -> Self {
        Keeper { timings, confirmed: granted, next: granted + timings.renew, in_flight: None, lost: None, told: false }
    }

    /// True while the holder may act. Ask again right before each side effect.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.lost.is_none() && now < self.deadline()
    }

    /// When the holder stops by itself unless a renewal is acknowledged first.
    pub fn deadline(&self) -> Timestamp {
        self.confirmed + self.timings.give_up
    }

    pub fn lost(&self) -> Option<Lost> {
        self.lost
    }

    pub fn sent(&mut self, now: Timestamp) {
        self.in_flight = Some(now);
        self.next = now + self.timings.renew;
    }

    /// The renewal under way was acknowledged. Too late is too late: once lost, it stays lost.
    pub fn acknowledged(&mut self, now: Timestamp) {
        let Some(sent) = self.in_flight.take() else { return };
        if self.holds(now) {
            self.confirmed = self.confirmed.max(sent);
        }
    }

    /// The renewal under way failed without an answer; it is tried again sooner than a whole period later.
    pub fn failed(&mut self, now: Timestamp) {
        self.in_flight = None;
        self.next = now + self.timings.renew / 4;
    }

    /// The engine answered that the lease, or the key under it, no longer exists.
    pub fn revoked(&mut self) {
        self.lost.get_or_insert(Lost::Revoked);
    }

    pub fn next_deadline(&self) -> Timestamp {
        match (self.lost, self.in_flight) {
            (Some(_), _) => Timestamp::NEVER,
            (None, Some(_)) => self.deadline(),
            (None, None) => self.next.min(self.deadline()),
        }
    }

    pub fn poll(&mut self, now: Timestamp) -> Option<Action> {
        if self.lost.is_none() && now >= self.deadline() {
            self.lost = Some(Lost::Unanswered);
        }
        if let Some(lost) = self.lost {
            return (!std::mem::replace(&mut self.told, true)).then_some(Action::Stop(lost));
        }
        (self.in_flight.is_none() && now >= self.next).then_some(Action::Renew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn every_profile_leaves_room_between_giving_up_and_expiry() {
        for (name, t) in Timings::PROFILES {
            assert!(t.renew * 2 <= t.give_up, "{name}: two renewals fit before giving up");
            assert!(t.give_up + t.ttl / 5 <= t.ttl, "{name}: a fifth of the lease is left to stop in");
        }
    }

    #[test]
    fn the_deadline_counts_from_the_sending_of_an_acknowledged_renewal() {
        let mut keeper = Keeper::new(Timings::DEFAULT, at(0));
        assert_eq!(keeper.poll(at(2)), None);
        assert_eq!(keeper.poll(at(3)), Some(Action::Renew));
        keeper.sent(at(3));
        assert_eq!(keeper.poll(at(5)), None, "one renewal at a time");
        keeper.acknowledged(at(6));
        assert_eq!(keeper.deadline(), at(10), "3 s + 7 s, not 6 s + 7 s");
        assert!(keeper.holds(at(9)) && !keeper.holds(at(10)));
        assert_eq!(keeper.poll(at(6)), Some(Action::Renew));
    }

    #[test]
    fn an_acknowledgement_after_the_deadline_does_not_bring_it_back() {
        let mut keeper = Keeper::new(Timings::DEFAULT, at(0));
        keeper.sent(at(3));
        keeper.acknowledged(at(8));
        assert!(!keeper.holds(at(8)), "deadline was 7 s");
        assert_eq!(keeper.poll(at(8)), Some(Action::Stop(Lost::Unanswered)));
        assert_eq!(keeper.poll(at(9)), None, "told once");
        keeper.sent(at(9));
        keeper.acknowledged(at(9));
        assert!(!keeper.holds(at(9)));
    }

    #[test]
    fn a_failed_renewal_is_sent_again_before_the_deadline() {
        let mut keeper = Keeper::new(Timings::FAST, at(0));
        keeper.sent(at(2));
        keeper.failed(at(2));
        assert_eq!(keeper.next_deadline(), Timestamp::from_millis(2500));
        assert_eq!(keeper.poll(Timestamp::from_millis(2500)), Some(Action::Renew));
    }

    #[test]
    fn a_revoked_lease_is_lost_at_once() {
        let mut keeper = Keeper::new(Timings::DEFAULT, at(0));
        keeper.revoked();
        assert!(!keeper.holds(at(1)));
        assert_eq!(keeper.poll(at(1)), Some(Action::Stop(Lost::Revoked)));
    }

    /// The engine counts from when it *received* the last renewal it acknowledged, which is never before it was sent.
    #[test]
    fn no_holder_believes_in_a_lease_that_the_engine_has_let_go() {
        for seed in 0..2_000 {
            let mut rng = Rng::from_seed(seed);
            let mut keeper = Keeper::new(Timings::DEFAULT, at(0));
            let (mut now, mut engine_deadline) = (0u64, 10_000u64);
            for _ in 0..100 {
                now += rng.below(2_000);
                let t = Timestamp::from_millis(now);
                assert!(!keeper.holds(t) || now < engine_deadline, "seed {seed} at {now} ms");
                if keeper.poll(t) == Some(Action::Renew) {
                    keeper.sent(t);
                    let received = now + rng.below(3_000);
                    if received < engine_deadline && rng.below(4) > 0 {
                        engine_deadline = received + 10_000;
                    }
                    now = received + rng.below(3_000);
                    let answered = Timestamp::from_millis(now);
                    if engine_deadline == received + 10_000 && rng.below(4) > 0 {
                        keeper.acknowledged(answered);
                    } else {
                        keeper.failed(answered);
                    }
                }
            }
        }
    }

    #[test]
    fn tokens_order_by_epoch_first_and_read_back() {
        let old = FencingToken { epoch: 1, create_revision: 900 };
        let new = FencingToken { epoch: 2, create_revision: 3 };
        assert!(new > old);
        assert_eq!(new.to_string().parse::<FencingToken>().unwrap(), new);
        assert!("2".parse::<FencingToken>().is_err());
    }
}
