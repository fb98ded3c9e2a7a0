//! Real shims and real children.
#![allow(clippy::unwrap_used)]

#[path = "shims/bed.rs"]
mod bed;
#[path = "shims/faults.rs"]
mod faults;
#[path = "shims/jobs.rs"]
mod jobs;
#[path = "shims/life.rs"]
mod life;
#[path = "shims/offers.rs"]
mod offers;
#[path = "shims/survival.rs"]
mod survival;
