//! Faults injected on purpose into the running system, and what they cost its users.
//!
//! A drill runs in its own process, outside the agent. It looks (is all well?), writes what it will have to
//! undo, starts a guard that undoes it should the drill die, strikes, measures from outside, undoes, waits
//! until all is well again, and judges.

mod aim;
mod burn;
mod error;
pub mod guard;
pub mod prober;
mod queued;
mod record;
mod report;
mod runner;
mod session;
pub mod spec;
pub mod stand_in;
mod strike;
pub mod system;
pub mod table;
pub mod undo;
mod watcher;
mod witness;

pub use error::DrillError;
pub use prober::queue::Kept;
pub use queued::Access;
pub use report::{Forecast, Report, Reports};
pub use runner::{Phase, Progress, Runner, Setup};
pub use spec::Spec;
pub use watcher::Outside;
