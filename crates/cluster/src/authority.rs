//! The cluster's own authority: which key may call itself which machine.
//!
//! One ECDSA P-256 key signs a certificate for each machine; a machine's name in it is `NAME.CLUSTER.holdfast`. The
//! handshake proves who somebody is; dates are judged after it, because a machine whose certificate has run out must be
//! told from a stranger: it can still be renewed, and nothing may be concluded from it.

mod certificate;
mod error;
mod files;
mod issue;
mod names;
mod records;
#[cfg(test)]
mod tests;
mod token;
mod verify;

pub use certificate::{Certificate, Fingerprint, Validity};
pub use error::Error;
pub use files::{Files, Identity};
pub use issue::{Authority, Issued, Request, Subject};
pub use names::{dns_name, node_of};
pub use records::{
    AUTHORITY, ISSUED, IssuedTo, JOIN, Offer, RENEWAL, Renewal, allow_renewal, claim, issued, keep_issued, may_renew,
    offer, proclaim, redeem, take_renewal,
};
pub use token::JoinToken;
pub(crate) use token::{is_same as same_digest, random as random_hex};
pub use verify::{client_config, pinned, server_config};

use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The authority's own certificate. Longer than any machine lives, and long enough that nobody has to think of it.
pub const AUTHORITY_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A machine's certificate where the file says nothing: renewed after 45 days, so one may be off for 45 more.
pub const NODE_VALID: Duration = Duration::from_secs(90 * DAY.as_secs());
/// A join token where nothing is said.
pub const TOKEN_VALID: Duration = Duration::from_secs(3600);
/// A permission to renew a certificate that has run out.
pub const RENEWAL_VALID: Duration = Duration::from_secs(3600);
/// Certificates begin this much earlier, because clocks differ.
pub const BACKDATED: Duration = Duration::from_secs(300);
/// A request for a certificate is some 500 bytes.
pub const REQUEST_BYTES_MAX: usize = 8 << 10;

pub type Result<T> = std::result::Result<T, Error>;
