//! The quick way to keep an address, for the fast profile: another node takes over in less than a second.
//!
//! A lease cannot do it: etcd grants two seconds at least, and the kernel looks at lifetimes once a second. So the owner says
//! beside its lease (in the same store, under the same key) that it is *quick*: from then on its right is only what all other
//! nodes answer, each of which promises to leave the address alone for [`PROMISE`]. One that was not asked for so long ends
//! the lease of an owner that is quick, and claims the free lease as ever: nobody claims without it. An owner that is not
//! answered by all says in the store that it is not quick any more, and has its lease again, or learns that it is too late.
//!
//! The kernel cannot be told such short lifetimes. When an agent hangs, its kernel goes on to answer for the address; who
//! wants to claim it hears that, and waits until that kernel lets go ([`KERNEL`]). Two kernels carry the address only when an
//! agent hangs **and** the wire between the two is cut, for as long as that.

use std::time::Duration;

use super::Peers;
use crate::Timestamp;

/// Between two questions of an owner that is quick.
pub const ASK_EVERY: Duration = Duration::from_millis(100);
/// Of one that only looks whether it could be.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// An answer that takes longer counts as none: a lost packet is sent again after 200 ms.
pub const ANSWER: Duration = Duration::from_millis(220);
/// For so long after it was asked a node leaves the address alone.
pub const PROMISE: Duration = Duration::from_millis(500);
/// For so long after it asked, an owner goes on: the rest is for the rates of two clocks and a slow removal.
pub const GIVE_UP: Duration = Duration::from_millis(420);
/// Without an answer of all for so long, an owner falls back to its lease: more than a packet that was lost once takes; a
/// write takes some 20 ms.
pub const DOUBT: Duration = Duration::from_millis(320);
/// All have answered for so long before an owner becomes quick: links that come and go cost two writes each time.
pub const CALM: Duration = Duration::from_secs(10);
/// What the kernel is told. Less would be lost by an agent that is held up for a moment.
pub const KERNEL: Duration = Duration::from_secs(3);
/// What an earlier life of the agent left in the kernel stays for so long without the lease: to go on with it takes some
/// milliseconds, and another node may have it.
pub const INHERITED: Duration = Duration::from_secs(1);
/// A write of which nothing was heard is made again.
pub const WRITE_AGAIN: Duration = Duration::from_millis(200);
/// Without an answer for so long nobody knows what the store says: then it is told to be slow.
pub const WRITE_MAX: Duration = Duration::from_secs(2);
/// Between two tries to end a lease.
pub const DEPOSE_AGAIN: Duration = Duration::from_millis(300);
/// First pause before an address that a kernel still answers for is probed again; the address goes within seconds.
pub const PROBE_AGAIN: Duration = Duration::from_millis(250);

/// What the store says of this owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Mode {
    /// Its right is its lease.
    #[default]
    Slow,
    /// Asked to be quick, since then: it may be so already.
    Turning(Timestamp),
    Quick,
    /// Asked to be slow, since then: it may be quick still.
    Leaving(Timestamp),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Quick {
    pub(super) mode: Mode,
    /// Sending time of the last question that all answered with *clear*.
    agreed: Option<Timestamp>,
    /// Since when all have answered without a gap.
    calm_since: Option<Timestamp>,
    asking: bool,
    ask_at: Timestamp,
    /// Who has the lease says that it is quick: token of its lease.
    pub(super) owner: Option<u64>,
    pub(super) depose_at: Timestamp,
}

impl Quick {
    pub(super) fn agreed(&self, now: Timestamp) -> Option<Timestamp> {
        self.agreed.filter(|asked| now < *asked + GIVE_UP)
    }

    pub(super) fn forget(&mut self) {
        (self.agreed, self.calm_since) = (None, None);
    }

    pub(super) fn answered(&mut self, now: Timestamp, asked: Timestamp, found: Peers) {
        self.asking = false;
        let every = if self.mode == Mode::Slow { LOOK_EVERY } else { ASK_EVERY };
        self.ask_at = (asked + every).max(now);
        match found {
            Peers::AllClear => {
                self.agreed = Some(self.agreed.map_or(asked, |known| known.max(asked)));
                self.calm_since.get_or_insert(asked);
            }
            Peers::Silent => self.calm_since = None,
            Peers::Taken => self.forget(),
        }
    }

    pub(super) fn asks(&mut self, now: Timestamp) -> bool {
        let due = !self.asking && now >= self.ask_at;
        self.asking |= due;
        due
    }

    /// The mode that is to be written now; `true` is quick.
    pub(super) fn write(&mut self, now: Timestamp) -> Option<bool> {
        let late = self.agreed.is_none_or(|asked| now >= asked + DOUBT);
        let (mode, write) = match self.mode {
            Mode::Slow if self.calm_since.is_some_and(|since| now >= since + CALM) && !late => {
                (Mode::Turning(now), Some(true))
            }
            Mode::Turning(_) | Mode::Quick if late => (Mode::Leaving(now), Some(false)),
            Mode::Turning(since) if now >= since + WRITE_MAX => (Mode::Leaving(now), Some(false)),
            Mode::Leaving(since) if now >= since + WRITE_AGAIN => (Mode::Leaving(now), Some(false)),
            mode => (mode, None),
        };
        if write == Some(true) {
            // From now on it is asked more often.
            self.ask_at = now;
        }
        self.mode = mode;
        write
    }

    /// A write was acknowledged.
    pub(super) fn written(&mut self, quick: bool) {
        self.mode = match (self.mode, quick) {
            (Mode::Turning(_), true) => Mode::Quick,
            (Mode::Leaving(_), false) => Mode::Slow,
            // An answer that was overtaken by another wish.
            (mode, _) => mode,
        };
        if self.mode == Mode::Slow {
            self.calm_since = None;
        }
    }

    pub(super) fn next_deadline(&self) -> [Timestamp; 4] {
        let after = |at: Option<Timestamp>, wait| at.map_or(Timestamp::NEVER, |at| at + wait);
        let ask = if self.asking { Timestamp::NEVER } else { self.ask_at };
        let write = match self.mode {
            Mode::Slow => after(self.calm_since, CALM),
            Mode::Turning(since) => after(self.agreed, DOUBT).min(since + WRITE_MAX),
            Mode::Quick => after(self.agreed, DOUBT),
            Mode::Leaving(since) => since + WRITE_AGAIN,
        };
        [ask, write, after(self.agreed, GIVE_UP), self.depose_at]
    }
}
