//! What happened, what it cost, how it is now: journal, incidents, availability, metrics, status, error pages, logging.

pub mod availability;
pub mod codes;
pub mod incident;
pub mod journal;
pub mod logging;
pub mod metrics;
pub mod status;

pub use journal::{Journal, Limits};
