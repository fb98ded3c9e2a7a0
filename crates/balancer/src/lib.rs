//! The data plane: accepts connections, chooses an endpoint for each request, and never loses one it need not.

mod access_log;
mod core;
pub mod error;
pub mod fault;
pub mod shared;
pub mod snapshot;
mod wire;

pub use error::Error;
