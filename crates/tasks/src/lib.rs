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

use ring::rand::{SecureRandom, SystemRandom};

pub use error::{Error, Result};

/// For jitter; nothing that must be secret is drawn from it.
fn seed() -> u64 {
    holdfast_host::clock::now().as_nanos() ^ (u64::from(std::process::id()) << 32)
}

/// From the kernel, for what nobody may guess; `what` they are for.
fn random<const N: usize>(what: &str) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::System {
        what: format!("draw {what}"),
        source: std::io::Error::other("the kernel gives no random bytes"),
    })?;
    Ok(bytes)
}
