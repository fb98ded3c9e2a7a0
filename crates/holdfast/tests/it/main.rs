//! The one integration executable: drives the real binary, real programs, real signals.

mod site;

mod adoption;
mod bad_input;
mod lifecycle;
mod traffic;
