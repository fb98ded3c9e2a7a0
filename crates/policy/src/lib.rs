//! Every decision holdfast takes, as pure state machines and functions.
//!
//! Nothing here reads a clock, draws randomness, logs, allocates threads or does I/O: `now` and a
//! seeded [`rng::Rng`] are arguments, events go in, actions and [`Transition`]s come out. Modules
//! share only `time`, `ids`, `rng`, `transition` and `backoff`, and never import each other; the one chain is
//! `membership` -> `placement` -> `rolling`.

pub mod ids;
pub mod rng;
pub mod throttle;
pub mod time;
pub mod transition;

pub mod backoff;
pub mod balance;
pub mod restart;

pub mod availability;
pub mod brake;
pub mod dns;
pub mod drill;
pub mod flow;
pub mod health;
pub mod hung;
pub mod incident;
pub mod lease;
pub mod membership;
pub mod placement;
pub mod queue;
pub mod rolling;
pub mod rollout;
pub mod schedule;
pub mod standby;
pub mod vip;

pub use ids::{Endpoint, Incarnation, InstanceId, NodeId, Role};
pub use time::Timestamp;
pub use transition::Transition;
