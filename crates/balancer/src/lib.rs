//! The data plane: accepts connections, chooses an endpoint for each request, and never loses one it need not.

mod access_log;
pub mod control;
mod core;
pub mod error;
pub mod fault;
pub mod plane;
pub mod shared;
pub mod snapshot;
pub mod stats;
mod wire;

pub use error::Error;
