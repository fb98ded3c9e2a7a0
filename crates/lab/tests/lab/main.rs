//! The lab itself: what it promises to the tests that use it.

mod cluster;
mod machines;
mod measuring;
mod network;
mod remains;
