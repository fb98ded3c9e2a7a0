//! The one integration executable: drives the real binary, real programs, real signals.

mod proof;
mod rate;
mod site;

mod adoption;
mod bad_input;
mod fixed_rate;
mod lifecycle;
mod traffic;
