//! Real shims and real children.

#[path = "shims/bed.rs"]
mod bed;
#[path = "shims/life.rs"]
mod life;
