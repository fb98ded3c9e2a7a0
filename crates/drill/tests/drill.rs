//! Drills on a small system of real processes, kept up and balanced by the test itself.
#![allow(clippy::unwrap_used)]

#[path = "drill/aborted.rs"]
mod aborted;
#[path = "drill/backend.rs"]
mod backend;
#[path = "drill/carried_out.rs"]
mod carried_out;
#[path = "drill/refused.rs"]
mod refused;
#[path = "drill/village.rs"]
mod village;

/// Not a test of its own: this executable started again as a backend, a guard or a runner that will be killed.
#[test]
fn role() {
    match std::env::var("DRILL_ROLE").as_deref() {
        Ok("backend") => backend::serve(),
        Ok("guard") => aborted::guard(),
        Ok("runner") => aborted::runner(),
        _ => {}
    }
}
