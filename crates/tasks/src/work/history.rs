//! What workers do, as every store keeps it.

use crate::clock::Millis;

/// A program that works on a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    /// Of its job: worker, message and receive.
    pub token: String,
    pub worker: String,
    pub queue: String,
    pub receipt: String,
    pub message: String,
    pub receive: u32,
    pub began: Millis,
}

/// An attempt that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub worker: String,
    pub queue: String,
    pub message: String,
    pub receive: u32,
    pub began: Millis,
    pub ended: Millis,
    /// `done`, `retry`, `dead`, `crashed`, `lost its lease`.
    pub outcome: String,
    /// The end of what it printed.
    pub output: String,
}
