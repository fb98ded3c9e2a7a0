//! Keeps services up: [`Supervisor`] decides, [`Services`] is its shell on a real machine.
//!
//! The Supervisor is one synchronous value for all instances of a node: events go in with the time, actions come
//! out. The shell waits for events, applies them, performs the actions. The simulator drives the same value.

mod services;
pub mod supervisor;

pub use services::{EndpointEntry, Endpoints, Error, Handle, Internal, Options, Services, Waiting, tokens};
pub use supervisor::Supervisor;
