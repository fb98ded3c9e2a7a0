//! Which endpoint a request goes to, when an endpoint leaves rotation, and when a request may be tried again.
//!
//! Shells feed what they saw; nothing here knows sockets. Two endpoints are the common case, so no rule
//! depends on statistics over many.

pub mod budget;
pub mod eject;
pub mod ewma;
pub mod fallback;
pub mod hang;
pub mod pick;
pub mod replay;
pub mod slow_start;

pub use eject::{Ejection, Phase, Signal};
pub use ewma::PeakEwma;
pub use hang::{Act, Verdict};
pub use pick::{Candidate, Choice, Picker, Tier, Why};
pub use replay::{Failure, Next, Request};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    RoundRobin,
    LeastRequests,
    /// Power of two choices on peak EWMA x (in flight + 1), failures counted as a long answer.
    #[default]
    P2c,
}

/// What the agent knows of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    #[default]
    Ready,
    /// A probe timed out or could not connect: used only when no ready one is left.
    Suspect,
    /// The instance said so itself: obeyed even by the last one.
    NotReady,
    /// Leaves: finishes what it has, gets nothing new.
    Draining,
}
