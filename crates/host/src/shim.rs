//! The keeper of one instance: starts its child, restarts it, keeps its log and its exit codes, with or without an agent.

mod absence;
pub(crate) mod child;
mod client;
mod dir;
pub(crate) mod environment;
pub(crate) mod keeper;
mod launch;
mod log;
mod notify;
pub mod protocol;
mod run;
mod signals;
pub mod spec;
pub mod state;

pub use absence::{Absence, absent, orphans};
pub use client::{Answer, Client, Error as ClientError};
pub use dir::Dir;
pub use launch::{Error as LaunchError, LAUNCH_MAX, launch, launch_async};
pub use log::tail;
pub use protocol::{Body, Request, Told};
pub use run::run;
pub use spec::{Spec, Value};
pub use state::{Exit, Failure, Phase, State};

/// Environment variable that marks every process of an instance with the instance's directory.
pub const MARK: &str = "HOLDFAST_DIR";
