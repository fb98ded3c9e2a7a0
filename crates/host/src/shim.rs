//! The keeper of one instance: starts its child, restarts it, keeps its log and its exit codes, with or without an agent.

pub mod protocol;
pub mod spec;
pub mod state;

pub use protocol::{Body, Request, Told};
pub use spec::{Spec, Value};
pub use state::{Exit, Failure, Phase, State};
