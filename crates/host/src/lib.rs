//! The only crate that touches the operating system: clock, files, processes, sockets, shims, jobs.
//!
//! Everything here is mechanism. What to do and when is decided in `policy`; the shim runs
//! [`holdfast_policy::restart::Machine`] so that a service is kept up while no agent lives.
#![allow(unsafe_code)] // The one crate where system calls without a safe wrapper are made.

pub mod address;
pub mod cgroup;
pub mod clock;
pub mod event;
pub mod files;
pub mod inherit;
pub mod job;
pub mod listen;
pub mod lock;
pub mod memfd;
pub mod mount;
pub mod process;
pub mod ring;
pub mod seqpacket;
pub mod shared;
pub mod shim;
pub mod user;
