//! The wire of AWS SQS: 23 actions in JSON 1.0 and in the older query protocol, SigV4, limits, errors and MD5 fields.
//! No state: the queues are behind [`Backend`].
//!
//! [`Face::handle`] turns one HTTP request into one answer. Connections, TLS and reading a body of at most
//! [`BODY_BYTES_MAX`] belong to the caller; dropping the future ends a receive that waits.

mod action;
mod address;
mod attributes;
mod auth;
pub mod backend;
mod digest;
mod face;
mod fault;
mod limits;
mod policy;
mod queue_attributes;
mod shapes;
mod wire;

pub use auth::{Key, Keys, Secret, Signer};
pub use backend::Backend;
pub use face::{Face, Options};
pub use limits::BODY_BYTES_MAX;
