//! The data plane: accepts connections, chooses an endpoint for each request, and never loses one it need not.

pub mod error;
pub mod snapshot;
mod wire;

pub use error::Error;
