//! The data plane of tasks that run again: queues with dead letters, spoken to as AWS SQS.
//!
//! What fails is executed again, by itself, without being lost or done twice where that matters. Every answer that
//! promises something comes after the commit that holds it.

pub mod clock;
pub mod control;
pub mod definition;
pub mod desk;
pub mod drill;
mod error;
mod exchange;
pub mod face;
mod flow;
pub mod plane;
pub mod postgres;
pub mod queue;
mod server;
mod sqlite;
mod store;
pub mod work;

pub use error::{Error, Result};

/// For jitter; nothing that must be secret is drawn from it.
fn seed() -> u64 {
    holdfast_host::clock::now().as_nanos() ^ (u64::from(std::process::id()) << 32)
}
