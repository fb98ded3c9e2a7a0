//! Who asks, and what they may do: AWS Signature Version 4 and the access keys it is checked with.

mod canonical;
mod claim;
mod date;
mod keys;
mod sign;
mod verify;

pub use keys::{Key, Keys, Secret};
pub use sign::Signer;
pub(crate) use verify::{Keyring, Principal};
